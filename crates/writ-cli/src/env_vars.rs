//! Every variable that writ reads, in one place. Only `main` and what it calls at start reads them.

/// Moves configuration, state and sockets under one directory.
pub const WRIT_HOME: &str = "WRIT_HOME";
/// Seconds without a session or a connection after which the daemon ends; 900 by default.
pub const WRIT_IDLE_SECONDS: &str = "WRIT_IDLE_SECONDS";
/// What the daemon logs, as `tracing` filters are written; `info` by default.
pub const WRIT_LOG: &str = "WRIT_LOG";
/// Where configuration, state and sockets are without `WRIT_HOME` (XDG Base Directory Specification).
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
pub const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
pub const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
pub const HOME: &str = "HOME";
/// Where programs are looked for.
pub const PATH: &str = "PATH";

/// Of the test build `writ-faults` alone, see `faults.rs`.
#[cfg(feature = "fault-points")]
pub const WRIT_FAULT: &str = "WRIT_FAULT";
#[cfg(feature = "fault-points")]
pub const WRIT_FAULT_SEED: &str = "WRIT_FAULT_SEED";
#[cfg(feature = "fault-points")]
pub const WRIT_FAULT_SPAN: &str = "WRIT_FAULT_SPAN";
#[cfg(feature = "fault-points")]
pub const WRIT_FAULT_MARK: &str = "WRIT_FAULT_MARK";
#[cfg(feature = "fault-points")]
pub const WRIT_FAULT_REVERSED: &str = "WRIT_FAULT_REVERSED";

/// What the daemon keeps of the environment that it was started in. It must not hold a key for hours because the first
/// command that needed it happened to.
pub const DAEMON_KEEPS: &[&str] = &[
    WRIT_HOME,
    WRIT_IDLE_SECONDS,
    WRIT_LOG,
    XDG_CONFIG_HOME,
    XDG_STATE_HOME,
    XDG_RUNTIME_DIR,
    HOME,
    PATH,
    "USER",
    "LOGNAME",
    "LANG",
    "LC_ALL",
    "TZ",
    #[cfg(feature = "fault-points")]
    WRIT_FAULT,
    #[cfg(feature = "fault-points")]
    WRIT_FAULT_SEED,
    #[cfg(feature = "fault-points")]
    WRIT_FAULT_SPAN,
    #[cfg(feature = "fault-points")]
    WRIT_FAULT_MARK,
    #[cfg(feature = "fault-points")]
    WRIT_FAULT_REVERSED,
];
