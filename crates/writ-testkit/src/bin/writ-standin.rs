//! A stand-in for scripts.
//!
//! `writ-standin [CONFIG.json]` prints one line of JSON when it is ready (`addr`, `control`, `ca`, `pid`), and
//! ends when its standard input ends, so that it never outlives the script that started it.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use writ_testkit::{Standin, StandinConfig};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let _ = writeln!(io::stderr(), "writ-standin: {fault}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    let config = match std::env::args_os().nth(1) {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => StandinConfig::default(),
    };
    let standin = Standin::start(config)?;
    let ready = serde_json::json!({
        "addr": standin.addr().to_string(),
        "control": standin.control_addr().to_string(),
        "ca": standin.ca_path(),
        "pid": std::process::id(),
    });
    let mut out = io::stdout();
    writeln!(out, "{ready}")?;
    out.flush()?;
    io::copy(&mut io::stdin().lock().take(u64::MAX), &mut io::sink())?;
    Ok(())
}
