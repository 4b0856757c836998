//! At a terminal, `writ run` is as if it were not there.
//!
//! Every test runs twice and more: with the program itself, which tells what is right, and behind `writ run` at each level. The
//! person sits at a real pseudo-terminal, mostly in an interactive bash. Nothing waits for a time to pass.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use writ_testkit::{Config, Home, Pty, ROLE, refuse_namespaces, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(60);
/// When a key is pressed again.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// Says `ready` without having it in the command line, which the terminal shows as well.
const READY: &str = r"printf 'rea%s\n' dy";
/// As [`READY`], for use within single quotes.
const READY2: &str = r#"printf "rea%s\n" dy"#;
/// Waits for the signal that is named first, says so and ends with 7. Unlike a shell's trap it cannot miss one.
const HEEDS: &str = r#"
import os, signal, sys
meant = signal.Signals["SIG" + sys.argv[1]]
signal.pthread_sigmask(signal.SIG_BLOCK, {meant})
print("rea" + "dy", file=sys.stderr, flush=True)
signal.sigwait({meant})
print("had-" + sys.argv[1], flush=True)
sys.exit(7)
"#;
/// Tells the size of the window whenever it changes.
const MEASURES: &str = r#"
import os, signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print("rea" + "dy", flush=True)
while True:
    signal.sigwait({signal.SIGWINCH})
    size = os.get_terminal_size()
    print(size.lines, "rows", size.columns, "columns", flush=True)
"#;
const INTERRUPT: &str = "\x03";
const END: &str = "\x04";
const STOP: &str = "\x1a";
const ESCAPE: &str = "\x1b";

/// How much is done between the start of a job and a key.
const MOMENTS: [u32; 5] = [0, 5000, 20_000, 50_000, 100_000];

/// How the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By itself: what is right.
    Plainly,
    Advisory,
    /// On a machine that refuses namespaces.
    Restricted,
    Confined,
}

const ALL: &[How] = &[How::Plainly, How::Advisory, How::Restricted, How::Confined];

/// Somebody's machine.
struct Place {
    home: Home,
    how: How,
}

impl Place {
    fn new(how: How) -> Self {
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
    fn prefix(&self) -> String {
        let options = match self.how {
            How::Plainly => return String::new(),
            How::Advisory => "--no-confine",
            How::Restricted => "--require restricted",
            How::Confined => "--require confined",
        };
        format!("{WRIT} run --quiet {options} -- ")
    }

    /// On a terminal of this machine.
    fn spawn(&self, command: Command) -> Pty {
        if self.how != How::Restricted {
            return Pty::spawn(command).unwrap();
        }
        let there = || {
            refuse_namespaces().unwrap();
            Pty::spawn(command).unwrap()
        };
        thread::scope(|scope| scope.spawn(there).join().unwrap())
    }

    fn work(&self) -> PathBuf {
        self.home.work()
    }

    /// An interactive bash that asks with `outer> `.
    fn bash(&self) -> Pty {
        let mut command = self.home.command(Path::new("bash"));
        command.args(["--norc", "--noprofile", "--noediting", "-i"]);
        command.env("PS1", "outer> ").env("TERM", "xterm").env("HISTFILE", "/dev/null");
        let mut pty = self.spawn(command);
        pty.wait_for("outer> ").unwrap();
        pty
    }

    /// `program` alone on a terminal, with no shell around.
    fn alone(&self, program: &[&str]) -> Pty {
        let prefix = self.prefix();
        let mut words = prefix.split_whitespace().chain(program.iter().copied());
        let mut command = self.home.command(Path::new(words.next().unwrap()));
        command.args(words).env("TERM", "xterm");
        self.spawn(command)
    }

    /// A pipe with a name, in which a program waits that is not to read at the terminal.
    fn gate(&self) -> PathBuf {
        let gate = self.work().join("gate");
        assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
        gate
    }

    fn close(self) {
        self.home.close().unwrap();
    }
}

/// Types a line.
fn enter(pty: &mut Pty, line: &str) {
    pty.press(&format!("{line}\n")).unwrap();
}

/// The outer shell asks again after a job of its own stopped, and it reads: what is typed while it takes the terminal back can be lost.
fn prompt(pty: &mut Pty) {
    pty.wait_for("outer> ").unwrap();
    reads(pty);
    pty.wait_for("outer> ").unwrap();
}

/// The outer shell reads what is typed. Each time it says something else, since impatience can make it say it twice.
fn reads(pty: &mut Pty) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    pty.press_until(&format!("echo at-$(({number}+1))\n"), &format!("at-{}\r", number + 1)).unwrap();
}

