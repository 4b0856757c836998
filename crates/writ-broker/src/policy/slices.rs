//! From grants and raw policies to the few policies that one role at one target needs.
//!
//! A grant is a link of a template: principal slot = the role, resource slot = the target. There is one template per shape,
//! which is to say one without a condition and one for each time window. Every policy goes into the bucket of its scope; the
//! slice of a role and a target is the union of the buckets whose scope can match them.
//!
//! Invariant: a policy is left out of a slice only if its scope cannot match. When in doubt it is in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use cedar_policy::{
    Effect, EntityUid, Policy, PolicyId, PolicySet, PolicySetError, PrincipalConstraint, ResourceConstraint,
    SlotId, Template,
};
use writ_core::{Grant, RoleName, TargetName};

use super::entities;
use crate::config::{Resolved, ResolvedRole, When};

/// Where a policy comes from, as its author would look for it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Grant {
        role: RoleName,
        /// In the role, from 1.
        number: usize,
    },
    Raw {
        /// The file's name.
        file: String,
        /// `@id`, or the number in the file from 1.
        name: String,
        /// `@reason`, for whoever is refused.
        reason: Option<String>,
        methods: Vec<String>,
        paths: Vec<String>,
    },
}

impl Origin {
    /// What it lets through, if it is a permit that applied.
    pub(super) fn grant(&self, role: &ResolvedRole) -> Option<Grant> {
        match self {
            Self::Grant { number, .. } => {
                role.grants.get(number.checked_sub(1)?).map(|grant| grant.grant.clone())
            }
            Self::Raw { methods, paths, .. } => Some(Grant {
                methods: methods.clone(),
                // Checked when the policy was read.
                paths: paths.iter().filter_map(|path| path.parse().ok()).collect(),
            }),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant { role, number } => write!(f, "role {role}, grant {number}"),
            Self::Raw { file, name, .. } => write!(f, "policy {name} of {file}"),
        }
    }
}

/// A raw policy, read and checked.
pub(super) struct Raw {
    pub policy: Policy,
    pub origin: Origin,
}

