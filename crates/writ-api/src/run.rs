//! The launcher's conversation with the broker, on `run.sock`, for the life of one session.
//!
//! ```text
//!   launcher ── Open + listener ──► broker        the peer is read from the socket, never from the message
//!   launcher ◄── Opened | Refused ─ broker
//!   launcher ◄── Said, Ended ────── broker        lines for the person; the end of the session
//!   launcher ── Closed ───────────► broker        the program has ended; closing the socket says the same
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use writ_core::{CredentialName, Level, Placeholder, Refusal, RoleName, SessionId, SpiffeId, Timestamp, Ttl};

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum FromLauncher {
    /// Opens a session. One listening TCP socket on loopback travels beside it.
    Open(Open),
    /// The program ended with this status, as a shell would print it.
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
    /// SHA-256 of the proxy password, hexadecimal.
    pub password_sha256: String,
    /// Names, not values, of the variables that the launcher would pass on.
    pub variables: Vec<String>,
    /// `writ session open --listen`: no program, the session lives until it is revoked or the socket closes.
    pub by_hand: bool,
}

/// What the broker says.
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
}

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
}

/// A variable that holds a placeholder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: String,
    pub placeholder: Placeholder,
    pub credential: CredentialName,
}
