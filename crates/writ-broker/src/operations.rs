//! What operators' commands and their tasks share: one repair at a time, one rotation of a credential at a time.

use crate::credentials::Rotations;

/// Of one broker.
#[derive(Default)]
pub(crate) struct Operations {
    /// One reconciliation at a time.
    pub reconciling: tokio::sync::Mutex<()>,
    pub rotations: Rotations,
}
