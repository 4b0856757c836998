//! Looks up every name in a configuration, and refuses what leads nowhere or says two things.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::Path,
    sync::Arc,
};

use serde_json::{Value, json};
use toml::Spanned;
use writ_core::{Authority, CAPTURED_PORTS, CredentialName, Grant, Reveal, RoleName, Shape, TargetName, Ttl};

use super::{
    Config, ConfigFault, CredentialEntry, GrantEntry, Quota, Resolved, ResolvedCredential, ResolvedGrant,
    ResolvedRole, ResolvedTarget, RoleEntry, Run, SealEntry, SealKind, WorkloadEntry,
    check::{self, Wrong},
    nearest,
};
use crate::registration::Registration;

/// The most entries of one kind, the most grants of a role, and the most words in a list of an entry.
const ENTRIES_MAX: usize = 256;
const GRANTS_MAX: usize = 256;
pub(super) const LIST_MAX: usize = 64;
/// Ports of the host's loopback: each takes two doors of a session.
const LOCAL_MAX: usize = 16;
/// The engine that keeps a value as it is.
const ENGINE: &str = "static";
/// How long a lease lives, and a session at the longest, where the role does not say.
const TTL_SECS: u64 = 15 * 60;
const TTL_MAX_SECS: u64 = 8 * 3600;

pub(super) type Fallible<T> = Result<T, ConfigFault>;

/// Resolves `config`, which was read from `text` in `path`. `hash` and `policies` are left empty.
pub(super) fn resolve(config: Config, path: &Path, text: &str) -> Fallible<Resolved> {
    let at = At { path, text };
    let egress = config.egress.unwrap_or_default();
    let local = at.local(&config.local)?;
    let seal = at.seal(config.seal)?;
    let store = at.store(config.store)?;
    at.count(config.credentials.iter().map(Spanned::span), ENTRIES_MAX, "[[credential]] entries")?;
    at.count(config.targets.iter().map(Spanned::span), ENTRIES_MAX, "[[target]] entries")?;
    at.count(config.roles.iter().map(Spanned::span), ENTRIES_MAX, "[[role]] entries")?;
    at.count(config.workloads.iter().map(Spanned::span), ENTRIES_MAX, "[[workload]] entries")?;
    at.unique(config.credentials.iter().map(|entry| &entry.as_ref().name), "credential")?;
    at.unique(config.targets.iter().map(|entry| &entry.as_ref().name), "target")?;
    at.unique(config.roles.iter().map(|entry| &entry.as_ref().name), "role")?;

    let names: BTreeSet<CredentialName> =
        config.credentials.iter().map(|entry| entry.as_ref().name.as_ref().clone()).collect();
    let mut targets = Vec::new();
    for entry in config.targets {
        targets.push(Arc::new(at.target(entry, &names)?));
    }
    let mut credentials = BTreeMap::new();
    for entry in config.credentials {
        let credential = at.credential(entry, &targets)?;
        credentials.insert(credential.name.clone(), credential);
    }
    let targets: Targets = targets.into_iter().map(|target| (target.name.clone(), target)).collect();
    let mut roles = BTreeMap::new();
    for entry in config.roles {
        let role = at.role(entry.into_inner(), &targets, &credentials)?;
        roles.insert(role.name.clone(), role);
    }
    let mut workloads = Vec::new();
    for entry in config.workloads {
        workloads.push(at.workload(entry, &roles, &workloads)?);
    }
    if let Some(role) = &config.run.role {
        at.known(role, &roles, "role")?;
    }
    let run = Run {
        role: config.run.role.map(Spanned::into_inner),
        caches: config.run.caches,
        readable: config.run.readable,
    };
    Ok(Resolved {
        path: path.to_owned(),
        hash: String::new(),
        egress,
        local,
        seal,
        store,
        run,
        workloads,
        policies: Vec::new(),
        credentials,
        targets,
        roles,
    })
}

