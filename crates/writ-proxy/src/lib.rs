//! The data plane of writ: an intercepting proxy that puts credentials on the wire for agents that do not hold them.
//!
//! ```text
//!   agent ──CONNECT──► identify ─┐
//!         ──captured─► capture ──┴─► lead ──TLS──► tunnel ──each request──► serve
//!         ──asks────► dns          └─ untouched ─► relay
//!                                                                   │ route → acquire → use → inject → upstream → scrub → record
//!   broker ──watch──► live: cuts what was revoked                   ▼
//!                                                            the service, and nothing else
//! ```
//!
//! [`serve`](serve) is the page to read first: its lines are the stages, and each stage is the module of that name. Everything that
//! costs time happens once per connection or once per lease; a request touches memory that its worker owns, and one atomic of
//! its lease.
//!
//! Each worker is one thread with a runtime of its own and its own upstream connections, so no lock is shared between workers on the
//! way of a request. A control thread accepts connections, hands them round, and listens to the broker.
//!
//! Absent on purpose: keys at rest and the store (the broker's), policy (a lease carries its scope), following redirects, caching,
//! WebSockets (refused with 426, which the agents at hand answer by falling back to plain requests), HTTP/3. This crate never
//! links `writ-broker`.

mod acquire;
mod address;
mod assigned;
mod body;
mod ca;
mod capture;
mod dial;
mod dns;
mod door;
mod headers;
mod hello;
mod identify;
mod inflate;
mod inject;
mod kept;
mod lead;
mod lease;
mod live;
mod names;
mod placeholder;
mod pool;
mod proxy;
mod record;
mod refuse;
mod relay;
mod route;
mod scrub;
mod serve;
mod session;
mod tunnel;
mod upstream;
mod use_;

pub use dial::{Names, SystemNames};
pub use inject::INJECTORS;
pub use proxy::{Proxy, ProxyConfig, Roots, RootsFault, StartFault};
