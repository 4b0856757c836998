//! What every seal promises, and what is each one's own.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use base64::Engine as _;
use serde_json::json;
use tempfile::TempDir;
use writ_core::Secret;

use super::*;

/// Cheap, for tests: the derivation is the same.
const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

fn phrase(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

/// Every entry of the registry: what it makes it finds again, in another process, and it shows nothing.
#[test]
fn every_seal_finds_its_root_key_again() {
    for entry in SEALS {
        let directory = tempfile::tempdir().unwrap();
        let places = SealPlaces::within(directory.path());
        let build = || seal(entry.kind, &places).unwrap();
        let passphrase = phrase("correct horse battery staple");
        let given = build().asks().then_some(&passphrase);

        let (key, parameters) = build().create(given).unwrap();
        assert_eq!(build().kind(), entry.kind);
        assert_eq!(build().unseal(&parameters, given).unwrap().expose(), key.expose(), "{}", entry.kind);

        // What it stores gives away neither key nor passphrase, and is not accepted with anything added.
        let stored = parameters.to_string();
        let hex: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
        let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(key.expose());
        assert!(!stored.contains("correct horse") && !stored.contains(&hex) && !stored.contains(&base64));
        assert_eq!(format!("{key:?}"), "RootKey(…)");
        let mut more = parameters.clone();
        more.as_object_mut().unwrap().insert("more".to_owned(), json!(1));
        assert!(matches!(build().unseal(&more, given), Err(SealFault::Parameters(_))), "{}", entry.kind);
        assert!(
            matches!(build().unseal(&json!(null), given), Err(SealFault::Parameters(_))),
            "{}",
            entry.kind
        );

        // Another installation has another key.
        let other = tempfile::tempdir().unwrap();
        let other = seal(entry.kind, &SealPlaces::within(other.path())).unwrap();
        assert_ne!(other.create(given).unwrap().0.expose(), key.expose(), "{}", entry.kind);

        if build().asks() {
            assert!(matches!(build().create(None), Err(SealFault::PassphraseNeeded)));
            assert!(matches!(build().unseal(&parameters, None), Err(SealFault::PassphraseNeeded)));
        }
    }
}

#[test]
fn an_unknown_kind_names_the_known_ones() {
    let fault = seal("tpm", &SealPlaces::within(Path::new("/nowhere"))).err().unwrap();
    assert_eq!(fault.to_string(), "there is no seal \"tpm\"; there are key-file, passphrase");
}

fn key_file() -> (TempDir, PathBuf, KeyFile) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("root.key");
    let seal = KeyFile::new(path.clone());
    seal.create(None).unwrap();
    (directory, path, seal)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_key_file_is_private_and_alone() {
    let (directory, path, _) = key_file();
    let found = fs::metadata(&path).unwrap();
    assert_eq!((found.permissions().mode() & 0o7777, found.len()), (0o600, 32));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn a_key_file_of_another_mode_is_refused_with_the_remedy() {
    let (_directory, path, seal) = key_file();
    for mode in [0o644, 0o640, 0o660, 0o604, 0o601, 0o700, 0o400, 0o4600, 0o1600] {
        chmod(&path, mode);
        for fault in [seal.unseal(&json!({}), None).unwrap_err(), seal.create(None).unwrap_err()] {
            let message = fault.to_string();
            assert!(matches!(fault, SealFault::KeyFileMode { .. }), "{mode:o}: {message}");
            assert!(message.ends_with(&format!("run chmod 600 {}", path.display())), "{message}");
        }
    }
    chmod(&path, 0o600);
    seal.unseal(&json!({}), None).unwrap();
}

#[test]
fn a_key_file_of_another_user_is_refused() {
    let (_directory, path, seal) = key_file();
    let own = rustix::process::geteuid().as_raw();
    seal.unseal(&json!({}), None).unwrap();
    let stranger = KeyFile::of_user(path.clone(), own + 1);
    for fault in [stranger.unseal(&json!({}), None).unwrap_err(), stranger.create(None).unwrap_err()] {
        assert!(matches!(fault, SealFault::KeyFileOwner { uid, .. } if uid == own), "{fault}");
    }
}

#[test]
fn a_link_in_place_of_a_key_file_is_refused() {
    let (_directory, path, seal) = key_file();
    let elsewhere = path.with_file_name("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    assert!(matches!(seal.unseal(&json!({}), None), Err(SealFault::KeyFileLink(_))));
    assert!(matches!(seal.create(None), Err(SealFault::KeyFileLink(_))));
    fs::remove_file(&elsewhere).unwrap();
    assert!(matches!(seal.create(None), Err(SealFault::KeyFileLink(_))));
    assert!(!elsewhere.exists(), "a key is not written through a link");
}

#[test]
fn what_is_no_key_file_is_refused_and_left_alone() {
    for (what, contents) in [("empty", &b""[..]), ("short", &[1; 31]), ("long", &[1; 33])] {
        let (_directory, path, seal) = key_file();
        fs::write(&path, contents).unwrap();
        assert!(matches!(seal.unseal(&json!({}), None), Err(SealFault::KeyFileForm(_))), "{what}");
        assert!(matches!(seal.create(None), Err(SealFault::KeyFileForm(_))), "{what}");
        assert_eq!(fs::read(&path).unwrap(), contents, "{what}");
    }
    let (_directory, path, seal) = key_file();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(seal.unseal(&json!({}), None), Err(SealFault::KeyFileForm(_))));
}

/// A FIFO in its place must not hang the start either.
#[test]
fn a_fifo_in_place_of_a_key_file_is_refused() {
    let (_directory, path, seal) = key_file();
    fs::remove_file(&path).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(seal.unseal(&json!({}), None), Err(SealFault::KeyFileForm(_))));
}

#[test]
fn a_missing_key_file_is_not_made_anew() {
    let (_directory, path, seal) = key_file();
    fs::remove_file(&path).unwrap();
    assert!(matches!(seal.unseal(&json!({}), None), Err(SealFault::KeyFileMissing(_))));
    assert!(!path.exists());
}

#[test]
fn a_key_file_that_is_there_is_used() {
    let (_directory, path, seal) = key_file();
    let before = fs::read(&path).unwrap();
    assert_eq!(seal.create(None).unwrap().0.expose()[..], before[..]);
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn passphrases_have_a_length() {
    let seal = Passphrase::new(CHEAP);
    for (length, good) in [(0, false), (11, false), (12, true), (1024, true), (1025, false)] {
        let created = seal.create(Some(&phrase(&"x".repeat(length))));
        assert_eq!(created.is_ok(), good, "{length}");
        assert!(good || matches!(created, Err(SealFault::PassphraseLength)));
    }
}

#[test]
fn another_passphrase_or_salt_or_cost_gives_another_key() {
    let seal = Passphrase::new(CHEAP);
    let (key, parameters) = seal.create(Some(&phrase("correct horse battery"))).unwrap();
    let unseal = |parameters: &Value, text: &str| seal.unseal(parameters, Some(&phrase(text))).unwrap();
    for other in ["correct horse batterz", "correct horse battery ", "Correct horse battery", ""] {
        assert_ne!(unseal(&parameters, other).expose(), key.expose(), "{other:?}");
    }
    let salt =
        json!({"function": "argon2id", "salt": "AAAAAAAAAAAAAAAAAAAAAA==", "cost": parameters["cost"]});
    assert_ne!(unseal(&salt, "correct horse battery").expose(), key.expose());
    let mut cost = parameters.clone();
    cost["cost"]["passes"] = json!(2);
    assert_ne!(unseal(&cost, "correct horse battery").expose(), key.expose());
}

#[test]
fn stored_parameters_have_limits() {
    let seal = Passphrase::new(CHEAP);
    let (_, good) = seal.create(Some(&phrase("correct horse battery"))).unwrap();
    for (path, value) in [
        ("/cost/memory_kib", json!(1024 * 1024 + 1)),
        ("/cost/memory_kib", json!(u32::MAX)),
        ("/cost/memory_kib", json!(0)),
        ("/cost/passes", json!(17)),
        ("/cost/passes", json!(0)),
        ("/cost/lanes", json!(17)),
        ("/cost/lanes", json!(0)),
        ("/function", json!("argon2i")),
        ("/salt", json!("AAAA")),
        ("/salt", json!("?")),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(path).unwrap() = value.clone();
        let found = seal.unseal(&bad, Some(&phrase("correct horse battery")));
        assert!(matches!(found, Err(SealFault::Parameters(_))), "{path} = {value}");
    }
}

/// The value comes from another implementation, OpenSSL's.
#[test]
fn the_derivation_is_argon2id() {
    let parameters = json!({
        "function": "argon2id",
        "salt": "AAECAwQFBgcICQoLDA0ODw==",
        "cost": {"memory_kib": 256, "passes": 3, "lanes": 4}
    });
    let key = Passphrase::new(CHEAP).unseal(&parameters, Some(&phrase("correct horse battery"))).unwrap();
    let hex: String = key.expose().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "49350b61a17b8c6c98123a86ebced9f2560361e8fdb3daf3607dccff16ac5ba5");
}
