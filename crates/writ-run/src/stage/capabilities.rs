//! What each stage may do in its user namespace (`capabilities(7)`).
//!
//! | stage | capabilities |
//! |---|---|
//! | S | all, in the first namespace, until init runs; then none |
//! | I | `CAP_SYS_ADMIN` until it has entered the view; then none |
//! | A | none, in the second namespace; uid 0 keeps `CAP_SETFCAP`, without which it could map no uid 0 in namespaces of its own |

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    },
};

/// More than there are: the set is one word.
const CAPABILITIES_MAX: u32 = 64;

/// Lets the next program that is executed have `CAP_SYS_ADMIN`: an ordinary user's loses all others.
pub(super) fn hand_on_administration() -> Result<(), Errno> {
    let mut sets = capabilities(None)?;
    sets.inheritable |= CapabilitySet::SYS_ADMIN;
    set_capabilities(None, sets)?;
    configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, true)
}

/// Gives all up. What is executed afterwards has none, unless it is uid 0's: then what the bounding set leaves.
pub(super) fn drop_all() -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    keep(CapabilitySet::empty())
}

/// Gives up all but those in `kept`, for what is executed afterwards as well, for good.
pub(super) fn drop_for_good(kept: CapabilitySet) -> Result<(), Errno> {
    for number in 0..CAPABILITIES_MAX {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // The kernel knows no higher ones.
            Err(Errno::INVAL) => break,
            other => other?,
        }
    }
    clear_ambient_capability_set()?;
    keep(kept)
}

fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
}
