//! Logins that programs hold: made when the session opens, sealed to the launcher, and never made by the data plane.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};
use writ_api::seal::{Place, Recipient};
use writ_audit::Kind;
use writ_core::{
    Authority, BoxFuture, CredentialName, Door, Engine, EngineFault, LeaseEnd, LeaseId, LeaseState, Login,
    Minted, Permit, Receipt, RefusalKind, Revoked, Secret, Tools,
};

use super::harness::{Home, Life, ask_open, until};
use crate::{
    leases::{self, Which},
    sessions,
    store::LeaseFilter,
};

const PASSWORD: &str = "a-password-of-one-run";

/// Makes logins for the database `good`, and none for any other.
#[derive(Default)]
struct Database {
    minted: AtomicUsize,
}

impl Engine for Database {
    fn name(&self) -> &'static str {
        "postgres"
    }

    fn check(&self, _: &CredentialName, _: &Value) -> Result<(), EngineFault> {
        Ok(())
    }

    fn makes_logins(&self) -> bool {
        true
    }

    fn plan<'a>(
        &'a self,
        _: &'a Permit,
        lease: LeaseId,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        Box::pin(async move { Ok(Receipt(json!({ "lease": lease }))) })
    }

    fn mint<'a>(
        &'a self,
        permit: &'a Permit,
        _: &'a Receipt,
        config: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(async move {
            self.minted.fetch_add(1, Ordering::SeqCst);
            if config["database"] != "good" {
                let credential = permit.asked().credential.clone().unwrap();
                return Err(EngineFault::Outside { credential, detail: "the server is away".into() });
            }
            let login = Login { user: "writ_one".into(), database: "good".into() };
            Ok(Minted { login: Some(login), ..Minted::bare(Secret::new(PASSWORD.into()), 0) })
        })
    }

    fn revoke<'a>(&'a self, _: &'a Receipt, _: &'a dyn Tools) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async { Ok(Revoked::Gone) })
    }

    fn example(&self) -> Value {
        Value::Null
    }
}

/// A home whose role is revealed a login of `good` and one of `bad`.
fn home() -> Home {
    let home = Home::new();
    let mut more = String::new();
    for name in ["good", "bad"] {
        more.push_str(&format!(
            "[[credential]]\nname = \"{name}\"\nengine = \"postgres\"\nconfig = {{ server = \"{name}.example:5432\", database = \"{name}\", \
             user = \"admin\", password = \"other\", member_of = [\"reader\"] }}\n\
             [[target]]\nname = \"{name}\"\nhost = \"{name}.example:5432\"\ncredential = \"{name}\"\nreveal = \"service-file\"\n"
        ));
    }
    let text = home.text("key-file").replacen("[[role]]", &format!("{more}[[role]]"), 1);
    let grants = "grants = [{ target = \"good\" }, { target = \"bad\" }, { target = \"t\"";
    home.write(&text.replacen("grants = [{ target = \"t\"", grants, 1));
    home
}

async fn life(home: &Home) -> (Life, Arc<Database>) {
    let engine = Arc::new(Database::default());
    (home.life_of(engine.clone()).await, engine)
}

