//! Keys that interrupt, and how a program ends.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use writ_testkit::until;

use super::place::{How, INTERRUPT, PATIENCE, READY, READY2, STOP, enter, for_all, status};

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
