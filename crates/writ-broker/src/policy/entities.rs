//! Who and what there is, as Cedar entities.
//!
//! One store for each role: a workload is `in` the role only where a registration entry says so, and the role of the session
//! picks the store. So a workload with two roles has the rights of the one it runs under.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use cedar_policy::entities_errors::EntitiesError;
use cedar_policy::{
    Entities, Entity, EntityAttrEvaluationError, EntityId, EntityTypeName, EntityUid, RestrictedExpression,
};
use writ_core::{Action, CredentialName, RoleName, SpiffeId, TargetName};

use super::action_name;
use crate::config::Resolved;

#[derive(Debug, thiserror::Error)]
pub(super) enum EntityFault {
    #[error(transparent)]
    Attribute(#[from] Box<EntityAttrEvaluationError>),
    #[error(transparent)]
    Store(#[from] Box<EntitiesError>),
}

pub(super) fn workload(id: &SpiffeId) -> EntityUid {
    uid(&WORKLOAD, id.as_str())
}

pub(super) fn role(name: &RoleName) -> EntityUid {
    uid(&ROLE, name.as_str())
}

pub(super) fn target(name: &TargetName) -> EntityUid {
    uid(&TARGET, name.as_str())
}

pub(super) fn credential(name: &CredentialName) -> EntityUid {
    uid(&CREDENTIAL, name.as_str())
}

pub(super) fn action(action: Action) -> EntityUid {
    uid(&ACTION, action_name(action))
}

/// The workloads that may run under `role`.
pub(super) fn workloads_of<'a>(
    resolved: &'a Resolved,
    role: &'a RoleName,
) -> impl Iterator<Item = &'a SpiffeId> {
    resolved.workloads.iter().filter(move |entry| entry.role == *role).map(|entry| &entry.spiffe_id)
}

/// Everything there is, as a session of `role` may see it.
pub(super) fn entities(resolved: &Resolved, name: &RoleName) -> Result<Entities, EntityFault> {
    let mut all = HashMap::new();
    let mut add = |entity: Entity| all.insert(entity.uid(), entity);
    for role_name in resolved.roles() {
        add(Entity::new_no_attrs(role(&role_name.name), HashSet::new()));
    }
    for entry in resolved.credentials() {
        let mut facts = HashMap::from([text("engine", &entry.engine)]);
        facts.extend(entry.owner.as_ref().map(|owner| text("owner", owner)));
        add(Entity::new(credential(&entry.name), facts, HashSet::new()).map_err(Box::new)?);
    }
    for entry in resolved.targets() {
        let of = entry.credential.as_ref().map(credential);
        let mut facts = HashMap::from([
            text("host", entry.authority.host().as_str()),
            ("port".to_owned(), RestrictedExpression::new_long(entry.authority.port().into())),
        ]);
        let uid =
            |of: &EntityUid| ("credential".to_owned(), RestrictedExpression::new_entity_uid(of.clone()));
        facts.extend(of.as_ref().map(uid));
        add(Entity::new(target(&entry.name), facts, of.into_iter().collect()).map_err(Box::new)?);
    }
    for id in workloads_of(resolved, name) {
        let facts = HashMap::from([text("trust_domain", id.trust_domain())]);
        add(Entity::new(workload(id), facts, HashSet::from([role(name)])).map_err(Box::new)?);
    }
    Ok(Entities::from_entities(all.into_values(), None).map_err(Box::new)?)
}

fn text(name: &str, value: &str) -> (String, RestrictedExpression) {
    (name.to_owned(), RestrictedExpression::new_string(value.to_owned()))
}

static WORKLOAD: LazyLock<EntityTypeName> = LazyLock::new(|| kind("Workload"));
static ROLE: LazyLock<EntityTypeName> = LazyLock::new(|| kind("Role"));
static TARGET: LazyLock<EntityTypeName> = LazyLock::new(|| kind("Target"));
static CREDENTIAL: LazyLock<EntityTypeName> = LazyLock::new(|| kind("Credential"));
static ACTION: LazyLock<EntityTypeName> = LazyLock::new(|| kind("Action"));

/// Parsed once: Cedar's parser costs more than a decision.
#[expect(clippy::expect_used, reason = "the names are literals of this file, and each is an identifier")]
fn kind(name: &'static str) -> EntityTypeName {
    name.parse().expect("an identifier")
}

fn uid(kind: &LazyLock<EntityTypeName>, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(EntityTypeName::clone(kind), EntityId::new(id))
}
