//! At which level programs run here, and what would raise it.
//!
//! Whether a level works is found by doing it all, not by looking at settings: an `unshare` alone can succeed where the mounts
//! behind it fail. Settings are looked at afterwards, to say which of them is in the way.

use std::{fs, path::Path};

use writ_core::Level;
use writ_run::{Step, StepFault, Wishes, view};

use super::Check;
use crate::paths::{self, Paths};

/// What this machine says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    /// `kernel.apparmor_restrict_unprivileged_userns`: Ubuntu's restriction.
    apparmor_restricts: bool,
    /// `kernel.unprivileged_userns_clone` is 0: Debian's older switch.
    userns_off: bool,
    /// `user.max_user_namespaces` is 0.
    userns_none: bool,
    container: Option<Container>,
    /// This process has a system call filter already.
    filtered: bool,
    /// The version of Landlock's interface.
    landlock: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    Docker,
    Podman,
}

/// Landlock's version that `restricted` needs: it keeps signals and abstract sockets inside (`landlock(7)`).
const LANDLOCK_MIN: u32 = 6;

impl Machine {
    fn look() -> Self {
        let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|text| text.trim() == value);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let container = [("/.dockerenv", Container::Docker), ("/run/.containerenv", Container::Podman)];
        Self {
            apparmor_restricts: is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
            userns_off: is("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            userns_none: is("/proc/sys/user/max_user_namespaces", "0"),
            container: container.iter().find(|(path, _)| Path::new(path).exists()).map(|(_, one)| *one),
            filtered: status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])),
            landlock: landlock(),
        }
    }
}

#[cfg(target_os = "linux")]
fn landlock() -> Option<u32> {
    writ_sys::landlock_abi()
}

#[cfg(not(target_os = "linux"))]
fn landlock() -> Option<u32> {
    None
}

/// The level, and below `confined` why it is not higher.
pub(super) fn check(paths: &Paths) -> Vec<Check> {
    judge(confined(paths), || restricted(paths), Machine::look())
}

/// A whole launch of a program that does nothing.
///
/// # Errors
/// The step that this machine refuses.
pub fn confined(paths: &Paths) -> Result<(), StepFault> {
    let wishes = Wishes {
        directory: "/".into(),
        caches: Vec::new(),
        readable: Vec::new(),
        hidden: [&paths.state, &paths.run].map(|path| path.clone().into()).into(),
        ca_pem: String::new(),
        etc: Vec::new(),
        home: Vec::new(),
        replacements: Vec::new(),
        delivered: Vec::new(),
        read_only: Vec::new(),
        layers: None,
    };
    let facts = view::Facts::gather(view::Host::look()?, &wishes)?;
    let planned =
        view::plan(&facts, &wishes).map_err(|fault| StepFault::new(Step::Tree, fault.to_string(), 0))?;
    writ_run::probe(planned.view)
}

/// The same at the level below.
fn restricted(paths: &Paths) -> Result<(), StepFault> {
    paths::private_directory(&paths.run)
        .map_err(StepFault::at(Step::Home, paths.run.display().to_string()))?;
    writ_run::restricted::probe(&paths.run)
}

fn judge(
    confined: Result<(), StepFault>,
    restricted: impl FnOnce() -> Result<(), StepFault>,
    machine: Machine,
) -> Vec<Check> {
    let fault = match confined {
        Ok(()) => {
            let what = "programs run at the level confined: a network, a view of the files and a process tree of their own";
            return vec![Check::good(what)];
        }
        Err(fault) => fault,
    };
    let restricted = restricted();
    let (level, reach) = match restricted {
        Ok(()) => (
            Level::Restricted,
            "they see your processes and the names of your files, but open only what they need",
        ),
        Err(_) => (Level::Advisory, "they run as you, and could read writ's state and your files"),
    };
    let name = if level == Level::Restricted { "restricted" } else { "advisory" };
    let mut checks = vec![
        Check::warning(format!("programs run at the level {name}: {reach}"), next(level)),
        Check::warning(format!("the level confined is not possible here: {fault}"), raise(&fault, machine)),
    ];
    if let Err(fault) = restricted {
        let what = format!("the level restricted is not possible here: {fault}");
        checks.push(Check::warning(what, raise_restricted(machine)));
    }
    checks
}

/// What would let the level restricted succeed.
fn raise_restricted(machine: Machine) -> &'static str {
    match machine.landlock {
        None => "boot with lsm=landlock,… on a kernel that has it (Linux 6.12 or newer)",
        Some(abi) if abi < LANDLOCK_MIN => "use Linux 6.12 or newer",
        Some(_) if machine.filtered => {
            "a filter of system calls stands around this shell: run writ outside of it"
        }
        Some(_) => "report it with this line: it is not known what is in the way",
    }
}

fn next(level: Level) -> &'static str {
    match level {
        Level::Advisory => "run agents that you do not trust as another user, or raise the level",
        _ => "raise the level where you do not trust the program",
    }
}

