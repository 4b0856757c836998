//! The control plane: who asks, may they, make it, record it.

pub mod config;
pub mod keyring;
pub mod policy;
pub mod registration;
pub mod seal;
pub mod store;
