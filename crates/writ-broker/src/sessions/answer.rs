//! What the data plane and the launcher are told of a session that opens.

use std::{collections::BTreeSet, sync::Arc};

use writ_api::run::{Open, Opened, Variable};
use writ_core::{Level, PRESETS, PlaceholderEntry, SessionPlan, SessionReady};

use super::prepare::Prepared;
use crate::{
    broker::Broker,
    config::{ResolvedCredential, ResolvedTarget, quiet_hosts_of},
    door::Unlocked,
    rules::Rules,
};

/// What the data plane is told.
pub(super) fn plan(broker: &Broker, door: &Unlocked, ask: &Open, prepared: &Prepared) -> SessionPlan {
    let Prepared { rules, record, targets, .. } = prepared;
    let placeholder = |credential: &ResolvedCredential| PlaceholderEntry {
        credential: credential.name.clone(),
        placeholder: door.vault.placeholder(&credential.name, &credential.shape),
    };
    SessionPlan {
        session: record.session,
        workload: record.workload.clone(),
        role: record.role.clone(),
        requester: record.requester.clone(),
        level: record.level,
        expires_at: record.expires_at,
        password_sha256: ask.password_sha256.as_deref().map(str::to_ascii_lowercase),
        egress: rules.resolved.egress,
        local: local(rules, record.level),
        routes: targets.iter().map(|target| target.route()).collect(),
        placeholders: rules.resolved.credentials().map(placeholder).collect(),
        quiet_hosts: quiet_hosts_of(targets),
        keeper: broker.recipient.key().clone(),
        authority: None,
    }
}

/// What the launcher is told, but for its keepsake.
pub(super) fn opened(door: &Unlocked, ask: &Open, prepared: &Prepared, ready: SessionReady) -> Opened {
    let Prepared { rules, record, targets, .. } = prepared;
    let variables = variables(door, rules, targets);
    let presets: BTreeSet<&str> =
        targets.iter().filter_map(|target| target.preset).map(|preset| preset.name).collect();
    let managed = |name: &str| variables.iter().any(|variable| variable.name == name);
    let known: BTreeSet<&str> = PRESETS.iter().flat_map(|preset| preset.env).copied().collect();
    let withhold = ask
        .variables
        .iter()
        .filter(|name| known.contains(name.as_str()) && !managed(name))
        .cloned()
        .collect();
    Opened {
        session: record.session,
        workload: record.workload.clone(),
        role: record.role.clone(),
        expires_at: record.expires_at,
        ca_pem: ready.ca_pem,
        variables,
        withhold,
        hosts: targets.iter().map(|target| target.authority.to_string()).collect(),
        named: ready.named,
        local: local(rules, record.level),
        caches: rules.resolved.run.caches.clone(),
        readable: rules.resolved.run.readable.clone(),
        presets: presets.into_iter().map(str::to_owned).collect(),
        revealed: Vec::new(),
        keepsake: String::new(),
    }
}

/// The variables of the credentials behind targets.
fn variables(door: &Unlocked, rules: &Rules, targets: &[Arc<ResolvedTarget>]) -> Vec<Variable> {
    let mut variables: Vec<Variable> = Vec::new();
    let injected: Vec<_> = targets.iter().filter(|target| target.reveal.is_none()).cloned().collect();
    for credential in rules.resolved.credentials_of(&injected) {
        let placeholder = door.vault.placeholder(&credential.name, &credential.shape);
        for name in &credential.env {
            if variables.iter().all(|known| known.name != *name) {
                let (name, credential) = (name.clone(), credential.name.clone());
                variables.push(Variable { name, placeholder: placeholder.clone(), credential });
            }
        }
    }
    variables
}

/// Ports of the host's loopback: nobody needs a door to them who is on the host's network.
fn local(rules: &Rules, level: Level) -> Vec<u16> {
    if level == Level::Confined { rules.resolved.local.clone() } else { Vec::new() }
}
