//! Whose terminal it is, and how it changes hands: the launcher works like a shell with one job.
//!
//! ```text
//!   the agent leads a group of its own, in the foreground if we are there
//!     it stops          take the terminal back ─► stop ourselves by the same signal, with our whole group
//!     we are continued  in the foreground? give the terminal ─► continue the agent
//!     it ends           take the terminal back
//! ```
//!
//! The group of its own is there for the agent's `kill(0, …)`, which must not hit the script that called us, and for its
//! `getpgrp()`, which is 0 in a PID namespace if the leader is outside. Where input or output is a pipe or a file, the agent
//! stays in our group all the same: its neighbors in the pipeline may need the terminal as well (`run … | less`, `sudo … | run …`,
//! `run … &` in a script), and a group of its own would take it from them. The terminal then signals all of us together, and
//! all that is left to do is to stop when the agent did, and not before.
//!
//! Window size needs nothing: the terminal is the same one, not a copy, and tells its foreground group itself.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use writ_sys::{
    jobs::{self, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU},
    signals::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
};

use crate::{Agent, Terminal};

/// What the decision is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Our session has a controlling terminal.
    pub terminal: bool,
    /// Standard input is that terminal.
    pub input: bool,
    /// Standard output is that terminal.
    pub output: bool,
    /// Our process group; 0 if its leader has no number here.
    pub group: i32,
}

impl Facts {
    pub fn gather() -> Self {
        Self {
            terminal: std::fs::File::open("/dev/tty").is_ok(),
            input: jobs::foreground_group(&io::stdin()).is_ok(),
            output: jobs::foreground_group(&io::stdout()).is_ok(),
            group: jobs::group_number(),
        }
    }
}

impl Terminal {
    /// Whose terminal it will be.
    pub fn decide(facts: &Facts) -> Self {
        // Without a terminal no key can stop anything, so nothing is lost by a group of its own.
        let own = !facts.terminal || (facts.input && facts.output && facts.group > 0);
        if own { Self::OwnGroup } else { Self::CallersGroup }
    }

    /// Whether the agent leads a group, so that the terminal's keys reach it and us at different times.
    pub fn is_own_group(self) -> bool {
        self == Self::OwnGroup
    }
}

/// The launcher's side of job control, for one agent.
#[derive(Debug)]
pub struct Job {
    leads: bool,
    /// The controlling terminal, where there is one to be handed over.
    terminal: Option<OwnedFd>,
    /// Our own group.
    group: i32,
    /// How the terminal was when we started.
    modes: Option<Termios>,
    /// The agent's group was given the terminal.
    lent: Cell<bool>,
}

impl Job {
    /// Call it before the agent starts, since it may change the terminal's modes.
    ///
    /// # Errors
    /// When a descriptor cannot be duplicated.
    pub fn new(facts: &Facts, decided: Terminal) -> io::Result<Self> {
        let leads = decided.is_own_group();
        let terminal = (leads && facts.terminal).then(|| io::stdout().as_fd().try_clone_to_owned());
        let terminal = terminal.transpose()?;
        Ok(Self {
            leads,
            modes: terminal.as_ref().and_then(|terminal| tcgetattr(terminal).ok()),
            terminal,
            group: facts.group,
            lent: Cell::new(false),
        })
    }

    /// All is ready but the agent, and no key reaches it yet: what was pressed meanwhile stops us here, as it stopped whoever called us.
    /// The answer is whether the agent's group gets the terminal. Afterwards a shell could have it that saw its job stop or end.
    pub fn ready(&self) -> bool {
        while jobs::is_pending(SIGTSTP) && writ_sys::stop_by(SIGTSTP, false).is_ok() {}
        let ends = [SIGINT, SIGQUIT, SIGHUP, SIGTERM].into_iter().any(jobs::is_pending);
        self.lent.set(!ends && self.in_foreground());
        self.lent.get()
    }

