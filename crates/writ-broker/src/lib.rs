//! The control plane: who asks, may they, make it, record it.

pub mod keyring;
pub mod seal;
pub mod store;
