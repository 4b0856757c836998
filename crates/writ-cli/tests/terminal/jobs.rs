//! Job control: jobs that stop, go on, and ask at the terminal.

use std::fs;
use std::fs::File;
use std::io::Write as _;

use writ_testkit::until;

use super::place::{INTERRUPT, PATIENCE, READY2, STOP, enter, for_all, prompt, status};

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
