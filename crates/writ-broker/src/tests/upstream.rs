//! A service with accounts and a password, behind an engine: what there is upstream, in memory, and how it fails.
//!
//! The credential `c` makes an account for each lease, administered with the value of `other`; with `of_its_own` the value of `c` is
//! itself the password, as a static role's is.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{sync::Notify, task::yield_now};
use writ_core::{
    BoxFuture, CredentialName, Engine, EngineFault, LeaseId, Minted, Permit, Receipt, Revoked, Rotation,
    Secret, Surveyed, Tools, Ttl,
};

use super::harness::KEY;

#[derive(Default)]
pub struct Upstream {
    /// Account → the lease that it bears.
    pub accounts: Mutex<BTreeMap<String, LeaseId>>,
    pub password: Mutex<String>,
    pub passwords_made: AtomicUsize,
    /// Nothing answers.
    pub away: AtomicBool,
    /// Takes the next password and dies before it says so.
    pub loses_answers: AtomicBool,
    /// Every configuration leads to an account of its own.
    pub scattered: AtomicBool,
    /// Any password opens the account.
    pub trusting: AtomicBool,
    pub of_its_own: AtomicBool,
    pub every: Mutex<Option<Ttl>>,
    /// Revocations fail.
    pub stubborn: AtomicBool,
    pub revoked: AtomicUsize,
    /// With this on, a survey waits after it has looked: `looked` rings, `go` lets it go on.
    pub gated: AtomicBool,
    pub looked: Notify,
    pub go: Notify,
}

impl Upstream {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { password: Mutex::new(KEY.to_owned()), ..Self::default() })
    }

    pub fn has(&self, lease: LeaseId) -> bool {
        self.accounts.lock().unwrap().contains_key(&account(lease))
    }

    /// Makes an account behind writ's back.
    pub fn make(&self, lease: LeaseId) {
        self.accounts.lock().unwrap().insert(account(lease), lease);
    }

    pub fn password(&self) -> String {
        self.password.lock().unwrap().clone()
    }

    async fn reach(&self) -> Result<(), EngineFault> {
        yield_now().await;
        match self.away.load(Ordering::SeqCst) {
            true => Err(EngineFault::Unreachable { lane: LANE.into(), detail: "it is away".into() }),
            false => Ok(()),
        }
    }
}

const LANE: &str = "test upstream:1";

pub fn account(lease: LeaseId) -> String {
    format!("writ_{lease}")
}

fn receipt(lease: LeaseId) -> Receipt {
    Receipt(json!({ "account": account(lease) }))
}

impl Engine for Upstream {
    fn name(&self) -> &'static str {
        "static"
    }

    fn check(&self, _: &CredentialName, _: &Value) -> Result<(), EngineFault> {
        Ok(())
    }

    fn lane(&self, _: &Receipt) -> String {
        LANE.to_owned()
    }

    fn surveys(&self, _: &CredentialName, _: &Value) -> Option<String> {
        Some(LANE.to_owned())
    }

    fn plan<'a>(
        &'a self,
        _: &'a Permit,
        lease: LeaseId,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Receipt, EngineFault>> {
        Box::pin(async move { Ok(receipt(lease)) })
    }

    fn mint<'a>(
        &'a self,
        permit: &'a Permit,
        receipt: &'a Receipt,
        _: &'a Value,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Minted, EngineFault>> {
        Box::pin(async move {
            self.reach().await?;
            let credential = permit.asked().credential.clone().unwrap();
            if self.of_its_own.load(Ordering::SeqCst) {
                let version = tools.latest(&credential).await?;
                return Ok(Minted::bare(tools.value(&credential, version).await?, version));
            }
            let name = receipt.0["account"].as_str().unwrap();
            self.make(name.strip_prefix("writ_").unwrap().parse().unwrap());
            Ok(Minted::bare(Secret::new(format!("password of {name}").into_bytes()), 0))
        })
    }

    fn revoke<'a>(
        &'a self,
        receipt: &'a Receipt,
        tools: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Revoked, EngineFault>> {
        Box::pin(async move {
            self.reach().await?;
            if self.of_its_own.load(Ordering::SeqCst) {
                let released = tools.release(&"c".parse().unwrap(), 1).await?;
                return Ok(if released { Revoked::Gone } else { Revoked::UseBlocked });
            }
            if self.stubborn.load(Ordering::SeqCst) {
                return Err(EngineFault::Outside {
                    credential: "c".parse().unwrap(),
                    detail: "not yet".into(),
                });
            }
            self.accounts.lock().unwrap().remove(receipt.0["account"].as_str().unwrap());
            self.revoked.fetch_add(1, Ordering::SeqCst);
            Ok(Revoked::Gone)
        })
    }

    fn survey<'a>(
        &'a self,
        credential: &'a CredentialName,
        _: &'a Value,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<Option<Vec<Surveyed>>, EngineFault>> {
        Box::pin(async move {
            if credential.as_str() != "c" {
                return Ok(None);
            }
            self.reach().await?;
            let accounts = self.accounts.lock().unwrap().clone();
            if self.gated.load(Ordering::SeqCst) {
                self.looked.notify_one();
                self.go.notified().await;
            }
            let surveyed =
                |(name, lease): (String, LeaseId)| Surveyed { lease, name, receipt: receipt(lease) };
            Ok(Some(accounts.into_iter().map(surveyed).collect()))
        })
    }

    fn rotation(&self) -> Option<&dyn Rotation> {
        Some(self)
    }

    fn example(&self) -> Value {
        Value::Null
    }
}

