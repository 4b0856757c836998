//! What was typed. What it means is the commands' matter.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use writ_core::{CredentialName, LeaseId, RoleName, SessionId, Ttl};

/// The credential broker for AI agents: programs make their calls, and hold no key.
#[derive(Debug, Parser)]
#[command(
    name = "writ",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Print results as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but results and errors
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The configuration, instead of writ.toml in the configuration directory
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program that uses credentials without holding them
    Run(Run),
    /// Write the configuration, and take over the keys in the environment and in env files
    Init {
        /// Answer every question with yes
        #[arg(long)]
        yes: bool,
    },
    /// Bring the env files that init rewrote back as they were
    Restore(Restore),
    /// Show what a repository's writ.toml asks for, and trust it
    Trust(Trust),
    /// Show the hosts that programs tried, and the lines that would allow what was refused
    Seen(Seen),
    /// Store, list, rotate and remove credentials
    #[command(subcommand)]
    Credential(Credential),
    /// List, show, revoke and open sessions
    #[command(subcommand)]
    Session(Session),
    /// List, show, renew, revoke and reconcile leases
    #[command(subcommand)]
    Lease(Lease),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Open the passphrase seal, or set its passphrase the first time; reads a line of stdin where that is no terminal
    Unlock,
    /// End every session and the daemon
    Stop,
    /// Look for what would keep writ from working, and at what level it works
    Doctor,
    /// Show the main job, with nothing set up and nothing left behind
    Demo,
}

#[derive(Debug, Args)]
pub struct Run {
    /// A role that the registration entries allow
    #[arg(long)]
    pub role: Option<RoleName>,
    /// End the session after this time, such as 30m
    #[arg(long)]
    pub ttl: Option<Ttl>,
    /// Refuse to start below this level: advisory, restricted or confined
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    pub require: Option<writ_core::Level>,
    /// Show a server of the program on the host's loopback: PORT, or HOST_PORT:PORT
    #[arg(long, value_name = "PORT")]
    pub publish: Vec<writ_run::Publish>,
    /// Run it at the level advisory: nothing would hold a hostile program
    #[arg(long)]
    pub no_confine: bool,
    /// Give the program a home layer of its own that is thrown away at its end
    #[arg(long, conflicts_with = "no_confine")]
    pub fresh: bool,
    /// Say what would be done, at which level and with which view, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub program: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct Trust {
    /// Inside of the repository; where you are if it is left out
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Only show it
    #[arg(long, conflicts_with = "yes")]
    pub show: bool,
}

#[derive(Debug, Args)]
pub struct Seen {
    /// Not before this instant, or this long ago: 2026-11-21T10:00:00Z, 90m
    #[arg(long)]
    pub since: Option<String>,
    /// Only hosts that were refused
    #[arg(long)]
    pub refused: bool,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The files; all that were rewritten where none is named
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    pub yes: bool,
    /// Also files that were changed since, of which a copy is kept beside them
    #[arg(long)]
    pub force: bool,
}

