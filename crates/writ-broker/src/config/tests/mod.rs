//! The whole of the configuration's grammar, one faulty line at a time.

mod targets;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use expect_test::{Expect, expect};

use writ_core::Egress;

use super::*;

/// The file of the documentation, in full.
pub(crate) const FULL: &str = r#"
version = 1
egress  = "listed"
[seal]
kind = "key-file"
accept_below_confined = false
[run]
role   = "dev"
caches = ["~/.cargo/registry"]
[[credential]]
name  = "openai"
env   = ["OPENAI_API_KEY"]
owner = "ada@example.com"
[[credential]]
name = "git"
source = "cmd://pass show git"
[[credential]]
name = "wiki"
[[target]]
name = "openai"
preset = "openai"
credential = "openai"
[[target]]
name = "github"
preset = "github"
credential = "git"
[[target]]
name = "github-git"
preset = "github-git"
credential = "git"
dial = "127.0.0.1:8443"
[[target]]
name = "wiki"
host = "wiki.corp.example:8443"
inject = { kind = "header", name = "X-Key" }
credential = "wiki"
allow_private = ["10.2.0.0/16"]
pass_unscrubbed = true
[[role]]
name = "dev"
ttl = "15m"
ttl_max = "8h"
prompt_file = "AGENTS.md"
grants = [
  { target = "openai", methods = ["POST"], paths = ["/v1/*"] },
  { target = "openai", methods = ["GET"], paths = ["/v1/models"] },
  { target = "wiki", when = "weekday 08:00-18:00 Europe/Berlin" },
]
[[role]]
name = "git"
grants = [{ target = "github" }, { target = "github-git" }]
[[workload]]
spiffe_id = "spiffe://writ.local/dev/claude"
selectors = ["unix:uid:1000", "unix:path:/usr/bin/claude"]
role = "dev"
[[workload]]
spiffe_id = "spiffe://writ.local/dev/claude"
selectors = ["unix:uid:1000"]
role = "git"
"#;

fn write(directory: &Path, text: &str) -> std::path::PathBuf {
    let path = directory.join("writ.toml");
    fs::write(&path, text).unwrap();
    path
}

pub(crate) fn load(text: &str) -> Result<Resolved, ConfigFault> {
    let place = tempfile::tempdir().unwrap();
    Config::load(&write(place.path(), text))
}

/// What loading `text` says, without the directory.
fn check(text: &str, expected: Expect) {
    let place = tempfile::tempdir().unwrap();
    let path = write(place.path(), text);
    let said = match Config::load(&path) {
        Ok(_) => "fine".to_owned(),
        Err(fault) => fault.to_string().replace(&format!("{}/", place.path().display()), ""),
    };
    // With a line end the expectation is a block, which rustfmt leaves as it is.
    expected.assert_eq(&format!("{said}\n"));
}

/// The full file with one line exchanged.
fn with(line: &str, by: &str) -> String {
    assert!(FULL.contains(line), "{line}");
    FULL.replacen(line, by, 1)
}

#[test]
fn the_documented_file_says_what_it_says() {
    let resolved = load(FULL).unwrap();
    assert_eq!(resolved.run.role, Some("dev".parse().unwrap()));
    assert_eq!(resolved.run.caches, ["~/.cargo/registry"]);
    assert_eq!((resolved.egress, resolved.seal.kind), (Egress::Listed, SealKind::KeyFile));
    let dev = "dev".parse().unwrap();
    let targets: Vec<String> =
        resolved.targets_of(&dev).iter().map(|target| target.name.to_string()).collect();
    assert_eq!(targets, ["openai", "wiki"]);
    let wiki = resolved.target(&"wiki".parse().unwrap()).unwrap().route();
    assert_eq!(wiki.authority.to_string(), "wiki.corp.example:8443");
    assert_eq!(wiki.injections[0].place, writ_core::Place::Header { name: "x-key".into() });
    assert_eq!(wiki.allow_private, ["10.2.0.0/16".parse().unwrap()]);
    assert!(wiki.pass_unscrubbed && !wiki.encoded_slash && wiki.dial.is_none());
    let git = resolved.target(&"github-git".parse().unwrap()).unwrap().route();
    assert_eq!(git.dial.as_deref(), Some("127.0.0.1:8443"));
    assert_eq!(git.authority.to_string(), "github.com");
    assert!(resolved.target(&"github".parse().unwrap()).unwrap().encoded_slash);
    let role = resolved.role(&dev).unwrap();
    assert_eq!((role.ttl.secs(), role.ttl_max.secs()), (900, 8 * 3600));
    assert_eq!(role.grants[2].when.as_ref().unwrap().as_str(), "weekday 08:00-18:00 Europe/Berlin");
    assert_eq!(resolved.workloads[0].selectors.len(), 2);
    let quiet: Vec<String> =
        quiet_hosts_of(&resolved.targets_of(&dev)).iter().map(ToString::to_string).collect();
    assert_eq!(quiet, ["ab.chatgpt.com", "chatgpt.com"]);
}

