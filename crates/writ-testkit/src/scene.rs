//! A whole scene: stand-in, configured home, sealed canaries, and the placeholders that must never arrive.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::account::Who;
use crate::canary::{Canary, Shape};
use crate::config::{Config, Target};
use crate::demand::Presented;
use crate::git_server::GitServer;
use crate::home::{Home, Ran, Spawned};
use crate::seen::Seen;
use crate::standin::{Standin, StandinConfig};

/// The role of every scene, which may do everything at every target.
pub const ROLE: &str = "dev";
/// When a run of a test is given up.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Between two looks at a condition that only a command can tell.
const LOOK: Duration = Duration::from_millis(20);

/// A provider that a scene can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// api.openai.com.
    OpenAi,
    /// api.anthropic.com.
    Anthropic,
    /// generativelanguage.googleapis.com.
    Gemini,
    /// api.github.com.
    GitHub,
    /// gitlab.com.
    GitLab,
}

impl Provider {
    /// Preset, which is also the name of target and credential; host; variable; shape of the key.
    fn facts(self) -> (&'static str, &'static str, &'static str, Shape) {
        match self {
            Self::OpenAi => ("openai", "api.openai.com", "OPENAI_API_KEY", Shape::OpenAi),
            Self::Anthropic => ("anthropic", "api.anthropic.com", "ANTHROPIC_API_KEY", Shape::Anthropic),
            Self::Gemini => ("gemini", "generativelanguage.googleapis.com", "GEMINI_API_KEY", Shape::Gemini),
            Self::GitHub => ("github", "api.github.com", "GITHUB_TOKEN", Shape::GitHub),
            Self::GitLab => ("gitlab", "gitlab.com", "GITLAB_TOKEN", Shape::GitLab),
        }
    }

    /// The variable in which its programs look for their key.
    #[must_use]
    pub fn variable(self) -> &'static str {
        self.facts().2
    }

    /// The name of its credential and of its target.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.facts().0
    }
}

/// A stand-in for some providers and a home that leads their hosts to it.
pub struct Scene {
    /// The home, with a sealed canary for each provider.
    pub home: Home,
    /// The stand-in, which demands those canaries.
    pub standin: Standin,
    /// git at github.com, where the scene has it.
    pub git: Option<GitServer>,
    keys: Vec<(Provider, Canary)>,
    options: Vec<String>,
    top: String,
}

/// What a scene is made of.
#[derive(Debug, Clone, Default)]
pub struct SceneConfig {
    /// What the stand-in is, each with a credential.
    pub providers: Vec<Provider>,
    /// git at github.com with GitHub's credential; needs that provider to be the first.
    pub with_git: bool,
    /// Inline tables; everything if empty.
    pub grants: Vec<String>,
    /// Whose home it is.
    pub who: Who,
    /// Before `--` on the command line of `writ run`, after the role.
    pub options: Vec<String>,
    /// Further hosts of the stand-in: name, host, further lines of their targets.
    pub hosts: Vec<(String, String, Vec<String>)>,
    /// Further targets, which are no stand-in's: name and lines.
    pub targets: Vec<(String, Vec<String>)>,
    /// Lines at the top of the configuration instead of `egress = "listed"`.
    pub top: Option<String>,
}

impl SceneConfig {
    /// Some providers, and everything else as it is without being asked for.
    #[must_use]
    pub fn of(providers: &[Provider]) -> Self {
        Self { providers: providers.to_vec(), ..Self::default() }
    }

    /// For this account.
    #[must_use]
    pub fn who(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    /// With these options of `writ run`.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// A host of the stand-in that demands nothing, as a target with `lines`.
    #[must_use]
    pub fn host(mut self, name: &str, host: &str, lines: &[&str]) -> Self {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        self.hosts.push((name.to_owned(), host.to_owned(), lines));
        self
    }

    /// A target that is no stand-in's.
    #[must_use]
    pub fn target(mut self, name: &str, lines: &[&str]) -> Self {
        self.targets.push((name.to_owned(), lines.iter().map(|line| (*line).to_owned()).collect()));
        self
    }

    /// Builds it for the binary `writ`.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn start(self, writ: impl Into<PathBuf>) -> io::Result<Scene> {
        Scene::build(writ.into(), self)
    }
}

