//! A repository's `writ.toml`: it asks, and has no effect until a person trusts it.
//!
//! An agent can write it, so it has a schema of its own in which nothing can be said that grants: it names a role, targets and
//! credentials that the person's configuration has, and can only choose among what that allows. What belongs into the person's own
//! file is refused with the reason.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use toml::Spanned;
use writ_core::{CredentialName, RoleName, TargetName};

use super::{ConfigFault, Resolved, ResolvedTarget, load};

/// The largest file: 64 KiB.
pub const REPOSITORY_MAX: u64 = 64 * 1024;
/// The most names in one list.
const NAMES_MAX: usize = 64;

/// What a repository asks for. What is `None` was not said.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    version: u32,
    /// The role of a session that names none.
    pub role: Option<RoleName>,
    /// Of the role's targets, these alone.
    pub targets: Option<Vec<TargetName>>,
    /// Of the role's targets, those with one of these credentials, and those without any.
    pub credentials: Option<Vec<CredentialName>>,
}

/// Keys of the person's own file, and why a repository's cannot have them.
const OWN: [(&str, &str); 13] = [
    (
        "credential",
        "`[[credential]]` says where a secret comes from; name those that you want: credentials = [\"…\"]",
    ),
    ("target", "`[[target]]` says where a secret goes; name those that you want: targets = [\"…\"]"),
    ("role", "`[[role]]` grants; name the one that you want: role = \"…\""),
    ("workload", "`[[workload]]` says who gets a role"),
    ("seal", "`[seal]` says what the keys are sealed with"),
    ("store", "`[store]` says where everything is kept"),
    ("run", "`[run]` is about every run"),
    ("egress", "`egress` opens the network"),
    ("local", "`local` opens ports of the host"),
    ("dial", "`dial` leads a credential to another address"),
    ("tls_ca", "`tls_ca` decides who is believed to be a service"),
    ("allow_private", "`allow_private` opens private networks"),
    ("source", "`source` runs commands (`cmd://`)"),
];

