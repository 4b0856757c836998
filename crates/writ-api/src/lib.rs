//! writ-api