impl Scene {
    /// Starts a stand-in for `providers` and configures a home for the binary `writ`.
    ///
    /// # Errors
    /// When a part does not start, or `writ` refuses the configuration or a credential.
    pub fn start(writ: impl Into<PathBuf>, providers: &[Provider]) -> io::Result<Self> {
        SceneConfig::of(providers).start(writ)
    }

    /// As [`Scene::start`], with the inline tables `grants` instead of everything.
    ///
    /// # Errors
    /// As [`Scene::start`].
    pub fn granted(writ: impl Into<PathBuf>, providers: &[Provider], grants: &[&str]) -> io::Result<Self> {
        let grants = grants.iter().map(|grant| (*grant).to_owned()).collect();
        SceneConfig { grants, ..SceneConfig::of(providers) }.start(writ)
    }

    /// As [`Scene::start`], for GitHub's API and a real git server at github.com, with one credential.
    ///
    /// # Errors
    /// As [`Scene::start`] and [`GitServer::start`].
    pub fn with_git(writ: impl Into<PathBuf>) -> io::Result<Self> {
        SceneConfig { with_git: true, ..SceneConfig::of(&[Provider::GitHub]) }.start(writ)
    }

    fn build(writ: PathBuf, plan: SceneConfig) -> io::Result<Self> {
        let keys: Vec<_> = plan.providers.iter().map(|p| (*p, Canary::new(p.facts().3))).collect();
        let demand = |c: StandinConfig, (p, key): &(Provider, Canary)| c.demand(p.facts().1, key.value());
        let standin = Standin::start(keys.iter().fold(StandinConfig::default(), demand))?;
        let git = match keys.first() {
            Some((_, key)) if plan.with_git => {
                Some(GitServer::start("github.com", "x-access-token", key.value(), standin.ca())?)
            }
            _ => None,
        };
        let home = Home::of(writ, plan.who)?;
        let top = plan.top.unwrap_or_else(|| "egress = \"listed\"".to_owned());
        let scene = Self { home, standin, git, keys, options: plan.options, top };
        let mut config = scene.config();
        for (name, host, lines) in &plan.hosts {
            config = config.target(&Target::bare_host(name, host, &scene.standin).lines(lines));
        }
        for (name, lines) in &plan.targets {
            config = config.target(&Target::named(name).lines(lines));
        }
        let all = plan.grants.is_empty();
        scene.home.configure(&if all {
            config.role_for_all(ROLE)
        } else {
            config.role(ROLE, "15m", &plan.grants)
        })?;
        for (provider, key) in &scene.keys {
            scene.home.set_credential(provider.name(), key)?;
        }
        Ok(scene)
    }

    /// The configuration of this scene, but for its roles.
    #[must_use]
    pub fn config(&self) -> Config {
        let mut config = Config::with(&self.top).of(self.home.who());
        for (provider, _) in &self.keys {
            let (name, _, variable, _) = provider.facts();
            let target = Target::standin(name, name, &self.standin).credential(name);
            config = config.credential(name, &[variable]).target(&target);
        }
        if let Some(git) = &self.git {
            let target = Target::preset("github-git", "github-git", git.addr(), &self.standin.ca_path());
            config = config.target(&target.credential("github"));
        }
        config
    }

    /// The canaries of this scene.
    pub fn canaries(&self) -> impl Iterator<Item = &Canary> {
        self.keys.iter().map(|(_, key)| key)
    }

    /// The canary of `provider`.
    #[must_use]
    pub fn canary(&self, provider: Provider) -> Option<&Canary> {
        self.keys.iter().find(|(p, _)| *p == provider).map(|(_, key)| key)
    }

    /// How many windows of any canary are in `haystack`.
    #[must_use]
    pub fn windows(&self, haystack: &[u8]) -> usize {
        self.canaries().map(|key| key.windows(haystack)).fold(0, usize::saturating_add)
    }

