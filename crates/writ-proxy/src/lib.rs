//! writ-proxy
