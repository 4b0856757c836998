//! A configuration in which every name leads somewhere: what the rest of the broker works with.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use ipnet::IpNet;
use serde_json::Value;
use writ_core::{
    Authority, CredentialName, Egress, Grant, Host, Injection, Preset, Reveal, RoleName, RoutePlan, Shape,
    TargetName, Ttl,
};

use super::{Quota, SealEntry, When};
use crate::{registration::Registration, store::Place};

/// The person's configuration, checked.
#[derive(Debug)]
pub struct Resolved {
    /// The file it was read from.
    pub path: PathBuf,
    /// SHA-256 over the file and everything that it names, hexadecimal: whether a reload has anything to do.
    pub hash: String,
    pub egress: Egress,
    /// Ports of the host's loopback that confined sessions may reach.
    pub local: Vec<u16>,
    pub seal: SealEntry,
    /// A PostgreSQL server; `None`: a file in the state directory.
    pub store: Option<Place>,
    pub run: Run,
    pub workloads: Vec<Registration>,
    /// Raw Cedar policies, by file name.
    pub policies: Vec<PolicyFile>,
    pub(crate) credentials: BTreeMap<CredentialName, ResolvedCredential>,
    pub(crate) targets: BTreeMap<TargetName, Arc<ResolvedTarget>>,
    pub(crate) roles: BTreeMap<RoleName, ResolvedRole>,
}

/// What `writ run` does when its command line says nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    pub role: Option<RoleName>,
    pub caches: Vec<String>,
    pub readable: Vec<String>,
}

/// A credential, and how its value is obtained.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedCredential {
    pub name: CredentialName,
    /// Variables that get the placeholder.
    pub env: Vec<String>,
    pub owner: Option<String>,
    /// The name of a secrets engine that exists.
    pub engine: String,
    /// What that engine is told, checked by it.
    pub engine_config: Value,
    /// What its placeholder looks like.
    pub shape: Shape,
}

/// A target, with everything that a route needs.
#[derive(Clone, Debug)]
pub struct ResolvedTarget {
    pub name: TargetName,
    pub preset: Option<&'static Preset>,
    pub authority: Authority,
    /// `None`: what is sent there is judged and recorded, and nothing is put into it.
    pub credential: Option<CredentialName>,
    /// Bytes pass untouched, whatever the protocol.
    pub tunnel: bool,
    /// The credential is handed to the program, and the program's connections pass untouched.
    pub reveal: Option<Reveal>,
    /// The declared places, the default first.
    pub injections: Vec<Injection>,
    /// `host:port`
    pub dial: Option<String>,
    /// PEM.
    pub tls_ca: Option<String>,
    pub allow_private: Vec<IpNet>,
    pub encoded_slash: bool,
    pub pass_unscrubbed: bool,
    pub quiet_hosts: Vec<Host>,
}

/// A role: what the operator allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRole {
    pub name: RoleName,
    /// How long one lease lives before it is renewed.
    pub ttl: Ttl,
    /// How long a session may last at the longest.
    pub ttl_max: Ttl,
    /// For each workload that has the role.
    pub quota: Quota,
    /// Relative to the session's directory.
    pub prompt_file: Option<PathBuf>,
    pub grants: Vec<ResolvedGrant>,
}

/// One of a role's `grants`. Its number in the role, from 1, is its name in reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedGrant {
    pub target: TargetName,
    pub grant: Grant,
    pub when: Option<When>,
}

/// A file of raw Cedar policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    pub path: PathBuf,
    pub text: String,
}

impl Resolved {
    pub fn role(&self, role: &RoleName) -> Option<&ResolvedRole> {
        self.roles.get(role)
    }

    pub fn target(&self, target: &TargetName) -> Option<&Arc<ResolvedTarget>> {
        self.targets.get(target)
    }

    pub fn credential(&self, credential: &CredentialName) -> Option<&ResolvedCredential> {
        self.credentials.get(credential)
    }

    pub fn roles(&self) -> impl Iterator<Item = &ResolvedRole> {
        self.roles.values()
    }

    pub fn targets(&self) -> impl Iterator<Item = &Arc<ResolvedTarget>> {
        self.targets.values()
    }

    pub fn credentials(&self) -> impl Iterator<Item = &ResolvedCredential> {
        self.credentials.values()
    }

    /// The targets that the role's grants name, each once, by name. No two have the same authority.
    pub fn targets_of(&self, role: &RoleName) -> Vec<Arc<ResolvedTarget>> {
        let grants = self.role(role).map(|role| role.grants.as_slice()).unwrap_or_default();
        let names: BTreeSet<&TargetName> = grants.iter().map(|grant| &grant.target).collect();
        names.into_iter().filter_map(|name| self.targets.get(name).cloned()).collect()
    }

    /// The credentials behind targets, each once, by name.
    pub fn credentials_of(&self, targets: &[Arc<ResolvedTarget>]) -> Vec<&ResolvedCredential> {
        let names: BTreeSet<&CredentialName> =
            targets.iter().filter_map(|target| target.credential.as_ref()).collect();
        names.into_iter().filter_map(|name| self.credentials.get(name)).collect()
    }
}

/// Hosts that the presets of targets ask on the side, without those that are targets themselves.
pub fn quiet_hosts_of(targets: &[Arc<ResolvedTarget>]) -> Vec<Host> {
    let reached = |host: &Host| targets.iter().any(|target| target.authority.host() == host);
    let quiet: BTreeSet<&Host> = targets.iter().flat_map(|target| &target.quiet_hosts).collect();
    quiet.into_iter().filter(|host| !reached(host)).cloned().collect()
}

impl ResolvedTarget {
    /// What the proxy is told of this target.
    pub fn route(&self) -> RoutePlan {
        let refuse_as_400 = self.preset.into_iter().flat_map(|preset| preset.refuse_as_400);
        RoutePlan {
            target: self.name.clone(),
            authority: self.authority.clone(),
            credential: self.credential.clone(),
            tunnel: self.tunnel,
            injections: self.injections.clone(),
            dial: self.dial.clone(),
            tls_ca: self.tls_ca.clone(),
            allow_private: self.allow_private.clone(),
            encoded_slash: self.encoded_slash,
            pass_unscrubbed: self.pass_unscrubbed,
            refuse_as_400: refuse_as_400.filter_map(|path| path.parse().ok()).collect(),
        }
    }
}
