//! The demo's own home: a directory that goes with it, and this binary's commands run in it.

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use aws_lc_rs::rand;
use serde_json::Value;

use super::{
    below,
    injected::LISTED,
    upstream::{Sink, Upstream},
};
use crate::{env_vars, fault::Fault};

/// Variables that might hold a real key of the person's: the demo's programs do not get them.
const NOT_PASSED_ON: &[&str] =
    &["OPENAI_API_KEY", "CODEX_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"];

pub struct Home {
    directory: PathBuf,
}

/// The highest level that this machine gives.
pub struct Level {
    pub confined: bool,
    pub text: String,
}

/// What a command of writ's said.
pub struct Ran {
    pub ok: bool,
    pub text: String,
}

/// A program under `writ run` that answers a line with a line.
pub struct Conversation {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// A key that no other run has.
pub fn canary() -> Result<String, Fault> {
    Ok(format!("sk-proj-demo{}", random()?))
}

fn random() -> Result<String, Fault> {
    let mut bytes = [0; 24];
    rand::fill(&mut bytes).map_err(|_| Fault::new("the system gives no random bytes", ""))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl Home {
    /// A fresh directory with a configuration that leads `host` to the demo's service.
    pub fn create(host: &str, service: &Upstream, sink: &Sink) -> Result<Self, Fault> {
        let failed = |error: std::io::Error| {
            Fault::new(format!("the demo's directory: {error}"), "set TMPDIR to a directory of yours")
        };
        let name: String = random()?.chars().take(12).collect();
        let directory = env::temp_dir().join(format!("writ-demo-{name}"));
        fs::DirBuilder::new().mode(0o700).create(&directory).map_err(failed)?;
        let home = Self { directory };
        for name in ["writ", "home", "work"] {
            fs::DirBuilder::new().mode(0o700).create(home.directory.join(name)).map_err(failed)?;
        }
        let write = |name: &str, text: &str| fs::write(home.directory.join(name), text).map_err(failed);
        write("writ/upstream-ca.pem", &service.ca_pem)?;
        write("writ/sink-ca.pem", &sink.ca_pem)?;
        write("writ/writ.toml", &home.configuration(host, service, sink)?)?;
        Ok(home)
    }

    fn configuration(&self, host: &str, service: &Upstream, sink: &Sink) -> Result<String, Fault> {
        let uid = rustix::process::getuid().as_raw();
        let own = env::current_exe().map_err(|error| Fault::new(error.to_string(), ""))?;
        Ok(format!(
            r#"# The demo's configuration: {host} is a service on loopback.
version = 1

[seal]
kind = "key-file"
accept_below_confined = true

[run]
role = "demo"
readable = [{own:?}]

[[credential]]
name = "openai"

[[target]]
name = "openai"
preset = "openai"
credential = "openai"
dial = "{}"
tls_ca = {:?}
allow_private = ["127.0.0.0/8"]

[[target]]
name = "collector"
host = "{LISTED}"
dial = "{}"
tls_ca = {:?}
allow_private = ["127.0.0.0/8"]

[[role]]
name = "demo"
grants = [
  {{ target = "openai", methods = ["POST"], paths = ["/v1/chat/completions"] }},
  {{ target = "openai", methods = ["GET"], paths = ["/v1/echo"] }},
  {{ target = "collector" }},
]

[[workload]]
spiffe_id = "spiffe://writ.local/demo"
selectors = ["unix:uid:{uid}"]
role = "demo"
"#,
            service.address,
            self.directory.join("writ/upstream-ca.pem"),
            sink.address,
            self.directory.join("writ/sink-ca.pem"),
        ))
    }

    fn command(&self, arguments: &[&str]) -> Result<Command, Fault> {
        let own = env::current_exe().map_err(|error| Fault::new(error.to_string(), ""))?;
        let mut command = Command::new(own);
        command.args(arguments).env(env_vars::WRIT_HOME, self.directory.join("writ"));
        command.current_dir(self.directory.join("work"));
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        Ok(command)
    }

    /// The demo's own directory, as text.
    pub fn directory(&self) -> String {
        self.directory.display().to_string()
    }

    /// Puts a file into the home directory that the demo gives to its injected agent.
    pub fn hide(&self, name: &str, content: &str) -> Result<(), Fault> {
        let path = self.directory.join("home").join(name);
        let parent = path.parent().unwrap_or(&self.directory);
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .map_err(|error| Fault::new(format!("{}: {error}", path.display()), ""))
    }

    /// Runs a command in that home, with one more variable: under `writ run`, or as it is.
    pub fn injected(&self, script: &[&str], variable: (&str, &str), confined: bool) -> Result<Ran, Fault> {
        let (program, arguments) = script.split_first().ok_or_else(|| Fault::new("no program", ""))?;
        let mut command = if confined {
            self.command(&[&["run", "--fresh", "--require", "confined", "--"], script].concat())?
        } else {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(self.directory.join("work"));
            command
        };
        command.env(env_vars::HOME, self.directory.join("home")).env(variable.0, variable.1);
        let ran = command.stdin(Stdio::null()).output();
        let ran = ran.map_err(|error| Fault::new(format!("{program}: {error}"), ""))?;
        let both = [ran.stdout.as_slice(), b"\n", ran.stderr.as_slice()].concat();
        Ok(Ran { ok: ran.status.success(), text: String::from_utf8_lossy(&both).into_owned() })
    }

    /// At which level programs run here, and what that means.
    pub fn level(&self) -> Result<Level, Fault> {
        let shown = self.writ(&["run", "--dry-run", "--json", "--", "true"], "")?;
        let shown: Value = serde_json::from_str(&shown.text).unwrap_or_default();
        let name = shown.get("level").and_then(Value::as_str).unwrap_or("unknown");
        let why = shown.pointer("/fallen/0/fault");
        let word = |key: &str| why.and_then(|why| why.get(key)).and_then(Value::as_str).unwrap_or_default();
        let confined = name == "confined";
        let text = if confined {
            "Level: confined. The programs had a network, a view of the files and a process tree of their own.".to_owned()
        } else {
            format!(
                "Level: {name}. The programs were given placeholders and a proxy; a hostile one could have gone round them. Confining\n\
                 failed at the step {} ({}): `writ doctor` names the flag or the profile that is missing.",
                word("step"),
                word("what"),
            )
        };
        Ok(Level { confined, text })
    }

    /// Runs `writ` with these arguments and this input.
    pub fn writ(&self, arguments: &[&str], input: &str) -> Result<Ran, Fault> {
        let failed = |error: std::io::Error| Fault::new(format!("writ {}: {error}", arguments.join(" ")), "");
        let mut command = self.command(arguments)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        let ran = child.wait_with_output().map_err(failed)?;
        let mut text = String::from_utf8_lossy(&ran.stdout).into_owned();
        if text.trim().is_empty() {
            text = String::from_utf8_lossy(&ran.stderr).into_owned();
        }
        Ok(Ran { ok: ran.status.success(), text })
    }

    /// Starts this binary's hidden program under `writ run`.
    pub fn converse(&self, arguments: &[&str]) -> Result<Conversation, Fault> {
        let failed = |error: std::io::Error| Fault::new(format!("writ run: {error}"), "");
        let own = env::current_exe().map_err(failed)?;
        let own = own.to_string_lossy();
        let mut command =
            self.command(&[&["--quiet", "run", "--fresh", "--", own.as_ref()], arguments].concat())?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        let stdout = child
            .stdout
            .take()
            .map(BufReader::new)
            .ok_or_else(|| Fault::new("writ run has no output", ""))?;
        Ok(Conversation { child, stdin, stdout })
    }
}

impl Drop for Home {
    /// The backstop: stops the daemon if the demo broke off, and removes the directory.
    fn drop(&mut self) {
        let _ = self.writ(&["stop"], "");
        if below(&self.directory, &env::temp_dir()) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

impl Conversation {
    /// One line in, one JSON line out.
    pub fn ask(&mut self, line: &str) -> Result<Value, Fault> {
        let failed = |error: std::io::Error| Fault::new(format!("the demo's client: {error}"), "");
        let stdin = self.stdin.as_mut().ok_or_else(|| Fault::new("the demo's client is closed", ""))?;
        writeln!(stdin, "{line}").map_err(failed)?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).map_err(failed)?;
        serde_json::from_str(&answer)
            .map_err(|_| Fault::new("the demo's client ended early", "run writ demo without --quiet"))
    }

    pub fn close(mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}
