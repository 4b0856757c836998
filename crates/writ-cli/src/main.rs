//! The binary `writ`. This file is an index.
//!
//! ```text
//!   a hidden stage argument ──► daemon.rs                 before anything is parsed, logged or started
//!   args.rs ──► commands/*.rs, run/mod.rs ──► client.rs ──► the daemon
//! ```

#[cfg(windows)]
compile_error!("use WSL2");

mod args;
mod client;
mod commands;
mod daemon;
mod demo;
mod env_vars;
mod fault;
#[cfg(feature = "fault-points")]
mod faults;
mod keys;
mod output;
mod paths;
mod run;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use fault::Fault;
use output::Output;
use paths::Paths;

fn main() -> ExitCode {
    #[cfg(feature = "fault-points")]
    if let Err(why) = faults::install(env!("CARGO_BIN_NAME")) {
        let fault = Fault::new(why, "see the top of faults.rs");
        Output { json: false, quiet: false }.fault(&fault);
        return ExitCode::from(fault.exit);
    }
    // First of all: a stage must not have a second thread, and what it does is nobody else's.
    if let Some(code) = writ_run::stage().or_else(daemon::stage).or_else(demo::client::stage) {
        return code;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            let _ = message.print();
            // Help and version are no failure; a usage error must not look like the status of a program under `run`.
            return if message.use_stderr() {
                ExitCode::from(fault::EXIT_WRIT_FAILED)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let output = Output { json: cli.common.json, quiet: cli.common.quiet };
    match dispatch(cli, output) {
        Ok(code) => code,
        Err(fault) => {
            output.fault(&fault);
            ExitCode::from(fault.exit)
        }
    }
}

fn dispatch(cli: Cli, output: Output) -> Result<ExitCode, Fault> {
    let named = cli.common.config.is_some();
    let paths = Paths::resolve(cli.common.config)?;
    if named && !matches!(cli.command, Command::Stop | Command::Doctor | Command::Demo) {
        client::same_configuration(&paths)?;
    }
    match cli.command {
        Command::Run(args) => return run::run(&paths, output, &args),
        Command::Audit(command) => return commands::audit::run(&paths, output, command),
        Command::Credential(command) => commands::credential::run(&paths, output, command)?,
        Command::Session(command) => commands::session::run(&paths, output, command)?,
        Command::Lease(command) => commands::lease::run(&paths, output, command)?,
        Command::Unlock => commands::daemon_control::unlock(&paths, output)?,
        Command::Stop => commands::daemon_control::stop(&paths, output)?,
        Command::Demo => return demo::run(output),
        Command::Init { yes } => commands::init::run(&paths, output, yes)?,
        Command::Trust(args) => commands::trust::run(&paths, output, &args)?,
        Command::Seen(args) => commands::seen::run(&paths, output, &args)?,
        Command::Restore(args) => return commands::restore::run(&paths, output, &args),
        Command::Doctor => return commands::doctor::run(&paths, output),
    }
    Ok(ExitCode::SUCCESS)
}
