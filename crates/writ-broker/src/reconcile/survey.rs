//! Findings: the differences between upstreams and leases that are none of a moment.
//!
//! Logins are made and removed while it looks. Invariant: upstream is asked *first* and the store after that, twice. A lease is
//! durable before its account exists, and ended only when the account is gone; so an account without a lease at both looks is
//! an orphan, and an active lease without an account at both looks is lost, whatever happened in between.

use std::{
    collections::{BTreeSet, HashSet},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::timeout;
use writ_api::control::{Finding, FindingKind, Survey, Unreached};
use writ_core::{CredentialName, LeaseId, LeaseState, Receipt, Refusal, Surveyed};

use super::FINDINGS_MAX;
use crate::{
    broker::Broker,
    config::ResolvedCredential,
    confirm,
    door::Unlocked,
    fault,
    leases::BrokerTools,
    store::{LeaseFilter, LeaseRecord},
};

/// The longest that one upstream may take to say what it has.
const SURVEY_MAX: Duration = Duration::from_secs(15);
/// Upstreams that are asked at the same time.
const AT_ONCE: usize = 16;

/// What came of a comparison.
#[derive(Default)]
pub(crate) struct Compared {
    pub surveyed: BTreeSet<CredentialName>,
    pub unreachable: Vec<Unreached>,
    pub found: Vec<Found>,
    /// Accounts upstream that a lease stands for.
    pub agreed: usize,
}

/// One difference.
#[derive(Clone)]
pub(crate) struct Found {
    pub finding: Finding,
    pub engine: String,
    /// What revokes an orphan; `None` for a lost lease, which has its own.
    pub receipt: Option<Receipt>,
}

impl Compared {
    /// What an operator is shown.
    pub(crate) fn view(self) -> Survey {
        let more = self.found.len().saturating_sub(FINDINGS_MAX);
        let findings = self.found.into_iter().take(FINDINGS_MAX).map(|found| found.finding);
        Survey {
            surveyed: self.surveyed.into_iter().collect(),
            unreachable: self.unreachable,
            findings: findings.collect(),
            more,
            agreed: self.agreed,
        }
    }
}

/// Asks every upstream whose engine can tell.
///
/// # Errors
/// The store's fault, and that there is no configuration. An upstream that does not answer is named in what is returned.
pub(crate) async fn survey(broker: &Broker, open: &Unlocked) -> Result<Compared, Refusal> {
    let rules = broker.rules.in_force()?;
    let first = look(broker, open, rules.resolved.credentials()).await;
    let before = compare(broker, first).await?;
    if before.found.is_empty() {
        return Ok(before);
    }
    let doubtful: HashSet<&CredentialName> =
        before.found.iter().map(|found| &found.finding.credential).collect();
    let asked = rules.resolved.credentials().filter(|credential| doubtful.contains(&credential.name));
    let after = compare(broker, look(broker, open, asked).await).await?;
    let stayed = |found: &Found| after.found.iter().any(|again| again.finding == found.finding);
    let found: Vec<Found> = before.found.iter().filter(|found| stayed(found)).cloned().collect();
    let mut compared = Compared { found, ..before };
    for unreached in after.unreachable {
        compared.surveyed.remove(&unreached.credential);
        compared.unreachable.push(unreached);
    }
    Ok(compared)
}

/// What one upstream said.
struct Looked<'a> {
    of: &'a ResolvedCredential,
    /// Of what is made under the configuration of today, where the engine can tell.
    lane: Option<String>,
    accounts: Result<Vec<Account>, String>,
}

struct Account {
    known: Surveyed,
    lane: String,
}

async fn look<'a>(
    broker: &'a Broker,
    open: &'a Unlocked,
    credentials: impl Iterator<Item = &'a ResolvedCredential>,
) -> Vec<Looked<'a>> {
    let looks = credentials.map(|credential| look_at(broker, open, credential)).collect::<Vec<_>>();
    stream::iter(looks).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// `None` where nothing can be listed.
