//! The daemon: broker and proxy in one process, for one person.
//!
//! ```text
//!   lock ─► seal and store ─► broker ─► proxy ─► sockets ─► "ready" ─► idle, told to stop, or a signal ─► everything ends
//! ```
//!
//! It is this same binary behind a hidden first argument, in a session of its own, with an environment that holds no key. It
//! holds its lock for its life, so there is one writer of the store. With a passphrase seal it starts locked, and the
//! proxy comes with the key.

use std::{
    env, fs, io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::UnixListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;
use writ_broker::{
    Broker, BrokerConfig, Engines,
    config::{Config, ConfigFault, SealEntry},
    keyring::Installation,
    seal::SealPlaces,
};
use writ_core::{Clock, Refusal, RefusalKind, Timestamp};
use writ_proxy::{Proxy, ProxyConfig, Roots, SystemNames};

use crate::{client::Readiness, env_vars, fault::Fault, output, paths::Paths, run};

/// The hidden first argument; the configuration's path follows.
pub const STAGE: &str = "__daemon";

/// Without a session or a connection for this long, the daemon ends.
const IDLE: Duration = Duration::from_secs(15 * 60);
/// Threads of the broker. The proxy has its own, one a core.
const BROKER_THREADS: usize = 2;
/// Workers of the proxy at the most.
const WORKERS_MAX: usize = 16;

/// Runs the daemon if this process is it.
pub fn stage() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != STAGE {
        return None;
    }
    let config = arguments.next().map(PathBuf::from);
    match Paths::resolve(config).and_then(|paths| run(&paths)) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(fault) => {
            tracing::error!(next = fault.next, "{}", fault.what);
            let refusal = Refusal::new(fault.kind.unwrap_or(RefusalKind::Internal), fault.what, fault.next);
            output::readiness(&Readiness::Failed(refusal));
            Some(ExitCode::FAILURE)
        }
    }
}

fn run(paths: &Paths) -> Result<(), Fault> {
    let hardening = writ_sys::harden_process();
    raise_descriptor_limit();
    let filter = EnvFilter::try_from_env(env_vars::WRIT_LOG).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    if !hardening.holds() {
        tracing::warn!(?hardening, "this process could not be closed to debuggers and core dumps");
    }
    paths.prepare()?;
    let failed = |error: io::Error| Fault::new(format!("{}: {error}", paths.lock().display()), "writ doctor");
    let Some(locks) = Locks::take(paths)? else {
        output::readiness(&Readiness::Busy);
        return Ok(());
    };
    let runtime =
        Builder::new_multi_thread().worker_threads(BROKER_THREADS).enable_all().build().map_err(failed)?;
    let served = runtime.block_on(serve(paths));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(locks);
    served
}

/// Every connection of every session is a descriptor of ours. The customary soft limit of 1,024 is what one session may have, so that
/// one agent could leave none for the others, the store and the log.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// What admits one daemon to the sockets and one to the state. They are two, because the runtime directory depends on where writ
/// was called (`XDG_RUNTIME_DIR` is not set everywhere), and a second broker would end the leases of the first behind its back.
#[derive(Debug)]
struct Locks {
    /// Let go of first, so that whoever gets the other finds this one free.
    _state: fs::File,
    _sockets: fs::File,
}

impl Locks {
    /// `None` when another daemon serves the same sockets.
    fn take(paths: &Paths) -> Result<Option<Self>, Fault> {
        let [state, sockets] = [paths.state_lock(), paths.lock()].map(|path| {
            let failed = |error: io::Error| Fault::new(format!("{}: {error}", path.display()), "writ doctor");
            let mut options = fs::OpenOptions::new();
            let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
            file.map_err(failed)
        });
        let (state, sockets) = (state?, sockets?);
        let failed = |error: io::Error| Fault::new(format!("the daemon's lock: {error}"), "writ doctor");
        if !writ_sys::flock_exclusive_nonblocking(&sockets).map_err(failed)? {
            return Ok(None);
        }
        if !writ_sys::flock_exclusive_nonblocking(&state).map_err(failed)? {
            let what = format!(
                "another daemon works on {} and has its sockets elsewhere than {}",
                paths.state.display(),
                paths.run.display()
            );
            return Err(Fault::new(what, "set XDG_RUNTIME_DIR as it was set there, or stop that one first"));
        }
        Ok(Some(Self { _state: state, _sockets: sockets }))
    }
}

async fn serve(paths: &Paths) -> Result<(), Fault> {
    remove_leftovers(&paths.run);
    let broker = broker(paths).await?;
    let proxy = Proxies::default();
    let unlocked = tokio::spawn(proxy.clone().start_when_unlocked(broker.clone()));
    if !broker.is_locked() {
        unlocked.await.map_err(|error| Fault::new(error.to_string(), "writ doctor"))??;
    }
    let (control, run) = (bind(&paths.control_socket())?, bind(&paths.run_socket())?);
    let served =
        [tokio::spawn(control_task(broker.clone(), control)), tokio::spawn(run_task(broker.clone(), run))];
    output::readiness(&Readiness::Ready);
    tracing::info!(pid = std::process::id(), config = %paths.config.display(), "ready");

    let why = until_the_end(&broker).await;
    tracing::info!(why, "ending");
    // Nobody new: the sockets go first, so that the next command starts the next daemon.
    served.iter().for_each(tokio::task::JoinHandle::abort);
    let _ = fs::remove_file(paths.control_socket());
    let _ = fs::remove_file(paths.run_socket());
    broker.stop().await;
    proxy.stop().await;
    Ok(())
}