#[test]
fn what_a_credential_does_not_say_its_presets_say() {
    let resolved = load(FULL).unwrap();
    let get = |name: &str| resolved.credential(&name.parse().unwrap()).unwrap();
    assert_eq!(get("openai").env, ["OPENAI_API_KEY"]);
    assert_eq!(get("openai").shape.prefix, "sk-proj-");
    assert_eq!(get("git").env, ["GITHUB_TOKEN", "GH_TOKEN"]);
    assert_eq!(get("git").engine_config, serde_json::json!({ "source": "cmd://pass show git" }));
    assert_eq!(get("wiki").env, [""; 0]);
    assert_eq!(get("wiki").shape, writ_core::Shape::GENERIC);
    assert_eq!(get("wiki").engine, "static");
    let of: Vec<&str> = resolved
        .credentials_of(&resolved.targets_of(&"git".parse().unwrap()))
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(of, ["git"]);
}

#[test]
fn a_smaller_role_than_the_default_has_a_smaller_lease() {
    let text = with("name = \"git\"\ngrants", "name = \"git\"\nttl_max = \"5m\"\ngrants");
    let resolved = load(&text).unwrap();
    assert_eq!(resolved.role(&"git".parse().unwrap()).unwrap().ttl.secs(), 300);
}

#[test]
fn the_hash_follows_the_files() {
    let place = tempfile::tempdir().unwrap();
    let path = write(place.path(), FULL);
    let first = Config::load(&path).unwrap().hash;
    assert_eq!(first.len(), 64);
    assert_eq!(Config::load(&path).unwrap().hash, first);
    fs::create_dir(place.path().join("policies")).unwrap();
    fs::write(place.path().join("policies/a.cedar"), "forbid(principal, action, resource);").unwrap();
    fs::write(place.path().join("policies/readme.txt"), "no policy").unwrap();
    let loaded = Config::load(&path).unwrap();
    assert_ne!(loaded.hash, first);
    assert_eq!(loaded.policies.len(), 1);
}

#[test]
fn files_that_cannot_be_used() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("writ.toml");
    let missing = Config::load(&path).unwrap_err();
    assert!(matches!(missing, ConfigFault::Missing(_)) && missing.to_string().contains("writ init"));
    assert!(matches!(Config::load(place.path()), Err(ConfigFault::Unreadable { .. })));
    write(place.path(), &format!("{FULL}\n#{}", "x".repeat(1024 * 1024)));
    assert!(matches!(Config::load(&path), Err(ConfigFault::Size { .. })));
    write(place.path(), FULL);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigFault::Writable(_))));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&path, b"version = 1 # \xff").unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigFault::Unreadable { .. })));
}

