//! `writ.toml` as it is written, before anything in it is looked up.
//!
//! Unknown keys are errors everywhere. What a fault must be able to point at is [`Spanned`].

use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use toml::Spanned;
use writ_core::{
    Authority, CredentialName, Egress, PathPattern, Reveal, RoleName, Selector, SpiffeId, TargetName, Ttl,
};

use super::{IssueRate, StoreEntry, When};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Always 1 in this release.
    pub version: Spanned<u32>,
    pub egress: Option<Egress>,
    /// Ports of the host's loopback that confined sessions may reach.
    #[serde(default)]
    pub local: Vec<Spanned<u16>>,
    #[serde(default)]
    pub seal: Option<Spanned<SealEntry>>,
    pub store: Option<StoreEntry>,
    #[serde(default)]
    pub run: RunEntry,
    #[serde(default, rename = "credential")]
    pub credentials: Vec<Spanned<CredentialEntry>>,
    #[serde(default, rename = "target")]
    pub targets: Vec<Spanned<TargetEntry>>,
    #[serde(default, rename = "role")]
    pub roles: Vec<Spanned<RoleEntry>>,
    #[serde(default, rename = "workload")]
    pub workloads: Vec<Spanned<WorkloadEntry>>,
}

/// `[seal]`: what the root key comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealEntry {
    #[serde(default)]
    pub kind: SealKind,
    /// Of the key file, where it is not beside the store.
    pub path: Option<PathBuf>,
    /// Run agents below the level `confined` although the seal opens without a person.
    #[serde(default)]
    pub accept_below_confined: bool,
}

/// What the root key comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealKind {
    #[default]
    KeyFile,
    Passphrase,
}

impl SealKind {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::Passphrase => "passphrase",
        }
    }
}

/// `[run]`: what `writ run` does when its command line says nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunEntry {
    pub role: Option<Spanned<RoleName>>,
    /// Directories that confined agents share. `~/` is the launcher's to expand.
    #[serde(default)]
    pub caches: Vec<String>,
    /// Directories that confined agents read besides the system's own: tools in other places. `~/` is the launcher's to expand.
    #[serde(default)]
    pub readable: Vec<String>,
}

/// `[[credential]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialEntry {
    pub name: Spanned<CredentialName>,
    /// Variables that get the placeholder; left out, those of the presets that use the credential.
    pub env: Option<Spanned<Vec<String>>>,
    /// Whom to ask about it.
    pub owner: Option<String>,
    pub engine: Option<Spanned<String>>,
    /// Where the value is kept, if not in writ's own store: `cmd://…` or `file:///…`.
    pub source: Option<Spanned<String>>,
    /// What the engine is told, in its own words.
    pub config: Option<Spanned<serde_json::Value>>,
}

/// `[[target]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetEntry {
    pub name: Spanned<TargetName>,
    pub preset: Option<Spanned<String>>,
    /// `host` or `host:port`. With a preset: the same kind of service on a host of one's own.
    pub host: Option<Spanned<Authority>>,
    pub inject: Option<Spanned<InjectEntry>>,
    /// `None`: nothing is put into what is sent there.
    pub credential: Option<Spanned<CredentialName>>,
    /// Pass bytes on untouched, whatever the protocol.
    #[serde(default)]
    pub tunnel: bool,
    /// Hand the credential to the program, in this form, and pass its connections on untouched.
    pub reveal: Option<Spanned<Reveal>>,
    pub dial: Option<Spanned<String>>,
    pub tls_ca: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub allow_private: Vec<Spanned<IpNet>>,
    #[serde(default)]
    pub pass_unscrubbed: bool,
}

/// `inject = { kind = … }`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectEntry {
    pub kind: InjectKind,
    /// Of the header, for the kind `header`.
    pub name: Option<String>,
    /// For the kind `basic`.
    pub user: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InjectKind {
    Bearer,
    Header,
    Basic,
    Placeholder,
}

/// `[[role]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleEntry {
    pub name: Spanned<RoleName>,
    /// How long one lease lives before it is renewed.
    pub ttl: Option<Spanned<Ttl>>,
    /// How long a session may last at the longest.
    pub ttl_max: Option<Spanned<Ttl>>,
    /// Leases at once, of each workload that has the role.
    pub leases_max: Option<Spanned<u32>>,
    /// Leases in a time, of each workload that has the role.
    pub issue_rate: Option<Spanned<IssueRate>>,
    /// Its SHA-256 becomes a fact of the session. Relative to the session's directory.
    pub prompt_file: Option<PathBuf>,
    #[serde(default)]
    pub grants: Vec<Spanned<GrantEntry>>,
}

/// One of a role's `grants`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantEntry {
    pub target: Spanned<TargetName>,
    pub methods: Option<Spanned<Vec<String>>>,
    pub paths: Option<Spanned<Vec<PathPattern>>>,
    pub when: Option<When>,
}

/// `[[workload]]`, a registration entry.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadEntry {
    pub spiffe_id: SpiffeId,
    pub selectors: Spanned<Vec<Spanned<Selector>>>,
    pub role: Spanned<RoleName>,
}
