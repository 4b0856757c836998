//! Keys while a launch is under way.

use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use writ_testkit::{Pty, until};

use super::place::{How, IMPATIENCE, INTERRUPT, PATIENCE, STOP, enter, for_all, reads};

/// How much is done between the start of a job and a key.
const MOMENTS: [u32; 5] = [0, 5000, 20_000, 50_000, 100_000];

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