type Targets = BTreeMap<TargetName, Arc<ResolvedTarget>>;

/// The file that faults point into.
pub(super) struct At<'a> {
    pub(super) path: &'a Path,
    text: &'a str,
}

impl At<'_> {
    pub(super) fn fault(
        &self,
        span: Range<usize>,
        what: impl Into<String>,
        next: impl Into<String>,
    ) -> ConfigFault {
        ConfigFault::at(self.path, self.text, span, what, next)
    }

    pub(super) fn wrong(&self, span: Range<usize>) -> impl Fn(Wrong) -> ConfigFault {
        move |(what, next)| self.fault(span.clone(), what, next)
    }

    /// Ports of the host's loopback.
    fn local(&self, ports: &[Spanned<u16>]) -> Fallible<Vec<u16>> {
        self.count(ports.iter().map(Spanned::span), LOCAL_MAX, "local ports")?;
        let mut known = Vec::with_capacity(ports.len());
        for port in ports {
            let (span, port) = (port.span(), *port.as_ref());
            if port == 0 || CAPTURED_PORTS.contains(&port) {
                let what = format!("the port {port} of the host's loopback cannot be shared");
                let next = "use another port: 0 is none, and 80, 443 and 22 are captured for every address";
                return Err(self.fault(span, what, next));
            }
            if known.contains(&port) {
                return Err(self.fault(span, format!("the port {port} is there twice"), "remove one"));
            }
            known.push(port);
        }
        Ok(known)
    }

    fn seal(&self, seal: Option<Spanned<SealEntry>>) -> Fallible<SealEntry> {
        let Some(seal) = seal else { return Ok(SealEntry::default()) };
        let (span, seal) = (seal.span(), seal.into_inner());
        match &seal.path {
            Some(_) if seal.kind == SealKind::Passphrase => Err(self.fault(
                span,
                "a passphrase has no path",
                "remove `path`, or write kind = \"key-file\"",
            )),
            Some(path) if !path.is_absolute() => {
                Err(self.fault(span, "the path of the key file is not absolute", "write it from / on"))
            }
            _ => Ok(seal),
        }
    }

    pub(super) fn count(
        &self,
        spans: impl Iterator<Item = Range<usize>>,
        most: usize,
        what: &str,
    ) -> Fallible<()> {
        match spans.into_iter().nth(most) {
            Some(span) => Err(self.fault(span, format!("there are more than {most} {what}"), "remove some")),
            None => Ok(()),
        }
    }

    fn unique<'n, N: Ord + std::fmt::Display + 'n>(
        &self,
        names: impl Iterator<Item = &'n Spanned<N>>,
        kind: &str,
    ) -> Fallible<()> {
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name.as_ref()) {
                let what = format!("there are two {kind}s with the name {:?}", name.as_ref().to_string());
                return Err(self.fault(name.span(), what, "rename or remove one"));
            }
        }
        Ok(())
    }

    /// That `name` is a key of `map`, or a fault that names the nearest.
    fn known<'m, N: Ord + AsRefStr, V>(
        &self,
        name: &Spanned<N>,
        map: &'m BTreeMap<N, V>,
        kind: &str,
    ) -> Fallible<&'m V> {
        map.get(name.as_ref()).ok_or_else(|| {
            self.unknown(name.span(), kind, name.as_ref().text(), map.keys().map(AsRefStr::text))
        })
    }

    pub(super) fn unknown<'k>(
        &self,
        span: Range<usize>,
        kind: &str,
        name: &str,
        known: impl Iterator<Item = &'k str> + Clone,
    ) -> ConfigFault {
        let next = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => match known.take(LIST_MAX).collect::<Vec<_>>().join(", ") {
                none if none.is_empty() => format!("add a {kind} of that name first"),
                known => format!("there are: {known}"),
            },
        };
        self.fault(span, format!("there is no {kind} {name:?}"), next)
    }
}