impl Repository {
    /// Reads `text`, which stands in `path`.
    ///
    /// # Errors
    /// [`ConfigFault::Entry`], with the reason for a key that belongs into the person's own file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigFault> {
        load::check_version(path, text)?;
        let fault = |fault: toml::de::Error| load::form(path, text, &fault);
        let keys: BTreeMap<Spanned<String>, toml::Value> = toml::from_str(text).map_err(fault)?;
        for (key, value) in &keys {
            let own = OWN.iter().find(|(own, _)| *own == key.as_ref().as_str());
            let asks = key.as_ref() == "role" && value.is_str();
            if let Some((_, why)) = own.filter(|_| !asks) {
                let what = format!("a repository cannot say this: {why}");
                let next = "it belongs into your own configuration, where a person decides";
                return Err(ConfigFault::at(path, text, key.span(), what, next));
            }
        }
        let repository: Self = toml::from_str(text).map_err(fault)?;
        let most = repository.targets.as_ref().map_or(0, Vec::len);
        if most.max(repository.credentials.as_ref().map_or(0, Vec::len)) > NAMES_MAX {
            let what = format!("there are more than {NAMES_MAX} names in one list");
            return Err(ConfigFault::at(path, text, 0..0, what, "remove some"));
        }
        Ok(repository)
    }

    /// Whether a session keeps a target that its role allows.
    pub fn keeps(&self, target: &ResolvedTarget) -> bool {
        let named = self.targets.as_ref().is_none_or(|names| names.contains(&target.name));
        let used = match (&self.credentials, &target.credential) {
            (Some(names), Some(credential)) => names.contains(credential),
            _ => true,
        };
        named && used
    }

    /// What it asks for, a line each.
    pub fn asks(&self) -> Vec<String> {
        let mut asks: Vec<String> = self.role.iter().map(|role| format!("role {role}")).collect();
        asks.extend(self.targets.iter().flatten().map(|target| format!("target {target}")));
        asks.extend(self.credentials.iter().flatten().map(|credential| format!("credential {credential}")));
        asks
    }

    /// What it asks for in vain under a role, or under any role that it names itself.
    pub fn missing(&self, resolved: &Resolved, role: Option<&RoleName>) -> Vec<String> {
        let mut missing = Vec::new();
        let role = role.or(self.role.as_ref());
        if let Some(role) = self.role.as_ref().filter(|role| resolved.role(role).is_none()) {
            missing.push(format!("role {role}: your configuration has none of that name; add a [[role]]"));
        }
        let granted = role.map(|role| resolved.targets_of(role));
        for name in self.targets.iter().flatten() {
            if resolved.target(name).is_none() {
                missing.push(format!("target {name}: your configuration has none; add a [[target]]"));
            } else if let (Some(role), Some(granted)) = (role, &granted)
                && granted.iter().all(|target| target.name != *name)
            {
                missing.push(format!(
                    "target {name}: add {{ target = \"{name}\" }} to the grants of the role {role}"
                ));
            }
        }
        for name in self.credentials.iter().flatten() {
            if resolved.credential(name).is_none() {
                missing.push(format!("credential {name}: your configuration has none; add a [[credential]]"));
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::load, *};

    fn parse(text: &str) -> Result<Repository, String> {
        Repository::parse(Path::new("writ.toml"), text).map_err(|fault| fault.to_string())
    }

    #[test]
    fn it_names_and_says_no_more() {
        let asked =
            parse("version = 1\nrole = \"dev\"\ntargets = [\"openai\"]\ncredentials = [\"openai\"]").unwrap();
        assert_eq!(asked.asks(), ["role dev", "target openai", "credential openai"]);
        assert!(parse("role = \"dev\"").unwrap_err().contains("version"));
        assert!(parse("version = 2").unwrap_err().contains("version"));
        assert!(parse("version = 1\npublish = [3000]").unwrap_err().contains("unknown field"));
        assert!(parse("version = 1\ntargets = [\"Not a name\"]").is_err());
        let many = (0..65).map(|number| format!("\"t{number}\"")).collect::<Vec<_>>().join(",");
        assert!(parse(&format!("version = 1\ntargets = [{many}]")).unwrap_err().contains("more than 64"));
    }

    #[test]
    fn what_would_grant_is_refused_with_the_reason() {
        for (key, why) in OWN {
            let text = match key {
                "credential" | "target" | "role" | "workload" => {
                    format!("version = 1\n[[{key}]]\nname = \"x\"")
                }
                "seal" | "run" => format!("version = 1\n[{key}]"),
                _ => format!("version = 1\n{key} = \"x\""),
            };
            let fault = parse(&text).unwrap_err();
            assert!(fault.starts_with("writ.toml:2:") && fault.contains(why), "{fault}");
        }
    }

    #[test]
    fn it_chooses_among_what_there_is() {
        let resolved = load(super::super::tests::FULL).unwrap();
        let target = |name: &str| resolved.target(&name.parse().unwrap()).unwrap();
        let all = parse("version = 1").unwrap();
        assert!(all.keeps(target("openai")) && all.keeps(target("wiki")));
        let one =
            parse("version = 1\ntargets = [\"openai\", \"github\", \"absent\"]\nrole = \"dev\"").unwrap();
        assert!(one.keeps(target("openai")) && !one.keeps(target("wiki")));
        assert_eq!(
            one.missing(&resolved, None),
            [
                "target github: add { target = \"github\" } to the grants of the role dev",
                "target absent: your configuration has none; add a [[target]]",
            ]
        );
        let by_credential = parse("version = 1\ncredentials = [\"wiki\"]").unwrap();
        assert!(!by_credential.keeps(target("openai")) && by_credential.keeps(target("wiki")));
        let none = parse("version = 1\ncredentials = []").unwrap();
        assert!(!none.keeps(target("openai")));
        let no_role = parse("version = 1\nrole = \"boss\"\ncredentials = [\"gold\"]").unwrap();
        assert_eq!(no_role.missing(&resolved, None).len(), 2);
    }
}