async fn look_at<'a>(broker: &Broker, open: &Unlocked, of: &'a ResolvedCredential) -> Option<Looked<'a>> {
    let engine = broker.engines.engine(&of.engine)?;
    let tools = BrokerTools { broker, open };
    if let Err(refusal) = confirm::leads(broker.store.as_ref(), of).await {
        return Some(Looked { of, lane: None, accounts: Err(refusal.detail) });
    }
    let accounts = match timeout(SURVEY_MAX, engine.survey(&of.name, &of.engine_config, &tools)).await {
        Ok(Ok(accounts)) => Ok(accounts?),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(_) => Err(format!("it gave no answer in {} seconds", SURVEY_MAX.as_secs())),
    };
    let account = |known: Surveyed| Account { lane: engine.lane(&known.receipt), known };
    let accounts = accounts.map(|accounts| accounts.into_iter().map(account).collect());
    Some(Looked { of, lane: engine.surveys(&of.name, &of.engine_config), accounts })
}

/// Compares what upstreams said with the leases of now.
async fn compare(broker: &Broker, looked: Vec<Looked<'_>>) -> Result<Compared, Refusal> {
    let mut compared = Compared::default();
    let mut looks = Vec::new();
    for look in looked {
        match look.accounts {
            Ok(accounts) => {
                compared.surveyed.insert(look.of.name.clone());
                let leases = alive(broker, &look.of.name).await?;
                looks.push((look.of, look.lane, accounts, leases));
            }
            Err(why) => {
                compared.unreachable.push(Unreached { credential: look.of.name.clone(), why });
            }
        }
    }
    // Several credentials may lead to one server, and each sees what was made for the others.
    let everywhere: HashSet<(LeaseId, &str)> = looks
        .iter()
        .flat_map(|(_, _, accounts, _)| accounts)
        .map(|account| (account.known.lease, account.lane.as_str()))
        .collect();
    let mut seen = HashSet::new();
    for (of, lane, accounts, leases) in &looks {
        for lease in leases.iter().filter(|lease| lease.engine == of.engine) {
            let elsewhere = lane.as_ref().is_some_and(|lane| *lane != lease.lane);
            let there = everywhere.contains(&(lease.lease, lease.lane.as_str()));
            if lease.state == LeaseState::Active && !elsewhere && !there {
                compared.found.push(lost(of, lease));
            }
        }
        for account in accounts {
            if !seen.insert((account.known.lease, account.lane.as_str(), account.known.name.as_str())) {
                continue;
            }
            if stands(broker, account, looks.iter().flat_map(|(_, _, _, leases)| leases)).await? {
                compared.agreed += 1;
            } else {
                compared.found.push(orphan(of, account));
            }
        }
    }
    Ok(compared)
}

/// Whether a lease stands for an account: its own that has not ended, or the one that was made to revoke it.
async fn stands<'a>(
    broker: &Broker,
    account: &Account,
    mut alive: impl Iterator<Item = &'a LeaseRecord>,
) -> Result<bool, Refusal> {
    let adopted =
        |lease: &LeaseRecord| lease.state == LeaseState::Revoking && lease.receipt == account.known.receipt;
    if alive.any(|lease| lease.lease == account.known.lease || adopted(lease)) {
        return Ok(true);
    }
    // One of a credential that cannot be asked now, or that the configuration does not name any more.
    let known = broker.store.lease(account.known.lease).await.map_err(fault::store)?;
    Ok(known.is_some_and(|lease| lease.state != LeaseState::Ended))
}

async fn alive(broker: &Broker, credential: &CredentialName) -> Result<Vec<LeaseRecord>, Refusal> {
    let filter = LeaseFilter { credential: Some(credential.clone()), ..LeaseFilter::default() };
    broker.store.leases(filter).await.map_err(fault::store)
}

fn orphan(of: &ResolvedCredential, account: &Account) -> Found {
    let finding = Finding {
        kind: FindingKind::Orphan,
        credential: of.name.clone(),
        lease: account.known.lease,
        name: account.known.name.clone(),
        lane: account.lane.clone(),
    };
    Found { finding, engine: of.engine.clone(), receipt: Some(account.known.receipt.clone()) }
}

fn lost(of: &ResolvedCredential, lease: &LeaseRecord) -> Found {
    let finding = Finding {
        kind: FindingKind::Lost,
        credential: of.name.clone(),
        lease: lease.lease,
        name: String::new(),
        lane: lease.lane.clone(),
    };
    Found { finding, engine: of.engine.clone(), receipt: None }
}