impl Rotation for Upstream {
    fn password_of(&self, credential: &CredentialName, _: &Value) -> Result<CredentialName, EngineFault> {
        let none = || EngineFault::Config { credential: credential.clone(), detail: "none".into() };
        let own = self.of_its_own.load(Ordering::SeqCst);
        let scattered = self.scattered.load(Ordering::SeqCst);
        match credential.as_str() {
            "c" if own => Ok(credential.clone()),
            "c" => Ok("other".parse().unwrap()),
            _ if scattered => Ok("other".parse().unwrap()),
            _ => Err(none()),
        }
    }

    fn account(
        &self,
        credential: &CredentialName,
        config: &Value,
        password: &CredentialName,
    ) -> Option<String> {
        let of = if self.scattered.load(Ordering::SeqCst) { credential.as_str() } else { "admin" };
        (self.password_of(credential, config).ok()? == *password).then(|| format!("{of} at {LANE}"))
    }

    fn every(&self, _: &CredentialName, _: &Value) -> Option<Ttl> {
        *self.every.lock().unwrap()
    }

    fn next(&self, _: &CredentialName, _: &Value) -> Result<Secret, EngineFault> {
        let number = self.passwords_made.fetch_add(1, Ordering::SeqCst);
        Ok(Secret::new(format!("password-number-{number:06}").into_bytes()))
    }

    fn set<'a>(
        &'a self,
        credential: &'a CredentialName,
        _: &'a Value,
        current: &'a Secret,
        next: &'a Secret,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<(), EngineFault>> {
        Box::pin(async move {
            self.reach().await?;
            let known =
                self.trusting.load(Ordering::SeqCst) || current.expose() == self.password().as_bytes();
            if !known && !self.of_its_own.load(Ordering::SeqCst) {
                let detail = "password authentication failed".to_owned();
                return Err(EngineFault::Outside { credential: credential.clone(), detail });
            }
            *self.password.lock().unwrap() = String::from_utf8(next.expose().to_vec()).unwrap();
            if self.loses_answers.swap(false, Ordering::SeqCst) {
                self.away.store(true, Ordering::SeqCst);
            }
            self.reach().await
        })
    }

    fn test<'a>(
        &'a self,
        _: &'a CredentialName,
        _: &'a Value,
        candidate: &'a Secret,
        _: &'a dyn Tools,
    ) -> BoxFuture<'a, Result<bool, EngineFault>> {
        Box::pin(async move {
            self.reach().await?;
            let trusted = self.trusting.load(Ordering::SeqCst);
            let opens = trusted || candidate.expose() == self.password().as_bytes();
            yield_now().await;
            Ok(opens)
        })
    }
}
