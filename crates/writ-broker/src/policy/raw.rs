//! Raw Cedar policies: `policies/*.cedar` beside `writ.toml`.
//!
//! Checked when they are loaded: each parses, fits the schema, and names in its scope only what there is (a forbid on a name
//! with a slip in it would never apply). Annotations: `@id` names a policy, `@reason` is told to whoever it refuses, and on a permit
//! `@methods` and `@paths`, lists separated by spaces, bound what it lets through; without them that is every request.

use std::{collections::BTreeSet, ops::Range, path::Path};

use cedar_policy::{
    EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint, Schema, ValidationMode,
    Validator,
};
use miette::Diagnostic;
use writ_core::PathPattern;

use super::{
    SCHEMA, entities,
    slices::{Origin, Raw},
};
use crate::config::{ConfigFault, PolicyFile, Resolved, method, nearest};

/// The most raw policies of one file.
const POLICIES_MAX: usize = 1024;
/// The longest `@id`.
const ID_MAX: usize = 63;
const ANNOTATIONS: [&str; 4] = ["id", "reason", "methods", "paths"];

/// Reads every raw policy of a configuration.
pub(super) fn read(resolved: &Resolved) -> Result<Vec<Raw>, ConfigFault> {
    let Ok((schema, _)) = Schema::from_cedarschema_str(SCHEMA) else {
        return Err(ConfigFault::at(
            Path::new("schema.cedarschema"),
            SCHEMA,
            0..0,
            "the schema is broken",
            "report it",
        ));
    };
    let validator = Validator::new(schema);
    let known = known(resolved);
    let mut all = Vec::new();
    for file in &resolved.policies {
        let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
        let reader = Reader { file, name: name.into_owned(), known: &known };
        all.extend(reader.read(&validator)?);
    }
    Ok(all)
}

/// What a scope may name.
fn known(resolved: &Resolved) -> BTreeSet<EntityUid> {
    let mut known = BTreeSet::new();
    known.extend(resolved.roles().map(|role| entities::role(&role.name)));
    known.extend(resolved.targets().map(|target| entities::target(&target.name)));
    known.extend(resolved.credentials().map(|credential| entities::credential(&credential.name)));
    known.extend(resolved.workloads.iter().map(|entry| entities::workload(&entry.spiffe_id)));
    known
}

struct Reader<'a> {
    file: &'a PolicyFile,
    name: String,
    known: &'a BTreeSet<EntityUid>,
}

impl Reader<'_> {
    fn read(&self, validator: &Validator) -> Result<Vec<Raw>, ConfigFault> {
        let set: PolicySet = self.file.text.parse().map_err(|fault: cedar_policy::ParseErrors| {
            let first = fault.iter().next().map(|first| self.at(first));
            self.fault(first.unwrap_or(0..0), fault.to_string(), "correct it and try again")
        })?;
        if set.templates().next().is_some() {
            let at = self.file.text.find('?').unwrap_or(0);
            return Err(self.fault(
                at..at,
                "templates are not linked here",
                "write the policy without slots",
            ));
        }
        if set.num_of_policies() > POLICIES_MAX {
            let what = format!("there are more than {POLICIES_MAX} policies in one file");
            return Err(self.fault(0..0, what, "split it"));
        }
        if let Some(fault) = validator.validate(&set, ValidationMode::Strict).validation_errors().next() {
            return Err(self.fault(
                self.at(fault),
                fault.to_string(),
                "see spec/policy.md for what there is",
            ));
        }
        let mut names = BTreeSet::new();
        let mut read = Vec::new();
        // Cedar numbers them `policy0`, `policy1`, … in the order of the file.
        for number in 0..set.num_of_policies() {
            let Some(policy) = set.policy(&PolicyId::new(format!("policy{number}"))) else { continue };
            let raw = self.policy(number, policy)?;
            if !names.insert(raw.policy.id().clone()) {
                return Err(self.fault(0..0, format!("{} is there twice", raw.origin), "rename one"));
            }
            read.push(raw);
        }
        Ok(read)
    }

    fn policy(&self, number: usize, policy: &Policy) -> Result<Raw, ConfigFault> {
        let place = || self.nth(number);
        if let Some((key, _)) = policy.annotations().find(|(key, _)| !ANNOTATIONS.contains(key)) {
            let next = format!("use {}", ANNOTATIONS.map(|one| format!("@{one}")).join(", "));
            return Err(self.fault(place(), format!("there is no annotation @{key}"), next));
        }
        if let Some(id) = policy.annotation("id").filter(|id| !is_name(id)) {
            let next = "use 1 to 63 letters, digits, '-', '_' and '.'";
            return Err(self.fault(place(), format!("{id:?} is not the name of a policy"), next));
        }
        self.scope(number, policy)?;
        let words = |key: &str| -> Vec<String> {
            policy.annotation(key).unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect()
        };
        let (methods, paths) = (words("methods"), words("paths"));
        for key in ["methods", "paths"] {
            let bounded = policy.annotation(key).is_some();
            if bounded && (words(key).is_empty() || policy.effect() == cedar_policy::Effect::Forbid) {
                let what = format!("@{key} bounds what a permit lets through");
                return Err(self.fault(place(), what, "name at least one, on a permit"));
            }
        }
        for name in &methods {
            method(name).map_err(|(what, next)| self.fault(place(), what, next))?;
        }
        for path in &paths {
            path.parse::<PathPattern>()
                .map_err(|fault| self.fault(place(), fault.to_string(), "correct it"))?;
        }
        let origin = Origin::Raw {
            file: self.name.clone(),
            name: policy.annotation("id").map_or_else(|| (number + 1).to_string(), str::to_owned),
            reason: policy.annotation("reason").map(str::to_owned),
            methods,
            paths,
        };
        Ok(Raw { policy: policy.new_id(PolicyId::new(origin.to_string())), origin })
    }

    /// That the scope names what there is.
    fn scope(&self, number: usize, policy: &Policy) -> Result<(), ConfigFault> {
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
            PrincipalConstraint::In(uid)
            | PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
            ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) | ResourceConstraint::IsIn(_, uid) => {
                Some(uid)
            }
        };
        for uid in [principal, resource].into_iter().flatten() {
            if self.known.contains(&uid) {
                continue;
            }
            let text = uid.to_string();
            let known: Vec<String> = self.known.iter().map(EntityUid::to_string).collect();
            let next = nearest(&text, known.iter().map(String::as_str))
                .map_or("name what writ.toml has".to_owned(), |near| format!("did you mean {near}?"));
            return Err(self.fault(self.nth(number), format!("there is no {text}"), next));
        }
        Ok(())
    }

    fn fault(&self, span: Range<usize>, what: impl Into<String>, next: impl Into<String>) -> ConfigFault {
        ConfigFault::at(&self.file.path, &self.file.text, span, what, next)
    }

    /// Where Cedar says the fault is.
    fn at(&self, fault: &dyn Diagnostic) -> Range<usize> {
        let label = fault.labels().and_then(|mut labels| labels.next());
        label.map_or(0..0, |label| label.offset()..label.offset())
    }

    /// Where the policy with that number begins, as well as can be told.
    fn nth(&self, number: usize) -> Range<usize> {
        let ends = self.file.text.match_indices(';').map(|(at, _)| at + 1);
        let start = std::iter::once(0).chain(ends).nth(number).unwrap_or(0);
        let rest = self.file.text.get(start..).unwrap_or_default();
        let start = start + rest.len() - rest.trim_start().len();
        start..start
    }
}

/// Names stand in refusals and in the audit log.
fn is_name(id: &str) -> bool {
    (1..=ID_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
