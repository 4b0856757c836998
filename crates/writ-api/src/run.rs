//! The launcher's conversation with the broker, on `run.sock`, for the life of one session.
//!
//! ```text
//!   launcher ── Open + doors ─────► broker        the peer is read from the socket, never from the message
//!   launcher ◄── Opened | Refused ─ broker
//!   launcher ── Doors + doors ────► broker        those whose addresses only Opened told; confined runs alone
//!   launcher ◄── Said, Ended ────── broker        lines for the person; the end of the session
//!   launcher ── Closed + remains ─► broker        the program has ended; closing the socket says the same
//!   launcher ◄── Taken ──────────── broker        where there are remains
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use writ_core::{
    Authority, CredentialName, Door, LeaseId, Level, Login, NamedAddress, Placeholder, RecipientKey, Refusal,
    Reveal, RoleName, Sealed, SessionId, SpiffeId, TargetName, Timestamp, Ttl,
};

/// What the launcher says.
#[expect(clippy::large_enum_variant, reason = "a launcher says it once, and first")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromLauncher {
    /// Opens a session. Its doors travel beside it, in the order in which it names them.
    Open(Open),
    /// Adds doors, which travel beside it.
    Doors { doors: Vec<Door> },
    /// The program ended with this status, as a shell would print it. What remains of its run travels beside it, [`REMAINS_MAX`] descriptors
    /// at the most: nobody reads or writes them, and closing them waits for the disk, which the launcher need not.
    Closed { status: i32 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    pub version: u32,
    /// Narrows what the registration entries allow; never widens it.
    pub role: Option<RoleName>,
    /// Shortens the session's life; never lengthens it.
    pub ttl: Option<Ttl>,
    /// The program: absolute, without symbolic links; for a script, its interpreter.
    pub program: PathBuf,
    pub script: Option<PathBuf>,
    pub level: Level,
    /// What the descriptors beside this message are, in their order: at least [`Door::Proxy`].
    pub doors: Vec<Door>,
    /// SHA-256 of the proxy password, hexadecimal. `None` where the doors are in a network namespace of the session's own.
    pub password_sha256: Option<String>,
    /// The session that these doors belonged to, whose daemon is gone: its program lives on in this one.
    pub resumed_from: Option<SessionId>,
    /// [`Opened::keepsake`] of that session.
    pub keepsake: Option<String>,
    /// Names, not values, of the variables that the launcher would pass on.
    pub variables: Vec<String>,
    /// Credentials that the session reveals are sealed to this key; without one, none is revealed.
    pub recipient: Option<RecipientKey>,
    /// `writ session open --listen`: no program, the session lives until it is revoked or the socket closes.
    pub by_hand: bool,
}

/// What the broker says.
#[expect(
    clippy::large_enum_variant,
    reason = "one message at a time, and the large one once in a conversation"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromBroker {
    Opened(Opened),
    Refused(Refusal),
    /// A line for the person, such as the first refusal of a host.
    Said {
        text: String,
    },
    /// The session is over: the launcher ends the program.
    Ended {
        why: String,
    },
    /// The remains are the broker's to close. A confined session that is opened from now on waits for that.
    Taken,
}

/// Descriptors beside [`FromLauncher::Closed`].
pub const REMAINS_MAX: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub session: SessionId,
    pub workload: SpiffeId,
    pub role: RoleName,
    pub expires_at: Timestamp,
    /// The session's interception CA, PEM.
    pub ca_pem: String,
    pub variables: Vec<Variable>,
    /// Variables of known services that hold no credential of writ's: the launcher withholds them and says so.
    pub withhold: Vec<String>,
    /// Hosts that the session may reach, for messages.
    pub hosts: Vec<String>,
    /// Doors to make, of targets with other ports than the captured ones. Confined runs alone.
    pub named: Vec<NamedAddress>,
    /// Ports of the host's loopback to make doors for. Confined runs alone.
    pub local: Vec<u16>,
    /// Directories that the person's configuration shares with confined agents, as written there: `~/` is the launcher's to expand.
    pub caches: Vec<String>,
    /// Further directories that confined agents read: tools outside of the system's own directories. Written likewise.
    pub readable: Vec<String>,
    /// Presets behind the session's targets: the launcher knows which files and variables their programs need.
    pub presets: Vec<String>,
    /// Logins for the program to hold.
    pub revealed: Vec<Revealed>,
    /// What this installation's next daemon needs to go on with the session; base64, and sealed: it tells its holder nothing.
    pub keepsake: String,
}

/// A login that the program gets: made for this session, gone with its lease. The program's connections lead through a door of
/// the session, which the end of the lease cuts too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revealed {
    pub target: TargetName,
    pub credential: CredentialName,
    pub lease: LeaseId,
    pub reveal: Reveal,
    /// Variables that get the whole login as a URL.
    pub env: Vec<String>,
    /// The name and port by which the program reaches the server; its certificate bears the name.
    pub authority: Authority,
    /// Whether the server speaks TLS, end to end; without it only on loopback, where the configuration says so.
    pub tls: bool,
    /// The server's trust anchors, PEM, where they are not the system's.
    pub tls_ca: Option<String>,
    pub login: Login,
    pub expires_at: Timestamp,
    /// The password, for [`Open::recipient`], bound to session and lease.
    pub sealed: Sealed,
}

/// A variable that holds a placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    pub placeholder: Placeholder,
    pub credential: CredentialName,
}
