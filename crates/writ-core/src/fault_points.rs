//! Named places where a test build of the daemon can be made to die.
//!
//! ```text
//!   fault_point!("issue.opened");                       dies or stands still here, if it was told to
//!   fault_point!("issue.opened", Err(fault));           or returns this
//! ```
//!
//! A lease's promise is kept or broken between two instructions, so a test has to be able to stop the real process at each of
//! them. The macro is nothing without the feature `fault-points`, which no product is built with. What happens at a point is
//! for whoever installs the hook to say: this crate neither kills nor reads the environment.

/// A place where a test build can be made to die; nothing at all in every other build. The name stands in
/// `FAULT_POINTS`, and in one place of the source.
#[cfg(not(feature = "fault-points"))]
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {};
    ($name:literal, $instead:expr) => {};
}

/// A place where the process can be made to die, or to return `$instead`. The name stands in [`FAULT_POINTS`], and in one
/// place of the source.
#[cfg(feature = "fault-points")]
#[macro_export]
macro_rules! fault_point {
    ($name:literal) => {
        $crate::fault_points::hit($name);
    };
    ($name:literal, $instead:expr) => {
        if $crate::fault_points::hit($name) {
            return $instead;
        }
    };
}

/// Every point, by name.
#[cfg(any(test, feature = "fault-points"))]
pub const FAULT_POINTS: &[&str] = &[
    "end.durable",
    "end.marked",
    "end.told",
    "issue.activated",
    "issue.landed",
    "issue.minted",
    "issue.opened",
    "issue.planned",
    "recovery.leases",
    "recovery.sessions",
    "renew.authorized",
    "renew.extended",
    "renew.landed",
    "renew.put-back",
    "renew.stored",
    "session.ended",
    "session.opened",
    "settle.claimed",
    "settle.ended",
    "settle.put-off",
    "settle.revoked",
];

#[cfg(feature = "fault-points")]
pub use hook::{Hook, hit, install, is_reversed};

#[cfg(feature = "fault-points")]
mod hook {
    use std::sync::OnceLock;

    /// What a test build does.
    pub struct Hook {
        /// Called at each point with its name. It may not return; true makes the point return its fault, where it has one.
        pub hit: Box<dyn Fn(&'static str) -> bool + Send + Sync>,
        /// The store keeps an opened lease to itself until it is active, as if effect came before intent.
        pub reversed: bool,
    }

    static HOOK: OnceLock<Hook> = OnceLock::new();

    /// Installs the hook. A second one changes nothing.
    pub fn install(hook: Hook) {
        let _ = HOOK.set(hook);
    }

    /// The process is at the point of that name.
    pub fn hit(name: &'static str) -> bool {
        HOOK.get().is_some_and(|hook| (hook.hit)(name))
    }

    /// Whether intent comes after effect, so that a test of crashes can show that it would notice.
    pub fn is_reversed() -> bool {
        HOOK.get().is_some_and(|hook| hook.reversed)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::FAULT_POINTS;

    /// The names in `fault_point!("…` of a source.
    fn named(source: &str) -> Vec<&str> {
        let after = source.split("fault_point!(\"").skip(1);
        after.filter_map(|text| text.split_once('"').map(|(name, _)| name)).collect()
    }

    fn count(directory: &Path, found: &mut BTreeMap<String, usize>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                count(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("fault_points.rs") {
                for name in named(&fs::read_to_string(&path).unwrap()) {
                    *found.entry(name.to_owned()).or_default() += 1;
                }
            }
        }
    }

    #[test]
    fn every_point_is_registered_and_is_in_one_place() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(crates).unwrap().map(Result::unwrap) {
            let source = entry.path().join("src");
            if source.is_dir() {
                count(&source, &mut found);
            }
        }
        let twice: Vec<_> = found.iter().filter(|(_, times)| **times != 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
        let found: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(found, FAULT_POINTS, "the registry has the names of the source, in order");
    }

    #[test]
    fn names_are_found_however_they_are_written() {
        let source = "fault_point!(\"a.b\"); x; fault_point!(\"c\", Err(())); fault_point(\"no\")";
        assert_eq!(named(source), ["a.b", "c"]);
    }
}
