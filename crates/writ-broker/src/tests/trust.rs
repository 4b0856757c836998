//! A repository asks, a person grants: what an untrusted, a trusted and a changed file do to a session.

use std::{os::unix::fs::symlink, path::Path};

use writ_api::control::TrustState;
use writ_core::RefusalKind;

use super::harness::{Home, KEY, Life, ask_open};
use crate::{
    store::Change,
    trust::{self, Wishes},
};

async fn wishes(life: &Life, directory: &Path) -> Wishes {
    trust::wishes(&life.broker, life.broker.unlocked().unwrap(), directory).await.unwrap()
}

async fn said(life: &Life, directory: &Path) -> String {
    let wishes = wishes(life, directory).await;
    assert_eq!(wishes.repository, None);
    wishes.said.unwrap_or_default()
}

/// Shows the file around `directory` and trusts it as it was shown.
async fn trust_it(life: &Life, directory: &Path) -> TrustState {
    let open = life.broker.unlocked().unwrap();
    let view = trust::show(&life.broker, open, directory).await.unwrap();
    trust::grant(&life.broker, open, &view.path, &view.sha256).await.unwrap();
    view.state
}

/// A repository, and a directory deep in it.
fn repository(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let deep = place.path().canonicalize().unwrap().join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::create_dir(place.path().join(".git")).unwrap();
    std::fs::write(place.path().join("writ.toml"), text).unwrap();
    (place, deep)
}

const ASKS: &str = "version = 1\nrole = \"dev\"\ntargets = [\"t\"]\n";

#[tokio::test]
async fn a_file_has_no_effect_until_it_is_trusted_as_it_is() {
    let home = Home::new();
    let life = home.life().await;
    let (place, deep) = repository(ASKS);
    let untrusted = said(&life, &deep).await;
    assert!(untrusted.contains("asks for role dev, target t; it has no effect until you run `writ trust`"));
    assert_eq!(trust_it(&life, &deep).await, TrustState::Untrusted);
    assert_eq!(wishes(&life, &deep).await.repository.unwrap().asks(), ["role dev", "target t"]);
    // One byte is another file.
    std::fs::write(place.path().join("writ.toml"), format!("{ASKS}\n")).unwrap();
    assert!(said(&life, &deep).await.contains("has changed"));
    std::fs::write(place.path().join("writ.toml"), "version = 1\nrole = \"ops\"\ntargets = [\"t\"]\n")
        .unwrap();
    let open = life.broker.unlocked().unwrap();
    let view = trust::show(&life.broker, open, &deep).await.unwrap();
    assert_eq!(view.differences, ["- role dev", "+ role ops"]);
    assert_eq!(view.missing, ["target t: add { target = \"t\" } to the grants of the role ops"]);
    assert_eq!(trust_it(&life, &deep).await, TrustState::Changed);
    assert!(wishes(&life, &deep).await.repository.is_some());
    // A copy elsewhere is not trusted with it.
    let (_other, other) = repository("version = 1\nrole = \"ops\"\ntargets = [\"t\"]\n");
    assert!(said(&life, &other).await.contains("no effect"));
}

#[tokio::test]
async fn only_what_was_shown_is_trusted() {
    let home = Home::new();
    let life = home.life().await;
    let (place, deep) = repository(ASKS);
    let open = life.broker.unlocked().unwrap();
    let view = trust::show(&life.broker, open, &deep).await.unwrap();
    let grant = async |path: &Path, sha256: &str| trust::grant(&life.broker, open, path, sha256).await;
    std::fs::write(place.path().join("writ.toml"), "version = 1\n").unwrap();
    assert_eq!(grant(&view.path, &view.sha256).await.unwrap_err().kind, RefusalKind::Invalid, "swapped");
    std::fs::write(place.path().join("writ.toml"), ASKS).unwrap();
    assert!(grant(&deep.join("writ.toml"), &view.sha256).await.is_err(), "another path");
    assert!(grant(Path::new("writ.toml"), &view.sha256).await.is_err(), "a relative path");
    assert!(said(&life, &deep).await.contains("no effect"));
    grant(&view.path, &view.sha256).await.unwrap();
    assert!(wishes(&life, &deep).await.repository.is_some());
    std::fs::write(place.path().join("writ.toml"), "version = 1\n[[target]]\nname = \"x\"\n").unwrap();
    let refusal = trust::show(&life.broker, open, &deep).await.unwrap_err();
    assert!(refusal.detail.contains("a repository cannot say this"), "{refusal:?}");
}