fn parse_level(text: &str) -> Result<writ_core::Level, String> {
    match text {
        "advisory" => Ok(writ_core::Level::Advisory),
        "restricted" => Ok(writ_core::Level::Restricted),
        "confined" => Ok(writ_core::Level::Confined),
        _ => Err("write advisory, restricted or confined".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub enum Credential {
    /// Store a value: from stdin, from a file, or by reference
    Set {
        /// As writ.toml names it
        name: CredentialName,
        /// Read the value from a file
        #[arg(long, value_name = "PATH", conflicts_with = "from")]
        file: Option<PathBuf>,
        /// Keep no value, but read it at each acquisition: cmd://… or file:///…
        #[arg(long, value_name = "REFERENCE")]
        from: Option<String>,
    },
    /// List credentials, without values
    List,
    /// Change a password upstream and keep the new one: an engine's administrator's, or a static role's
    Rotate { name: CredentialName },
    /// Revoke a credential's leases, then remove it
    Remove { name: CredentialName },
}

#[derive(Debug, Subcommand)]
pub enum Session {
    /// List sessions
    List {
        /// Also those that have ended
        #[arg(long)]
        all: bool,
    },
    /// Show one session and its leases
    Show { id: SessionId },
    /// End a session: its connections are cut, its leases revoked, its program killed
    Revoke { id: SessionId },
    /// Open a session by hand, and keep it while this command runs
    Open {
        /// A role that the registration entries allow
        #[arg(long)]
        role: Option<RoleName>,
        /// End the session after this time
        #[arg(long)]
        ttl: Option<Ttl>,
        /// Where the proxy listens, on loopback
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
        listen: std::net::SocketAddr,
    },
}

#[derive(Debug, Subcommand)]
pub enum Lease {
    /// List leases
    List {
        /// Also those that have ended
        #[arg(long)]
        all: bool,
    },
    /// Show one lease
    Show { id: LeaseId },
    /// Let what a lease revealed live for another TTL of its role
    Renew { id: LeaseId },
    /// End a lease now: its connections are cut, and what was made for it is removed
    Revoke { id: LeaseId },
    /// Compare what exists upstream with the leases, and repair what does not agree, after asking; exits with 1 if something is left
    Reconcile {
        /// Ask nothing
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the last events, and with --follow what comes after them
    Tail {
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        lines: usize,
        /// Wait for more
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the events that match every given filter
    Query(AuditFilter),
    /// Check every hash, every signature and every checkpoint
    Verify,
}

#[derive(Debug, Default, Args)]
pub struct AuditFilter {
    /// Of this session
    #[arg(long)]
    pub session: Option<SessionId>,
    /// Under this lease
    #[arg(long)]
    pub lease: Option<LeaseId>,
    /// With this credential
    #[arg(long)]
    pub credential: Option<CredentialName>,
    /// Under this role
    #[arg(long)]
    pub role: Option<RoleName>,
    /// The workload's SPIFFE ID
    #[arg(long)]
    pub workload: Option<String>,
    /// To this host
    #[arg(long)]
    pub host: Option<String>,
    /// ok, refused, failed, cut or unknown
    #[arg(long)]
    pub outcome: Option<String>,
    /// Not before this instant, or this long ago: 2026-11-21T10:00:00Z, 90m
    #[arg(long)]
    pub since: Option<String>,
    /// Before this instant, or this long ago
    #[arg(long)]
    pub until: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words = std::iter::once("writ").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.command).map_err(|error| error.kind().to_string())
    }

    fn run(line: &str) -> Run {
        match parse(line) {
            Ok(Command::Run(run)) => run,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_program_s_own_options_are_its_own() {
        let typed =
            run("run --publish 3000 --publish 8080:80 --fresh --dry-run -- npm run dev --fresh --publish x");
        let published: Vec<String> = typed.publish.iter().map(ToString::to_string).collect();
        assert_eq!(published, ["3000:3000", "8080:80"]);
        assert!(typed.fresh && typed.dry_run && !typed.no_confine);
        assert_eq!(typed.program, ["npm", "run", "dev", "--fresh", "--publish", "x"]);
        let plain = run("run npm --dry-run");
        assert!(!plain.fresh && !plain.dry_run && plain.publish.is_empty());
        assert_eq!(plain.program, ["npm", "--dry-run"]);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for line in [
            "run --publish 0 -- x",
            "run --publish 65536 -- x",
            "run --publish 80:x -- x",
            "run --fresh --no-confine -- x",
            "run --dry-run",
            "trust --show --yes",
            "seen now",
            "init .env",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn files_and_directories() {
        let Ok(Command::Restore(typed)) = parse("restore --yes a/.env .envrc --force") else {
            panic!("restore")
        };
        assert_eq!(typed.files, [PathBuf::from("a/.env"), PathBuf::from(".envrc")]);
        assert!(typed.yes && typed.force);
        let Ok(Command::Trust(typed)) = parse("trust ../app --show") else { panic!("trust") };
        assert_eq!((typed.directory, typed.yes, typed.show), (Some(PathBuf::from("../app")), false, true));
        let Ok(Command::Seen(typed)) = parse("seen --since 90m --refused") else { panic!("seen") };
        assert_eq!((typed.since.as_deref(), typed.refused), (Some("90m"), true));
    }
}
