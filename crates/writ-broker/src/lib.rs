//! The control plane: who asks, may they, make it, record it.

pub mod store;
