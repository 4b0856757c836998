//! Profiles: what is known about a coding agent, as data.
//!
//! A preset says how a service takes its key; a profile says what the program that uses it needs to start with nobody there to
//! answer its questions, and what must be taken out of a repository's hands. A repository is the agent's input, and each agent
//! reads settings from it: Claude Code let `.claude/settings.json` send every call, with its key, to another host, even against
//! the environment. So an agent's *managed* settings, which it believes before all others, repeat what the session decided.
//!
//! Managed settings and variables are for every confined run, whatever it starts: the agent may well be started from a shell.
//! Everything here is a pure function of the session's environment, so that tests are tables. Absent: reading or writing files,
//! which is the launcher's; and the answer to "do you trust this folder?", which is the person's.

use serde_json::{Map, Value, json};

/// A coding agent that writ knows.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// File names of its executables, in every way of installing it.
    pub programs: &'static [&'static str],
    /// A directory on the way to its executable, where the file is named by its version.
    pub directories: &'static [&'static str],
    /// The presets of the services that it asks.
    pub presets: &'static [&'static str],
    /// Set in every run, where the person has not set them: no self-update, nothing believed from the repository.
    pub variables: &'static [(&'static str, &'static str)],
    /// Offered: what it sends to its maker besides the calls.
    pub quiet_variables: &'static [(&'static str, &'static str)],
    /// A variable that holds the same as another: programs that ask for their key under a name of their own.
    pub same: &'static [(&'static str, &'static str)],
    /// Below `/etc`: its managed settings, as [`managed_settings`] writes them.
    pub managed: &'static [&'static str],
    /// Below the home directory: where it keeps its login. Never in an agent's view but with placeholders.
    pub login_files: &'static [&'static str],
    /// Below the home directory: where it keeps what it saw, the output of tools that printed the environment among it.
    pub transcripts: &'static [&'static str],
}

/// A file that an agent is to find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFile {
    /// Below `/etc` or below the home directory, as the function says that returns it.
    pub path: &'static str,
    pub content: String,
    /// Written although there is one already.
    pub replace: bool,
}

/// The agents, as they were seen to work.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "claude-code",
        title: "Claude Code",
        programs: &["claude", "claude.exe"],
        directories: &["claude-code", "claude"],
        presets: &["anthropic"],
        variables: &[("DISABLE_AUTOUPDATER", "1")],
        quiet_variables: &[("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"), ("DISABLE_TELEMETRY", "1")],
        same: &[],
        managed: &[CLAUDE_MANAGED],
        login_files: &[".claude/.credentials.json"],
        transcripts: &[".claude/projects", ".claude/shell-snapshots", ".claude.json"],
    },
    Profile {
        name: "codex",
        title: "Codex",
        programs: &["codex", "codex.js"],
        directories: &["codex"],
        presets: &["openai"],
        variables: &[],
        quiet_variables: &[],
        // With OPENAI_API_KEY alone its requests leave without a key.
        same: &[("CODEX_API_KEY", "OPENAI_API_KEY")],
        managed: &[CODEX_REQUIREMENTS, CODEX_DEFAULTS],
        login_files: &[".codex/auth.json"],
        transcripts: &[".codex/sessions", ".codex/shell_snapshots", ".codex/history.jsonl"],
    },
    Profile {
        name: "gemini-cli",
        title: "Gemini CLI",
        programs: &["gemini", "gemini.js"],
        directories: &["gemini-cli"],
        presets: &["gemini"],
        variables: &[],
        quiet_variables: &[],
        same: &[],
        managed: &[GEMINI_MANAGED],
        login_files: &[".gemini/oauth_creds.json", ".gemini/mcp-oauth-tokens.json"],
        transcripts: &[".gemini/tmp"],
    },
    Profile {
        name: "opencode",
        title: "opencode",
        programs: &["opencode", "opencode.exe"],
        directories: &["opencode"],
        presets: &["anthropic", "openai", "gemini"],
        // Its `opencode.json` could send the key elsewhere, and start servers with it.
        variables: &[("OPENCODE_DISABLE_PROJECT_CONFIG", "1"), ("OPENCODE_DISABLE_AUTOUPDATE", "1")],
        quiet_variables: &[],
        same: &[],
        managed: &[],
        login_files: &[".local/share/opencode/auth.json", ".local/share/opencode/mcp-auth.json"],
        transcripts: &[".local/share/opencode"],
    },
];