#[tokio::test]
async fn it_is_sealed_to_the_launcher_and_a_failure_of_one_is_a_line() {
    let home = home();
    let (life, engine) = life(&home).await;
    let recipient = Recipient::generate().unwrap();
    let mut ask = ask_open();
    ask.recipient = Some(recipient.key().clone());
    let (opened, mut attached) = life.open_as(&ask).await.unwrap();
    let [revealed] = opened.revealed.as_slice() else { panic!("{:?}", opened.revealed) };
    assert_eq!(
        (revealed.target.as_str(), revealed.login.user.as_str(), revealed.tls),
        ("good", "writ_one", true)
    );
    let place = Place::Lease { session: opened.session, lease: revealed.lease };
    assert_eq!(recipient.open(&revealed.sealed, &place).unwrap().expose(), PASSWORD.as_bytes());
    assert!(life.plane.recipient.open(&revealed.sealed, &place).is_err(), "the data plane cannot read it");
    let said = format!("{:?}", attached.lines.recv().await);
    assert!(said.contains("no login for bad") && said.contains("the server is away"), "{said}");
    let lease = life.broker.store.lease(revealed.lease).await.unwrap().unwrap();
    assert!(lease.revealed && lease.state == LeaseState::Active);
    let mut log = home.log(&life, Kind::Acquire).await;
    log.sort();
    assert_eq!(log, ["reveal ok", "reveal refused no-credential"]);
    assert_eq!(engine.minted.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_data_plane_gets_the_same_lease_without_a_secret_and_never_makes_one() {
    let home = home();
    let (life, engine) = life(&home).await;
    let recipient = Recipient::generate().unwrap();
    let mut ask = ask_open();
    ask.recipient = Some(recipient.key().clone());
    let (opened, _attached) = life.open_as(&ask).await.unwrap();
    let minted = engine.minted.load(Ordering::SeqCst);
    let granted = life.acquire(opened.session, "good").await.unwrap();
    assert_eq!((granted.lease, granted.sealed), (opened.revealed[0].lease, None));
    assert_eq!(granted.expires_at, opened.revealed[0].expires_at);
    let refusal = life.acquire(opened.session, "bad").await.unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NoCredential);
    // A launcher without a key gets none, and its session can have none made.
    let (bare, _attached) = life.open().await;
    assert!(bare.revealed.is_empty());
    assert_eq!(life.acquire(bare.session, "good").await.unwrap_err().kind, RefusalKind::NoCredential);
    assert_eq!(engine.minted.load(Ordering::SeqCst), minted, "asking makes nothing");
}

#[tokio::test]
async fn it_ends_when_it_is_revoked_and_with_its_session() {
    let home = home();
    let (life, _engine) = life(&home).await;
    let recipient = Recipient::generate().unwrap();
    let mut ask = ask_open();
    ask.recipient = Some(recipient.key().clone());
    let (one, _first) = life.open_as(&ask).await.unwrap();
    let (two, _second) = life.open_as(&ask).await.unwrap();
    let lease = one.revealed[0].lease;
    leases::end(&life.broker, LeaseEnd::Revoked, Which::Lease(lease)).await.unwrap();
    assert_eq!(life.acquire(one.session, "good").await.unwrap_err().kind, RefusalKind::LeaseRevoked);
    assert!(life.acquire(two.session, "good").await.is_ok(), "another session's stays");
    sessions::end(&life.broker, two.session, sessions::End::Stopped).await.unwrap();
    let ended = async || {
        let filter = LeaseFilter { ended: true, ..LeaseFilter::default() };
        let leases = life.broker.store.leases(filter).await.unwrap();
        leases.iter().all(|lease| lease.state == LeaseState::Ended && lease.revoked == Some(Revoked::Gone))
    };
    until(ended).await;
}

/// A door on loopback, below `confined`, to a server whose login the program holds, and to no other.
#[tokio::test]
async fn only_a_login_that_was_revealed_has_a_door() {
    let home = home();
    let (life, _engine) = life(&home).await;
    let recipient = Recipient::generate().unwrap();
    let mut ask = ask_open();
    ask.recipient = Some(recipient.key().clone());
    for (name, bound, fits) in [
        ("good.example:5432", "127.0.0.1:0", true),
        ("bad.example:5432", "127.0.0.1:0", false),
        ("t.example:443", "127.0.0.1:0", false),
        ("good.example:5432", "0.0.0.0:0", false),
    ] {
        let (opened, mut attached) = life.open_as(&ask).await.unwrap();
        let mut doors = std::mem::take(&mut attached.doors);
        let authority: Authority = name.parse().unwrap();
        let socket = std::net::TcpListener::bind(bound).unwrap().into();
        let kinds = vec![Door::Named { authority }];
        let added = sessions::extend(&life.broker, opened.session, &mut doors, kinds, vec![socket]).await;
        assert_eq!(added.is_ok(), fits, "{name} at {bound}: {added:?}");
    }
}
