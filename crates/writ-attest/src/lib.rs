//! writ-attest
