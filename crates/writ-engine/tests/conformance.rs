//! What every secrets engine and every source must do, for each entry of the registries.
//!
//! An engine that makes logins is given a real server to make them at.
#![expect(clippy::unwrap_used, reason = "tests: a failure here is a failed test")]

#[expect(dead_code, reason = "the engine's own tests use more of it")]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use serde_json::{Value, json};
use writ_core::{
    Action, Asked, BoxFuture, Context, CredentialName, Decision, Engine, EngineFault, LeaseId, Level, Permit,
    Policy, PolicyFault, Principal, Receipt, Revoked, Scope, Secret, SessionId, Timestamp, Tools, Ttl,
    authorize,
};
use writ_engine::{engine, engines, source, sources};

/// Turns up wherever a secret gets out.
const CANARY: &str = "canary-7f3a91c4e2b8";

struct Allow;

impl Policy for Allow {
    fn decide(&self, _: &Principal, _: &Asked, _: &Context) -> Result<Decision, PolicyFault> {
        let scope = Scope { authority: "api.example".parse().unwrap(), grants: Vec::new() };
        Ok(Decision::Allow { scope, ttl: Ttl::from_secs(900).unwrap(), rule: "test".into() })
    }
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn permit(credential: &str) -> Permit {
    let principal = Principal {
        workload: "spiffe://writ.local/test".parse().unwrap(),
        session: SessionId::new(NOW, &[1; 10]),
        role: "dev".parse().unwrap(),
    };
    let asked = Asked {
        action: Action::Inject,
        target: "api".parse().unwrap(),
        credential: Some(credential.parse().unwrap()),
    };
    let context = Context {
        now: NOW,
        level: Level::Advisory,
        requester: "ada".into(),
        prompt_sha256: None,
        session_expires_at: NOW.saturating_add(Ttl::from_secs(3600).unwrap()),
    };
    authorize(&Allow, &principal, &asked, &context).unwrap()
}

/// A broker with one value in three versions, whose outside can fail.
#[derive(Default)]
struct Bench {
    fails: AtomicBool,
    /// The administrator's password, where there is a server.
    password: Option<String>,
    touched: AtomicU32,
    memory: Mutex<BTreeMap<String, Value>>,
}

impl Bench {
    fn with(password: Option<String>) -> Self {
        Self { password, ..Self::default() }
    }

    /// Another life of the same broker.
    fn again(&self) -> Self {
        let memory = Mutex::new(self.memory.lock().unwrap().clone());
        Self { password: self.password.clone(), memory, ..Self::default() }
    }

    fn outside(&self, credential: &CredentialName) -> Result<Secret, EngineFault> {
        self.touched.fetch_add(1, Ordering::Relaxed);
        match self.fails.load(Ordering::Relaxed) {
            true => Err(EngineFault::Outside { credential: credential.clone(), detail: "down".into() }),
            false => Ok(Secret::new(self.password.as_deref().unwrap_or(CANARY).into())),
        }
    }
}

impl Tools for Bench {
    fn now(&self) -> Timestamp {
        NOW
    }

    fn mark(&self) -> String {
        "0a1b2c3d".into()
    }

    fn current(&self, credential: &CredentialName) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let value = self.outside(credential);
        Box::pin(async move { value })
    }

    fn remember(&self, key: &str, value: Value) -> BoxFuture<'_, Result<(), EngineFault>> {
        self.memory.lock().unwrap().insert(key.to_owned(), value);
        Box::pin(async { Ok(()) })
    }

    fn recall(&self, key: &str) -> BoxFuture<'_, Result<Option<Value>, EngineFault>> {
        let value = self.memory.lock().unwrap().get(key).cloned();
        Box::pin(async move { Ok(value) })
    }

    fn latest(&self, _: &CredentialName) -> BoxFuture<'_, Result<u32, EngineFault>> {
        Box::pin(async { Ok(3) })
    }

    fn value(&self, credential: &CredentialName, version: u32) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let value = if version == 3 {
            self.outside(credential)
        } else {
            Err(EngineFault::NoValue {
                credential: credential.clone(),
                detail: format!("no version {version}"),
            })
        };
        Box::pin(async move { value })
    }

    fn read(&self, credential: &CredentialName, _: &str) -> BoxFuture<'_, Result<Secret, EngineFault>> {
        let value = self.outside(credential);
        Box::pin(async move { value })
    }
}

