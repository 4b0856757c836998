//! What a stand-in saw: requests, connections, violations, and the waiting for them.
//!
//! Tests assert on order and outcome, never on times, so every wait here is for a condition and the deadline
//! is only the point where a test gives up.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::{Notify, watch};

use crate::demand::{Demand, Presented};
use crate::standin::Faults;

/// One request as the stand-in received it, recorded before it is judged.
///
/// Holds header values as they came, the real key among them: never print it where a canary must not appear.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// Counts from 0 in order of arrival.
    pub id: usize,
    /// Number of the TCP connection, as in [`Connection::id`].
    pub connection: u64,
    /// Name that the TLS client asked for.
    pub sni: Option<String>,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Request method.
    pub method: String,
    /// `:authority` or `Host`, as sent.
    pub host: String,
    /// Path, as sent.
    pub path: String,
    /// Query without the question mark.
    pub query: Option<String>,
    /// Every header line in order, names lower case, values with bytes outside UTF-8 replaced.
    pub headers: Vec<(String, String)>,
    /// Bytes of the body; 0 until it was read.
    pub body_len: u64,
    /// SHA-256 of the body, hex; absent until it was read, and for bodies that are piped.
    pub body_sha256: Option<String>,
    /// What credential the request carried.
    pub presented: Presented,
    /// What is wrong with the request, whatever it was answered.
    pub violations: Vec<Violation>,
}

impl Seen {
    /// The value of the first header `name` (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Why a request must never have left a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Violation {
    /// A header that only a proxy adds or consumes.
    ProxyHeader {
        /// Its name.
        name: String,
    },
    /// A placeholder in a header or in the request target.
    Placeholder {
        /// `target`, or the name of the header.
        place: String,
    },
    /// A placeholder in the body. Recorded only: bodies are the program's own.
    PlaceholderInBody,
    /// More than one header that authenticates.
    DuplicateCredential {
        /// Their names, in order.
        names: Vec<String>,
    },
    /// The key of another host.
    ForeignKey {
        /// The host whose key it is.
        owner: String,
    },
    /// The key of this host in the query, where logs keep it.
    KeyInQuery,
    /// `Host` or `:authority` is not the name of the TLS handshake, or there are two.
    HostMismatch {
        /// The name of the handshake.
        sni: String,
        /// The name of the request.
        host: String,
    },
}

impl Violation {
    /// Whether the request is answered 400 for it.
    pub(crate) fn refuses(&self) -> bool {
        !matches!(self, Self::PlaceholderInBody)
    }
}

/// One TCP connection.
#[derive(Debug, Clone, Serialize)]
pub struct Connection {
    /// Counts from 0 in order of acceptance.
    pub id: u64,
    /// Name that the TLS client asked for, once the handshake is done.
    pub sni: Option<String>,
    /// Protocol that ALPN chose.
    pub alpn: Option<String>,
    /// Whether the handshake was completed.
    pub established: bool,
    /// Whether it is still open.
    pub open: bool,
}

/// How a connection is ended from outside of its own task.
#[derive(Default)]
pub(crate) struct Abort {
    pub(crate) notify: Notify,
    pub(crate) reset: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) seen: Vec<Seen>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) aborts: BTreeMap<u64, Arc<Abort>>,
    pub(crate) demands: Vec<Demand>,
    pub(crate) placeholders: Vec<String>,
    pub(crate) faults: Faults,
    pub(crate) gates: HashSet<String>,
    pub(crate) events_sent: u64,
}

/// The state of one stand-in with the two ways to wait for a change of it.
pub(crate) struct Shared {
    state: Mutex<State>,
    condvar: Condvar,
    version: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), condvar: Condvar::new(), version: watch::Sender::new(0) }
    }

    /// Reads the state.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and wakes everybody who waits.
    pub(crate) fn change<T>(&self, edit: impl FnOnce(&mut State) -> T) -> T {
        let out = edit(&mut self.lock());
        self.condvar.notify_all();
        self.version.send_modify(|v| *v += 1);
        out
    }

    /// Blocks until `done` holds; false when `patience` ran out first.
    pub(crate) fn wait(&self, patience: Duration, done: impl Fn(&State) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.condvar.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits, inside of the stand-in's runtime, until `done` holds.
    pub(crate) async fn until(&self, done: impl Fn(&State) -> bool) {
        let mut version = self.version.subscribe();
        while !self.read(&done) {
            if version.changed().await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
