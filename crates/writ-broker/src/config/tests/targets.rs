//! Targets: where they are, what they take, and who may reach them.

use std::fs;

use expect_test::expect;
use writ_core::Egress;

use super::*;

#[test]
fn egress_and_local_ports() {
    let resolved = load(&with("\"listed\"", "\"public\"\nlocal = [5432, 8080]")).unwrap();
    assert_eq!((resolved.egress, resolved.local), (Egress::Public, vec![5432, 8080]));
    assert_eq!(load(FULL).unwrap().local, [0; 0]);
    for ports in ["0", "443", "80", "22", "5432, 5432", "70000"] {
        let text = with("\"listed\"", &format!("\"listed\"\nlocal = [{ports}]"));
        assert!(load(&text).is_err(), "{ports}");
    }
    let many = (1000..1017).map(|port: u16| port.to_string()).collect::<Vec<_>>().join(", ");
    assert!(load(&with("\"listed\"", &format!("\"listed\"\nlocal = [{many}]"))).is_err());
    check(
        &with("\"listed\"", "\"listed\"\nlocal = [443]"),
        expect![[r#"
            writ.toml:4:10: the port 443 of the host's loopback cannot be shared; use another port: 0 is none, and 80, 443 and 22 are captured for every address
        "#]],
    );
}

/// A target that takes no credential, and a tunnel, with one line more.
fn bare(more: &str) -> String {
    let targets = format!(
        "[[target]]\nname = \"docs\"\nhost = \"docs.example\"\n[[target]]\nname = \"db\"\nhost = \"db.example:5432\"\n\
         tunnel = true\n{more}\n[[role]]"
    );
    with("[[role]]", &targets).replacen(
        "grants = [\n",
        "grants = [\n  { target = \"docs\", methods = [\"GET\"] },\n  { target = \"db\" },\n",
        1,
    )
}

#[test]
fn logins_of_one_role_do_not_take_each_others_variables() {
    let text = |first: &str, second: &str| {
        let mut more = String::new();
        for (name, how) in [("one", first), ("two", second)] {
            more.push_str(&format!(
                "[[credential]]\nname = \"{name}\"\nengine = \"postgres\"\nconfig = {{ server = \"{name}.example\", database = \"d\", \
                 user = \"a\", password = \"wiki\", member_of = [\"r\"] }}\n[[target]]\nname = \"{name}\"\n\
                 host = \"{name}.example:5432\"\ncredential = \"{name}\"\nreveal = \"{how}\"\n"
            ));
        }
        let grants = "grants = [\n  { target = \"one\" },\n  { target = \"two\" },\n";
        with("[[role]]", &format!("{more}[[role]]")).replacen("grants = [\n", grants, 1)
    };
    for (first, second) in
        [("environment", "environment"), ("environment", "passfile"), ("passfile", "passfile")]
    {
        let fault = load(&text(first, second)).unwrap_err().to_string();
        assert!(fault.contains("same variables") && fault.contains("service-file"), "{fault}");
    }
    for (first, second) in [("environment", "service-file"), ("service-file", "service-file")] {
        load(&text(first, second)).unwrap();
    }
}

#[test]
fn targets_without_a_credential_and_tunnels() {
    let resolved = load(&bare("allow_private = [\"10.0.0.0/8\"]")).unwrap();
    let route = |name: &str| resolved.target(&name.parse().unwrap()).unwrap().route();
    let (docs, db) = (route("docs"), route("db"));
    assert_eq!((docs.credential, docs.tunnel, docs.injections.len()), (None, false, 0));
    assert_eq!(
        (db.credential, db.tunnel, db.authority.to_string()),
        (None, true, "db.example:5432".to_owned())
    );
    let dev = "dev".parse().unwrap();
    let names: Vec<&str> =
        resolved.credentials_of(&resolved.targets_of(&dev)).iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["openai", "wiki"]);
    for line in [
        "preset = \"openai\"",
        "inject = { kind = \"bearer\" }",
        "credential = \"wiki\"",
        "tls_ca = \"ca.pem\"",
        "pass_unscrubbed = true",
    ] {
        let fault = load(&bare(line)).unwrap_err().to_string();
        assert!(fault.contains("would have no effect; remove"), "{fault}");
    }
    for bounds in ["methods = [\"GET\"]", "paths = [\"/v1/*\"]"] {
        let text = bare("").replacen("{ target = \"db\" }", &format!("{{ target = \"db\", {bounds} }}"), 1);
        let fault = load(&text).unwrap_err().to_string();
        assert!(fault.contains("inside of a tunnel"), "{fault}");
    }
    let nowhere = bare("").replacen("host = \"db.example:5432\"\n", "", 1);
    assert!(load(&nowhere).unwrap_err().to_string().contains("does not say where it leads"));
}

#[test]
fn a_credential_and_its_place_belong_together() {
    check(
        &with("credential = \"openai\"\n", ""),
        expect![[r#"
            writ.toml:21:10: the preset says how a credential is presented, but "openai" names none; add `credential`; or write `host` instead of `preset` for a service that needs none
        "#]],
    );
    check(
        &with("credential = \"wiki\"\n", ""),
        expect![[r#"
            writ.toml:35:10: the target "wiki" does not say what is injected; add `credential`, or remove `inject`
        "#]],
    );
    check(
        &with("inject = { kind = \"header\", name = \"X-Key\" }\n", ""),
        expect![[r#"
            writ.toml:32:1: the target "wiki" does not say how it takes its credential; add `preset`, or both `host` and `inject`
        "#]],
    );
}

#[test]
fn a_preset_can_be_at_home() {
    let text = with("preset = \"github-git\"", "preset = \"gitlab\"\nhost = \"gitlab.corp.example\"");
    let resolved = load(&text).unwrap();
    let target = resolved.target(&"github-git".parse().unwrap()).unwrap();
    assert_eq!(target.authority.to_string(), "gitlab.corp.example");
    assert!(target.encoded_slash && target.injections.len() == 3);
}

#[test]
fn trust_anchors_are_read_and_checked() {
    let place = tempfile::tempdir().unwrap();
    let text = with("dial = ", "tls_ca = \"ca.pem\"\ndial = ");
    let path = write(place.path(), &text);
    let said = |path: &Path| Config::load(path).unwrap_err().to_string();
    assert!(said(&path).contains("ca.pem cannot be read"), "{}", said(&path));
    let pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    for (ca, why) in [
        ("", "no certificate"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not PEM"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "none inside"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "no certificate"),
    ] {
        fs::write(place.path().join("ca.pem"), ca).unwrap();
        assert!(said(&path).contains(why), "{}", said(&path));
    }
    fs::write(place.path().join("ca.pem"), pem).unwrap();
    let loaded = Config::load(&path).unwrap();
    assert_eq!(loaded.target(&"github-git".parse().unwrap()).unwrap().tls_ca.as_deref(), Some(pem));
    fs::write(place.path().join("ca.pem"), format!("{pem}{pem}")).unwrap();
    assert_ne!(Config::load(&path).unwrap().hash, loaded.hash);
    write(place.path(), &text.replace("\"ca.pem\"", "\"~/ca.pem\""));
    assert!(said(&path).contains("not expanded"));
}
