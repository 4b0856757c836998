//! The decision: may this workload, under this role, use this credential at this target, now?
//!
//! ```text
//! grants of writ.toml ──template links──┐
//! policies/*.cedar ─────────────────────┴──index──► slices: role × target → the few policies that can apply
//! decide: slice + entities of the role + context ──Cedar──► a scope and a lifetime, or a reason and a next step
//! ```
//!
//! Cedar's cost is linear in the policies it is given, so it is given only those whose scope can match; that this changes no
//! decision is a property test. Slices and entities are made when the configuration is loaded, never per question. Default
//! deny; a forbid wins; a policy that fails while it is evaluated refuses, because Cedar would leave out a failing forbid.
//! Absent: requests. The scope that a decision yields is enforced by the proxy without asking again.

mod context;
mod entities;
mod explain;
mod raw;
mod slices;

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Authorizer, Entities, PolicyId, Request, Response};
use writ_core::{
    Action, Asked, Context, Decision, Policy, PolicyFault, Principal, RoleName, Scope, SpiffeId, TargetName,
};

use self::slices::{Origin, Slice};
use crate::config::{ConfigFault, Resolved, ResolvedRole, ResolvedTarget};

/// The schema of policies, in Cedar's own form.
pub const SCHEMA: &str = include_str!("schema.cedarschema");

/// Cedar, over the policies of one configuration.
pub struct CedarPolicy {
    authorizer: Authorizer,
    roles: BTreeMap<RoleName, RolePolicy>,
    targets: BTreeMap<TargetName, std::sync::Arc<ResolvedTarget>>,
    origins: BTreeMap<PolicyId, Origin>,
}

/// What is prepared for one role.
struct RolePolicy {
    role: ResolvedRole,
    /// Those that some registration entry names under this role.
    workloads: BTreeSet<SpiffeId>,
    entities: Entities,
    /// By target. Where there is no slice no permit can apply.
    slices: BTreeMap<TargetName, Slice>,
}

impl CedarPolicy {
    /// Compiles the grants and the raw policies of a configuration.
    ///
    /// # Errors
    /// [`ConfigFault`] points at the raw policy that does not parse, does not fit the schema, or names what does not exist.
    pub fn new(resolved: &Resolved) -> Result<Self, ConfigFault> {
        let raw = raw::read(resolved)?;
        let compiled = slices::Compiled::new(resolved, raw).map_err(|fault| whole(resolved, &fault))?;
        let mut roles = BTreeMap::new();
        for role in resolved.roles() {
            let prepared = RolePolicy {
                role: role.clone(),
                workloads: entities::workloads_of(resolved, &role.name).cloned().collect(),
                entities: entities::entities(resolved, &role.name)
                    .map_err(|fault| whole(resolved, &fault))?,
                slices: compiled.slices(resolved, &role.name).map_err(|fault| whole(resolved, &fault))?,
            };
            roles.insert(role.name.clone(), prepared);
        }
        let targets = resolved.targets().map(|target| (target.name.clone(), target.clone())).collect();
        Ok(Self { authorizer: Authorizer::new(), roles, targets, origins: compiled.into_origins() })
    }

    fn ask(
        &self,
        role: &RolePolicy,
        slice: &Slice,
        principal: &Principal,
        asked: &Asked,
        context: &Context,
    ) -> Result<Response, PolicyFault> {
        let fault = |fault: &dyn std::error::Error| PolicyFault(fault.to_string());
        let facts = context::facts(principal, context, &slice.windows).map_err(|error| fault(&error))?;
        let request = Request::new(
            entities::workload(&principal.workload),
            entities::action(asked.action),
            entities::target(&asked.target),
            facts,
            None,
        )
        .map_err(|error| fault(&error))?;
        Ok(self.authorizer.is_authorized(&request, &slice.policies, &role.entities))
    }

    fn judge(
        &self,
        role: &RolePolicy,
        target: &ResolvedTarget,
        response: &Response,
    ) -> Result<Decision, PolicyFault> {
        if let Some(error) = response.diagnostics().errors().next() {
            return Err(PolicyFault(error.to_string()));
        }
        let mut reasons: Vec<&Origin> =
            response.diagnostics().reason().filter_map(|id| self.origins.get(id)).collect();
        reasons.sort();
        if response.decision() == cedar_policy::Decision::Deny {
            return Ok(match reasons.first() {
                Some(forbid) => explain::forbidden(forbid),
                None => explain::not_now(&role.role, target),
            });
        }
        let grants: Vec<_> = reasons.iter().filter_map(|origin| origin.grant(&role.role)).collect();
        Ok(Decision::Allow {
            scope: Scope { authority: target.authority.clone(), grants },
            ttl: role.role.ttl,
            rule: explain::rule(&reasons),
        })
    }
}

impl Policy for CedarPolicy {
    fn decide(
        &self,
        principal: &Principal,
        asked: &Asked,
        context: &Context,
    ) -> Result<Decision, PolicyFault> {
        let Some(role) = self.roles.get(&principal.role) else {
            return Ok(explain::no_role(&principal.role));
        };
        if !role.workloads.contains(&principal.workload) {
            return Ok(explain::not_registered(principal));
        }
        let (Some(slice), Some(target)) = (role.slices.get(&asked.target), self.targets.get(&asked.target))
        else {
            return Ok(explain::no_grant(&role.role, &asked.target));
        };
        if target.reveal.is_some() != (asked.action == Action::Reveal) {
            return Ok(explain::other_delivery(target));
        }
        if target.credential != asked.credential {
            return Ok(explain::other_credential(target, asked));
        }
        self.judge(role, target, &self.ask(role, slice, principal, asked, context)?)
    }
}

/// A fault of the configuration as a whole.
fn whole(resolved: &Resolved, fault: &dyn std::error::Error) -> ConfigFault {
    let what = format!("its grants cannot be made into a policy: {fault}");
    ConfigFault::at(&resolved.path, "", 0..0, what, "simplify the roles")
}

/// The name of an action in Cedar.
const fn action_name(action: Action) -> &'static str {
    match action {
        Action::Inject => "inject",
        Action::Reveal => "reveal",
    }
}

#[cfg(test)]
mod tests;