/// The policies that can apply to one role at one target.
pub(super) struct Slice {
    pub policies: PolicySet,
    /// Whose names the policies look for in the context.
    pub windows: Vec<When>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CompileFault {
    #[error(transparent)]
    Template(#[from] Box<cedar_policy::ParseErrors>),
    #[error(transparent)]
    Set(#[from] Box<PolicySetError>),
}

impl From<PolicySetError> for CompileFault {
    fn from(fault: PolicySetError) -> Self {
        Self::Set(Box::new(fault))
    }
}

/// Every policy of a configuration, by scope.
pub(super) struct Compiled {
    items: Vec<Item>,
    buckets: HashMap<(Side, Side), Vec<usize>>,
    origins: BTreeMap<PolicyId, Origin>,
}

/// One end of a scope: everything, or something below one entity.
type Side = Option<EntityUid>;

enum Item {
    Link(Box<Link>),
    Raw(Box<Policy>),
}

/// A grant, before it is linked.
struct Link {
    template: Template,
    id: PolicyId,
    role: EntityUid,
    target: EntityUid,
    when: Option<When>,
}

impl Item {
    fn permits(&self) -> bool {
        match self {
            Self::Link(_) => true,
            Self::Raw(policy) => policy.effect() == Effect::Permit,
        }
    }

    fn scope(&self) -> (Side, Side) {
        match self {
            Self::Link(link) => (Some(link.role.clone()), Some(link.target.clone())),
            Self::Raw(policy) => (
                match policy.principal_constraint() {
                    PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
                    PrincipalConstraint::In(uid)
                    | PrincipalConstraint::Eq(uid)
                    | PrincipalConstraint::IsIn(_, uid) => Some(uid),
                },
                match policy.resource_constraint() {
                    ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
                    ResourceConstraint::In(uid)
                    | ResourceConstraint::Eq(uid)
                    | ResourceConstraint::IsIn(_, uid) => Some(uid),
                },
            ),
        }
    }
}

impl Compiled {
    pub(super) fn new(resolved: &Resolved, raw: Vec<Raw>) -> Result<Self, CompileFault> {
        let mut compiled = Self { items: Vec::new(), buckets: HashMap::new(), origins: BTreeMap::new() };
        let mut templates = Templates::default();
        for role in resolved.roles() {
            for (index, grant) in role.grants.iter().enumerate() {
                let origin = Origin::Grant { role: role.name.clone(), number: index + 1 };
                let id = PolicyId::new(origin.to_string());
                compiled.origins.insert(id.clone(), origin);
                compiled.add(Item::Link(Box::new(Link {
                    template: templates.of(grant.when.as_ref())?,
                    id,
                    role: entities::role(&role.name),
                    target: entities::target(&grant.target),
                    when: grant.when.clone(),
                })));
            }
        }
        for Raw { policy, origin } in raw {
            compiled.origins.insert(policy.id().clone(), origin);
            compiled.add(Item::Raw(Box::new(policy)));
        }
        Ok(compiled)
    }

    fn add(&mut self, item: Item) {
        self.buckets.entry(item.scope()).or_default().push(self.items.len());
        self.items.push(item);
    }

    /// The slices of a role, by target: none where no permit can apply.
    pub(super) fn slices(
        &self,
        resolved: &Resolved,
        role: &RoleName,
    ) -> Result<BTreeMap<TargetName, Slice>, CompileFault> {
        let mut principals = BTreeSet::from([None, Some(entities::role(role))]);
        principals.extend(entities::workloads_of(resolved, role).map(|id| Some(entities::workload(id))));
        let mut slices = BTreeMap::new();
        for target in resolved.targets() {
            let mut resources = vec![None, Some(entities::target(&target.name))];
            resources.extend(target.credential.as_ref().map(|of| Some(entities::credential(of))));
            let pairs =
                principals.iter().flat_map(|one| resources.iter().map(move |two| (one.clone(), two.clone())));
            let picked: BTreeSet<usize> =
                pairs.filter_map(|pair| self.buckets.get(&pair)).flatten().copied().collect();
            let items: Vec<&Item> = picked.into_iter().filter_map(|index| self.items.get(index)).collect();
            if items.iter().any(|item| item.permits()) {
                slices.insert(target.name.clone(), slice(&items)?);
            }
        }
        Ok(slices)
    }

    pub(super) fn into_origins(self) -> BTreeMap<PolicyId, Origin> {
        self.origins
    }

    /// Everything in one set: what slices must agree with.
    #[cfg(test)]
    pub(super) fn unsliced(&self) -> Result<Slice, CompileFault> {
        slice(&self.items.iter().collect::<Vec<_>>())
    }
}

fn slice(items: &[&Item]) -> Result<Slice, CompileFault> {
    let mut slice = Slice { policies: PolicySet::new(), windows: Vec::new() };
    for item in items {
        match item {
            Item::Raw(policy) => slice.policies.add(Policy::clone(policy))?,
            Item::Link(link) => {
                let Link { template, id, role, target, when } = link.as_ref();
                if slice.policies.template(template.id()).is_none() {
                    slice.policies.add_template(template.clone())?;
                    slice.windows.extend(when.clone());
                }
                let slots = HashMap::from([
                    (SlotId::principal(), role.clone()),
                    (SlotId::resource(), target.clone()),
                ]);
                slice.policies.link(template.id().clone(), id.clone(), slots)?;
            }
        }
    }
    Ok(slice)
}

/// One template per shape.
#[derive(Default)]
struct Templates(HashMap<String, Template>);

impl Templates {
    fn of(&mut self, when: Option<&When>) -> Result<Template, CompileFault> {
        let shape = when.map_or("grant".to_owned(), |when| format!("grant when {when}"));
        if let Some(template) = self.0.get(&shape) {
            return Ok(template.clone());
        }
        // A window's text has letters, digits, spaces and `,:-/_+` only, so it needs no escape.
        let condition =
            when.map(|when| format!(" when {{ context.windows.contains(\"{when}\") }}")).unwrap_or_default();
        let text = format!(
            "permit(principal in ?principal, action in [Action::\"inject\", Action::\"reveal\"], \
             resource == ?resource){condition};"
        );
        let template = Template::parse(Some(PolicyId::new(&shape)), text).map_err(Box::new)?;
        self.0.insert(shape, template.clone());
        Ok(template)
    }
}