/// The configurations under which each engine is tried, each with the password of its administrator: a real server's; or its
/// example and, where that works, none.
fn configs(engine: &dyn Engine) -> Vec<(Value, Option<String>)> {
    let name = "api-key".parse().unwrap();
    let all = [engine.example(), json!({})];
    assert!(engine.check(&name, &all[0]).is_ok(), "{}: its own example", engine.name());
    if engine.makes_logins() {
        let mut place = support::place();
        if !makes_accounts(engine) {
            let config = place.config.as_object_mut().unwrap();
            config.remove("member_of");
            config.insert("role".into(), json!("reporting"));
            return vec![(place.config, None)];
        }
        return vec![(place.config, Some(place.password))];
    }
    all.into_iter()
        .filter(|config| engine.check(&name, config).is_ok())
        .map(|config| (config, None))
        .collect()
}

/// Whether each lease gets an account of its own, which goes with it, and not a value that lives on.
fn makes_accounts(engine: &dyn Engine) -> bool {
    engine.makes_logins() && engine.name() != "postgres-static"
}

fn engine_again(known: &dyn Engine) -> std::sync::Arc<dyn Engine> {
    engine(known.name()).unwrap()
}

fn lease() -> LeaseId {
    // Roles belong to a whole server, which the tests share.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let [.., a, b] = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    LeaseId::new(NOW, &[2, 2, 2, 2, 2, 2, 2, 2, a, b])
}

#[test]
fn every_entry_is_found_by_its_name_and_once() {
    let names: BTreeSet<&str> = engines().iter().map(|engine| engine.name()).collect();
    assert_eq!(names.len(), engines().len());
    assert!(names.iter().all(|name| engine(name).is_some()) && engine("no-such").is_none());
    let schemes: BTreeSet<&str> = sources().iter().map(|source| source.scheme()).collect();
    assert_eq!(schemes.len(), sources().len());
    assert!(schemes.iter().all(|scheme| source(scheme).is_some()) && source("no-such").is_none());
}

#[tokio::test]
async fn issue_revoke_and_revoke_again() {
    for engine in engines() {
        for (config, password) in configs(engine.as_ref()) {
            let (bench, permit) = (Bench::with(password), permit("api-key"));
            let receipt = engine.plan(&permit, lease(), &config, &bench).await.unwrap();
            assert_eq!(bench.touched.load(Ordering::Relaxed), 0, "{}: planning does nothing", engine.name());
            let minted = engine.mint(&permit, &receipt, &config, &bench).await.unwrap();
            assert_eq!(minted.login.is_some(), engine.makes_logins(), "{}", engine.name());
            let secret = String::from_utf8(minted.secret.expose().to_vec()).unwrap();
            assert_eq!(
                secret == CANARY,
                !makes_accounts(engine.as_ref()),
                "{}: a login has a password of its own",
                engine.name()
            );
            // The receipt is stored as text and read by another life of the broker, with connections of its own.
            let receipt = minted.receipt.clone().unwrap_or(receipt);
            let stored: Receipt = serde_json::from_str(&serde_json::to_string(&receipt).unwrap()).unwrap();
            let (heir, again) = (engine_again(engine.as_ref()), bench.again());
            let first = heir.revoke(&stored, &again).await.unwrap();
            assert_eq!(first == Revoked::Gone, makes_accounts(engine.as_ref()), "{}", engine.name());
            assert_eq!(engine.revoke(&stored, &bench.again()).await.unwrap(), first);
            for shown in [format!("{minted:?}"), format!("{receipt:?}"), receipt.0.to_string()] {
                assert!(!shown.contains(CANARY) && !shown.contains(&secret), "{}: {shown}", engine.name());
            }
        }
    }
}

