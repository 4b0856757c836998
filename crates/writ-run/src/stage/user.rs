//! Who we are in a new user namespace: who we were outside of it.

use std::fs;

use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;
use writ_sys::unshare;

use crate::{Step, StepFault};

/// The ids of this process. They are read before `unshare`: afterwards they are nobody's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    user: u32,
    group: u32,
}

impl Ids {
    pub(super) fn ours() -> Self {
        Self { user: geteuid().as_raw(), group: getegid().as_raw() }
    }

    pub(super) fn is_root(self) -> bool {
        self.user == 0
    }

    /// Enters a new user namespace and `others`, and maps our user and group to themselves in it. Supplementary groups remain, but
    /// cannot be dropped: a group can be what keeps somebody out.
    ///
    /// The maps can be written once, by a process that can be dumped, the group's only after `setgroups` was given up
    /// (`user_namespaces(7)`). Mapping uid 0 needs `CAP_SETFCAP` when the namespace is made.
    pub(super) fn enter(self, step: Step, others: UnshareFlags) -> Result<(), StepFault> {
        unshare(UnshareFlags::NEWUSER | others).map_err(StepFault::at(step, "a user namespace"))?;
        let Self { user, group } = self;
        let files = [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{user} {user} 1\n")),
            ("/proc/self/gid_map", format!("{group} {group} 1\n")),
        ];
        for (file, line) in files {
            fs::write(file, line).map_err(StepFault::at(Step::IdMap, file))?;
        }
        Ok(())
    }
}
