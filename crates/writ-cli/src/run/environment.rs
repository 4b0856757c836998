//! The program's environment, as a pure function of the inherited one and the session.
//!
//! A variable that held a key is replaced by its placeholder, never removed, since programs insist on it. Variables of known
//! services for which writ has no credential are withheld, and so is whatever looks like a real key under another name. In a
//! confined run everything goes to the proxy by itself: variables that name the host's proxies, sockets and agents are gone,
//! since what they name is not there.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use writ_api::run::Opened;
use writ_core::{agent_variables, looks_like_key};

use super::logins::{self, Delivery};

/// Point at the bundle of the system's certificates and the session's.
const BUNDLE_VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CODEX_CA_CERTIFICATE",
    "DENO_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    // A `cafile` in somebody's npmrc would count instead.
    "npm_config_cafile",
];
/// Points at the session's certificate alone, which Node adds to its own.
const EXTRA_VARIABLES: &[&str] = &["NODE_EXTRA_CA_CERTS"];
/// Point at the proxy. Programs disagree about the case.
const PROXY_VARIABLES: &[&str] =
    &["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
/// Name what goes past the proxy: the program's own servers.
const NO_PROXY_VARIABLES: &[&str] = &["NO_PROXY", "no_proxy"];
const NO_PROXY: &str = "localhost,127.0.0.1,::1";
/// Where a confined program finds the proxy, should it want to be told.
const PROXY_URL_VARIABLE: &str = "WRIT_PROXY_URL";
/// Tells the program, and the curious, in which session it runs.
pub const SESSION_VARIABLE: &str = "WRIT_SESSION";
/// Name what a confined program does not see: writ's own places, the host's proxies, sockets, desktops and agents.
const NOT_INSIDE: &[&str] = &[
    "WRIT_HOME",
    "WRIT_LOG",
    "WRIT_IDLE_SECONDS",
    "NODE_USE_ENV_PROXY",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "PODMAN_HOST",
    "XDG_RUNTIME_DIR",
    "DISPLAY",
    "XAUTHORITY",
    "WAYLAND_DISPLAY",
    "TMUX",
    "STY",
    "VSCODE_IPC_HOOK",
    "VSCODE_IPC_HOOK_CLI",
    "VSCODE_GIT_IPC_HANDLE",
    "NVIM",
    "KITTY_LISTEN_ON",
    "TMPDIR",
];

/// How the program reaches the proxy, and which files hold what it trusts.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub proxy_url: &'a str,
    /// The system's certificates and the session's.
    pub bundle: &'a Path,
    /// The session's alone.
    pub own: &'a Path,
    /// Everything is captured: nothing has to be told.
    pub confined: bool,
    /// Logins that the program is to hold.
    pub logins: &'a Delivery,
}

/// The whole environment of the program.
pub fn plan(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    opened: &Opened,
    way: &Way<'_>,
) -> Vec<(OsString, OsString)> {
    let mut set: Vec<(OsString, OsString)> = Vec::new();
    let mut add =
        |names: &[&str], value: &OsStr| set.extend(names.iter().map(|name| (name.into(), value.to_owned())));
    if way.confined {
        add(&[PROXY_URL_VARIABLE], OsStr::new(way.proxy_url));
        add(&["NODE_USE_SYSTEM_CA"], OsStr::new("1"));
        add(&["DENO_TLS_CA_STORE"], OsStr::new("system"));
    } else {
        add(PROXY_VARIABLES, OsStr::new(way.proxy_url));
        add(NO_PROXY_VARIABLES, OsStr::new(NO_PROXY));
        add(&["NODE_USE_ENV_PROXY"], OsStr::new("1"));
    }
    add(BUNDLE_VARIABLES, way.bundle.as_os_str());
    add(EXTRA_VARIABLES, way.own.as_os_str());
    add(&[SESSION_VARIABLE], OsStr::new(&opened.session.to_string()));
    for variable in &opened.variables {
        add(&[variable.name.as_str()], OsStr::new(variable.placeholder.as_str()));
    }
    for (name, value) in &way.logins.variables {
        add(&[name.as_str()], OsStr::new(value.as_str()));
    }
    let mut absent = logins::CREDENTIALS.to_vec();
    if !way.logins.variables.is_empty() {
        absent.extend(logins::PROGRAMS_OWN);
    }
    if way.confined {
        absent.extend([NOT_INSIDE, PROXY_VARIABLES, NO_PROXY_VARIABLES].concat());
    }
    let dropped = |name: &OsStr| {
        opened.withhold.iter().any(|withheld| name == withheld.as_str())
            || absent.iter().any(|absent| name == *absent)
    };
    let key = |value: &OsStr| value.to_str().is_some_and(looks_like_key);
    let replaced = |name: &OsStr| set.iter().any(|(own, _)| own == name);
    let kept: Vec<_> =
        inherited.filter(|(name, value)| !dropped(name) && !replaced(name) && !key(value)).collect();
    let mut planned: Vec<_> = kept.into_iter().chain(set).collect();
    let agents = agent_variables(&|name| lookup(&planned, name));
    planned.extend(agents.into_iter().map(|(name, value)| (name.into(), value.into())));
    planned
}

