//! The level `restricted`: for machines on which namespaces are refused (Docker's default profile, Ubuntu's AppArmor).
//!
//! ```text
//!   plan()   pure: facts and wishes ─► RestrictedPlan             what may be opened; where HOME is; the proxy's address
//!   start()  H: a fresh home ─► stage ─► Landlock, seccomp ─► exec, with a supervisor in H that judges and makes each connect
//! ```
//!
//! | held | by |
//! |---|---|
//! | files outside of the plan: writ's state, credentials, start-up files | Landlock's allow-list; a fresh `HOME` |
//! | other processes: memory, environment, descriptors, tracing, signals | Landlock's domain |
//! | other hosts and ports, the host's own services on loopback, its Unix sockets | the supervisor: the proxy, and the session's own servers |
//! | UDP, raw sockets, Multipath TCP, Fast Open, io_uring, source routes | seccomp |
//! | mounting, devices, for uid 0 too | no capability, and Landlock |
//!
//! What is *not* held, and is said so by `doctor`: names, sizes and dates of files everywhere (`stat`) and `chmod` of
//! one's own; the command lines of other processes; `/dev/shm`, which is shared. Programs must know the proxy
//! (`HTTPS_PROXY`): nothing is captured, and names are not resolved. A process that makes itself undumpable cannot
//! connect, since what it asks for cannot be read.
//!
//! Absent: Landlock before version 6, where signals leave: such a machine is `advisory`.

mod facts;
mod filter;
mod judge;
pub(crate) mod landlock;
mod orphans;
mod plan;
mod probe;
mod servers;
pub(crate) mod stage;
mod start;
mod supervisor;

pub use facts::Facts;
pub use plan::{Access, Allowed, Asked, PlanFault, RestrictedPlan, plan};
pub use probe::probe;
pub use start::start;
pub use supervisor::Supervisor;
pub use writ_sys::landlock_abi;