#[tokio::test]
async fn a_receipt_is_revocable_whatever_became_of_the_minting() {
    for engine in engines() {
        for (config, password) in configs(engine.as_ref()) {
            let (bench, permit) = (Bench::with(password), permit("api-key"));
            bench.fails.store(true, Ordering::Relaxed);
            let receipt = engine.plan(&permit, lease(), &config, &bench).await.unwrap();
            // Cancelled before the first step.
            drop(engine.mint(&permit, &receipt, &config, &bench));
            assert!(engine.revoke(&receipt, &bench.again()).await.is_ok(), "{}", engine.name());
            // Failed outside, then tried again.
            let fault = engine.mint(&permit, &receipt, &config, &bench).await.unwrap_err();
            assert!(matches!(fault, EngineFault::Outside { .. }) && !fault.to_string().contains(CANARY));
            bench.fails.store(false, Ordering::Relaxed);
            assert!(engine.mint(&permit, &receipt, &config, &bench).await.is_ok(), "{}", engine.name());
            // The planned receipt is enough, though minting told more.
            assert!(engine.revoke(&receipt, &bench.again()).await.is_ok(), "{}", engine.name());
        }
    }
}

#[tokio::test]
async fn what_an_engine_does_not_know_is_refused() {
    for engine in engines() {
        let (bench, allowed) = (Bench::default(), permit("api-key"));
        let mut config = engine.example();
        config.as_object_mut().unwrap().insert("no_such_key".into(), json!(1));
        let fault = engine.check(&"api-key".parse().unwrap(), &config).unwrap_err();
        assert!(
            matches!(&fault, EngineFault::Config { .. }) && fault.to_string().contains("no_such_key"),
            "{fault}"
        );
        assert!(engine.plan(&allowed, lease(), &config, &bench).await.is_err(), "{}", engine.name());
        for receipt in [json!(null), json!({}), json!("x"), json!({ "no_such_key": 1 })] {
            let revoked = engine.revoke(&Receipt(receipt), &bench).await;
            assert!(matches!(revoked, Err(EngineFault::Receipt(_))), "{}", engine.name());
        }
    }
}

#[tokio::test]
async fn a_receipt_is_of_one_credential() {
    for engine in engines() {
        let (bench, config) = (Bench::default(), engine.example());
        let receipt = engine.plan(&permit("api-key"), lease(), &config, &bench).await.unwrap();
        let other = engine.mint(&permit("other-key"), &receipt, &config, &bench).await;
        assert!(matches!(other, Err(EngineFault::Receipt(_))), "{}", engine.name());
        assert_eq!(bench.touched.load(Ordering::Relaxed), 0, "{}", engine.name());
    }
}

#[tokio::test]
async fn static_values_live_on_and_have_a_version() {
    let (bench, permit) = (Bench::default(), permit("api-key"));
    let engine = engine("static").unwrap();
    for (config, version) in [(json!({}), 3), (json!({ "source": "cmd://x" }), 0)] {
        let receipt = engine.plan(&permit, lease(), &config, &bench).await.unwrap();
        assert_eq!(receipt.0, json!({ "credential": "api-key", "version": version }));
        assert_eq!(engine.mint(&permit, &receipt, &config, &bench).await.unwrap().version, version);
        assert_eq!(engine.revoke(&receipt, &bench).await.unwrap(), Revoked::UseBlocked);
    }
    let unknown = engine.check(&"api-key".parse().unwrap(), &json!({ "source": "https://x" })).unwrap_err();
    assert!(unknown.to_string().contains("cmd://"), "{unknown}");
}

#[tokio::test]
async fn every_source_refuses_references_of_others_and_takes_its_own() {
    for source in sources() {
        assert!(source.example().starts_with(&format!("{}://", source.scheme())));
        for foreign in ["", "x", "no-such://x", source.scheme()] {
            let fault = source.read(foreign).await.unwrap_err();
            assert_eq!(fault.reference, foreign);
        }
    }
    assert!(writ_engine::read("no-such://x").await.unwrap_err().to_string().contains("file://"));
    assert_eq!(writ_engine::read("cmd://printf x").await.unwrap().expose(), b"x");
}