/// The status of the last command of the outer shell, which is at its prompt.
fn status(pty: &mut Pty) -> i32 {
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

fn for_all(test: impl Fn(&Place)) {
    for how in ALL {
        let place = Place::new(*how);
        test(&place);
        place.close();
    }
}

#[test]
fn an_interrupt_ends_a_program_or_is_its_own_business() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}sh -c \"{READY}; read x\""));
        pty.wait_for("ready").unwrap();
        pty.press(INTERRUPT).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 130);

        enter(&mut pty, &format!("{p}python3 heeds.py INT"));
        pty.wait_for("ready").unwrap();
        pty.press(INTERRUPT).unwrap();
        pty.wait_for("had-INT").unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 7);
    });
}

#[test]
fn an_interrupt_ends_the_script_that_calls() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        for shell in ["sh", "bash"] {
            let script = place.work().join(format!("loop.{shell}"));
            let program = format!("{p}sh -c '{READY2}; read x'");
            fs::write(&script, format!("for i in 1 2 3; do {program}; echo next; done")).unwrap();
            enter(&mut pty, &format!("{shell} {}", script.display()));
            pty.wait_for("ready").unwrap();
            pty.press(INTERRUPT).unwrap();
            let seen = pty.wait_for("outer> ").unwrap();
            assert!(!seen.contains("next"), "{shell}: {seen}");
            assert_eq!(status(&mut pty), 130);
        }
    });
}

#[test]
fn a_whole_run_stops_and_goes_on() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}bash -c '{READY2}; read x; echo got-$x; exit 4'"));
        pty.wait_for("ready").unwrap();
        for _ in 0..3 {
            pty.press(STOP).unwrap();
            pty.wait_for("Stopped").unwrap();
            prompt(&mut pty);
            enter(&mut pty, "fg");
            assert!(until(PATIENCE, || pty.foreground().unwrap() != pty.leader()));
        }
        enter(&mut pty, "hello");
        pty.wait_for("got-hello").unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 4);
    });
}

#[test]
fn a_script_that_calls_stops_with_the_program() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        // Not of dash: that waits in vfork for a child which a key stopped before its exec, with or without writ.
        let script = place.work().join("script");
        // The shell asks when the script has stopped. Whoever is about to stop at the terminal may still take the line that answers.
        let gate = place.gate();
        fs::write(
            &script,
            format!("{p}bash -c '{READY2}; read x <gate; read x; echo got-$x'; echo 'script went on'"),
        )
        .unwrap();
        enter(&mut pty, &format!("sh {}", script.display()));
        pty.wait_for("ready").unwrap();
        pty.press(STOP).unwrap();
        pty.wait_for("Stopped").unwrap();
        prompt(&mut pty);
        enter(&mut pty, "fg");
        pty.wait_for("sh ").unwrap();
        let mut gate = File::options().read(true).write(true).open(gate).unwrap();
        gate.write_all(b"go\n").unwrap();
        enter(&mut pty, "hello");
        pty.wait_for("got-hello").unwrap();
        pty.wait_for("script went on").unwrap();
        pty.wait_for("outer> ").unwrap();
    });
}

