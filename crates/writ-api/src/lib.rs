//! What crosses a process: framing, the launcher's and the operator's messages, sealing, and the [`Brokerage`] over a socket.
//!
//! ```text
//!   operator ── control.sock ──► broker      control.rs   ask and answer, one frame each
//!   launcher ── run.sock ──────► broker      run.rs       a conversation for the life of a session, descriptors beside
//!   data plane ── socket pair ─► broker      link.rs      Brokerage, request and response by number
//! ```
//!
//! Every frame is a length and JSON ([`frame`]). The first frame of a conversation names the version. Absent: HTTP, which
//! `writ serve` will bring.
//!
//! [`Brokerage`]: writ_core::Brokerage

pub mod control;
pub mod frame;
pub mod link;
pub mod run;
pub mod seal;

/// The version of the wire. Both ends must name the same.
pub const VERSION: u32 = 1;