/// The value of a variable in a planned environment.
pub fn lookup(planned: &[(OsString, OsString)], name: &str) -> Option<String> {
    let found = planned.iter().find(|(one, _)| one == name);
    found.and_then(|(_, value)| value.to_str().map(ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use writ_api::run::Variable;
    use writ_core::{SessionId, Shape, Timestamp};

    use super::*;

    #[test]
    fn no_key_is_inherited() {
        let opened = Opened {
            session: SessionId::new(Timestamp::from_millis(0), &[0; 10]),
            workload: "spiffe://writ.local/a".parse().unwrap(),
            role: "dev".parse().unwrap(),
            expires_at: Timestamp::from_millis(0),
            ca_pem: String::new(),
            variables: vec![Variable {
                name: "OPENAI_API_KEY".into(),
                placeholder: Shape::GENERIC.build(std::iter::repeat(0)),
                credential: "openai".parse().unwrap(),
            }],
            withhold: vec!["GITHUB_TOKEN".into()],
            hosts: Vec::new(),
            named: Vec::new(),
            local: Vec::new(),
            caches: Vec::new(),
            readable: Vec::new(),
            presets: Vec::new(),
            revealed: Vec::new(),
            keepsake: String::new(),
        };
        let inherited = [
            ("OPENAI_API_KEY", "sk-real"),
            ("GITHUB_TOKEN", "ghp_real"),
            ("https_proxy", "http://elsewhere"),
            ("NO_PROXY", "*"),
            ("EDITOR", "vi"),
            ("MY_OTHER_KEY", "sk-ant-api03-real0123456789"),
            ("SSH_AUTH_SOCK", "/run/agent"),
            ("PGPASSWORD", "real"),
            ("PGPASSFILE", "/home/ada/.pgpass-real"),
            ("PGSSLMODE", "disable"),
        ];
        let inherited = inherited.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        for confined in [false, true] {
            let way = Way {
                proxy_url: "http://writ:p@127.0.0.1:1",
                bundle: Path::new("/run/ca.pem"),
                own: Path::new("/run/own.pem"),
                confined,
                logins: &Delivery::default(),
            };
            let planned = plan(inherited.clone().into_iter(), &opened, &way);
            let value = |name: &str| {
                let found: Vec<_> = planned
                    .iter()
                    .filter(|(one, _)| one == name)
                    .map(|(_, value)| value.to_str().unwrap())
                    .collect();
                assert!(found.len() <= 1, "{name} twice");
                found.first().copied()
            };
            assert!(value("OPENAI_API_KEY").unwrap().starts_with("writ_writ"));
            assert_eq!(value("GITHUB_TOKEN"), None);
            assert_eq!(value("https_proxy"), (!confined).then_some("http://writ:p@127.0.0.1:1"));
            assert_eq!(value("NO_PROXY"), (!confined).then_some(NO_PROXY));
            assert_eq!(value("WRIT_PROXY_URL"), confined.then_some("http://writ:p@127.0.0.1:1"));
            assert_eq!(value("SSH_AUTH_SOCK"), (!confined).then_some("/run/agent"));
            assert_eq!(value("EDITOR"), Some("vi"));
            assert_eq!(value("MY_OTHER_KEY"), None);
            assert_eq!(value("SSL_CERT_FILE"), Some("/run/ca.pem"));
            assert!(!planned.iter().any(|(_, value)| value.to_string_lossy().contains("real")));
            assert_eq!(value("PGSSLMODE"), Some("disable"), "a choice of the caller's, and no credential");
            let own = vec![("PGPASSWORD".to_owned(), "of this run".to_owned().into())];
            let logins = Delivery { variables: own, ..Delivery::default() };
            let planned = plan(inherited.clone().into_iter(), &opened, &Way { logins: &logins, ..way });
            assert_eq!(lookup(&planned, "PGPASSWORD").unwrap(), "of this run");
            assert_eq!(lookup(&planned, "PGSSLMODE"), None, "it would weaken the program's own login");
        }
    }
}
