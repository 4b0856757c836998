//! Originals: in by `init`, out by `restore`, and by nobody else.

use aws_lc_rs::digest::{SHA256, digest};
use writ_api::{
    control::{OriginalName, OriginalRow},
    seal::{self, Place, Recipient},
};
use writ_core::{Level, RefusalKind, Sealed, Secret};

use super::harness::{Home, KEY, Life, ask_open};
use crate::originals;

const CONTENT: &[u8] = b"# mine\r\nexport OPENAI_API_KEY='sk-real-0123456789-real'\r\n\xff";

fn name(path: &str, written: u8) -> OriginalName {
    OriginalName { path: path.to_owned(), written_sha256: format!("{written:02x}").repeat(32) }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sealed(life: &Life, purpose: String, bytes: &[u8]) -> Sealed {
    let secret = Secret::new(bytes.to_vec());
    seal::seal(&secret, life.broker.recipient.key(), &Place::Control { purpose }).unwrap()
}

async fn keep(life: &Life, name: &OriginalName, hash: &str, bytes: &[u8]) -> Option<RefusalKind> {
    let content = sealed(life, name.purpose(), bytes);
    let open = life.broker.unlocked().unwrap();
    originals::keep(&life.broker, open, name.clone(), hash, &content).await.err().map(|refusal| refusal.kind)
}

async fn open(life: &Life, name: &OriginalName) -> Result<Vec<u8>, RefusalKind> {
    let recipient = Recipient::generate().unwrap();
    let door = life.broker.unlocked().unwrap();
    let sealed = originals::open(&life.broker, door, name, recipient.key()).await.map_err(|r| r.kind)?;
    let place = Place::Control { purpose: name.purpose() };
    Ok(recipient.open(&sealed, &place).unwrap().expose().to_vec())
}

#[tokio::test]
async fn an_original_comes_back_byte_for_byte_and_is_not_readable_in_the_store() {
    let home = Home::new();
    let life = home.life().await;
    let one = name("/home/ada/app/.env", 1);
    assert_eq!(keep(&life, &one, &sha256(CONTENT), CONTENT).await, None);
    let rows = originals::list(&life.broker).await.unwrap();
    let row = |row: &OriginalRow| (row.name.clone(), row.original_sha256.clone());
    assert_eq!(rows.iter().map(row).collect::<Vec<_>>(), [(one.clone(), sha256(CONTENT))]);
    assert_eq!(open(&life, &one).await.unwrap(), CONTENT);
    for other in [name("/home/ada/app/.env", 2), name("/home/ada/other/.env", 1)] {
        assert_eq!(open(&life, &other).await, Err(RefusalKind::NotFound));
    }
    for file in std::fs::read_dir(home.dir.path().join("state")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(16).any(|window| window == &KEY.as_bytes()[..16]), "a key in the store");
    }
    originals::forget(&life.broker, one.clone()).await.unwrap();
    assert_eq!(open(&life, &one).await, Err(RefusalKind::NotFound));
    let again = originals::forget(&life.broker, one).await.unwrap_err();
    assert_eq!(again.kind, RefusalKind::NotFound);
}

/// Somebody who swaps two rows of the store gets neither file's keys into the other.
#[tokio::test]
async fn an_original_opens_at_its_place_only() {
    let home = Home::new();
    let life = home.life().await;
    let (one, other) = (name("/a/.env", 1), name("/b/.env", 1));
    assert_eq!(keep(&life, &one, &sha256(CONTENT), CONTENT).await, None);
    let mut moved = life.broker.store.originals().await.unwrap().remove(0);
    moved.path = other.path.clone();
    life.broker.store.apply(vec![crate::store::Change::PutOriginal(moved)]).await.unwrap();
    assert_eq!(open(&life, &other).await, Err(RefusalKind::Internal));
    assert!(open(&life, &one).await.is_ok());
}

#[tokio::test]
async fn what_is_not_what_its_name_says_is_not_kept() {
    let home = Home::new();
    let life = home.life().await;
    let good = name("/a/.env", 1);
    let hash = sha256(CONTENT);
    for (name, hash, bytes) in [
        (name("a/.env", 1), hash.as_str(), CONTENT),
        (good.clone(), &sha256(b"else"), CONTENT),
        (good.clone(), "zz", CONTENT),
        (OriginalName { written_sha256: "+1".repeat(32), ..good.clone() }, &hash, CONTENT),
        (good.clone(), &sha256(&[b'x'; 600_000]), &[b'x'; 600_000]),
    ] {
        assert_eq!(keep(&life, &name, hash, bytes).await, Some(RefusalKind::Invalid), "{name:?}");
    }
    let elsewhere = sealed(&life, name("/b/.env", 1).purpose(), CONTENT);
    let open = life.broker.unlocked().unwrap();
    let refused = originals::keep(&life.broker, open, good, &hash, &elsewhere).await.unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Invalid);
    assert!(originals::list(&life.broker).await.unwrap().is_empty());
}

/// A program below `confined` reaches the control socket: it must not be able to ask for the keys.
#[tokio::test]
async fn nothing_is_given_back_while_a_program_runs_below_confined() {
    let home = Home::new();
    let life = home.life().await;
    let one = name("/a/.env", 1);
    keep(&life, &one, &sha256(CONTENT), CONTENT).await;
    for level in [Level::Advisory, Level::Restricted] {
        let (opened, _attached) = life.open_as(&writ_api::run::Open { level, ..ask_open() }).await.unwrap();
        assert_eq!(open(&life, &one).await, Err(RefusalKind::Denied), "{level:?}");
        crate::sessions::end(&life.broker, opened.session, crate::sessions::End::Revoked).await.unwrap();
        assert_eq!(open(&life, &one).await.as_deref(), Ok(CONTENT));
    }
}

#[tokio::test]
async fn a_value_is_compared_with_the_sealed_one() {
    let home = Home::new();
    let life = home.life().await;
    let credential = "c".parse().unwrap();
    let open = life.broker.unlocked().unwrap();
    let compare = async |text: &str, purpose: &str| {
        let value = sealed(&life, purpose.to_owned(), text.as_bytes());
        originals::compare(&life.broker, open, &credential, &value).await.map_err(|refusal| refusal.kind)
    };
    assert_eq!(compare(KEY, "compare c").await, Ok(None));
    life.set("c", KEY).await.unwrap();
    assert_eq!(compare(KEY, "compare c").await, Ok(Some(true)));
    assert_eq!(compare("sk-other-0123456789", "compare c").await, Ok(Some(false)));
    assert_eq!(compare(KEY, "credential c").await, Err(RefusalKind::Invalid), "sealed for something else");
}
