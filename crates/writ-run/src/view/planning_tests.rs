//! The plan as data: hostile names, distributions of certificates, and what the person is told. Absent: what a plan does, which
//! `tests/view.rs` proves in real namespaces.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use super::super::facts::{Credential, Entry};
use super::super::worktree::WorkTree;
use super::*;
use crate::{EtcFile, HomeFile};

fn path(text: &str) -> PathBuf {
    PathBuf::from(text)
}

fn facts() -> Facts {
    Facts {
        uid: 1000,
        home: path("/home/ada"),
        directory: path("/home/ada/p/src"),
        work: WorkTree { root: Some(path("/home/ada/p")), common: None },
        machine: "box".into(),
        system: vec![
            Entry { path: path("/usr"), link: None },
            Entry { path: path("/bin"), link: Some(path("usr/bin")) },
        ],
        ..Facts::default()
    }
}

/// The places of a plan, by path and kind, as far as they are not in every view.
fn places(planned: &Planned) -> Vec<String> {
    let always = ["/dev", "/proc", "/run", "/tmp", "/var"];
    let own = planned.view.places.iter().filter(|place| !always.iter().any(|dir| place.at.starts_with(dir)));
    own.map(|place| {
        let kind = match &place.content {
            Content::Link { target } => format!("-> {}", target.display()),
            Content::Tree => "read-only".into(),
            Content::Ground => "writable".into(),
            Content::Home(_) => "home".into(),
            Content::Etc(_) => "etc".into(),
            Content::File { .. } => "file".into(),
            Content::Delivered { .. } => "delivered".into(),
            Content::Cover => "covered".into(),
            other => format!("{other:?}"),
        };
        format!("{:?} {kind}", &*place.at)
    })
    .collect()
}

#[test]
fn mounts_are_ordered_by_depth_and_hostile_names_stay_names() {
    let mut facts = facts();
    let odd = PathBuf::from(OsStr::from_bytes(b"/home/ada/p/a:b,c\n\xff"));
    facts.hidden = vec![path("/home/ada/.local/state/writ"), path("/srv/writ"), odd.join("deep/hidden")];
    facts.caches =
        vec![path("/home/ada/.cache/pip"), path("/home/ada/p/inner"), path("/home"), path("/etc/cache")];
    facts.readable =
        vec![path("/mnt/tool"), path("/usr/share/x"), path("/"), path("/home/ada/.local/state/writ/bin")];
    facts.read_only = vec![path("/home/ada/p/writ.toml"), path("/elsewhere/writ.toml")];
    facts.found.sockets = [odd.join("s.sock"), path("/home/ada/.local/state/writ/s")].into();
    facts.root_only = vec![path("/usr/local/etc/key"), path("/etc/shadow"), path("/opt/key")];
    let planned = plan(&facts, &Wishes::default()).unwrap();
    assert_eq!(
        places(&planned),
        [
            "\"/usr\" read-only",
            "\"/bin\" -> usr/bin",
            "\"/etc\" etc",
            "\"/mnt/tool\" read-only",
            "\"/home/ada\" home",
            "\"/home/ada/p\" writable",
            "\"/home/ada/.cache/pip\" writable",
            "\"/home/ada/p/a:b,c\\n\\xFF\" writable",
            "\"/usr/local/etc/key\" covered",
            "\"/home/ada/p/writ.toml\" read-only",
            "\"/home/ada/p/a:b,c\\n\\xFF/deep\" writable",
            "\"/home/ada/.local/state/writ\" covered",
            "\"/home/ada/p/a:b,c\\n\\xFF/s.sock\" covered",
            "\"/home/ada/p/a:b,c\\n\\xFF/deep/hidden\" covered",
        ]
    );
    assert!(planned.notes.iter().any(|note| note.contains("\"/home\" is too wide")), "{:?}", planned.notes);
    assert!(planned.notes.iter().all(|note| !note.contains('\n')));
    assert_eq!(planned.work_tree, Some("/home/ada/p".into()));
}

#[test]
fn what_is_never_in_the_view_cannot_be_made_writable() {
    let mut facts = facts();
    facts.hidden = vec![path("/home/ada/p")];
    let fault = plan(&facts, &Wishes::default()).unwrap_err();
    assert_eq!(fault, PlanFault::Hidden { place: path("/home/ada/p"), hidden: path("/home/ada/p") });
}

