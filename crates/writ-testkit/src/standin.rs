//! The stand-in: an HTTPS server that is every provider at once.
//!
//! A [`Standin`] listens on loopback, answers any TLS name with a leaf of its own root, and is strict: the exact
//! real key in the exact header, nothing that only a proxy would add, no placeholder. It runs on a runtime of
//! its own, so tests with and without tokio use the same object, and everything it has is gone when it is
//! dropped. A second port, plain HTTP, answers scripts ([`Standin::control_addr`]).

use std::fs::Permissions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::ca::{Ca, LeafDefect};
use crate::control;
use crate::demand::Demand;
use crate::seen::{Connection, Seen, Shared, State, Violation};
use crate::serve;

/// Worker threads of one stand-in. Two, so that one slow answer never holds another.
const WORKERS: usize = 2;

/// What a stand-in starts with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StandinConfig {
    /// Hosts that demand a key. Every other host answers to anybody.
    pub demands: Vec<Demand>,
    /// Texts that must never arrive.
    pub placeholders: Vec<String>,
    /// What goes wrong from the start.
    pub faults: Faults,
    /// Offers only HTTP/1.1 by ALPN.
    pub http1_only: bool,
    /// Sends no ALPN answer at all, as old servers do. Implies HTTP/1.1.
    pub no_alpn: bool,
}

impl StandinConfig {
    /// One demand more, in the forms that the host's provider documents.
    #[must_use]
    pub fn demand(mut self, host: &str, key: &str) -> Self {
        self.demands.push(Demand::of(host, key));
        self
    }

    /// One demand more, in a form of the test's choice.
    #[must_use]
    pub fn demand_as(mut self, demand: Demand) -> Self {
        self.demands.push(demand);
        self
    }
}

/// What goes wrong at the stand-in, for every request until changed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Milliseconds before each answer.
    pub delay_ms: u64,
    /// Milliseconds between two events of a stream.
    pub event_interval_ms: u64,
    /// Answers every request with this status.
    pub status: Option<u16>,
    /// Resets every new connection before TLS.
    pub refuse_connections: bool,
    /// Accepts, then never answers the TLS handshake.
    pub stall_handshake: bool,
    /// What is wrong with every leaf.
    pub leaf: LeafDefect,
}

/// A running stand-in. Ends when dropped.
pub struct Standin {
    addr: SocketAddr,
    control: SocketAddr,
    ca: Arc<Ca>,
    shared: Arc<Shared>,
    dir: TempDir,
    runtime: Option<Runtime>,
}

impl Standin {
    /// Binds both ports on 127.0.0.1, makes the root, and answers from then on.
    ///
    /// # Errors
    /// When a port, the temporary directory, the runtime or the root cannot be had.
    pub fn start(config: StandinConfig) -> io::Result<Self> {
        let ca = Arc::new(Ca::mint()?);
        let dir = tempfile::Builder::new().prefix("writ-standin-").tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), ca.pem())?;
        // Nothing in it is secret, and a daemon of another account reads it.
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .thread_name("standin")
            .enable_all()
            .build()?;
        let (http1_only, no_alpn) = (config.http1_only, config.no_alpn);
        let shared = Arc::new(Shared::new(State {
            demands: config.demands,
            placeholders: config.placeholders,
            faults: config.faults,
            ..State::default()
        }));
        let tls = serve::tls(&ca, &shared, http1_only, no_alpn)?;
        let guard = runtime.enter();
        let (listener, addr) = listen()?;
        let (plain, control) = listen()?;
        drop(guard);
        runtime.spawn(serve::accept(listener, tls, Arc::clone(&shared)));
        runtime.spawn(control::accept(plain, Arc::clone(&ca), Arc::clone(&shared)));
        Ok(Self { addr, control, ca, shared, dir, runtime: Some(runtime) })
    }

    /// Where it listens for TLS: the `dial` of a target.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where it answers scripts over plain HTTP.
    #[must_use]
    pub fn control_addr(&self) -> SocketAddr {
        self.control
    }

    /// The root certificate in a file: the `tls_ca` of a target.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The authority, for other servers that are to be trusted with it.
    #[must_use]
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The private directory of this stand-in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Every request so far, in order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.read(|s| s.seen.clone())
    }

    /// Every connection so far, in order of acceptance.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.shared.read(|s| s.connections.clone())
    }

    /// How many connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.read(open)
    }

    /// Every violation so far, with the path of its request.
    #[must_use]
    pub fn violations(&self) -> Vec<(String, Violation)> {
        self.shared.read(|s| {
            let of = |seen: &Seen| {
                let path = seen.path.clone();
                seen.violations.clone().into_iter().map(move |v| (path.clone(), v))
            };
            s.seen.iter().flat_map(of).collect()
        })
    }

    /// How many events all streams have sent together.
    #[must_use]
    pub fn events_sent(&self) -> u64 {
        self.shared.read(|s| s.events_sent)
    }

    /// Blocks until `done` holds of the requests so far; false when `patience` ran out first.
    #[must_use]
    pub fn wait_seen(&self, patience: Duration, done: impl Fn(&[Seen]) -> bool) -> bool {
        self.shared.wait(patience, |s| done(&s.seen))
    }

    /// Blocks until `done` holds of the connections so far; false when `patience` ran out first.
    #[must_use]
    pub fn wait_connections(&self, patience: Duration, done: impl Fn(&[Connection]) -> bool) -> bool {
        self.shared.wait(patience, |s| done(&s.connections))
    }

    /// Blocks until no connection is open; false when `patience` ran out first.
    #[must_use]
    pub fn wait_closed(&self, patience: Duration) -> bool {
        self.shared.wait(patience, |s| open(s) == 0)
    }

    /// Blocks until streams have sent `events` together; false when `patience` ran out first.
    #[must_use]
    pub fn wait_events(&self, patience: Duration, events: u64) -> bool {
        self.shared.wait(patience, |s| s.events_sent >= events)
    }

    /// Opens the gate `name`, which a stream or an answer may wait for.
    pub fn open_gate(&self, name: &str) {
        self.shared.change(|s| s.gates.insert(name.to_owned()));
    }

    /// Replaces the faults, for requests and connections that come from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.change(|s| s.faults = faults);
    }

    /// Adds a text that must never arrive.
    pub fn add_placeholder(&self, placeholder: &str) {
        self.shared.change(|s| s.placeholders.push(placeholder.to_owned()));
    }

    /// Adds a demand, or replaces the one of its host, as after a rotation upstream.
    pub fn set_demand(&self, demand: Demand) {
        self.shared.change(|s| {
            s.demands.retain(|d| d.host != demand.host);
            s.demands.push(demand);
        });
    }

    /// Closes every open connection, with an orderly end (`reset = false`) or a TCP reset.
    pub fn end_connections(&self, reset: bool) {
        self.shared.change(|s| {
            for abort in s.aborts.values() {
                abort.reset.store(reset, Ordering::Release);
                abort.notify.notify_one();
            }
        });
    }

    /// Forgets what was seen; connections and demands stay.
    pub fn forget(&self) {
        self.shared.change(|s| {
            s.seen.clear();
            s.events_sent = 0;
        });
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A drop inside of another runtime must not block.
            runtime.shutdown_background();
        }
    }
}

fn listen() -> io::Result<(tokio::net::TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    Ok((tokio::net::TcpListener::from_std(listener)?, addr))
}

fn open(state: &State) -> usize {
    state.connections.iter().filter(|c| c.open).count()
}