#[test]
fn a_shell_inside_has_jobs_and_stops_as_a_whole() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}env PS1='inn''er> ' bash --norc --noprofile --noediting -i"));
        let greeting = pty.wait_for("inner> ").unwrap();
        assert!(!greeting.contains("job control"), "{greeting}");
        enter(&mut pty, &format!("sh -c '{READY2}; read x'"));
        pty.wait_for("ready").unwrap();
        pty.press(STOP).unwrap();
        pty.wait_for("Stopped").unwrap();
        pty.wait_for("inner> ").unwrap();
        let inner = pty.foreground().unwrap();
        enter(&mut pty, "fg");
        assert!(until(PATIENCE, || pty.foreground().unwrap() != inner));
        pty.press(INTERRUPT).unwrap();
        pty.wait_for("inner> ").unwrap();
        enter(&mut pty, "echo job=$?.");
        pty.wait_for("job=130.").unwrap();
        pty.wait_for("inner> ").unwrap();

        enter(&mut pty, "suspend");
        pty.wait_for("Stopped").unwrap();
        prompt(&mut pty);
        enter(&mut pty, "fg");
        pty.wait_for("bash").unwrap();
        enter(&mut pty, "echo still=$((20+3)).");
        pty.wait_for("still=23.").unwrap();
        pty.wait_for("inner> ").unwrap();
        enter(&mut pty, "exit 3");
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 3);
    });
}

#[test]
fn an_editor_works_and_stops() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}vim.tiny -u NONE -N letter"));
        pty.wait_for("[New]").unwrap();
        pty.press("ihello wor").unwrap();
        pty.wait_for("hello wor").unwrap();
        // It reads this key; the terminal does not.
        pty.press(&format!("{ESCAPE}{STOP}")).unwrap();
        pty.wait_for("Stopped").unwrap();
        prompt(&mut pty);
        enter(&mut pty, "fg");
        // It draws its text again.
        pty.wait_for("hello wor").unwrap();
        pty.press(&format!("ald{ESCAPE}:wq\n")).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 0);
        assert_eq!(fs::read_to_string(place.work().join("letter")).unwrap(), "hello world\n");
    });
}

#[test]
fn a_pager_pages_and_pipelines_stop_as_one() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        for line in [
            format!("{p}seq 100000 | less"),
            format!("seq 100000 | {p}less"),
            format!("{p}seq 100000 | {p}less"),
            format!("seq 100000 > numbers; {p}less numbers"),
        ] {
            enter(&mut pty, &line);
            pty.wait_for("\r\n23").unwrap();
            pty.press_until(STOP, "Stopped").unwrap();
            prompt(&mut pty);
            // A pager that is stopped while it starts may take the key for two.
            pty.press_until("fg\n", "\r\n23").unwrap();
            pty.press("G").unwrap();
            pty.wait_for("100000").unwrap();
            pty.press("q").unwrap();
            pty.wait_for("outer> ").unwrap();
            enter(&mut pty, "jobs; echo all-$((1+1))");
            let jobs = pty.wait_for("all-2").unwrap();
            assert!(!jobs.contains("Stopped"), "{line}: {jobs}");
            pty.wait_for("outer> ").unwrap();
        }
    });
}

#[test]
fn the_head_of_a_pipeline_may_ask_at_the_terminal() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let ask = format!("sh -c '{READY2} >&2; read x </dev/tty; echo got-$x'");
        // A key while a launch is under way is another matter: both ends must be there.
        let cat = format!("sh -c '{READY2} >&2; exec cat'");
        for line in [format!("{ask} | {p}{cat}"), format!("{p}{ask} | {cat}"), format!("{p}{ask} | {p}{cat}")]
        {
            enter(&mut pty, &line);
            pty.wait_for("ready").unwrap();
            pty.wait_for("ready").unwrap();
            pty.press(STOP).unwrap();
            pty.wait_for("Stopped").unwrap();
            prompt(&mut pty);
            enter(&mut pty, "fg");
            pty.wait_for("cat").unwrap();
            enter(&mut pty, "hello");
            pty.wait_for("got-hello").unwrap();
            pty.wait_for("outer> ").unwrap();
        }
    });
}

#[test]
fn the_window_may_change_its_size() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}python3 measures.py"));
        pty.wait_for("ready").unwrap();
        for (rows, columns) in [(40, 100), (30, 132)] {
            pty.resize(rows, columns).unwrap();
            pty.wait_for(&format!("{rows} rows {columns} columns")).unwrap();
        }
        pty.press(INTERRUPT).unwrap();
        pty.wait_for("outer> ").unwrap();
    });
}