async fn control_task(broker: Arc<Broker>, listener: UnixListener) {
    broker.serve_control(listener).await;
}

async fn run_task(broker: Arc<Broker>, listener: UnixListener) {
    broker.serve_run(listener).await;
}

async fn until_the_end(broker: &Broker) -> &'static str {
    let seconds = env::var(env_vars::WRIT_IDLE_SECONDS).ok().and_then(|text| text.parse().ok());
    let idle = seconds.map_or(IDLE, Duration::from_secs);
    tokio::select! {
        () = broker.until_stopped() => "told to stop",
        () = broker.until_idle(idle) => "idle",
        () = terminated() => "a signal",
    }
}

async fn terminated() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    let Ok(mut interrupt) = signal(SignalKind::interrupt()) else { return std::future::pending().await };
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
}

async fn broker(paths: &Paths) -> Result<Arc<Broker>, Fault> {
    let (seal, store) = match Config::load(&paths.config) {
        Ok(config) => (config.seal, config.store),
        Err(ConfigFault::Missing(_)) => (SealEntry::default(), None),
        Err(fault) => return Err(Fault::new(fault.to_string(), "mend the configuration")),
    };
    let mut places = SealPlaces::within(&paths.state);
    if let Some(path) = seal.path {
        places.key_file = path;
    }
    let kind = seal.kind.as_str();
    let installation = match store {
        Some(place) => Installation::open_shared(&paths.state, kind, &places, &place).await,
        None => Installation::open_with(&paths.state, kind, &places).await,
    };
    let installation =
        installation.map_err(|fault| Fault::new(fault.to_string(), "mend that, then try again"))?;
    let config = BrokerConfig {
        config: paths.config.clone(),
        audit: paths.audit(),
        installation,
        engines: Engines::default(),
        clock: Arc::new(SystemClock),
        random: Arc::new(|bytes: &mut [u8]| aws_lc_rs::rand::fill(bytes).is_ok()),
    };
    Broker::start(config).await.map_err(|fault| Fault::new(fault.to_string(), "writ doctor"))
}

/// The proxy, once the seal is open.
#[derive(Clone, Default)]
struct Proxies {
    running: Arc<Mutex<Option<Running>>>,
}

/// A proxy, and the audit streams that are to be closed after it.
type Running = (Arc<Proxy>, Vec<writ_audit::Stream>);

impl Proxies {
    async fn start_when_unlocked(self, broker: Arc<Broker>) -> Result<(), Fault> {
        broker.until_unlocked().await;
        let failed = |what: String| {
            Fault::new(format!("the proxy: {what}"), "look at daemon.log in the state directory")
        };
        let started = tokio::task::spawn_blocking(move || {
            let workers = std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX);
            let streams = (0..workers).map(|worker| broker.audit_stream(&format!("proxy-{worker}")));
            let streams: Vec<_> =
                streams.collect::<Result<_, _>>().map_err(|fault| failed(fault.to_string()))?;
            let config = ProxyConfig {
                workers,
                brokerage: broker.clone(),
                audit: streams.clone(),
                clock: Arc::new(SystemClock),
                roots: Roots::system(),
                names: Arc::new(SystemNames),
            };
            let proxy = Arc::new(Proxy::start(config).map_err(|fault| failed(fault.to_string()))?);
            broker.set_data_plane(proxy.clone());
            Ok::<_, Fault>((proxy, streams))
        });
        let started = started.await.map_err(|error| failed(error.to_string()))??;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).replace(started);
        Ok(())
    }

    async fn stop(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((proxy, streams)) = running else { return };
        let stopped = tokio::task::spawn_blocking(move || {
            proxy.stop();
            for stream in streams {
                if let Err(fault) = stream.close() {
                    tracing::warn!(%fault, "an audit stream was not closed cleanly");
                }
            }
        });
        let _ = stopped.await;
    }
}

/// A socket that appears only when it listens, for its owner alone.
fn bind(path: &Path) -> Result<UnixListener, Fault> {
    let failed = |error: io::Error| Fault::new(format!("{}: {error}", path.display()), "writ doctor");
    let early = path.with_extension("early");
    let _ = fs::remove_file(&early);
    let listener = UnixListener::bind(&early).map_err(failed)?;
    fs::set_permissions(&early, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    fs::rename(&early, path).map_err(failed)?;
    Ok(listener)
}

/// Bundles and logins of sessions whose launcher was killed. One that lives has locked its own, and may go on with its session here.
fn remove_leftovers(run: &Path) {
    let Ok(entries) = fs::read_dir(run) else { return };
    let ours = |entry: &fs::DirEntry| {
        let login = entry.file_name().to_str().is_some_and(|name| name.starts_with(run::DIRECTORY_PREFIX));
        login || entry.path().extension().is_some_and(|extension| extension == "pem")
    };
    for entry in entries.flatten().filter(ours) {
        if fs::File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let path = entry.path();
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// The machine's clocks.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn boottime(&self) -> Duration {
        writ_sys::boottime()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_one_daemon_whatever_the_runtime_directory() {
        let home = tempfile::tempdir().unwrap();
        let paths = |run: &str| Paths {
            config: home.path().join("writ.toml"),
            state: home.path().join("state"),
            run: home.path().join(run),
        };
        for run in ["one", "other"] {
            paths(run).prepare().unwrap();
        }
        let first = Locks::take(&paths("one")).unwrap().unwrap();
        assert!(Locks::take(&paths("one")).unwrap().is_none(), "the same sockets");
        assert!(Locks::take(&paths("other")).is_err(), "the same state");
        drop(first);
        assert!(Locks::take(&paths("other")).unwrap().is_some());
    }
}