/// Credentials.
impl At<'_> {
    fn credential(
        &self,
        entry: Spanned<CredentialEntry>,
        targets: &[Arc<ResolvedTarget>],
    ) -> Fallible<ResolvedCredential> {
        let entry = entry.into_inner();
        let name = entry.name.as_ref().clone();
        let presets: Vec<_> = targets
            .iter()
            .filter(|target| target.credential.as_ref() == Some(&name))
            .filter_map(|target| target.preset)
            .collect();
        let env = match &entry.env {
            Some(env) => self.env(env)?,
            None => {
                let mut seen = BTreeSet::new();
                let usual = presets.iter().flat_map(|preset| preset.env).filter(|name| seen.insert(**name));
                usual.map(|name| (*name).to_owned()).collect()
            }
        };
        let engine = entry.engine.as_ref().map_or(ENGINE, |engine| engine.as_ref().as_str());
        let at = || entry.engine.as_ref().map_or(entry.name.span(), Spanned::span);
        let Some(maker) = writ_engine::engine(engine) else {
            let engines = writ_engine::engines();
            let known = engines.iter().map(|engine| engine.name());
            return Err(self.unknown(at(), "secrets engine", engine, known));
        };
        let engine_config = self.engine_config(&entry)?;
        maker.check(&name, &engine_config).map_err(|fault| {
            let told = entry.config.as_ref().map(Spanned::span);
            let span = told.or_else(|| entry.source.as_ref().map(Spanned::span)).unwrap_or_else(at);
            self.fault(span, fault.to_string(), "correct it")
        })?;
        let uses = targets.iter().filter(|target| target.credential.as_ref() == Some(&name));
        if let Some(target) = uses.clone().find(|target| target.reveal.is_some() != maker.makes_logins()) {
            let (what, next) = match target.reveal {
                Some(_) => ("cannot be revealed: it is no login", "remove `reveal` from the target"),
                None => ("is a login, which cannot be put into requests", "add `reveal` to the target"),
            };
            let what = format!("what the engine {engine} makes {what} (target {})", target.name);
            return Err(self.fault(at(), what, next));
        }
        Ok(ResolvedCredential {
            env,
            owner: entry.owner,
            engine: engine.to_owned(),
            engine_config,
            shape: presets.first().map_or(Shape::GENERIC, |preset| preset.shape),
            name,
        })
    }

    /// What the engine is told: `config`, or `source`, which is its short form for the engine `static`. The files that it names
    /// are read here, relative to `writ.toml`.
    fn engine_config(&self, entry: &CredentialEntry) -> Fallible<Value> {
        match (&entry.config, &entry.source) {
            (Some(config), Some(_)) => Err(self.fault(
                config.span(),
                "`source` and `config` both say where the value is",
                "write one of them",
            )),
            (Some(config), None) => {
                let mut config = config.as_ref().clone();
                if let Some(path) = config.get_mut("tls_ca") {
                    *path = self.named_ca(path, entry)?;
                }
                Ok(config)
            }
            (None, Some(source)) => Ok(json!({ "source": source.as_ref() })),
            (None, None) => Ok(json!({})),
        }
    }

    /// The certificates in the file that an engine's `tls_ca` names.
    fn named_ca(&self, path: &Value, entry: &CredentialEntry) -> Fallible<Value> {
        let span = entry.config.as_ref().map_or(entry.name.span(), Spanned::span);
        match path.as_str() {
            Some(path) => self.tls_ca(&span, Path::new(path)).map(Value::String),
            None => Err(self.fault(span, "`tls_ca` is not the path of a file", "correct it")),
        }
    }

    fn env(&self, env: &Spanned<Vec<String>>) -> Fallible<Vec<String>> {
        if env.as_ref().len() > LIST_MAX {
            return Err(self.fault(env.span(), format!("more than {LIST_MAX} variables"), "remove some"));
        }
        for name in env.as_ref() {
            check::variable(name).map_err(self.wrong(env.span()))?;
        }
        Ok(env.as_ref().clone())
    }
}

