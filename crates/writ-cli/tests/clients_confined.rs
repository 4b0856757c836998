//! Every client confined: those that know nothing of proxies with nothing that names one, and all with a proxy again.
//!
//! Captured connections and the explicit proxy on the session's own loopback must be the same to a program. Besides the suites
//! of `clients.rs`: programs that read no proxy variable at all (Node 20's `fetch`, Java's `HttpClient`), ones that resolve
//! names themselves (Go, linked statically), sandboxes in the sandbox, package managers at their own registries, and a server
//! that is shown to the host.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy does not see that the helpers here are tests")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use writ_testkit::{Provider, Ran, Scene, SceneConfig, Who, clients, until};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const CONFINED: &[&str] = &["--require", "confined"];
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a program in the directory `$1`. No variable names a proxy: the launcher sets none.
const UNSET: &str = r#"
for name in HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy; do
    eval "value=\${$name-}"
    if [ -n "$value" ]; then echo "$name is set" >&2; exit 90; fi
done
cd "$1" && shift && exec "$@""#;
/// The same, through the proxy that the launcher names for whoever wants one.
const SET: &str = r#"
if [ -z "$WRIT_PROXY_URL" ]; then echo "no proxy is named" >&2; exit 90; fi
for name in HTTPS_PROXY https_proxy HTTP_PROXY http_proxy ALL_PROXY all_proxy; do
    export "$name=$WRIT_PROXY_URL"
done
export NODE_USE_ENV_PROXY=1
cd "$1" && shift && exec "$@""#;

/// One program: what it is, and what it prints.
struct Case {
    name: &'static str,
    directory: PathBuf,
    argv: Vec<String>,
    expected: String,
}

const ONCE: &str = "200 Hello from the stand-in.\n";

fn suite(scene: &Scene, name: &'static str) -> Case {
    let directory = clients::source(&scene.home, &format!("tests/suites/{name}")).unwrap();
    let argv = if directory.join("program.py").is_file() {
        vec![clients::python(&scene.home).unwrap(), "program.py".to_owned()]
    } else {
        vec!["sh".to_owned(), "program.sh".to_owned()]
    };
    let expected = fs::read_to_string(directory.join("expected")).unwrap();
    Case { name, directory, argv, expected }
}

fn client(scene: &Scene, name: &'static str, argv: &[&str], expected: &str) -> Case {
    let directory = clients::source(&scene.home, &format!("tests/clients/{name}")).unwrap();
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    Case { name, directory, argv, expected: expected.to_owned() }
}