#[test]
fn files_of_the_session_stay_in_etc_and_in_the_home() {
    for hostile in ["../passwd", "/passwd", "", "a/../../b", "."] {
        let etc = EtcFile { path: hostile.into(), content: "".into() };
        let wishes = Wishes { etc: vec![etc], ..Wishes::default() };
        assert_eq!(plan(&facts(), &wishes).unwrap_err(), PlanFault::EtcPath(path(hostile)));
        let home = HomeFile { path: hostile.into(), content: "".into(), mode: 0o600, seed: Seeding::Always };
        let wishes = Wishes { home: vec![home], ..Wishes::default() };
        assert_eq!(plan(&facts(), &wishes).unwrap_err(), PlanFault::HomePath(path(hostile)));
    }
}

#[test]
fn what_only_root_may_read_is_found_or_left_out_or_the_launch_refused() {
    let mut facts = facts();
    facts.unsearched = vec![path("/etc/huge"), path("/opt/huge")];
    facts.system.push(Entry { path: path("/opt"), link: None });
    let planned = plan(&facts, &Wishes::default()).unwrap();
    assert_eq!(etc_of(&planned).1, ["huge"]);
    assert!(places(&planned).contains(&"\"/opt/huge\" covered".to_owned()), "{:?}", places(&planned));
    assert!(planned.notes.iter().any(|note| note.contains("left out: \"/etc/huge\"")), "{:?}", planned.notes);
    facts.unsearched = vec![path("/etc")];
    assert_eq!(plan(&facts, &Wishes::default()).unwrap_err(), PlanFault::Unsearched(path("/etc")));
}

fn etc_of(planned: &Planned) -> (Vec<String>, Vec<String>) {
    let etc = planned.view.places.iter().find_map(|place| match &place.content {
        Content::Etc(etc) => Some(etc),
        _ => None,
    });
    let etc = etc.unwrap();
    let files = etc.files.iter().map(|(path, source)| {
        let kind = format!("{source:?}");
        format!("{} {}", path.display(), kind.split(' ').next().unwrap())
    });
    (files.collect(), etc.absent.iter().map(|path| path.display().to_string()).collect())
}

#[test]
fn every_name_of_the_certificates_is_replaced_in_etc_or_bound_outside() {
    let mut facts = facts();
    let store = |name: &str, file: &str| Store { name: path(name), file: path(file) };
    facts.bundles = vec![
        store("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"),
        store("/etc/ssl/ca-bundle.pem", "/var/lib/ca-certificates/ca-bundle.pem"),
        store("/etc/pki/tls/cert.pem", "/etc/pki/extracted.pem"),
    ];
    facts.system.push(Entry { path: path("/var/lib/ca-certificates"), link: None });
    facts.key_stores = vec![
        store("/usr/lib/jvm/a/lib/security/cacerts", "/etc/ssl/certs/java/cacerts"),
        store("/usr/lib/jvm/b/lib/security/cacerts", "/usr/lib/jvm/b/lib/security/cacerts"),
        store("/nowhere/cacerts", "/nowhere/cacerts"),
    ];
    facts.hash_directories = vec![path("/etc/ssl/certs")];
    facts.root_only = vec![path("/etc/shadow"), path("/etc/hosts")];
    let planned = plan(&facts, &Wishes::default()).unwrap();
    let (files, absent) = etc_of(&planned);
    assert_eq!(
        files,
        [
            "resolv.conf Text",
            "nsswitch.conf Text",
            "hosts Text",
            "pki/extracted.pem Bundle",
            "pki/tls/cert.pem Bundle",
            "ssl/ca-bundle.pem Bundle",
            "ssl/certs/3ddd8108.0 Text",
            "ssl/certs/ca-certificates.crt Bundle",
            "ssl/certs/java/cacerts KeyStore",
        ]
    );
    assert_eq!(absent, ["shadow"]);
    let bound: Vec<PathBuf> = planned
        .view
        .places
        .iter()
        .filter(|place| matches!(place.content, Content::File { .. }))
        .map(|place| place.at.0.clone())
        .collect();
    let java = |name: &str| path("/usr/lib/jvm").join(name).join("lib/security/cacerts");
    assert_eq!(bound, [path("/var/lib/ca-certificates/ca-bundle.pem"), java("b")]);
}