    /// Every regular file below `dir` that holds a window of a canary, and how many files were read.
    ///
    /// # Errors
    /// When a directory or a file cannot be read.
    pub fn scan(&self, dir: &Path) -> io::Result<(Vec<PathBuf>, usize)> {
        let (mut found, mut read) = (Vec::new(), 0);
        let mut left = vec![dir.to_owned()];
        while let Some(dir) = left.pop() {
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    left.push(entry.path());
                } else if kind.is_file() {
                    read += 1;
                    let clean = self.windows(&std::fs::read(entry.path())?) == 0;
                    found.extend((!clean).then(|| entry.path()));
                }
            }
        }
        Ok((found, read))
    }

    /// Runs `argv` under `writ run`.
    ///
    /// # Errors
    /// As [`Home::run`].
    pub fn run(&self, argv: &[&str]) -> io::Result<Ran> {
        self.spawn(argv)?.wait(RUN_MAX)
    }

    /// Starts `argv` under `writ run`.
    ///
    /// # Errors
    /// As [`Home::spawn`].
    pub fn spawn(&self, argv: &[&str]) -> io::Result<Spawned> {
        self.spawn_with(&[], argv)
    }

    /// Starts `argv` under `writ run` with further options.
    ///
    /// # Errors
    /// As [`Home::spawn`].
    pub fn spawn_with(&self, options: &[&str], argv: &[&str]) -> io::Result<Spawned> {
        let own = self.options.iter().map(String::as_str);
        let all: Vec<&str> = ["--role", ROLE].into_iter().chain(own).chain(options.iter().copied()).collect();
        self.home.spawn_with(&all, argv)
    }

    /// Asks a run for its placeholders and tells the stand-in that they must never arrive.
    ///
    /// # Errors
    /// When the run fails or shows no placeholder.
    pub fn learn_placeholders(&self) -> io::Result<Vec<String>> {
        let names: Vec<&str> = self.keys.iter().map(|(p, _)| p.variable()).collect();
        let script = names.iter().map(|name| format!("echo \"${name}\"\n")).collect::<String>();
        let ran = self.run(&["sh", "-c", &script])?;
        let placeholders: Vec<String> = ran.out().lines().map(str::to_owned).collect();
        if ran.code != Some(0)
            || placeholders.len() != names.len()
            || placeholders.iter().any(String::is_empty)
        {
            return Err(io::Error::other(format!("no placeholder in {names:?}: {}", ran.told())));
        }
        placeholders.iter().for_each(|p| self.standin.add_placeholder(p));
        Ok(placeholders)
    }

    /// The live leases: id, session.
    ///
    /// # Errors
    /// As [`Home::json`].
    pub fn live_leases(&self) -> io::Result<Vec<(String, String)>> {
        self.leases(&["lease", "list"])
    }

    /// All leases, the ended ones among them: id, session.
    ///
    /// # Errors
    /// As [`Home::json`].
    pub fn all_leases(&self) -> io::Result<Vec<(String, String)>> {
        self.leases(&["lease", "list", "--all"])
    }

    fn leases(&self, args: &[&str]) -> io::Result<Vec<(String, String)>> {
        let rows = self.home.json(args)?;
        let rows = rows.as_array().ok_or_else(|| io::Error::other(format!("{args:?}: no list: {rows}")))?;
        let text = |row: &serde_json::Value, name: &str| row.get(name)?.as_str().map(str::to_owned);
        let pair = |row| text(row, "lease").zip(text(row, "session"));
        let fault = || io::Error::other("a lease without id or session");
        rows.iter().map(|row| pair(row).ok_or_else(fault)).collect()
    }

    /// What is wrong with the requests that the stand-in saw: a violation, or anything but the real key.
    #[must_use]
    pub fn wrongs(&self) -> Vec<Seen> {
        let wrong = |s: &Seen| !s.violations.is_empty() || s.presented != Presented::Real;
        self.standin.seen().into_iter().filter(wrong).collect()
    }
}

/// Looks until `done` holds; false when `patience` ran out first. For what no descriptor announces.
pub fn until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// A request by somebody who kept `proxy` (a URL with its password) after the run: curl's exit code and output.
///
/// # Errors
/// When curl is not installed.
pub fn ask_through(proxy: &str, url: &str, headers: &[&str]) -> io::Result<Output> {
    let mut command = Command::new("curl");
    command.env_clear().args(["--silent", "--show-error", "--insecure", "--fail", "--max-time", "20"]);
    for header in headers {
        command.args(["--header", header]);
    }
    command.args(["--proxy", proxy, url]).stdin(Stdio::null());
    command
        .output()
        .map_err(|fault| io::Error::other(format!("the suites need `curl` ({fault}): install it")))
}
