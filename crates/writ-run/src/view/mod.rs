//! What the agent sees of the file system: an allow-list, built by descriptors.

use serde::{Deserialize, Serialize};

/// The whole view, planned. Only this module knows what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {}