#[test]
fn what_is_pasted_arrives_whole() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let text: String = (0..20_000).map(|n| format!("{n:09} ")).collect();
        let program = "stty raw -echo; printf 'rea%s\\n' dy; head -c 200000 >pasted; stty -raw echo";
        enter(&mut pty, &format!("{p}sh -c \"{program}\""));
        pty.wait_for("ready").unwrap();
        pty.press(&text).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert!(fs::read_to_string(place.work().join("pasted")).unwrap() == text);

        enter(&mut pty, &format!("{p}sh -c \"{READY}; cat >lines\""));
        pty.wait_for("ready").unwrap();
        let lines: String = (0..2000).map(|n| format!("line {n}\n")).collect();
        pty.press(&lines).unwrap();
        pty.press(END).unwrap();
        pty.wait_for("outer> ").unwrap();
        assert!(fs::read_to_string(place.work().join("lines")).unwrap() == lines);

        // Bracketed, as terminals paste into line editors.
        enter(&mut pty, &format!("{p}env PS1='inn''er> ' bash --norc --noprofile -i"));
        pty.wait_for("inner> ").unwrap();
        pty.press("\x1b[200~echo pas$((1+1))ted; echo not yet\x1b[201~").unwrap();
        pty.wait_for("not yet").unwrap();
        enter(&mut pty, "");
        pty.wait_for("pas2ted").unwrap();
        pty.wait_for("inner> ").unwrap();
        pty.press(END).unwrap();
        pty.wait_for("outer> ").unwrap();
    });
}

#[test]
fn a_password_is_not_shown() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("{p}bash -c 'read -s -p \"pass\"\"word: \" x; echo; echo length ${{#x}}'"));
        pty.wait_for("password: ").unwrap();
        enter(&mut pty, "hunter2");
        pty.wait_for("length 7").unwrap();
        pty.wait_for("outer> ").unwrap();
        // Modes that the program leaves are what the caller finds.
        enter(&mut pty, &format!("{p}stty -onlcr; stty -a | tr ' ' '\\n' | grep onlcr; stty onlcr"));
        pty.wait_for("\n-onlcr").unwrap();
        pty.wait_for("outer> ").unwrap();
        assert!(!pty.transcript().contains("hunter2"));
    });
}

#[test]
fn a_run_in_the_background_stays_there_until_it_asks() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, "set -b");
        enter(&mut pty, &format!("{p}bash -c 'read x; echo got-$x; exit 6' &"));
        pty.wait_for("Stopped").unwrap();
        enter(&mut pty, "jobs -l");
        pty.wait_for("Stopped (tty input)").unwrap();
        assert_eq!(pty.foreground().unwrap(), pty.leader());
        enter(&mut pty, "fg");
        pty.wait_for("fg").unwrap();
        pty.wait_for("bash -c").unwrap();
        enter(&mut pty, "hello");
        pty.wait_for("got-hello").unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 6);
    });
}

/// A shell brings a running job to the foreground without any signal.
#[test]
fn a_running_job_is_brought_to_the_foreground() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let program =
            format!("bash -c '{READY2}; until [ -e go ]; do sleep 0.01; done; read x; echo got-$x'");
        enter(&mut pty, &format!("{p}{program} &"));
        pty.wait_for("ready").unwrap();
        enter(&mut pty, "fg");
        assert!(until(PATIENCE, || pty.foreground().unwrap() != pty.leader()));
        fs::write(place.work().join("go"), "").unwrap();
        enter(&mut pty, "hello");
        pty.wait_for("got-hello").unwrap();
        pty.wait_for("outer> ").unwrap();

        enter(&mut pty, &format!("{p}python3 heeds.py INT &"));
        pty.wait_for("ready").unwrap();
        enter(&mut pty, "fg");
        assert!(until(PATIENCE, || pty.foreground().unwrap() != pty.leader()));
        pty.press(STOP).unwrap();
        pty.wait_for("Stopped").unwrap();
        prompt(&mut pty);
        enter(&mut pty, "bg");
        pty.wait_for("outer> ").unwrap();
        enter(&mut pty, "fg");
        assert!(until(PATIENCE, || pty.foreground().unwrap() != pty.leader()));
        pty.press(INTERRUPT).unwrap();
        pty.wait_for("had-INT").unwrap();
        pty.wait_for("outer> ").unwrap();
        assert_eq!(status(&mut pty), 7);
    });
}