const CLAUDE_MANAGED: &str = "claude-code/managed-settings.json";
const CODEX_REQUIREMENTS: &str = "codex/requirements.toml";
/// What the person's own configuration may change.
const CODEX_DEFAULTS: &str = "codex/config.toml";
const GEMINI_MANAGED: &str = "gemini-cli/settings.json";

/// Variables with which a repository could turn Claude Code to another host, and what they are where the session says nothing.
const CLAUDE_PINS: &[(&str, &str)] = &[
    ("ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
    ("ANTHROPIC_BEDROCK_BASE_URL", ""),
    ("ANTHROPIC_VERTEX_BASE_URL", ""),
    ("ANTHROPIC_FOUNDRY_BASE_URL", ""),
    ("ANTHROPIC_CUSTOM_HEADERS", ""),
    ("CLAUDE_CODE_USE_BEDROCK", ""),
    ("CLAUDE_CODE_USE_VERTEX", ""),
    ("CLAUDE_CODE_USE_FOUNDRY", ""),
    ("HTTPS_PROXY", ""),
    ("https_proxy", ""),
    ("HTTP_PROXY", ""),
    ("http_proxy", ""),
    ("ALL_PROXY", ""),
    ("all_proxy", ""),
    ("NODE_TLS_REJECT_UNAUTHORIZED", ""),
];
/// The same for variables that must not be empty: pinned where the session has them.
const CLAUDE_PINS_IF_SET: &[&str] = &[
    CLAUDE_KEY,
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "NO_PROXY",
    "no_proxy",
];
const CLAUDE_KEY: &str = "ANTHROPIC_API_KEY";
/// Without a helper of its own the repository's would run. It prints what the environment holds anyway.
const CLAUDE_KEY_HELPER: &str = "printf %s \"$ANTHROPIC_API_KEY\"";
/// By so many last characters Claude Code remembers which keys it may use.
const CLAUDE_KEY_TAIL: usize = 20;
/// In Claude Code's state file: a long-lived key from a login.
const CLAUDE_LOGIN_KEY: &str = "primaryApiKey";
/// In Claude Code's state file and in each of its projects.
const CLAUDE_SERVERS: &str = "mcpServers";
const CLAUDE_STATE: &str = ".claude.json";
const CODEX_LOGIN: &str = ".codex/auth.json";
const CODEX_KEY: &str = "OPENAI_API_KEY";

/// The most that is read of a file which is to be changed, bytes.
pub const AGENT_FILE_MAX: usize = 16 << 20;

/// Where a variable's value is looked up: the environment of the session, as its program gets it.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The agent that `path` starts, told by its file name or, where that is a version, by its directories.
pub fn profile_of(path: &str) -> Option<&'static Profile> {
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty());
    let file = parts.next()?;
    let by_name = PROFILES.iter().find(|profile| profile.programs.contains(&file));
    let version = file.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    by_name.or_else(|| {
        let named = || parts.find_map(|part| PROFILES.iter().find(|p| p.directories.contains(&part)));
        version.then(named).flatten()
    })
}

/// What to add to a session's environment for every agent: nothing that is there already.
pub fn agent_variables(environment: Lookup<'_>) -> Vec<(&'static str, String)> {
    let fixed = PROFILES.iter().flat_map(|profile| profile.variables);
    let fixed = fixed.map(|(name, value)| (*name, (*value).to_owned()));
    let same = PROFILES.iter().flat_map(|profile| profile.same);
    let same = same.filter_map(|(name, other)| Some((*name, environment(other)?)));
    fixed.chain(same).filter(|(name, _)| environment(name).is_none()).collect()
}

/// The managed settings of every agent, with paths below `/etc`. `existing` reads what the machine's operator has there, at most
/// [`AGENT_FILE_MAX`] bytes of it: that stays, but for what the session decides; a file in a form that cannot be merged stays
/// as it is, and ours is left out.
pub fn managed_settings(
    environment: Lookup<'_>,
    existing: &dyn Fn(&'static str) -> Option<Vec<u8>>,
) -> Vec<AgentFile> {
    let gemini = json!({
        "general": {"enableAutoUpdate": false, "enableAutoUpdateNotification": false},
        "privacy": {"usageStatisticsEnabled": false},
        "telemetry": {"enabled": false},
    });
    let merged = |path, ours: Value| {
        let before = existing(path).and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let content = pretty(&laid_over(before.unwrap_or_else(|| json!({})), ours));
        Some(AgentFile { path, content, replace: true })
    };
    let absent = |path, content: &str| {
        existing(path).is_none().then(|| AgentFile { path, content: content.to_owned(), replace: true })
    };
    let files = [
        merged(CLAUDE_MANAGED, claude_settings(environment)),
        absent(CODEX_REQUIREMENTS, "allow_managed_hooks_only = true\n"),
        absent(CODEX_DEFAULTS, "check_for_update_on_startup = false\n"),
        merged(GEMINI_MANAGED, gemini),
    ];
    files.into_iter().flatten().collect()
}

/// `before` with everything that `ours` says. Objects are merged one level deep, which is how these settings are nested.
fn laid_over(before: Value, ours: Value) -> Value {
    let (Value::Object(mut all), Value::Object(ours)) = (before, ours.clone()) else { return ours };
    for (name, value) in ours {
        match (all.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, value) => drop(all.insert(name, value)),
        }
    }
    Value::Object(all)
}