    /// The agent was stopped: so are we, until somebody continues us.
    ///
    /// # Errors
    /// When the terminal cannot be handed over, or the agent not be continued.
    pub fn stopped(&mut self, agent: &mut Agent, signal: i32) -> io::Result<()> {
        if !self.leads {
            // Our neighbors and we got the same signal, and will get the same SIGCONT. That we heed it only now keeps
            // the shell waiting until the agent has tidied the terminal up, or chosen not to stop.
            return if signal == SIGSTOP { Ok(()) } else { writ_sys::stop_by(signal, false).map(drop) };
        }
        // Shells bring a *running* job to the foreground without a word. The agent learned it the hard way.
        let wanted_terminal = matches!(signal, SIGTTIN | SIGTTOU);
        if wanted_terminal && !self.lent.get() && self.in_foreground() {
            return self.resume(agent);
        }
        let its_modes = self.take_back(true);
        // As with a key of the terminal, the script that called us stops too; SIGSTOP was meant for one process.
        let group = self.terminal.is_some() && signal != SIGSTOP;
        let continued = writ_sys::stop_by(signal, group)?;
        if !continued {
            // Nobody is there who would continue us, so the agent goes on as if nothing had happened.
            if let (Some(terminal), Some(modes)) = (&self.terminal, its_modes) {
                let _ = tcsetattr(terminal, OptionalActions::Now, &modes);
            }
            if wanted_terminal {
                // It would ask again and again for a terminal that nobody can give: it hangs up, as POSIX has it for orphans.
                agent.signal(SIGHUP)?;
            }
        }
        self.resume(agent)
    }

    /// We were continued, or brought to the foreground: the agent goes on, with the terminal if it is ours to give.
    ///
    /// # Errors
    /// When the terminal cannot be handed over, or the agent not be continued.
    pub fn resume(&mut self, agent: &mut Agent) -> io::Result<()> {
        if !self.leads {
            return Ok(());
        }
        let lend = !self.lent.get() && self.in_foreground();
        self.lent.set(self.lent.get() || lend);
        agent.resume(self.terminal.as_ref().filter(|_| lend).map(AsFd::as_fd))
    }

    /// The agent ended. The terminal is ours again, in the modes in which the agent left it, as of any program.
    ///
    /// With `signal`, the one that ended it, an interrupt is repeated for our whole group if the agent had the terminal: the
    /// key would have reached all of us, and a script that calls us in a loop should not go on after it.
    pub fn ended(&mut self, signal: Option<i32>) {
        if self.lent.get() && signal == Some(SIGINT) {
            let _ = writ_sys::signal_own_group(SIGINT);
        }
        self.take_back(false);
    }

    fn in_foreground(&self) -> bool {
        let foreground = self.terminal.as_ref().and_then(|terminal| jobs::foreground_group(terminal).ok());
        self.group > 0 && foreground == Some(self.group)
    }

    /// Takes the terminal back if it was lent, and tells the agent's modes.
    fn take_back(&mut self, restore: bool) -> Option<Termios> {
        let terminal = self.terminal.as_ref().filter(|_| self.lent.take())?;
        let its_modes = tcgetattr(terminal).ok();
        let _ = writ_sys::set_foreground_group(terminal, self.group);
        if let Some(modes) = self.modes.as_ref().filter(|_| restore) {
            let _ = tcsetattr(terminal, OptionalActions::Now, modes);
        }
        its_modes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_whose_it_should_be() {
        const OWN: Terminal = Terminal::OwnGroup;
        const CALLERS: Terminal = Terminal::CallersGroup;
        // terminal, input, output, group
        let cases = [
            ("interactive", (true, true, true, 7), OWN),
            ("| less", (true, true, false, 7), CALLERS),
            ("sudo x |", (true, false, true, 7), CALLERS),
            ("started with & by a script: input is /dev/null", (true, false, true, 7), CALLERS),
            ("in the middle of a pipeline", (true, false, false, 7), CALLERS),
            ("cron, CI: no terminal", (false, false, false, 7), OWN),
            ("no terminal, and a leader outside of our PID namespace", (false, false, false, 0), OWN),
            ("a terminal, and a leader outside: it could not be taken back", (true, true, true, 0), CALLERS),
        ];
        for (name, (terminal, input, output, group), expected) in cases {
            let facts = Facts { terminal, input, output, group };
            assert_eq!(Terminal::decide(&facts), expected, "{name}");
        }
    }
}
