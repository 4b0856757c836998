//! The rules in force: the newest configuration that is whole, and the policy made of it.
//!
//! The file is looked at whenever a session opens and before each command of an operator. A file that has become faulty leaves
//! the old rules in force for the sessions that run under them, and refuses new ones with its fault: nobody's run breaks because
//! of a slip in an editor, and nobody starts under rules that are not those on the disk.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use writ_core::{CredentialName, Refusal, RefusalKind, RoleName, TargetName};

use crate::{
    config::{Config, Resolved, ResolvedCredential, ResolvedRole, ResolvedTarget},
    policy::CedarPolicy,
};

/// One snapshot: configuration and policy that belong together.
pub(crate) struct Rules {
    pub resolved: Resolved,
    pub policy: CedarPolicy,
}

/// The rules in force, and how to read newer ones.
pub(crate) struct RuleBook {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Option<Arc<Rules>>,
    /// Why the file on the disk is not in force.
    fault: Option<Refusal>,
}

impl RuleBook {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), state: Mutex::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again, and returns the rules that it makes.
    ///
    /// # Errors
    /// The file's fault. The old rules stay in force for what runs.
    pub(crate) fn newest(&self) -> Result<Arc<Rules>, Refusal> {
        let read = Config::load(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let resolved = match read {
            Ok(resolved) => resolved,
            Err(fault) => return Err(state.refuse(fault.to_string())),
        };
        if let (Some(rules), None) = (&state.rules, &state.fault)
            && rules.resolved.hash == resolved.hash
        {
            return Ok(rules.clone());
        }
        match CedarPolicy::new(&resolved) {
            Ok(policy) => {
                let rules = Arc::new(Rules { resolved, policy });
                *state = State { rules: Some(rules.clone()), fault: None };
                Ok(rules)
            }
            Err(fault) => Err(state.refuse(fault.to_string())),
        }
    }

    /// The rules in force, without looking at the file.
    pub(crate) fn in_force(&self) -> Result<Arc<Rules>, Refusal> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match (&state.rules, &state.fault) {
            (Some(rules), _) => Ok(rules.clone()),
            (None, Some(fault)) => Err(fault.clone()),
            (None, None) => Err(no_rules("no configuration was read yet".to_owned())),
        }
    }
}

impl State {
    fn refuse(&mut self, fault: String) -> Refusal {
        let refusal = no_rules(fault);
        self.fault = Some(refusal.clone());
        refusal
    }
}

fn no_rules(fault: String) -> Refusal {
    Refusal::new(RefusalKind::Invalid, fault, "mend the configuration, or make one with `writ init`")
}

impl Rules {
    pub(crate) fn target(&self, name: &TargetName) -> Result<&Arc<ResolvedTarget>, Refusal> {
        self.resolved.target(name).ok_or_else(|| missing(RefusalKind::Denied, "target", name.as_str()))
    }

    pub(crate) fn credential(&self, name: &CredentialName) -> Result<&ResolvedCredential, Refusal> {
        self.resolved
            .credential(name)
            .ok_or_else(|| missing(RefusalKind::NoCredential, "credential", name.as_str()))
    }

    pub(crate) fn role(&self, name: &RoleName) -> Result<&ResolvedRole, Refusal> {
        self.resolved.role(name).ok_or_else(|| missing(RefusalKind::Denied, "role", name.as_str()))
    }
}

fn missing(kind: RefusalKind, what: &str, name: &str) -> Refusal {
    Refusal::new(
        kind,
        format!("the configuration has no {what} {name}"),
        "ask the operator to add it to writ.toml",
    )
}
