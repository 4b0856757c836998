//! The seam between the planes, shaped like a wire.
//!
//! ```text
//!   data plane ── acquire, watch, tell ──► broker      (Brokerage)
//!   broker ────── open ──────────────────► data plane  (DataPlane; descriptors travel beside the message)
//! ```
//!
//! Messages are owned, serializable values without references or closures, and secrets in them are [`Sealed`] to the session's
//! key, even in one process. So the same test suite runs in process and over a socket pair, and splitting the daemon into two
//! processes is a matter of deployment.

use std::{future::Future, os::fd::OwnedFd, pin::Pin};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    Authority, CredentialName, Door, Egress, Host, Injection, LeaseEnd, LeaseId, Level, NamedAddress,
    PathPattern, Placeholder, RecipientKey, Refusal, RequestId, RoleName, Scope, Sealed, SessionId, SpiffeId,
    TargetName, Timestamp,
};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Asks for a lease on a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcquireAsk {
    pub session: SessionId,
    pub target: TargetName,
    /// The request that needs it, so that both planes' records join.
    pub request: RequestId,
}

/// A lease, with the credential, if the target has one, sealed to the session's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub lease: LeaseId,
    /// `None` where the target has no credential: then the lease is a scope and a life, and nothing is put into requests.
    pub credential: Option<CredentialName>,
    /// The kind of credential, for the record, such as `static`; `none` where there is none.
    pub credential_type: String,
    pub scope: Scope,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
    /// Bound to session and lease: it opens for nobody else and for no other lease.
    pub sealed: Option<Sealed>,
}

/// Asks for everything that happened after notice number `since` of the broker's present life; 0 at first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchAsk {
    pub since: u64,
}

/// What happened. It comes within a second, empty if nothing did: that is the heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchAnswer {
    /// The number of the last notice, to be asked from next.
    pub upto: u64,
    /// Notices were dropped before they could be told: the holder must drop every lease.
    pub missed: bool,
    pub notices: Vec<Notice>,
}

/// Something that a holder of leases must act on at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Notice {
    /// No new request under this lease; unless it merely expired, its connections are cut.
    LeaseEnded { lease: LeaseId, end: LeaseEnd },
    /// The session's listeners close and its connections are cut.
    SessionEnded { session: SessionId },
}

/// A line for the person who watches the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiding {
    pub session: SessionId,
    pub text: String,
}

/// The broker did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the broker cannot be reached: {0}")]
pub struct Lost(pub String);

/// The control plane, as the data plane sees it.
pub trait Brokerage: Send + Sync {
    /// Decides, and makes a lease or refuses.
    fn acquire(&self, ask: AcquireAsk) -> BoxFuture<'_, Result<Granted, Refusal>>;

    /// Waits for news, one second at the longest. A holder that heard nothing for three drops every lease and connection.
    fn watch(&self, ask: WatchAsk) -> BoxFuture<'_, Result<WatchAnswer, Lost>>;

    /// Passes a line on to the session's launcher. Loses it rather than waits.
    fn tell(&self, tiding: Tiding) -> BoxFuture<'_, Result<(), Lost>>;
}

/// Everything the data plane needs to serve one session. No secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPlan {
    pub session: SessionId,
    pub workload: SpiffeId,
    pub role: RoleName,
    pub requester: String,
    pub level: Level,
    pub expires_at: Timestamp,
    /// SHA-256 of the session's proxy password, hexadecimal. The password itself stays with the launcher. `None` where the doors
    /// are in a network namespace of the session's own: then they are its identity.
    pub password_sha256: Option<String>,
    /// What becomes of hosts that no route names.
    pub egress: Egress,
    /// Ports of the host's loopback that the session may reach, from the person's own configuration only.
    pub local: Vec<u16>,
    pub routes: Vec<RoutePlan>,
    /// Every placeholder of this installation: one that turns up at another credential's target is an alarm.
    pub placeholders: Vec<PlaceholderEntry>,
    /// Hosts that are refused without an alarm.
    pub quiet_hosts: Vec<Host>,
    /// The broker's key: the session's authority is handed out sealed to it.
    pub keeper: RecipientKey,
    /// The authority of the session that this one goes on for, sealed to the data plane's key. Its agent trusts no other.
    pub authority: Option<Sealed>,
}

/// A placeholder, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceholderEntry {
    pub credential: CredentialName,
    pub placeholder: Placeholder,
}

/// One target that the session's role may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePlan {
    pub target: TargetName,
    pub authority: Authority,
    /// `None`: its requests are judged and recorded, and nothing is put into them.
    pub credential: Option<CredentialName>,
    /// Pass its bytes on untouched, whatever the protocol: nothing is injected, and nothing of it can be judged.
    pub tunnel: bool,
    /// The declared places, the default first.
    pub injections: Vec<Injection>,
    /// Another address behind the same name, `host:port`, from the person's own configuration only.
    pub dial: Option<String>,
    /// Another trust anchor for that address, PEM.
    pub tls_ca: Option<String>,
    /// Private networks that the name may lead to.
    pub allow_private: Vec<IpNet>,
    pub encoded_slash: bool,
    /// Let answers through that cannot be scrubbed because of their encoding.
    pub pass_unscrubbed: bool,
    /// Paths at which the service's own programs give up on 400, and would repeat after 403.
    pub refuse_as_400: Vec<PathPattern>,
}

impl RoutePlan {
    /// Whether the program holds the credential itself: its bytes pass untouched.
    pub fn reveals(&self) -> bool {
        self.tunnel && self.credential.is_some()
    }
}

/// What the data plane made for a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReady {
    /// The session's interception CA: what the agent must trust, PEM.
    pub ca_pem: String,
    /// Credentials for this session are sealed to this key.
    pub recipient: RecipientKey,
    /// Where the doors of targets with other ports than the captured ones belong.
    pub named: Vec<NamedAddress>,
    /// What a later data plane needs to go on for this session's agent, sealed to [`SessionPlan::keeper`].
    pub authority: Sealed,
}

/// Why the data plane could not open a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the proxy could not open the session: {0}")]
pub struct OpenFault(pub String);

/// The data plane, as the control plane sees it. Sessions end by [`Notice::SessionEnded`].
pub trait DataPlane: Send + Sync {
    /// Authorities of earlier sessions are sealed to this key.
    fn recipient(&self) -> RecipientKey;

    /// Serves a session on its doors. They are the session's identity, together with its password where it has one.
    fn open(
        &self,
        plan: SessionPlan,
        doors: Vec<(Door, OwnedFd)>,
    ) -> BoxFuture<'_, Result<SessionReady, OpenFault>>;

    /// Adds doors to an open session: those whose addresses only [`SessionReady`] told.
    fn extend(&self, session: SessionId, doors: Vec<(Door, OwnedFd)>)
    -> BoxFuture<'_, Result<(), OpenFault>>;
}
