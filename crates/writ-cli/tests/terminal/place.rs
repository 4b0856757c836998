//! A machine, a way to start a program on it, a terminal with a shell, and what is typed there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use writ_testkit::{Config, Home, Pty, ROLE, refuse_namespaces};

pub const WRIT: &str = env!("CARGO_BIN_EXE_writ");
pub const PATIENCE: Duration = Duration::from_secs(60);
/// When a key is pressed again.
pub const IMPATIENCE: Duration = Duration::from_secs(1);
/// Says `ready` without having it in the command line, which the terminal shows as well.
pub const READY: &str = r"printf 'rea%s\n' dy";
/// As [`READY`], for use within single quotes.
pub const READY2: &str = r#"printf "rea%s\n" dy"#;
/// Waits for the signal that is named first, says so and ends with 7. Unlike a shell's trap it cannot miss one.
pub const HEEDS: &str = r#"
import os, signal, sys
meant = signal.Signals["SIG" + sys.argv[1]]
signal.pthread_sigmask(signal.SIG_BLOCK, {meant})
print("rea" + "dy", file=sys.stderr, flush=True)
signal.sigwait({meant})
print("had-" + sys.argv[1], flush=True)
sys.exit(7)
"#;
/// Tells the size of the window whenever it changes.
pub const MEASURES: &str = r#"
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print("rea" + "dy", flush=True)
while True:
    signal.sigwait({signal.SIGWINCH})
    size = os.get_terminal_size()
    print(size.lines, "rows", size.columns, "columns", flush=True)
"#;
pub const INTERRUPT: &str = "\x03";
pub const END: &str = "\x04";
pub const STOP: &str = "\x1a";
pub const ESCAPE: &str = "\x1b";

/// How the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By itself: what is right.
    Plainly,
    Advisory,
    /// On a machine that refuses namespaces.
    Restricted,
    Confined,
}

pub const ALL: &[How] = &[How::Plainly, How::Advisory, How::Restricted, How::Confined];

/// Somebody's machine.
pub struct Place {
    pub home: Home,
    pub how: How,
}

impl Place {
    pub fn new(how: How) -> Self {
        let home = Home::new(WRIT).unwrap();
        home.configure(&Config::new().role_for_all(ROLE)).unwrap();
        for (name, script) in [("heeds.py", HEEDS), ("measures.py", MEASURES)] {
            fs::write(home.work().join(name), script).unwrap();
        }
        if how != How::Plainly {
            // So that no test waits for a daemon in the middle of its keys.
            let ran = home.writ(&["run", "--", "true"], b"").unwrap();
            assert_eq!(ran.code, Some(0), "{}", ran.told());
        }
        Self { home, how }
    }

    /// What stands before a program in a shell's command line.
    pub fn prefix(&self) -> String {
        let options = match self.how {
            How::Plainly => return String::new(),
            How::Advisory => "--no-confine",
            How::Restricted => "--require restricted",
            How::Confined => "--require confined",
        };
        format!("{WRIT} run --quiet {options} -- ")
    }

    /// On a terminal of this machine.
    pub fn spawn(&self, command: Command) -> Pty {
        if self.how != How::Restricted {
            return Pty::spawn(command).unwrap();
        }
        let there = || {
            refuse_namespaces().unwrap();
            Pty::spawn(command).unwrap()
        };
        thread::scope(|scope| scope.spawn(there).join().unwrap())
    }

    pub fn work(&self) -> PathBuf {
        self.home.work()
    }

    /// An interactive bash that asks with `outer> `.
    pub fn bash(&self) -> Pty {
        let mut command = self.home.command(Path::new("bash"));
        command.args(["--norc", "--noprofile", "--noediting", "-i"]);
        command.env("PS1", "outer> ").env("TERM", "xterm").env("HISTFILE", "/dev/null");
        let mut pty = self.spawn(command);
        pty.wait_for("outer> ").unwrap();
        pty
    }

    /// `program` alone on a terminal, with no shell around.
    pub fn alone(&self, program: &[&str]) -> Pty {
        let prefix = self.prefix();
        let mut words = prefix.split_whitespace().chain(program.iter().copied());
        let mut command = self.home.command(Path::new(words.next().unwrap()));
        command.args(words).env("TERM", "xterm");
        self.spawn(command)
    }

    /// A pipe with a name, in which a program waits that is not to read at the terminal.
    pub fn gate(&self) -> PathBuf {
        let gate = self.work().join("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        gate
    }

    pub fn close(self) {
        self.home.close().unwrap();
    }
}

/// Types a line.
pub fn enter(pty: &mut Pty, line: &str) {
    pty.press(&format!("{line}\n")).unwrap();
}

/// The outer shell asks again after a job of its own stopped, and it reads: what is typed while it takes the terminal back can be lost.
pub fn prompt(pty: &mut Pty) {
    pty.wait_for("outer> ").unwrap();
    reads(pty);
    pty.wait_for("outer> ").unwrap();
}

/// The outer shell reads what is typed. Each time it says something else, since impatience can make it say it twice.
pub fn reads(pty: &mut Pty) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    pty.press_until(&format!("echo at-$(({number}+1))\n"), &format!("at-{}\r", number + 1)).unwrap();
}

/// The status of the last command of the outer shell, which is at its prompt.
pub fn status(pty: &mut Pty) -> i32 {
    enter(pty, "echo status=$?.");
    // The first is what was typed.
    loop {
        pty.wait_for("status=").unwrap();
        let status = pty.wait_for(".").unwrap();
        if let Ok(status) = status.parse() {
            pty.wait_for("outer> ").unwrap();
            return status;
        }
    }
}

pub fn for_all(test: impl Fn(&Place)) {
    for how in ALL {
        let place = Place::new(*how);
        test(&place);
        place.close();
    }
}