/// Compiles, outside, into the home.
fn compile(scene: &Scene, name: &str, program: &str, arguments: &[&str]) {
    let sources = clients::source(&scene.home, &format!("tests/clients/{name}")).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(sources).env("CGO_ENABLED", "0");
    command.env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("GOFLAGS", "-buildvcs=false");
    let out = command.output().unwrap_or_else(|fault| panic!("the client suites need `{program}`: {fault}"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}

fn cases(scene: &Scene) -> Vec<Case> {
    compile(scene, "go", "go", &["build", "-o", "client", "."]);
    compile(scene, "java", "javac", &["-d", ".", "Client.java"]);
    clients::node_package(&scene.home, "openai").unwrap();
    let python = clients::python(&scene.home).unwrap();
    let said = "Hello from the stand-in.";
    let node = format!("chat {said}\nstream {said}\nresponses {said}\n");
    let suites = [
        "01-curl",
        "02-requests",
        "03-httpx",
        "04-openai",
        "05-anthropic",
        "06-google-genai",
        "07-three-providers",
        "08-git",
        "10-echo",
    ];
    let own = [
        client(scene, "node-fetch", &["node", "program.mjs"], ONCE),
        client(scene, "node-openai", &["node", "program.mjs"], &node),
        client(scene, "go", &["./client"], ONCE),
        client(scene, "java", &["java", "-Xshare:auto", "-cp", ".", "Client"], ONCE),
        client(scene, "aiohttp", &[&python, "program.py"], ONCE),
    ];
    suites.into_iter().map(|name| suite(scene, name)).chain(own).collect()
}

fn everything() -> SceneConfig {
    use Provider::{Anthropic, Gemini, GitHub, GitLab, OpenAi};
    let config = SceneConfig::of(&[GitHub, OpenAi, Anthropic, Gemini, GitLab]).options(CONFINED);
    SceneConfig { with_git: true, ..config }
}

fn run(scene: &Scene, way: &str, case: &Case) -> Ran {
    let directory = case.directory.display().to_string();
    let argv = ["sh", "-c", way, "sh", &directory].into_iter().chain(case.argv.iter().map(String::as_str));
    scene.run(&argv.collect::<Vec<_>>()).unwrap()
}

fn check(scene: Scene, way: &str, cases: &[Case]) {
    scene.learn_placeholders().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let ran = run(&scene, way, case);
        if ran.code != Some(0) || ran.out() != case.expected || scene.windows(&ran.both()) > 0 {
            wrong.push(format!("{}: {}", case.name, ran.told()));
        }
    }
    let log = fs::read(scene.home.writ_home().join("state/daemon.log")).unwrap_or_default();
    assert!(wrong.is_empty(), "{}\n--- daemon\n{}", wrong.join("\n"), String::from_utf8_lossy(&log));
    assert!(scene.wrongs().is_empty(), "{:#?}", scene.wrongs());
    let (leaks, files) = scene.scan(&scene.home.work()).unwrap();
    assert!(leaks.is_empty() && files > 0, "a key in {leaks:?}");
    if let Some(git) = &scene.git {
        assert_eq!(git.subjects("main").unwrap(), ["demo: add a large file", "demo: begin"]);
    }
    scene.home.close().unwrap();
}

#[test]
fn clients_without_a_proxy() {
    let scene = everything().start(WRIT).unwrap();
    let cases = cases(&scene);
    check(scene, UNSET, &cases);
}

#[test]
fn clients_of_a_plain_account_without_a_proxy() {
    let scene = everything().who(Who::User).start(WRIT).unwrap();
    let cases = cases(&scene);
    check(scene, UNSET, &cases);
}

#[test]
fn clients_with_a_proxy() {
    let scene = everything().start(WRIT).unwrap();
    let cases = cases(&scene);
    check(scene, SET, &cases);
}

#[test]
fn thirty_seconds_of_events() {
    let scene = SceneConfig::of(&[Provider::OpenAi]).options(CONFINED).start(WRIT).unwrap();
    let cases = [suite(&scene, "09-sse-30s")];
    check(scene, UNSET, &cases);
}

#[test]
fn refusals_reach_programs_in_their_form() {
    let grants = vec!["{ target = \"openai\", methods = [\"GET\"], paths = [\"/v1/models\"] }".to_owned()];
    let config = SceneConfig::of(&[Provider::OpenAi]).options(CONFINED);
    let scene = SceneConfig { grants, ..config }.start(WRIT).unwrap();
    let cases = [suite(&scene, "11-refused")];
    check(scene, UNSET, &cases);
}

/// A sandbox in the sandbox, with and without a network of its own.
#[test]
fn bubblewrap_nests() {
    for who in Who::ALL {
        let scene = SceneConfig::of(&[Provider::OpenAi]).who(who).options(CONFINED).start(WRIT).unwrap();
        let ask = "curl -sS -o /dev/null -w '%{http_code}\\n' -H \"Authorization: Bearer $OPENAI_API_KEY\" \
                   https://api.openai.com/v1/models";
        // A fresh /proc is refused where the host's is masked, which it is for uid 0.
        let proc = if who.uid() == 0 { "" } else { "--proc /proc" };
        let script = format!(
            "bwrap --unshare-all --share-net --ro-bind / / --dev /dev {proc} sh -c '{}'
             bwrap --unshare-all --ro-bind / / --dev /dev {proc} sh -c '{}; echo alone $?'",
            ask.replace('\'', "'\\''"),
            ask.replace('\'', "'\\''"),
        );
        let ran = scene.run(&["sh", "-c", &script]).unwrap();
        // 6: no name was resolved, since nobody is there to ask.
        assert_eq!(ran.out(), "200\n000\nalone 6\n", "{}", ran.told());
        scene.home.close().unwrap();
    }
}

/// Chromium with its sandbox on, which is a nest of namespaces of its own, at a page of the stand-in's.
#[test]
fn chromium_runs_in_its_own_sandbox() {
    let host = "page.example.net";
    let config = SceneConfig::of(&[Provider::OpenAi]).who(Who::User).options(CONFINED);
    let scene = config.host("page", host, &[]).start(WRIT).unwrap();
    let script = format!(
        "mkdir -p ~/.pki/nssdb && certutil -d sql:$HOME/.pki/nssdb -N --empty-password &&
         certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n session -i \"$NODE_EXTRA_CA_CERTS\" &&
         chromium --headless --disable-gpu --no-first-run --user-data-dir=$HOME/chromium --dump-dom https://{host}/echo"
    );
    let ran = scene.run(&["sh", "-c", &script]).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    assert!(ran.out().contains(&format!("\"host\":\"{host}\"")), "{}", ran.told());
    assert!(scene.standin.seen().iter().any(|seen| seen.host == host && seen.path == "/echo"));
    scene.home.close().unwrap();
}

/// A server of the agent's, shown to the host by `--publish` and to nobody without it.
#[test]
fn a_server_inside_is_shown_to_the_host() {
    let scene = SceneConfig::of(&[Provider::OpenAi]).options(CONFINED).start(WRIT).unwrap();
    fs::write(scene.home.work().join("index.html"), "served from inside\n").unwrap();
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let python = clients::python(&scene.home).unwrap();
    let server = [&python, "-m", "http.server", "8000", "--bind", "127.0.0.1"];
    let publish = format!("{free}:8000");
    let running = scene.spawn_with(&["--publish", &publish], &server).unwrap();
    let mut answer = String::new();
    let served = until(PATIENCE, || {
        answer = get(free).unwrap_or_default();
        answer.contains("served from inside")
    });
    assert!(served, "{answer}");
    drop(running);
    assert!(
        until(PATIENCE, || TcpStream::connect(("127.0.0.1", free)).is_err()),
        "it is shown after the run"
    );
    scene.home.close().unwrap();
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A package manager on the host, asked for one small package: what it says names the hosts that it asks.
fn hosts_of(told: &Ran) -> Vec<String> {
    let text = format!("{}\n{}", told.out(), told.err());
    let host = |rest: &str| {
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-:".contains(c))).unwrap_or(rest.len());
        rest[..end].trim_end_matches([':', '.']).trim_end_matches(":443").to_owned()
    };
    let mut hosts: Vec<String> =
        text.split("https://").skip(1).map(host).filter(|h| h.contains('.')).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// `egress = "public"` reaches public hosts by itself; a registry that is a mirror on a private address needs its line.
fn with_registry(hosts: &[String]) -> SceneConfig {
    let mut config = SceneConfig::of(&[Provider::OpenAi]).options(CONFINED);
    config.top = Some("egress = \"public\"".to_owned());
    for (number, host) in hosts.iter().enumerate() {
        let port = if host.contains(':') { "" } else { ":443" };
        let Ok(addresses) = format!("{host}{port}").to_socket_addrs() else { continue };
        let addresses: Vec<IpAddr> = addresses.map(|address: SocketAddr| address.ip()).collect();
        if addresses.iter().all(is_public) {
            continue;
        }
        let nets: Vec<String> =
            addresses.iter().map(|ip| format!("\"{ip}/{}\"", if ip.is_ipv4() { 32 } else { 128 })).collect();
        let lines = [
            format!("host = {host:?}"),
            "tunnel = true".to_owned(),
            format!("allow_private = [{}]", nets.join(", ")),
        ];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        config = config.target(&format!("registry{number}"), &lines);
    }
    config
}

/// Roughly: what writ's own judge of addresses calls public is tested where that is.
fn is_public(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_documentation();
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && second & 0xc0 == 64;
            !(special || shared || first == 0 || first >= 224)
        }
        IpAddr::V6(v6) => {
            let [first, second, ..] = v6.segments();
            let special = first == 0x2001 && (second < 0x200 || second == 0xdb8);
            first & 0xe000 == 0x2000 && !special
        }
    }
}

/// Outside, as the caller and with the caller's own configuration: the control, and the question where the registry is.
fn outside(directory: &Path, program: &str, arguments: &[&str]) -> Ran {
    let out = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    Ran { code: out.status.code(), signal: None, stdout: out.stdout, stderr: out.stderr }
}

#[test]
fn npm_installs_from_its_registry() {
    let scratch = tempfile::tempdir().unwrap();
    let told = outside(scratch.path(), "npm", &["view", "left-pad@1.3.0", "dist.tarball"]);
    let registry = outside(scratch.path(), "npm", &["config", "get", "registry"]).out().trim().to_owned();
    let mut hosts = hosts_of(&told);
    hosts.extend(hosts_of(&Ran { stdout: registry.clone().into_bytes(), ..told }));
    hosts.sort();
    hosts.dedup();
    assert!(!hosts.is_empty(), "npm names no registry");
    let scene = with_registry(&hosts).start(WRIT).unwrap();
    let from = format!("--registry={registry}");
    let ran = scene.run(&["npm", "install", "--no-audit", "--no-fund", &from, "left-pad@1.3.0"]).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    let ran = scene.run(&["node", "-p", "require('left-pad')('7', 3, '0')"]).unwrap();
    assert_eq!(ran.out(), "007\n", "{}", ran.told());
    scene.home.close().unwrap();
}

#[test]
fn pip_installs_from_its_registry() {
    let scratch = tempfile::tempdir().unwrap();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/clients/bin/python");
    let python = python.display().to_string();
    let package = "iniconfig==2.0.0";
    let arguments = ["-m", "pip", "download", "-vv", "--no-cache-dir", "--no-deps", "-d", ".", package];
    let told = outside(scratch.path(), &python, &arguments);
    assert_eq!(told.code, Some(0), "{}", told.told());
    let index = outside(scratch.path(), &python, &["-m", "pip", "config", "get", "global.index-url"]);
    let scene = with_registry(&hosts_of(&told)).start(WRIT).unwrap();
    let python = clients::python(&scene.home).unwrap();
    let mut argv = vec![
        python.as_str(),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        "installed",
        package,
    ];
    let index = index.out().trim().to_owned();
    if !index.is_empty() {
        argv.extend(["--index-url", &index]);
    }
    let ran = scene.run(&argv).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.told());
    let script = "import sys; sys.path.insert(0, 'installed'); import iniconfig; print(iniconfig.__name__)";
    let ran = scene.run(&[&python, "-c", script]).unwrap();
    assert_eq!(ran.out(), "iniconfig\n", "{}", ran.told());
    scene.home.close().unwrap();
}