/// Roles and workloads.
impl At<'_> {
    fn role(
        &self,
        entry: RoleEntry,
        targets: &Targets,
        credentials: &BTreeMap<CredentialName, ResolvedCredential>,
    ) -> Fallible<ResolvedRole> {
        self.count(entry.grants.iter().map(Spanned::span), GRANTS_MAX, "grants in one role")?;
        self.reachable(&entry, targets, credentials)?;
        let default = |secs| Ttl::from_secs(secs).unwrap_or(Ttl::MAX);
        let ttl_max = entry.ttl_max.as_ref().map_or(default(TTL_MAX_SECS), |ttl| *ttl.as_ref());
        let ttl = entry.ttl.as_ref().map_or(default(TTL_SECS).min(ttl_max), |ttl| *ttl.as_ref());
        if ttl > ttl_max {
            let span = entry.ttl.as_ref().map_or(entry.name.span(), Spanned::span);
            let what = format!("a lease of {ttl} would outlive the longest session, {ttl_max}");
            return Err(self.fault(span, what, "shorten `ttl` or raise `ttl_max`"));
        }
        if let Some(path) = entry.prompt_file.as_ref().filter(|path| !inside(path)) {
            let what = format!("the prompt file {} is outside the session's directory", path.display());
            return Err(self.fault(entry.name.span(), what, "name a file in it, without `..`"));
        }
        let quota = self.quota(&entry)?;
        let mut grants = Vec::new();
        for grant in entry.grants {
            grants.push(self.grant(grant.into_inner(), targets)?);
        }
        Ok(ResolvedRole {
            name: entry.name.into_inner(),
            ttl,
            ttl_max,
            quota,
            prompt_file: entry.prompt_file,
            grants,
        })
    }

    /// What each workload of the role may have and take.
    fn quota(&self, entry: &RoleEntry) -> Fallible<Quota> {
        let default = Quota::default();
        if let Some(zero) = entry.leases_max.as_ref().filter(|max| *max.as_ref() == 0) {
            return Err(self.fault(
                zero.span(),
                "a role without leases can do nothing",
                "remove the role's grants instead",
            ));
        }
        Ok(Quota {
            leases_max: entry.leases_max.as_ref().map_or(default.leases_max, |max| *max.as_ref()),
            issue_rate: entry.issue_rate.as_ref().map_or(default.issue_rate, |rate| *rate.as_ref()),
        })
    }

    /// That a role's targets exist, that no two share an authority and no two credentials a variable.
    fn reachable(
        &self,
        entry: &RoleEntry,
        targets: &Targets,
        credentials: &BTreeMap<CredentialName, ResolvedCredential>,
    ) -> Fallible<()> {
        let mut authorities: BTreeMap<&Authority, &TargetName> = BTreeMap::new();
        let mut variables: BTreeMap<&str, &CredentialName> = BTreeMap::new();
        let mut told: Option<&TargetName> = None;
        for grant in &entry.grants {
            let name = &grant.as_ref().target;
            let target = self.known(name, targets, "target")?;
            let other = authorities.insert(&target.authority, &target.name);
            if let Some(other) = other.filter(|other| **other != target.name) {
                let what = format!(
                    "the targets {other} and {} of this role are both {}",
                    target.name, target.authority
                );
                return Err(self.fault(name.span(), what, "give them to different roles"));
            }
            if matches!(target.reveal, Some(Reveal::Environment | Reveal::Passfile))
                && let Some(other) = told.replace(&target.name).filter(|other| **other != target.name)
            {
                let what = format!(
                    "the targets {other} and {} of this role would set the same variables (PGHOST, PGUSER …)",
                    target.name
                );
                return Err(self.fault(name.span(), what, "set `reveal = \"service-file\"` for all but one"));
            }
            let Some(credential) = target.credential.as_ref().and_then(|name| credentials.get(name)) else {
                continue;
            };
            for variable in &credential.env {
                let other = variables.insert(variable, &credential.name);
                if let Some(other) = other.filter(|other| **other != credential.name) {
                    let what = format!("{variable} would hold both {other} and {}", credential.name);
                    return Err(self.fault(name.span(), what, "set `env` of one of the two credentials"));
                }
            }
        }
        Ok(())
    }

    fn grant(&self, entry: GrantEntry, targets: &Targets) -> Fallible<ResolvedGrant> {
        let bounds = entry.methods.as_ref().map(Spanned::span).or(entry.paths.as_ref().map(Spanned::span));
        if let Some(bounds) = bounds
            && targets.get(entry.target.as_ref()).is_some_and(|target| target.tunnel)
        {
            let what = "methods and paths inside of a tunnel cannot be seen, let alone judged";
            return Err(self.fault(bounds, what, "remove them, or `tunnel` from the target"));
        }
        if let Some(methods) = &entry.methods {
            self.list(methods, "methods")?;
            for method in methods.as_ref() {
                check::method(method).map_err(self.wrong(methods.span()))?;
            }
        }
        if let Some(paths) = &entry.paths {
            self.list(paths, "paths")?;
        }
        Ok(ResolvedGrant {
            target: entry.target.into_inner(),
            grant: Grant {
                methods: entry.methods.map(Spanned::into_inner).unwrap_or_default(),
                paths: entry.paths.map(Spanned::into_inner).unwrap_or_default(),
            },
            when: entry.when,
        })
    }

    /// An empty list would read as nothing and mean everything.
    fn list<T>(&self, list: &Spanned<Vec<T>>, what: &str) -> Fallible<()> {
        match list.as_ref().len() {
            0 => Err(self.fault(
                list.span(),
                format!("an empty list of {what} allows nothing"),
                "remove the grant, or leave the list out to allow all",
            )),
            1..=LIST_MAX => Ok(()),
            _ => Err(self.fault(list.span(), format!("more than {LIST_MAX} {what}"), "split the grant")),
        }
    }

    fn workload(
        &self,
        entry: Spanned<WorkloadEntry>,
        roles: &BTreeMap<RoleName, ResolvedRole>,
        others: &[Registration],
    ) -> Fallible<Registration> {
        let (span, entry) = (entry.span(), entry.into_inner());
        self.known(&entry.role, roles, "role")?;
        self.count(entry.selectors.as_ref().iter().map(Spanned::span), LIST_MAX, "selectors")?;
        if entry.selectors.as_ref().is_empty() {
            let next = "add what it must prove, such as \"unix:uid:1000\"";
            return Err(self.fault(entry.selectors.span(), "an entry without selectors fits nobody", next));
        }
        for selector in entry.selectors.as_ref() {
            let question = selector.as_ref().question();
            let known = writ_attest::questions();
            if !known.contains(question) {
                let known = known.iter().map(String::as_str);
                return Err(self.unknown(selector.span(), "selector", question, known));
            }
        }
        let entry = Registration {
            spiffe_id: entry.spiffe_id,
            selectors: entry.selectors.into_inner().into_iter().map(Spanned::into_inner).collect(),
            role: entry.role.into_inner(),
        };
        if others.contains(&entry) {
            return Err(self.fault(span, "this [[workload]] entry is there twice", "remove one"));
        }
        Ok(entry)
    }
}

/// A relative path without `..`.
fn inside(path: &Path) -> bool {
    path.components()
        .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir))
}

/// Names, as text.
trait AsRefStr {
    fn text(&self) -> &str;
}

impl AsRefStr for TargetName {
    fn text(&self) -> &str {
        self.as_str()
    }
}

impl AsRefStr for RoleName {
    fn text(&self) -> &str {
        self.as_str()
    }
}