fn claude_settings(environment: Lookup<'_>) -> Value {
    let pinned = CLAUDE_PINS
        .iter()
        .map(|(name, otherwise)| (*name, environment(name).unwrap_or_else(|| (*otherwise).to_owned())));
    let set = CLAUDE_PINS_IF_SET.iter().filter_map(|name| Some((*name, environment(name)?)));
    let env: Map<String, Value> =
        pinned.chain(set).map(|(name, value)| (name.to_owned(), Value::String(value))).collect();
    let mut settings = json!({ "env": env, "allowManagedHooksOnly": true, "allowedMcpServers": [] });
    if let (Some(_), Some(fields)) = (environment(CLAUDE_KEY), settings.as_object_mut()) {
        fields.insert("apiKeyHelper".to_owned(), json!(CLAUDE_KEY_HELPER));
    }
    settings
}

/// The files that agents are to find in their home, with paths below it; modes are for the owner alone. `existing` reads the
/// person's own file, at most [`AGENT_FILE_MAX`] bytes of it; what cannot be read or understood counts as absent.
pub fn home_files(
    environment: Lookup<'_>,
    existing: &dyn Fn(&'static str) -> Option<Vec<u8>>,
) -> Vec<AgentFile> {
    let state = claude_state(environment(CLAUDE_KEY).as_deref(), existing(CLAUDE_STATE));
    // Interactive Codex asks for a login where this file is missing, whatever the environment holds.
    let login = environment(CODEX_KEY).map(|key| AgentFile {
        path: CODEX_LOGIN,
        content: pretty(&json!({ CODEX_KEY: key })),
        replace: true,
    });
    state.into_iter().chain(login).collect()
}

/// Claude Code's state, with its questions about the key answered and what holds secrets taken out: a login's key, and the
/// servers, which managed settings refuse anyway and whose settings hold keys. `None` where there is nothing to change. Whether
/// the folder is trusted is never answered.
fn claude_state(key: Option<&str>, existing: Option<Vec<u8>>) -> Option<AgentFile> {
    let existing = existing.and_then(|bytes| serde_json::from_slice::<Map<String, Value>>(&bytes).ok());
    let mut state = existing.clone().unwrap_or_default();
    state.remove(CLAUDE_LOGIN_KEY);
    state.remove(CLAUDE_SERVERS);
    let projects = state.get_mut("projects").and_then(Value::as_object_mut);
    for project in projects.into_iter().flat_map(Map::values_mut).filter_map(Value::as_object_mut) {
        project.remove(CLAUDE_SERVERS);
    }
    if let Some(key) = key {
        state.entry("hasCompletedOnboarding").or_insert(Value::Bool(true));
        state.entry("theme").or_insert_with(|| json!("dark"));
        let skip = key.chars().count().saturating_sub(CLAUDE_KEY_TAIL);
        approve(&mut state, key.chars().skip(skip).collect());
    }
    let replace = existing.is_some();
    let changed = existing.map_or(!state.is_empty(), |before| before != state);
    changed.then(|| AgentFile { path: CLAUDE_STATE, content: pretty(&Value::Object(state)), replace })
}

fn approve(state: &mut Map<String, Value>, tail: String) {
    let responses = state.entry("customApiKeyResponses").or_insert_with(|| json!({}));
    if !responses.is_object() {
        *responses = json!({});
    }
    let Some(responses) = responses.as_object_mut() else { return };
    let tail = Value::String(tail);
    if let Some(rejected) = responses.get_mut("rejected").and_then(Value::as_array_mut) {
        rejected.retain(|one| *one != tail);
    }
    let approved = responses.entry("approved").or_insert_with(|| json!([]));
    match approved.as_array_mut() {
        Some(approved) if approved.contains(&tail) => {}
        Some(approved) => approved.push(tail),
        None => *approved = json!([tail]),
    }
}

/// The same text whatever else is linked: whether maps keep their order depends on that.
fn pretty(value: &Value) -> String {
    let mut value = value.clone();
    value.sort_all_objects();
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const KEY: &str = "sk-ant-api03-writ0123456789abcdefghij";

    fn with(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        move |name| pairs.iter().find(|(one, _)| one == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn agents_are_told_by_their_executables() {
        let name = |path: &str| profile_of(path).map(|profile| profile.name);
        for (path, agent) in [
            ("claude", "claude-code"),
            ("/usr/bin/claude", "claude-code"),
            ("/usr/lib/node_modules/@anthropic-ai/claude-code/bin/claude.exe", "claude-code"),
            ("/home/a/.local/share/claude/versions/2.1.330", "claude-code"),
            ("/usr/lib/node_modules/@openai/codex/bin/codex.js", "codex"),
            ("/opt/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex", "codex"),
            ("/usr/lib/node_modules/@google/gemini-cli/bundle/gemini.js", "gemini-cli"),
            ("opencode", "opencode"),
        ] {
            assert_eq!(name(path), Some(agent), "{path}");
        }
        for other in ["", "/", "/bin/sh", "/home/claude/bin/ls", "/home/a/codex/1password", "node"] {
            assert_eq!(name(other), None, "{other}");
        }
    }

    #[test]
    fn profiles_are_well_formed() {
        for profile in PROFILES {
            assert!(!profile.programs.is_empty() && !profile.presets.is_empty());
            for preset in profile.presets {
                assert!(crate::preset(preset).is_some(), "{preset}");
            }
            for path in profile.login_files.iter().chain(profile.transcripts) {
                assert!(!path.starts_with('/') && !path.contains(".."), "{path}");
            }
        }
    }

    #[test]
    fn the_person_s_own_variables_win() {
        let environment = with(&[("OPENAI_API_KEY", "sk-proj-writ1"), ("DISABLE_AUTOUPDATER", "0")]);
        let added = agent_variables(&environment);
        assert!(added.contains(&("CODEX_API_KEY", "sk-proj-writ1".to_owned())), "{added:?}");
        assert!(added.contains(&("OPENCODE_DISABLE_PROJECT_CONFIG", "1".to_owned())), "{added:?}");
        assert!(!added.iter().any(|(name, _)| *name == "DISABLE_AUTOUPDATER"), "{added:?}");
        assert!(!agent_variables(&with(&[])).iter().any(|(name, _)| *name == "CODEX_API_KEY"));
    }

    #[test]
    fn managed_settings_repeat_what_the_session_decided() {
        let environment = with(&[(CLAUDE_KEY, KEY), ("NODE_EXTRA_CA_CERTS", "/etc/ssl/writ.pem")]);
        let files = managed_settings(&environment, &|_| None);
        expect![[r#"
            {
              "allowManagedHooksOnly": true,
              "allowedMcpServers": [],
              "apiKeyHelper": "printf %s \"$ANTHROPIC_API_KEY\"",
              "env": {
                "ALL_PROXY": "",
                "ANTHROPIC_API_KEY": "sk-ant-api03-writ0123456789abcdefghij",
                "ANTHROPIC_BASE_URL": "https://api.anthropic.com",
                "ANTHROPIC_BEDROCK_BASE_URL": "",
                "ANTHROPIC_CUSTOM_HEADERS": "",
                "ANTHROPIC_FOUNDRY_BASE_URL": "",
                "ANTHROPIC_VERTEX_BASE_URL": "",
                "CLAUDE_CODE_USE_BEDROCK": "",
                "CLAUDE_CODE_USE_FOUNDRY": "",
                "CLAUDE_CODE_USE_VERTEX": "",
                "HTTPS_PROXY": "",
                "HTTP_PROXY": "",
                "NODE_EXTRA_CA_CERTS": "/etc/ssl/writ.pem",
                "NODE_TLS_REJECT_UNAUTHORIZED": "",
                "all_proxy": "",
                "http_proxy": "",
                "https_proxy": ""
              }
            }
        "#]]
        .assert_eq(&files[0].content);
        // A gateway of the person's own stays; a login is not shadowed by a helper.
        let environment = with(&[("ANTHROPIC_BASE_URL", "https://gateway.example")]);
        let settings: Value =
            serde_json::from_str(&managed_settings(&environment, &|_| None)[0].content).unwrap();
        assert_eq!(settings["env"]["ANTHROPIC_BASE_URL"], "https://gateway.example");
        assert_eq!(settings.get("apiKeyHelper"), None);
        let of_profiles: Vec<&str> = PROFILES.iter().flat_map(|profile| profile.managed).copied().collect();
        assert_eq!(files.iter().map(|file| file.path).collect::<Vec<_>>(), of_profiles);
        for file in files {
            assert!(file.replace && !file.path.starts_with('/') && !file.path.contains(".."), "{file:?}");
        }
    }

    #[test]
    fn the_operator_s_own_settings_stay() {
        let before = |path: &'static str| {
            match path {
            CLAUDE_MANAGED => Some(
                br#"{"permissions":{"deny":["WebFetch"]},"allowManagedHooksOnly":false,"env":{"A":"1","HTTPS_PROXY":"http://p"}}"#
                    .to_vec(),
            ),
            CODEX_REQUIREMENTS => Some(b"allowed_sandbox_modes = []\n".to_vec()),
            GEMINI_MANAGED => Some(b"not json".to_vec()),
            _ => None,
        }
        };
        let files = managed_settings(&with(&[]), &before);
        let paths: Vec<&str> = files.iter().map(|file| file.path).collect();
        assert_eq!(paths, [CLAUDE_MANAGED, CODEX_DEFAULTS, GEMINI_MANAGED]);
        let settings: Value = serde_json::from_str(&files[0].content).unwrap();
        assert_eq!(settings["permissions"]["deny"][0], "WebFetch");
        assert_eq!(settings["env"]["A"], "1");
        assert_eq!(settings["env"]["HTTPS_PROXY"], "");
        assert_eq!(settings["allowManagedHooksOnly"], true);
    }

    fn state(key: &[(&str, &str)], existing: Option<&str>) -> Option<(Value, bool)> {
        let existing = existing.map(|text| text.as_bytes().to_vec());
        let files =
            home_files(&with(key), &|path| (path == CLAUDE_STATE).then(|| existing.clone()).flatten());
        let file = files.into_iter().find(|file| file.path == CLAUDE_STATE)?;
        Some((serde_json::from_str(&file.content).unwrap(), file.replace))
    }

    #[test]
    fn the_question_about_the_key_is_answered_and_no_other() {
        let key: &[_] = &[(CLAUDE_KEY, KEY)];
        let (fresh, replace) = state(key, None).unwrap();
        let tail = &KEY[KEY.len() - CLAUDE_KEY_TAIL..];
        assert_eq!(
            fresh,
            json!({
                "hasCompletedOnboarding": true, "theme": "dark", "customApiKeyResponses": {"approved": [tail]},
            })
        );
        assert!(!replace);
        let before = r#"{"theme":"light","userID":"u","primaryApiKey":"sk-ant-real","mcpServers":{"a":{"env":{"K":"secret"}}},
            "projects":{"/w":{"hasTrustDialogAccepted":false,"mcpServers":{"b":{"headers":{"K":"secret"}}}}},
            "customApiKeyResponses":{"approved":["other"],"rejected":["TAIL","no"]}}"#;
        let (merged, replace) = state(key, Some(&before.replace("TAIL", tail))).unwrap();
        assert_eq!(
            merged,
            json!({
                "hasCompletedOnboarding": true, "theme": "light", "userID": "u",
                "projects": {"/w": {"hasTrustDialogAccepted": false}},
                "customApiKeyResponses": {"approved": ["other", tail], "rejected": ["no"]},
            })
        );
        assert!(replace);
        // What is as it should be is left alone, and garbage is no reason to fail.
        assert_eq!(state(key, Some(&merged.to_string())), None);
        assert_eq!(state(key, Some("[1]")).unwrap().0, fresh);
        assert_eq!(state(&[], None), None);
        assert_eq!(state(&[], Some(r#"{"primaryApiKey":"sk-ant-real"}"#)).unwrap().0, json!({}));
    }

    #[test]
    fn codex_finds_a_login_that_holds_the_placeholder() {
        let files = home_files(&with(&[(CODEX_KEY, "sk-proj-writ1")]), &|_| None);
        let login = files.iter().find(|file| file.path == CODEX_LOGIN).unwrap();
        assert!(login.replace);
        assert_eq!(
            serde_json::from_str::<Value>(&login.content).unwrap(),
            json!({"OPENAI_API_KEY": "sk-proj-writ1"})
        );
        assert!(home_files(&with(&[]), &|_| None).is_empty());
    }
}
