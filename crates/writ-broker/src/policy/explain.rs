//! What a decision says: to whom it was refused, why, and what can be done.
//!
//! A refusal speaks of the asking session's own role only, and of the policy that forbade it by name.

use std::fmt::Write as _;

use writ_core::{Asked, CredentialName, Decision, Principal, RoleName, TargetName};

use super::slices::Origin;
use crate::config::{ResolvedRole, ResolvedTarget};

fn deny(reason: String, next: impl Into<String>) -> Decision {
    Decision::Deny { reason, next: next.into() }
}

pub(super) fn no_role(role: &RoleName) -> Decision {
    deny(format!("there is no role {role} any more"), "start a new run under another role")
}

pub(super) fn not_registered(principal: &Principal) -> Decision {
    deny(
        format!("{} is not registered for the role {}", principal.workload, principal.role),
        "ask the operator for a [[workload]] entry in writ.toml, then start a new run",
    )
}

pub(super) fn no_grant(role: &ResolvedRole, target: &TargetName) -> Decision {
    deny(
        format!("the role {} may not use {target}; {}", role.name, reach(role)),
        format!(
            "ask the operator to add {{ target = \"{target}\" }} to the grants of the role {} in writ.toml",
            role.name
        ),
    )
}

pub(super) fn other_delivery(target: &ResolvedTarget) -> Decision {
    let way = if target.reveal.is_some() { "reveals its credential" } else { "injects its credential" };
    deny(
        format!("the target {} {way}, and is used in no other way", target.name),
        "start a new run: the configuration has changed",
    )
}

pub(super) fn other_credential(target: &ResolvedTarget, asked: &Asked) -> Decision {
    let name = |of: &Option<CredentialName>| of.as_ref().map_or("none", CredentialName::as_str).to_owned();
    deny(
        format!(
            "the target {} takes the credential {}, not {}",
            target.name,
            name(&target.credential),
            name(&asked.credential)
        ),
        "start a new run: the configuration has changed",
    )
}

/// Grants or raw permits there are, but the conditions of none hold.
pub(super) fn not_now(role: &ResolvedRole, target: &ResolvedTarget) -> Decision {
    let windows: Vec<&str> = role
        .grants
        .iter()
        .filter(|grant| grant.target == target.name)
        .filter_map(|grant| grant.when.as_ref())
        .map(|when| when.as_str())
        .collect();
    if windows.is_empty() {
        let reason = format!(
            "the role {} may use {} under conditions only, which do not hold",
            role.name, target.name
        );
        return deny(reason, "ask the operator which policy beside writ.toml permits it, and when");
    }
    let windows = windows.join(", or ");
    deny(
        format!("the role {} may use {} only {windows}", role.name, target.name),
        "try again then, or ask the operator for another time window",
    )
}

pub(super) fn forbidden(forbid: &Origin) -> Decision {
    let reason = match forbid {
        Origin::Raw { reason: Some(reason), .. } => format!("{forbid} forbids it: {reason}"),
        _ => format!("{forbid} forbids it"),
    };
    deny(reason, "ask the operator, who can change that policy")
}

/// The rules that allowed it: `role dev, grant 1 and grant 3`.
pub(super) fn rule(reasons: &[&Origin]) -> String {
    let mut rule = String::new();
    let mut role = None;
    for (index, origin) in reasons.iter().enumerate() {
        rule.push_str(if index == 0 { "" } else { " and " });
        // Writing to a string cannot fail.
        let _ = match origin {
            Origin::Grant { role: of, number } if role == Some(of) => write!(rule, "grant {number}"),
            Origin::Grant { role: of, .. } => {
                role = Some(of);
                write!(rule, "{origin}")
            }
            Origin::Raw { .. } => write!(rule, "{origin}"),
        };
    }
    rule
}

fn reach(role: &ResolvedRole) -> String {
    let mut names: Vec<&str> = role.grants.iter().map(|grant| grant.target.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        "it may use nothing".to_owned()
    } else {
        format!("it may use {}", names.join(", "))
    }
}
