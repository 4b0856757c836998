//! The `writ.toml` of a test, written line by line as a person writes it.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use crate::account::Who;
use crate::standin::Standin;

/// One target of a test's configuration.
#[derive(Debug, Clone)]
pub struct Target {
    name: String,
    lines: Vec<String>,
}

impl Target {
    /// `[[target]] name` with `preset`, dialled at `dial` and verified with the roots in `ca`.
    #[must_use]
    pub fn preset(name: &str, preset: &str, dial: SocketAddr, ca: &Path) -> Self {
        Self::dialled(name, dial, ca).line(&format!("preset = {preset:?}"))
    }

    /// `[[target]] name` for `host`, with `inject` as an inline table.
    #[must_use]
    pub fn host(name: &str, host: &str, inject: &str, dial: SocketAddr, ca: &Path) -> Self {
        Self::dialled(name, dial, ca).line(&format!("host = {host:?}")).line(&format!("inject = {inject}"))
    }

    /// A preset at a stand-in.
    #[must_use]
    pub fn standin(name: &str, preset: &str, standin: &Standin) -> Self {
        Self::preset(name, preset, standin.addr(), &standin.ca_path())
    }

    /// The credential of this target.
    #[must_use]
    pub fn credential(self, name: &str) -> Self {
        self.line(&format!("credential = {name:?}"))
    }

    /// Any other line.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// A host of a stand-in, with neither a credential nor a way to present one.
    #[must_use]
    pub fn bare_host(name: &str, host: &str, standin: &Standin) -> Self {
        Self::dialled(name, standin.addr(), &standin.ca_path()).line(&format!("host = {host:?}"))
    }

    /// A target of which nothing is known.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), lines: Vec::new() }
    }

    /// Other lines.
    #[must_use]
    pub fn lines(self, lines: &[String]) -> Self {
        lines.iter().fold(self, |target, line| target.line(line))
    }

    fn dialled(name: &str, dial: SocketAddr, ca: &Path) -> Self {
        Self::named(name)
            .line(&format!("dial = \"{dial}\""))
            .line(&format!("tls_ca = {:?}", ca.display().to_string()))
            .line("allow_private = [\"127.0.0.0/8\"]")
    }
}

/// A `writ.toml` in the making.
#[derive(Debug, Clone)]
pub struct Config {
    text: String,
    targets: Vec<String>,
    uid: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// Egress listed, key-file seal, advisory runs accepted.
    #[must_use]
    pub fn new() -> Self {
        Self::with("egress = \"listed\"")
    }

    /// As [`Config::new`], with other lines at the top than `egress = "listed"`.
    #[must_use]
    pub fn with(top: &str) -> Self {
        let text =
            format!("version = 1\n{top}\n\n[seal]\nkind = \"key-file\"\naccept_below_confined = true\n");
        Self { text, targets: Vec::new(), uid: Who::Caller.uid() }
    }

    /// For the registration entries of another account.
    #[must_use]
    pub fn of(mut self, who: Who) -> Self {
        self.uid = who.uid();
        self
    }

    /// A credential whose placeholder stands in the variables `env`.
    #[must_use]
    pub fn credential(self, name: &str, env: &[&str]) -> Self {
        self.block(&format!("[[credential]]\nname = {name:?}\nenv = {env:?}\nowner = \"ada@example.com\""))
    }

    /// A target.
    #[must_use]
    pub fn target(mut self, target: &Target) -> Self {
        self.targets.push(target.name.clone());
        self.block(&format!("[[target]]\nname = {:?}\n{}", target.name, target.lines.join("\n")))
    }

    /// A role with the inline tables `grants`, and a registration entry that gives it to this user.
    #[must_use]
    pub fn role(self, name: &str, ttl: &str, grants: &[String]) -> Self {
        let uid = self.uid;
        let grants: String = grants.iter().fold(String::new(), |mut out, grant| {
            let _ = writeln!(out, "  {grant},");
            out
        });
        self.block(&format!("[[role]]\nname = {name:?}\nttl = {ttl:?}\nttl_max = \"8h\"\ngrants = [\n{grants}]"))
            .block(&format!(
                "[[workload]]\nspiffe_id = \"spiffe://writ.local/{name}/test\"\nselectors = [\"unix:uid:{uid}\"]\nrole = {name:?}"
            ))
    }

    /// A role that may do everything at every target so far.
    #[must_use]
    pub fn role_for_all(self, name: &str) -> Self {
        let grants: Vec<String> = self.targets.iter().map(|t| format!("{{ target = {t:?} }}")).collect();
        self.role(name, "15m", &grants)
    }

    /// Any other block.
    #[must_use]
    pub fn block(mut self, block: &str) -> Self {
        let _ = write!(self.text, "\n{block}\n");
        self
    }

    /// The text so far.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}