#[test]
fn a_machine_without_certificates_gets_the_sessions() {
    let (files, _) = etc_of(&plan(&facts(), &Wishes::default()).unwrap());
    assert!(files.contains(&"ssl/certs/ca-certificates.crt Text".to_owned()), "{files:?}");
}

#[test]
fn the_person_is_told_what_is_not_as_outside() {
    let mut facts = facts();
    facts.work = WorkTree::default();
    facts.directory = path("/home/ada");
    let credential = |path: &str, form, content: &str| Credential {
        path: path.into(),
        form,
        content: content.into(),
        mode: 0o600,
    };
    facts.credentials = vec![
        credential(".netrc", credentials::Form::Netrc, "machine a password b"),
        credential(".ssh/id_rsa", credentials::Form::Absent, ""),
    ];
    facts.found.secrets = vec![path("/home/ada/p/.env\n")];
    facts.found.cut = true;
    facts.layers = Some(Err("it lies on an overlay, which cannot carry another"));
    let notes = plan(&facts, &Wishes::default()).unwrap().notes.join("\n");
    for part in [
        "nothing of \"/home/ada\" is writable",
        "copies with placeholders: \".netrc\"",
        "not there: \".ssh/id_rsa\"",
        "readable inside: \"/home/ada/p/.env\\n\"",
        "in a part of them",
        "not kept: it lies on an overlay",
    ] {
        assert!(notes.contains(part), "{part}\n{notes}");
    }
}

#[test]
fn each_work_tree_has_a_layer_of_its_own() {
    let mut first = facts();
    first.layers = Some(Ok(path("/state/layers")));
    let mut second = first.clone();
    second.work.root = Some(path("/home/ada/q"));
    let layer = |facts: &Facts| {
        let places = plan(facts, &Wishes::default()).unwrap().view.places;
        places.into_iter().find_map(|place| match place.content {
            Content::Home(home) => home.layer,
            _ => None,
        })
    };
    assert_ne!(layer(&first), layer(&second));
    assert_eq!(layer(&first).unwrap().parent(), Some(Path::new("/state/layers")));
}

#[test]
fn no_tool_opens_the_hosts_runtime_directories_or_what_holds_the_home() {
    let mut facts = facts();
    let wide = ["/tmp", "/run", "/run/user/1000", "/proc", "/dev/shm", "/sys", "/home", "/var", "/mnt"];
    facts.readable = wide.iter().chain(&["/tmp/tool/bin", "/mnt/tool"]).map(|text| path(text)).collect();
    let planned = plan(&facts, &Wishes::default()).unwrap();
    let trees: Vec<&Path> = planned
        .view
        .places
        .iter()
        .filter(|place| place.content == Content::Tree)
        .map(|place| &*place.at)
        .collect();
    assert_eq!(trees, [Path::new("/usr"), Path::new("/mnt/tool"), Path::new("/tmp/tool/bin")]);
    assert_eq!(planned.notes.iter().filter(|note| note.contains("too wide")).count(), wide.len());
}

#[test]
fn the_way_to_what_is_hidden_stays_as_it_is() {
    let mut facts = facts();
    facts.hidden =
        vec![path("/home/ada/p/a/b/writ"), path("/home/ada/p/state"), path("/home/ada/.config/writ")];
    let planned = plan(&facts, &Wishes::default()).unwrap();
    let places = places(&planned);
    let writable: Vec<&String> = places.iter().filter(|place| place.ends_with("writable")).collect();
    assert_eq!(
        writable,
        ["\"/home/ada/p\" writable", "\"/home/ada/p/a\" writable", "\"/home/ada/p/a/b\" writable"],
        "each is a mount of its own"
    );
    assert!(places.contains(&"\"/home/ada/p/a/b/writ\" covered".to_owned()));
    facts.hidden_links = vec![path("/home/ada/.config/writ")];
    assert!(plan(&facts, &Wishes::default()).is_ok(), "the agent's layer is not the host's");
    facts.hidden_links.push(path("/home/ada/p/config"));
    let link = path("/home/ada/p/config");
    assert_eq!(plan(&facts, &Wishes::default()).unwrap_err(), PlanFault::Way { link });
}