/// What would let the step succeed.
fn raise(fault: &StepFault, machine: Machine) -> String {
    if let Some(container) = machine.container {
        return in_container(fault, container);
    }
    if machine.userns_none {
        return "sudo sysctl -w user.max_user_namespaces=15000 (to keep it: a file in /etc/sysctl.d)"
            .to_owned();
    }
    if machine.userns_off {
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1 (to keep it: a file in /etc/sysctl.d)"
            .to_owned();
    }
    if machine.apparmor_restricts {
        return apparmor();
    }
    match fault.step {
        Step::Unshare | Step::IdMap if machine.filtered => {
            "a filter of system calls stands around this shell: run writ outside of it".to_owned()
        }
        Step::Unshare => "use a kernel with user namespaces (CONFIG_USER_NS)".to_owned(),
        Step::Proc => "unmount what covers parts of /proc, or run writ outside of what covered it".to_owned(),
        _ => "report it with this line: it is not known what is in the way".to_owned(),
    }
}

fn in_container(fault: &StepFault, container: Container) -> String {
    let name = match container {
        Container::Docker => "docker",
        Container::Podman => "podman",
    };
    let unmask = match container {
        Container::Docker => "--security-opt systempaths=unconfined",
        Container::Podman => "--security-opt unmask=ALL",
    };
    match fault.step {
        Step::Proc => format!("start the container with: {name} run {unmask} …"),
        _ => format!("start the container with: {name} run --security-opt seccomp=unconfined {unmask} …"),
    }
}

/// A profile that allows what Ubuntu withholds from programs without one, for this binary alone.
fn apparmor() -> String {
    let own = std::env::current_exe().ok().and_then(|own| own.to_str().map(ToOwned::to_owned));
    let own = own.unwrap_or_else(|| "/usr/bin/writ".to_owned());
    format!(
        "Ubuntu withholds user namespaces from programs without a profile. Give writ one:\n\
         \x20     sudo tee /etc/apparmor.d/writ <<'END'\n\
         \x20     abi <abi/4.0>,\n\
         \x20     profile writ \"{own}\" flags=(unconfined) {{\n\
         \x20       userns,\n\
         \x20     }}\n\
         \x20     END\n\
         \x20     sudo apparmor_parser -r /etc/apparmor.d/writ"
    )
}

#[cfg(test)]
mod tests {
    use super::super::Finding;
    use super::*;

    fn fault(step: Step, errno: i32) -> StepFault {
        StepFault::new(step, "it", errno)
    }

    /// What is said of a machine, as one text.
    fn said(step: Step, machine: Machine) -> String {
        let checks = judge(Err(fault(step, 1)), || Ok(()), machine);
        assert!(checks.iter().all(|check| check.finding != Finding::Bad), "a lower level is no failure");
        checks
            .iter()
            .map(|check| format!("{}\n{}\n", check.what, check.next.as_deref().unwrap_or("")))
            .collect()
    }

    #[test]
    fn a_machine_that_confines_needs_no_advice() {
        let checks = judge(
            Ok(()),
            || panic!("it is not asked for"),
            Machine { apparmor_restricts: true, ..Machine::default() },
        );
        assert_eq!(checks.len(), 1);
        assert!(checks[0].finding == Finding::Good && checks[0].what.contains("confined"));
    }

    #[test]
    fn each_wall_has_its_own_way_out() {
        let docker = Machine { container: Some(Container::Docker), filtered: true, ..Machine::default() };
        let podman = Machine { container: Some(Container::Podman), ..Machine::default() };
        let ubuntu = Machine { apparmor_restricts: true, ..Machine::default() };
        for (step, machine, words) in [
            (
                Step::Unshare,
                docker,
                "docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined",
            ),
            (Step::Proc, docker, "docker run --security-opt systempaths=unconfined"),
            (Step::Proc, podman, "podman run --security-opt unmask=ALL"),
            (Step::Loopback, ubuntu, "  userns,"),
            (Step::IdMap, ubuntu, "apparmor_parser -r"),
            (Step::Unshare, Machine { userns_none: true, ..ubuntu }, "user.max_user_namespaces"),
            (
                Step::Unshare,
                Machine { userns_off: true, ..Machine::default() },
                "unprivileged_userns_clone=1",
            ),
            (Step::Unshare, Machine { filtered: true, ..Machine::default() }, "filter of system calls"),
            (Step::Unshare, Machine::default(), "CONFIG_USER_NS"),
            (Step::Cgroup, Machine::default(), "report it"),
        ] {
            let said = said(step, machine);
            assert!(said.contains(words), "{step} on {machine:?}: not {words:?}: {said}");
            assert!(said.contains(&fault(step, 1).to_string()), "why: {said}");
        }
    }

    #[test]
    fn the_level_below_is_found_by_trying_it() {
        let at = |tried: Result<(), StepFault>, landlock| {
            let machine = Machine { landlock, ..Machine::default() };
            let checks = judge(Err(fault(Step::Unshare, 1)), || tried, machine);
            let lines = checks
                .iter()
                .map(|check| format!("{} {}\n", check.what, check.next.as_deref().unwrap_or("")));
            lines.collect::<String>()
        };
        let refused = || Err(fault(Step::Landlock, 0));
        assert!(at(Ok(()), None).contains("level restricted:"), "what works works");
        for (landlock, words) in [(None, "lsm=landlock"), (Some(4), "6.12 or newer"), (Some(7), "report it")]
        {
            let said = at(refused(), landlock);
            assert!(said.contains("level advisory:") && said.contains(words), "{said}");
            assert!(said.contains("the level restricted is not possible here: landlock: it"), "{said}");
        }
    }
}
