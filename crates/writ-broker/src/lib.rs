//! The control plane: who asks, may they, make it, record it.
//!
//! [`broker`] is the page to read first. The only crate that sees the store; the data plane reaches it through
//! [`Brokerage`](writ_core::Brokerage) alone.

pub mod broker;
pub mod config;
mod confirm;
mod credentials;
mod deadline;
mod door;
mod elsewhere;
mod fault;
pub mod keyring;
mod leases;
mod operations;
mod originals;
pub mod policy;
mod reconcile;
mod records;
pub mod registration;
mod rules;
pub mod seal;
mod seen;
mod serve;
mod sessions;
mod settling;
mod start;
pub mod store;
mod tasks;
#[cfg(test)]
mod tests;
mod trust;
mod values;
mod watch;

pub use broker::{Broker, Random};
pub use door::DoorFault;
pub use leases::Engines;
pub use start::{BrokerConfig, StartFault};