#[test]
fn the_form() {
    check(
        "",
        expect![[r#"
        writ.toml:1:1: the configuration does not say its version; write `version = 1` above everything else
    "#]],
    );
    check(
        "version = 2\nnew_key = 1",
        expect![[r#"
        writ.toml:1:11: this writ reads version 1 of the configuration, not 2; use the writ that wrote it
    "#]],
    );
    check(
        "version = 1\n[[credential]\n",
        expect![[r#"
        writ.toml:2:14: unclosed array table, expected `]`; correct it and try again
    "#]],
    );
    check(
        "version = 1\nnew_key = 1",
        expect![[r#"
            writ.toml:2:1: unknown field `new_key`, expected one of `version`, `egress`, `local`, `seal`, `store`, `run`, `credential`, `target`, `role`, `workload`; correct it and try again
        "#]],
    );
    check(
        &with("owner =", "ownr ="),
        expect![[r#"
            writ.toml:13:1: unknown field `ownr`, expected one of `name`, `env`, `owner`, `engine`, `source`, `config`; correct it and try again
        "#]],
    );
    check(
        &with("name = \"X-Key\"", "nam = \"X-Key\""),
        expect![[r#"
        writ.toml:35:29: unknown field `nam`, expected one of `kind`, `name`, `user`; correct it and try again
    "#]],
    );
    check(
        &with("{ target = \"wiki\", when", "{ target = \"wiki\", wenn"),
        expect![[r#"
        writ.toml:47:22: unknown field `wenn`, expected one of `target`, `methods`, `paths`, `when`; correct it and try again
    "#]],
    );
    check(
        &with("ttl = \"15m\"", "ttl = \"15\""),
        expect![[r#"
        writ.toml:41:7: "15" is not a lifetime: write a whole number and one of s, m, h, d, such as "15m"; correct it and try again
    "#]],
    );
    check(
        &with("name = \"dev\"", "name = \"Dev\""),
        expect![[r#"
        writ.toml:40:8: "Dev" is not a name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit; correct it and try again
    "#]],
    );
    check(
        &with("weekday 08:00-18:00 Europe/Berlin", "weekday 8-18 Europe/Berlin"),
        expect![[r#"
        writ.toml:47:29: "8-18" are not hours: write HH:MM-HH:MM, where the two differ; 24:00 is the end of the day; correct it and try again
    "#]],
    );
}

#[test]
fn values_that_are_malformed() {
    check(
        &with("\"/v1/models\"", "\"/v1/../models\""),
        expect![[r#"
        writ.toml:46:51: a pattern begins with '/' and uses '*' only as a whole segment or as its last character: "/v1/../models"; correct it and try again
    "#]],
    );
    check(
        &with("wiki.corp.example:8443", "10.2.0.1"),
        expect![[r#"
        writ.toml:34:8: "10.2.0.1" is an IP address, however it is spelled: name the host; correct it and try again
    "#]],
    );
    check(
        &with("unix:uid:1000", "uid=1000"),
        expect![[r#"
        writ.toml:54:13: "uid=1000" is not a selector: write kind:key:value, such as unix:uid:1000; correct it and try again
    "#]],
    );
    check(
        &with("\"listed\"", "\"open\""),
        expect![[r#"
            writ.toml:3:11: unknown variant `open`, expected `listed` or `public`; correct it and try again
        "#]],
    );
    check(
        &with("accept_below_confined = false", "path = \"key\""),
        expect![[r#"
        writ.toml:4:1: the path of the key file is not absolute; write it from / on
    "#]],
    );
    check(
        &with("kind = \"key-file\"", "kind = \"passphrase\"\npath = \"/k\""),
        expect![[r#"
        writ.toml:4:1: a passphrase has no path; remove `path`, or write kind = "key-file"
    "#]],
    );
}

#[test]
fn names_that_lead_nowhere() {
    check(
        &with("credential = \"openai\"", "credential = \"opnai\""),
        expect![[r#"
        writ.toml:22:14: there is no credential "opnai"; did you mean "openai"?
    "#]],
    );
    check(
        &with("preset = \"github\"", "preset = \"githab\""),
        expect![[r#"
        writ.toml:25:10: there is no preset "githab"; did you mean "github"?
    "#]],
    );
    check(
        &with("{ target = \"wiki\"", "{ target = \"wik\""),
        expect![[r#"
        writ.toml:47:14: there is no target "wik"; did you mean "wiki"?
    "#]],
    );
    check(
        &with("1000\"]\nrole = \"git\"", "1000\"]\nrole = \"guest\""),
        expect![[r#"
        writ.toml:59:8: there is no role "guest"; there are: dev, git
    "#]],
    );
    check(
        &with("role   = \"dev\"", "role   = \"def\""),
        expect![[r#"
        writ.toml:8:10: there is no role "def"; did you mean "dev"?
    "#]],
    );
    check(
        &with("unix:path:", "unix:paht:"),
        expect![[r#"
        writ.toml:54:31: there is no selector "unix:paht"; did you mean "unix:path"?
    "#]],
    );
    check(
        &with("source = ", "engine = \"statik\"\nsource = "),
        expect![[r#"
        writ.toml:16:10: there is no secrets engine "statik"; did you mean "static"?
    "#]],
    );
    check(
        &with("cmd://", "vault://"),
        expect![[r#"
        writ.toml:16:10: the configuration of git is wrong: a reference begins with one of cmd://, file://; correct it
    "#]],
    );
    check(
        "version = 1\n[run]\nrole = \"dev\"",
        expect![[r#"
        writ.toml:3:8: there is no role "dev"; add a role of that name first
    "#]],
    );
}

#[test]
fn what_says_two_things_or_too_little() {
    check(
        &with("name = \"git\"\nsource", "name = \"openai\"\nsource"),
        expect![[r#"
        writ.toml:15:8: there are two credentials with the name "openai"; rename or remove one
    "#]],
    );
    check(
        &with("name = \"github-git\"\npreset", "name = \"github\"\npreset"),
        expect![[r#"
        writ.toml:28:8: there are two targets with the name "github"; rename or remove one
    "#]],
    );
    check(
        &with("name = \"git\"\ngrants", "name = \"dev\"\ngrants"),
        expect![[r#"
        writ.toml:50:8: there are two roles with the name "dev"; rename or remove one
    "#]],
    );
    check(
        &with("preset = \"github-git\"", "preset = \"github\""),
        expect![[r#"
        writ.toml:51:45: the targets github and github-git of this role are both api.github.com; give them to different roles
    "#]],
    );
    check(
        &with("preset = \"github\"\n", ""),
        expect![[r#"
        writ.toml:23:1: the target "github" does not say where it is; add `preset`, or both `host` and `inject`
    "#]],
    );
    check(
        &with("inject = { kind = \"header\", name = \"X-Key\" }\n", ""),
        expect![[r#"
        writ.toml:32:1: the target "wiki" does not say how it takes its credential; add `preset`, or both `host` and `inject`
    "#]],
    );
    check(
        &with("preset = \"openai\"", "preset = \"openai\"\ninject = { kind = \"bearer\" }"),
        expect![[r#"
        writ.toml:22:10: the preset says already how the credential is presented; remove `inject`, or `preset` and name the host
    "#]],
    );
    check(
        &with("preset = \"openai\"", "preset = \"openai\"\nhost = \"a:0\""),
        expect![[r#"
        writ.toml:22:8: "0" is not a port; correct it and try again
    "#]],
    );
}

#[test]
fn grants_and_entries_that_mean_something_else() {
    check(
        &with("methods = [\"POST\"]", "methods = []"),
        expect![[r#"
        writ.toml:45:34: an empty list of methods allows nothing; remove the grant, or leave the list out to allow all
    "#]],
    );
    check(
        &with("methods = [\"POST\"]", "methods = [\"post\"]"),
        expect![[r#"
        writ.toml:45:34: methods are case-sensitive: "post"; write "POST"
    "#]],
    );
    check(
        &with("ttl_max = \"8h\"", "ttl_max = \"5m\""),
        expect![[r#"
        writ.toml:41:7: a lease of 15m would outlive the longest session, 5m; shorten `ttl` or raise `ttl_max`
    "#]],
    );
    check(
        &with("\"AGENTS.md\"", "\"../AGENTS.md\""),
        expect![[r#"
        writ.toml:40:8: the prompt file ../AGENTS.md is outside the session's directory; name a file in it, without `..`
    "#]],
    );
    check(
        &with("name = \"wiki\"\n[[target]]", "name = \"wiki\"\nenv = [\"OPENAI_API_KEY\"]\n[[target]]"),
        expect![[r#"
            writ.toml:48:14: OPENAI_API_KEY would hold both openai and wiki; set `env` of one of the two credentials
        "#]],
    );
    check(
        &with("[\"unix:uid:1000\"]", "[]"),
        expect![[r#"
        writ.toml:58:13: an entry without selectors fits nobody; add what it must prove, such as "unix:uid:1000"
    "#]],
    );
    check(
        &with(
            "[\"unix:uid:1000\"]\nrole = \"git\"",
            "[\"unix:path:/usr/bin/claude\", \"unix:uid:1000\"]\nrole = \"dev\"",
        ),
        expect![[r#"
            writ.toml:56:1: this [[workload]] entry is there twice; remove one
        "#]],
    );
    check(
        &with("\"10.2.0.0/16\"", "\"0.0.0.0/0\""),
        expect![[r#"
        writ.toml:37:18: 0.0.0.0/0 is wider than any private network; name the network that the service is in
    "#]],
    );
    check(
        &with("\"127.0.0.1:8443\"", "\"127.0.0.1\""),
        expect![[r#"
        writ.toml:31:8: "127.0.0.1" is not an address to dial; write host:port, such as "127.0.0.1:8443"
    "#]],
    );
}

#[test]
fn counts_have_limits() {
    let grant = "{ target = \"wiki\" },";
    let many =
        with("{ target = \"wiki\", when", &format!("{} {{ target = \"wiki\", when", grant.repeat(256)));
    assert!(load(&many).unwrap_err().to_string().contains("more than 256 grants"));
    let credentials: String = (0..1025).map(|n| format!("[[credential]]\nname = \"c{n}\"\n")).collect();
    assert!(load(&format!("{FULL}{credentials}")).unwrap_err().to_string().contains("more than"));
    let methods = format!("methods = [{}]", "\"GET\", ".repeat(65));
    assert!(load(&with("methods = [\"POST\"]", &methods)).unwrap_err().to_string().contains("64 methods"));
}
