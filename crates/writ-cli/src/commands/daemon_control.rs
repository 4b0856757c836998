//! `writ unlock` and `writ stop`.

use std::time::Duration;

use writ_api::{
    control::{Answer, Ask},
    seal::{self, Place},
};
use writ_core::Secret;

use crate::{client::Control, fault::Fault, output::Output, paths::Paths};

/// How long the daemon may take to end its sessions and itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Asks for the passphrase on the terminal, or reads it from stdin where that is none.
pub fn unlock(paths: &Paths, output: Output) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    let passphrase = read_passphrase("passphrase: ")?;
    let place = Place::Control { purpose: "unlock".to_owned() };
    let sealed = seal::seal(&passphrase, control.recipient(), &place)
        .map_err(|fault| Fault::new(fault.to_string(), "try again"))?;
    control.ask(&Ask::Unlock { passphrase: sealed })?;
    output.say("unlocked, until the daemon ends");
    Ok(())
}

pub(super) fn read_passphrase(prompt: &str) -> Result<Secret, Fault> {
    use std::io::{BufRead, IsTerminal};
    let failed = |error: std::io::Error| {
        Fault::new(format!("the passphrase: {error}"), "type it at a terminal, or pipe it in")
    };
    if std::io::stdin().is_terminal() {
        return Ok(Secret::new(writ_sys::read_passphrase(prompt).map_err(failed)?.to_vec()));
    }
    let mut line = Vec::new();
    std::io::stdin().lock().read_until(b'\n', &mut line).map_err(failed)?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Secret::new(line))
}

/// Ends every session and the daemon, and waits until it has gone.
pub fn stop(paths: &Paths, output: Output) -> Result<(), Fault> {
    let Some(control) = Control::running(paths) else {
        output.say("no daemon is running");
        return Ok(());
    };
    let mut control = control?;
    let pid = match control.ask(&Ask::Status)? {
        Answer::Status(status) => status.pid,
        _ => 0,
    };
    control.ask(&Ask::Stop)?;
    let process = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    let gone = process.is_none_or(|process| writ_sys::pidfd_exited(&process, STOP_TIMEOUT).unwrap_or(true));
    if !gone {
        return Err(Fault::new(
            format!("the daemon (pid {pid}) does not end"),
            "look at daemon.log in the state directory",
        ));
    }
    output.say("stopped");
    Ok(())
}