#[test]
fn signals_to_the_launcher_are_meant_for_the_program() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        for signal in ["HUP", "INT", "TERM", "USR1", "USR2", "QUIT"] {
            // With a group of its own, and in ours.
            for out in ["", ">out"] {
                enter(&mut pty, &format!("{p}python3 heeds.py {signal} {out} &"));
                pty.wait_for("ready").unwrap();
                enter(&mut pty, &format!("kill -{signal} $!; wait $!; echo status=$?.; cat out"));
                if out.is_empty() {
                    pty.wait_for(&format!("had-{signal}")).unwrap();
                }
                pty.wait_for("status=7.").unwrap();
                if !out.is_empty() {
                    pty.wait_for(&format!("had-{signal}")).unwrap();
                }
                pty.wait_for("outer> ").unwrap();
            }
        }
        enter(&mut pty, &format!("{p}sleep 1000 & kill $!; wait $!"));
        enter(&mut pty, "echo ended=$?.");
        pty.wait_for("ended=143.").unwrap();
    });
}

#[test]
fn a_closed_window_reaches_the_program() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let script = place.work().join("lives");
        fs::write(
            &script,
            format!("trap 'echo hung up >last; exit' HUP; {READY}; while :; do sleep 0.01; done"),
        )
        .unwrap();
        enter(&mut pty, &format!("{p}bash lives"));
        pty.wait_for("ready").unwrap();
        pty.hang_up();
        let last = place.work().join("last");
        assert!(until(PATIENCE, || fs::read_to_string(&last).is_ok_and(|last| last == "hung up\n")));
    });
}

#[test]
fn a_program_ends_as_it_ended() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        fs::write(place.work().join("plain"), "").unwrap();
        for (program, expected) in [
            ("true", 0),
            ("sh -c 'exit 7'", 7),
            ("sh -c 'exit 255'", 255),
            ("sh -c 'kill -SEGV $$'", 139),
            ("sh -c 'kill -KILL $$'", 137),
            ("sh -c 'kill -TERM $$'", 143),
            ("sh -c 'kill -INT $$'", 130),
            ("./plain", 126),
            ("writ-no-such-program", 127),
            ("./no-such-file", 127),
        ] {
            enter(&mut pty, &format!("{p}{program}"));
            pty.wait_for("outer> ").unwrap();
            assert_eq!(status(&mut pty), expected, "{program}");
        }
        enter(&mut pty, &format!("{p}sh -c 'kill -SEGV $$'"));
        pty.wait_for("Segmentation fault").unwrap();
    });
}

#[test]
fn input_and_output_are_piped() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        enter(&mut pty, &format!("printf 'a\\0b' | {p}cat | od -An -c; seq 100000 | {p}wc -l"));
        pty.wait_for("a  \\0   b").unwrap();
        pty.wait_for("100000").unwrap();
        pty.wait_for("outer> ").unwrap();
        enter(&mut pty, &format!("{p}yes | head -n 2; echo ${{PIPESTATUS[*]}}."));
        pty.wait_for("y\r\ny\r\n141 0.").unwrap();
        pty.wait_for("outer> ").unwrap();
        enter(&mut pty, &format!("{p}sh -c 'echo wrong >&2; echo right' 2>/dev/null; cd / && {p}pwd"));
        let seen = pty.wait_for("right\r\n/\r\n").unwrap();
        assert!(!seen.contains("wrong\r\n"), "{seen}");
    });
}

/// Nobody could continue it, so it does not stop.
#[test]
fn without_a_shell_nothing_stops() {
    for_all(|place| {
        let mut pty = place.alone(&["bash", "-c", &format!("{READY2}; read x; echo got-$x; kill -USR1 $$")]);
        pty.wait_for("ready").unwrap();
        pty.press(STOP).unwrap();
        enter(&mut pty, "hello");
        pty.wait_for("got-hello").unwrap();
        assert_eq!(pty.end().unwrap().signal(), Some(10));
    });
}