/// Whoever writes to the store without the keys trusts nothing.
#[tokio::test]
async fn a_record_of_trust_counts_at_its_own_path_only() {
    let home = Home::new();
    let life = home.life().await;
    let ((_one, trusted), (_two, other)) = (repository(ASKS), repository(ASKS));
    trust_it(&life, &trusted).await;
    let key = |directory: &Path| {
        let path = directory.ancestors().nth(2).unwrap().join("writ.toml");
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, path.as_os_str().as_encoded_bytes());
        format!("trust.{}", crate::sessions::hex(hash.as_ref()))
    };
    let sealed = life.broker.store.meta(key(&trusted)).await.unwrap().unwrap();
    for value in [sealed, ASKS.as_bytes().to_vec()] {
        life.broker.store.apply(vec![Change::PutMeta { key: key(&other), value }]).await.unwrap();
        assert!(said(&life, &other).await.contains("no effect"));
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_refuses_nothing() {
    let home = Home::new();
    let life = home.life().await;
    let (place, deep) = repository("version = 1\n[[role]]\nname = \"root\"\n");
    assert!(said(&life, &deep).await.contains("a repository cannot say this"));
    std::fs::write(place.path().join("writ.toml"), "x".repeat(65 * 1024)).unwrap();
    assert!(said(&life, &deep).await.contains("cannot be read"));
    std::fs::remove_file(place.path().join("writ.toml")).unwrap();
    assert_eq!(said(&life, &deep).await, "");
    symlink("/etc/hostname", place.path().join("writ.toml")).unwrap();
    assert!(said(&life, &deep).await.contains("cannot be read"), "a link is not followed");
    // The person's own configuration is nobody's wish.
    assert_eq!(said(&life, home.dir.path()).await, "");
    // Outside of a repository only the directory itself is looked at.
    let bare = tempfile::tempdir().unwrap();
    std::fs::create_dir(bare.path().join("below")).unwrap();
    std::fs::write(bare.path().join("writ.toml"), ASKS).unwrap();
    assert!(said(&life, bare.path()).await.contains("no effect"));
    assert_eq!(said(&life, &bare.path().join("below")).await, "");
}

/// The whole way: a session in a repository. The launcher is a child, because a process has one working directory.
#[tokio::test]
async fn a_trusted_file_narrows_a_session_and_never_widens_it() {
    let home = Home::new();
    let both = "grants = [{ target = \"u\" }, { target = \"t\"";
    home.write(&home.text("key-file").replacen("grants = [{ target = \"t\"", both, 1));
    let life = home.life().await;
    life.set("c", KEY).await.unwrap();
    life.set("other", KEY).await.unwrap();
    let (place, deep) = repository("version = 1\ntargets = [\"t\", \"gold\"]\n");
    let mut launcher = std::process::Command::new("cat")
        .current_dir(&deep)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let open = async || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let process = writ_sys::pidfd_of_child(&launcher).unwrap();
        let pid = i32::try_from(launcher.id()).unwrap();
        let peer = crate::sessions::Peer { process, pid, ..super::harness::myself() };
        let doors = vec![(writ_core::Door::Proxy, listener.into())];
        let (opened, mut attached) =
            crate::sessions::open(&life.broker, &peer, &ask_open(), doors).await.unwrap();
        let mut said = Vec::new();
        while let Ok(writ_api::run::FromBroker::Said { text }) = attached.lines.try_recv() {
            said.push(text);
        }
        (opened, said)
    };
    let (opened, said) = open().await;
    assert_eq!(opened.hosts, ["t.example", "u.example"], "untrusted: no effect");
    assert!(said[0].contains("asks for target t, target gold; it has no effect"), "{said:?}");
    trust_it(&life, &deep).await;
    let (opened, said) = open().await;
    assert_eq!(opened.hosts, ["t.example"]);
    assert_eq!(opened.variables.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["C_KEY"]);
    assert_eq!(
        said,
        ["this repository asks in vain for the target gold: your configuration has none; add a [[target]]"]
    );
    assert!(life.acquire(opened.session, "t").await.is_ok());
    assert_eq!(life.acquire(opened.session, "u").await.unwrap_err().kind, RefusalKind::Denied);
    // A role that no registration entry gives is refused, however trusted the wish.
    std::fs::write(place.path().join("writ.toml"), "version = 1\nrole = \"ops\"\n").unwrap();
    trust_it(&life, &deep).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let process = writ_sys::pidfd_of_child(&launcher).unwrap();
    let pid = i32::try_from(launcher.id()).unwrap();
    let peer = crate::sessions::Peer { process, pid, ..super::harness::myself() };
    let doors = vec![(writ_core::Door::Proxy, listener.into())];
    let refusal = crate::sessions::open(&life.broker, &peer, &ask_open(), doors).await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Denied);
    drop(launcher.stdin.take());
    launcher.wait().unwrap();
}
