//! The decision: the only place where a [`Permit`] is made.
//!
//! Minting, revealing and injecting take a `&Permit`. Its fields are private to this module, so code that has one was given it
//! by [`authorize`], which asked a policy. The policy itself is behind a trait, implemented in one place (`writ-broker`).

use serde::{Deserialize, Serialize};

use crate::{
    CredentialName, Refusal, RefusalKind, RoleName, Scope, SessionId, SpiffeId, TargetName, Timestamp, Ttl,
};

/// Who asks: a workload, in one session, under one role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    pub workload: SpiffeId,
    pub session: SessionId,
    pub role: RoleName,
}

/// What is to be done with a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Put it on the wire on the agent's behalf.
    Inject,
    /// Hand it to the agent, which holds it for as long as the lease lives.
    Reveal,
}

/// The question put to policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub action: Action,
    pub target: TargetName,
    /// `None` where the target takes none.
    pub credential: Option<CredentialName>,
}

/// How well the agent is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Variables and certificate bundles only: a program can go round.
    Advisory,
    /// Landlock and seccomp.
    Restricted,
    /// Its own network, files and processes.
    Confined,
}

/// The circumstances that policy may look at.
#[derive(Clone, Debug)]
pub struct Context {
    pub now: Timestamp,
    pub level: Level,
    /// The person who started the session, as the system names them.
    pub requester: String,
    /// SHA-256 of the role's prompt file, hexadecimal, where the role names one.
    pub prompt_sha256: Option<String>,
    /// When the session ends at the latest: no lease outlives it.
    pub session_expires_at: Timestamp,
}

/// What policy says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow {
        scope: Scope,
        ttl: Ttl,
        /// The rule that allowed it, as its author would find it.
        rule: String,
    },
    Deny {
        reason: String,
        /// What the caller can do about it.
        next: String,
    },
}

/// A policy that could not be evaluated. Nothing is allowed then.
#[derive(Debug, thiserror::Error)]
#[error("policy could not be evaluated: {0}")]
pub struct PolicyFault(pub String);

/// Decides. Default deny.
pub trait Policy: Send + Sync {
    /// # Errors
    /// [`PolicyFault`] when the question cannot be evaluated, which counts as a denial.
    fn decide(
        &self,
        principal: &Principal,
        asked: &Asked,
        context: &Context,
    ) -> Result<Decision, PolicyFault>;
}

/// Proof that policy allowed something, to one principal, within one scope, until one instant.
#[derive(Debug)]
pub struct Permit {
    principal: Principal,
    asked: Asked,
    scope: Scope,
    expires_at: Timestamp,
    rule: String,
}

/// Asks `policy`, and makes the permit if it allows.
///
/// # Errors
/// [`RefusalKind::Denied`] with the policy's reason, or without one where the policy itself failed.
pub fn authorize(
    policy: &dyn Policy,
    principal: &Principal,
    asked: &Asked,
    context: &Context,
) -> Result<Permit, Refusal> {
    match policy.decide(principal, asked, context) {
        Ok(Decision::Allow { scope, ttl, rule }) => Ok(Permit {
            principal: principal.clone(),
            asked: asked.clone(),
            scope,
            expires_at: context.now.saturating_add(ttl).min(context.session_expires_at),
            rule,
        }),
        Ok(Decision::Deny { reason, next }) => Err(Refusal::new(RefusalKind::Denied, reason, next)),
        Err(fault) => {
            Err(Refusal::new(RefusalKind::Denied, fault.to_string(), "ask the operator to mend the policy"))
        }
    }
}

impl Permit {
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    pub fn asked(&self) -> &Asked {
        &self.asked
    }

    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The latest instant at which anything issued under this permit may still work.
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    pub fn rule(&self) -> &str {
        &self.rule
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Result<Decision, ()>);

    impl Policy for Fixed {
        fn decide(&self, _: &Principal, _: &Asked, _: &Context) -> Result<Decision, PolicyFault> {
            self.0.clone().map_err(|()| PolicyFault("broken".into()))
        }
    }

    fn ask(decision: Result<Decision, ()>) -> Result<Permit, Refusal> {
        let now = Timestamp::from_millis(1_000_000);
        let principal = Principal {
            workload: "spiffe://writ.local/a".parse().unwrap(),
            session: SessionId::new(now, &[0; 10]),
            role: "dev".parse().unwrap(),
        };
        let asked = Asked {
            action: Action::Inject,
            target: "t".parse().unwrap(),
            credential: Some("c".parse().unwrap()),
        };
        let context = Context {
            now,
            level: Level::Advisory,
            requester: "ada".into(),
            prompt_sha256: None,
            session_expires_at: now.saturating_add(Ttl::from_secs(60).unwrap()),
        };
        authorize(&Fixed(decision), &principal, &asked, &context)
    }

    #[test]
    fn only_an_allow_makes_a_permit() {
        let deny = Decision::Deny { reason: "no".into(), next: "ask".into() };
        assert_eq!(ask(Ok(deny)).unwrap_err().kind, RefusalKind::Denied);
        assert_eq!(ask(Err(())).unwrap_err().kind, RefusalKind::Denied);
    }

    #[test]
    fn no_permit_outlives_the_session() {
        let scope = Scope { authority: "a.example".parse().unwrap(), grants: vec![] };
        let allow = Decision::Allow { scope, ttl: Ttl::MAX, rule: "r".into() };
        assert_eq!(ask(Ok(allow)).unwrap().expires_at().millis(), 1_060_000);
    }
}