/// `kill 0` means the program's own group: not the script that calls, not its neighbors.
#[test]
fn a_program_does_not_hit_who_called_it() {
    for_all(|place| {
        let p = place.prefix();
        let survives = place.how != How::Plainly;
        let script = format!("{p}sh -c 'kill 0; sleep 1000'; echo survived=$?.");
        fs::write(place.work().join("script"), script).unwrap();
        let mut pty = place.bash();
        enter(&mut pty, "sh script");
        let seen = pty.wait_for("outer> ").unwrap();
        assert_eq!(seen.contains("survived=143."), survives, "{seen}");

        // As in continuous integration: no terminal at all.
        let mut command = place.home.command(Path::new("setsid"));
        let out = command.args(["--wait", "sh", "script"]).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(said.contains("survived=143."), survives, "{said}");
    });
}

/// Keys while a launch is under way: whenever one comes, the whole job stops once and goes on later, or ends, and the shell is asked
/// again at its terminal. (A program that took the terminal from it would make it exit.)
#[test]
fn a_run_stops_or_ends_at_any_moment_of_its_start() {
    for_all(|place| {
        // A program by itself has no such moments.
        if place.how == How::Plainly {
            return;
        }
        let (p, mut pty) = (place.prefix(), place.bash());
        // Not at the terminal: who is about to stop there may still take the line of whoever is asked next.
        let waits = "sh -c 'read x <gate; echo went-$((1+1))'";
        let gate = place.gate();
        let script = place.work().join("script");
        fs::write(&script, format!("{p}{waits}\n")).unwrap();
        for line in [format!("{p}{waits}"), "bash script".to_owned(), format!("{p}{waits} | {p}cat")] {
            for moment in MOMENTS {
                start(&mut pty, &line, moment);
                // It is lost in the instant in which terminal and program change hands, as any shell's children can lose one.
                pty.press_until(STOP, "Stopped").unwrap();
                reads(&mut pty);
                enter(&mut pty, "fg");
                // With both ends in our hands, nobody waits in `open`.
                let mut gate = File::options().read(true).write(true).open(&gate).unwrap();
                gate.write_all(b"go\n").unwrap();
                let seen = pty.wait_for("went-2").unwrap();
                assert!(!seen.contains("Stopped"), "{line} {moment}: {seen}");
                reads(&mut pty);
                // What nobody read is gone.
                drop(gate);

                start(&mut pty, &line, moment);
                assert!(until(PATIENCE, || {
                    pty.press(INTERRUPT).unwrap();
                    until(IMPATIENCE, || pty.foreground().unwrap() == pty.leader())
                }));
                reads(&mut pty);
            }
        }
    });
}

/// Starts a job and lets it come so far.
fn start(pty: &mut Pty, line: &str, moment: u32) {
    enter(pty, line);
    assert!(until(PATIENCE, || executed(pty, line.split('|').count())), "{}", pty.transcript());
    for _ in 0..moment {
        pty.foreground().unwrap();
    }
}

/// Whether the job in the foreground has that many processes, none of which is still the shell that makes them: bash ignores what
/// its children do not.
fn executed(pty: &Pty, count: usize) -> bool {
    let group = pty.foreground().unwrap();
    let shell = fs::read(format!("/proc/{}/cmdline", pty.leader())).unwrap();
    let of_group = |process: &PathBuf| {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        // Behind the name, which may have any character: state, parent, group.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        fields.split_whitespace().nth(2) == Some(&group.to_string())
    };
    let processes = fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path());
    let lines: Vec<_> = processes.filter(of_group).map(|process| fs::read(process.join("cmdline"))).collect();
    group != pty.leader() && lines.len() >= count && lines.iter().flatten().all(|line| *line != shell)
}

/// A stopped pipeline whose shell is gone is hung up and continued by the kernel, if nothing of ours looks like another shell.
#[test]
fn a_stopped_pipeline_ends_with_its_shell() {
    for_all(|place| {
        let (p, mut pty) = (place.prefix(), place.bash());
        let script = "trap 'echo hung up >last; exit' HUP; echo rea\"\"dy; while :; do sleep 0.01; done";
        fs::write(place.work().join("lives"), script).unwrap();
        enter(&mut pty, &format!("{p}bash lives | cat"));
        pty.wait_for("ready").unwrap();
        pty.press_until(STOP, "Stopped").unwrap();
        // Not by a hang-up of its own: it is killed.
        drop(pty);
        let last = place.work().join("last");
        assert!(until(PATIENCE, || fs::read_to_string(&last).is_ok_and(|last| last == "hung up\n")));
    });
}
