//! The stand-in and the git server, seen by real clients: a stand-in that accepts what it must refuse would
//! make every suite above it worthless.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy does not see that the helpers here are tests"
)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use writ_testkit::{
    Canary, Demand, Faults, GitServer, LeafDefect, Presentation, Presented, Shape, Standin, StandinConfig,
    Violation,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn curl(standin: &Standin, url: &str, args: &[&str]) -> Output {
    let out = Command::new("curl")
        .env_clear()
        .args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"])
        .args(["--connect-to", &format!("::{}", standin.addr())])
        .arg("--cacert")
        .arg(standin.ca_path())
        .args(args)
        .arg(url)
        .output();
    out.expect("the tests of the stand-in need `curl`: install it")
}

/// Body and status of a request that had an answer.
fn asked(standin: &Standin, url: &str, args: &[&str]) -> (String, u16) {
    let out = curl(standin, url, args);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (body.to_owned(), status.parse().unwrap())
}

fn start(demands: &[(&str, &Canary)]) -> Standin {
    let config = demands.iter().fold(StandinConfig::default(), |c, (host, key)| c.demand(host, key.value()));
    Standin::start(config).unwrap()
}

#[test]
fn only_the_real_key_in_its_header_opens() {
    let key = Canary::new(Shape::Anthropic);
    let standin = start(&[("api.anthropic.com", &key)]);
    let url = "https://api.anthropic.com/echo";
    let header = |name: &str, value: &str| format!("{name}: {value}");
    let cases = [
        (header("x-api-key", key.value()), 200, Presented::Real),
        (header("authorization", &format!("Bearer {}", key.value())), 200, Presented::Real),
        (header("authorization", key.value()), 401, Presented::Other),
        (header("authorization", &format!("bearer {}", key.value())), 401, Presented::Other),
        (header("x-goog-api-key", key.value()), 401, Presented::Other),
        (header("x-api-key", &format!("{}x", key.value())), 401, Presented::Other),
        (header("x-other", "1"), 401, Presented::Nothing),
    ];
    for (line, status, presented) in &cases {
        let (body, got) = asked(&standin, url, &["-H", line]);
        assert_eq!(got, *status, "{presented:?}: {body}");
        assert_eq!(standin.seen().last().unwrap().presented, *presented);
        if got == 401 {
            assert!(body.contains("authentication_error"), "the vendor's shape: {body}");
        }
    }
    assert!(standin.violations().is_empty());
}

#[test]
fn what_no_proxy_may_send_is_a_violation() {
    let (key, other) = (Canary::new(Shape::OpenAi), Canary::new(Shape::GitHub));
    let standin = start(&[("api.openai.com", &key), ("api.github.com", &other)]);
    standin.add_placeholder("sk-proj-writ-placeholder");
    let good = format!("authorization: Bearer {}", key.value());
    let foreign = format!("x-note: {}", other.value());
    let basic = "x-basic: Basic dXNlcjpzay1wcm9qLXdyaXQtcGxhY2Vob2xkZXI=";
    let cases: [(&[&str], &str); 10] = [
        (&["-H", "via: 1.1 writ"], "proxy-header"),
        (&["-H", "proxy-authorization: Basic eA=="], "proxy-header"),
        (&["-H", "proxy-connection: keep-alive"], "proxy-header"),
        (&["-H", "x-forwarded-for: 127.0.0.1"], "proxy-header"),
        (&["-H", "x-note: sk-proj-writ-placeholder"], "placeholder"),
        (&["-H", basic], "placeholder"),
        (&["-H", "x-api-key: x"], "duplicate-credential"),
        (&["-H", "authorization: Bearer x"], "duplicate-credential"),
        (&["-H", &foreign], "foreign-key"),
        (&["-H", "host: api.github.com"], "host-mismatch"),
    ];
    for (extra, kind) in cases {
        let args = [&["--http1.1", "-H", &good], extra].concat();
        let (body, status) = asked(&standin, "https://api.openai.com/echo", &args);
        assert_eq!(status, 400, "{extra:?}: {body}");
        assert!(body.contains(&format!("\"kind\":\"{kind}\"")), "{kind}: {body}");
    }
    let (_, status) =
        asked(&standin, &format!("https://api.openai.com/echo?key={}", key.value()), &["-H", &good]);
    assert_eq!(status, 400);
    assert_eq!(standin.violations().last().unwrap().1, Violation::KeyInQuery);
    let (_, status) =
        asked(&standin, "https://api.openai.com/echo", &["-H", &good, "-d", "sk-proj-writ-placeholder"]);
    assert_eq!(status, 200, "bodies are the program's own");
    assert_eq!(standin.violations().last().unwrap().1, Violation::PlaceholderInBody);
}

#[test]
fn requests_are_recorded_whole() {
    let standin = start(&[]);
    for version in ["--http1.1", "--http2"] {
        asked(&standin, "https://any.example/echo?a=b", &[version, "-H", "X-One: 1", "-d", "hello"]);
    }
    let seen = standin.seen();
    let facts: Vec<_> = seen
        .iter()
        .map(|s| {
            (s.version.as_str(), s.method.as_str(), s.sni.as_deref().unwrap(), s.path.as_str(), s.body_len)
        })
        .collect();
    assert_eq!(
        facts,
        [("HTTP/1.1", "POST", "any.example", "/echo", 5), ("HTTP/2.0", "POST", "any.example", "/echo", 5)]
    );
    for s in &seen {
        assert_eq!((s.query.as_deref(), s.header("x-one")), (Some("a=b"), Some("1")));
        let digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(s.body_sha256.as_deref(), Some(digest));
    }
    assert_ne!(seen[0].connection, seen[1].connection);
    assert!(standin.wait_closed(PATIENCE));
}

#[test]
fn a_client_that_verifies_refuses_every_bad_leaf() {
    let standin = start(&[]);
    for leaf in
        [LeafDefect::Expired, LeafDefect::NotYetValid, LeafDefect::WrongName, LeafDefect::UnknownIssuer]
    {
        standin.set_faults(Faults { leaf, ..Faults::default() });
        let out = curl(&standin, "https://any.example/echo", &[]);
        assert_eq!(out.status.code(), Some(60), "{leaf:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    standin.set_faults(Faults::default());
    assert_eq!(asked(&standin, "https://any.example/echo", &[]).1, 200);
    assert_eq!(standin.seen().len(), 1);
}

#[test]
fn every_encoding_of_an_echo_is_one_that_a_canary_finds() {
    let key = Canary::new(Shape::OpenAi);
    let standin = start(&[("api.openai.com", &key)]);
    let header = format!("authorization: Bearer {}", key.value());
    let encodings = [
        "raw",
        "base64",
        "base64url",
        "hex",
        "hex-upper",
        "percent",
        "percent-lower",
        "json",
        "html",
        "html-hex",
    ];
    for encoding in encodings {
        for pad in 0..3 {
            let url = format!("https://api.openai.com/echo-encoded?as={encoding}&pad={pad}");
            let (body, status) = asked(&standin, &url, &["-H", &header]);
            assert_eq!(status, 200);
            assert!(key.windows(body.as_bytes()) > 0, "{encoding} {pad}: {body}");
        }
    }
    let (body, _) = asked(&standin, "https://api.openai.com/setcookie-echo", &["-i", "-H", &header]);
    for name in ["set-cookie", "location", "www-authenticate", "x-received-key"] {
        let line = body.lines().find(|l| l.to_ascii_lowercase().starts_with(name)).unwrap();
        assert!(key.windows(line.as_bytes()) > 0, "{line}");
    }
    let (body, _) = asked(&standin, "https://api.openai.com/gzip-echo", &["--compressed", "-H", &header]);
    assert!(key.windows(body.as_bytes()) > 0, "{body}");
}

#[test]
fn a_lockstep_stream_sends_nothing_ahead() {
    let standin = start(&[]);
    let mut child = Command::new("curl")
        .env_clear()
        .args(["--silent", "--no-buffer", "--max-time", "20", "--cacert"])
        .arg(standin.ca_path())
        .args(["--connect-to", &format!("::{}", standin.addr())])
        .arg("https://any.example/sse?events=3&lockstep=a")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for n in 0..3 {
        assert!(standin.wait_events(PATIENCE, n + 1));
        assert_eq!(standin.events_sent(), n + 1);
        standin.open_gate(&format!("a/{n}"));
    }
    assert!(child.wait().unwrap().success());
    assert!(standin.wait_closed(PATIENCE));
}

#[test]
fn faults_are_what_they_say() {
    let standin = start(&[]);
    let code = |url: &str, args: &[&str]| curl(&standin, url, args).status.code();
    assert_eq!(code("https://any.example/reset", &["--http1.1"]), Some(56), "reset");
    assert_ne!(code("https://any.example/reset", &["--http2"]), Some(0), "reset");
    assert_eq!(code("https://any.example/cut", &["--http1.1"]), Some(18), "partial file");
    assert_eq!(code("https://any.example/hang", &["--max-time", "1"]), Some(28), "timeout");
    assert_eq!(asked(&standin, "https://any.example/bytes/100000", &[]).0.len(), 100_000);
    assert_eq!(asked(&standin, "https://any.example/status/418", &[]).1, 418);
    assert_eq!(asked(&standin, "https://any.example/redirect?to=https://else.example/", &[]).1, 302);
    assert_eq!(asked(&standin, "https://any.example/pipe", &["-d", "back"]).0, "back");
    let (body, _) = asked(&standin, "https://any.example/echo", &["-H", "expect: 100-continue", "-d", "x"]);
    assert!(body.contains("\"body\":\"x\""), "{body}");
    standin.set_faults(Faults { status: Some(503), ..Faults::default() });
    assert_eq!(asked(&standin, "https://any.example/echo", &[]).1, 503);
    standin.set_faults(Faults { refuse_connections: true, ..Faults::default() });
    assert!(matches!(code("https://any.example/echo", &[]), Some(7 | 35 | 56)), "reset in the handshake");
}

#[test]
fn providers_answer_in_their_own_shapes() {
    let standin = start(&[]);
    let json = ["-H", "content-type: application/json"];
    let chat = r#"{"model":"m","messages":[]"#;
    let cases = [
        (
            "https://api.openai.com/v1/chat/completions",
            chat,
            "\"object\":\"chat.completion\"",
            "data: [DONE]",
        ),
        (
            "https://api.openai.com/v1/responses",
            r#"{"model":"m","input":"x""#,
            "\"output_text\"",
            "event: response.completed",
        ),
        (
            "https://api.anthropic.com/v1/messages",
            r#"{"model":"m","max_tokens":1,"messages":[]"#,
            "\"end_turn\"",
            "event: message_stop",
        ),
    ];
    for (url, body, whole, last) in cases {
        for (suffix, wanted) in [("}", whole), (",\"stream\":true}", last)] {
            let data = format!("{body}{suffix}");
            let (got, status) =
                asked(&standin, url, &[&json[..], &["-H", "anthropic-version: 1", "-d", &data]].concat());
            assert_eq!(status, 200, "{url}: {got}");
            assert!(got.contains(wanted), "{url}: {got}");
        }
    }
    let gemini = "https://generativelanguage.googleapis.com/v1beta/models/m";
    let data = r#"{"contents":[]}"#;
    let (got, _) =
        asked(&standin, &format!("{gemini}:generateContent"), &[&json[..], &["-d", data]].concat());
    assert!(got.contains("\"finishReason\":\"STOP\""), "{got}");
    let (got, _) = asked(
        &standin,
        &format!("{gemini}:streamGenerateContent?alt=sse"),
        &[&json[..], &["-d", data]].concat(),
    );
    assert_eq!(got.matches("data: ").count(), 5, "{got}");
}

#[test]
fn a_demand_may_name_its_own_form() {
    let key = Canary::new(Shape::Awkward);
    let form = Presentation::Basic { user: "x-access-token".to_owned() };
    let line = format!("authorization: {}", form.render(key.value()));
    let demand = Demand::exactly("github.com", key.value(), form);
    let standin = Standin::start(StandinConfig::default().demand_as(demand)).unwrap();
    assert_eq!(asked(&standin, "https://github.com/echo", &["-H", &line]).1, 200);
    let bearer = format!("authorization: Bearer {}", key.value());
    assert_eq!(asked(&standin, "https://github.com/echo", &["-H", &bearer]).1, 401);
}

fn git(server: &GitServer, ca: &Path, dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("git");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .envs([("HOME", dir), ("GIT_SSL_CAINFO", ca)])
        .envs([("GIT_TERMINAL_PROMPT", "0"), ("GIT_CONFIG_NOSYSTEM", "1")])
        .envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b.c")])
        .envs([("GIT_COMMITTER_NAME", "a"), ("GIT_COMMITTER_EMAIL", "a@b.c")])
        .arg("-c")
        .arg(format!("http.curloptResolve=git.example:{}:127.0.0.1", server.addr().port()))
        .arg("-C")
        .arg(dir)
        .args(args);
    command.output().unwrap()
}

#[test]
fn the_git_server_wants_basic_and_takes_a_push() {
    let standin = start(&[]);
    let key = Canary::new(Shape::GitHub);
    let server = GitServer::start("git.example", "x-access-token", key.value(), standin.ca()).unwrap();
    let dir = standin.dir();
    let port = server.addr().port();
    let with = |user: &str| format!("https://{user}git.example:{port}/ada/demo.git");
    let out = git(&server, &standin.ca_path(), dir, &["clone", &with(""), "refused"]);
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(told.contains("could not read Username"), "a clone without a password: {told}");
    let url = with(&format!("x-access-token:{}@", key.value()));
    let out = git(&server, &standin.ca_path(), dir, &["clone", &url, "demo"]);
    assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stderr), server.troubles());
    for args in [&["commit", "--allow-empty", "-m", "demo: go on"][..], &["push", "origin", "HEAD:main"]] {
        let out = git(&server, &standin.ca_path(), &dir.join("demo"), args);
        assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stderr), server.troubles());
    }
    assert_eq!(server.subjects("main").unwrap(), ["demo: go on", "demo: begin"]);
    let log = server.finish().unwrap();
    assert!(
        log.iter().any(|r| r.method == "POST" && r.uri.ends_with("/git-receive-pack") && r.status == 200)
    );
    assert!(log.iter().filter(|r| r.status == 200).all(|r| r.authorization.starts_with("Basic ")));
    assert!(log.iter().all(|r| r.proxy.is_empty()));
}

#[tokio::test]
async fn a_stand_in_lives_and_ends_inside_of_another_runtime() {
    let standin = start(&[]);
    let addr = standin.addr();
    tokio::net::TcpStream::connect(addr).await.unwrap();
    drop(standin);
}

#[test]
fn the_binary_tells_where_it_is_and_ends_with_its_input() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    std::fs::write(
        &config,
        r#"{"demands":[{"host":"any.example","key":"k","accepts":[{"kind":"bearer"}]}]}"#,
    )
    .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_writ-standin"))
        .arg(&config)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    let text = |name: &str| ready[name].as_str().unwrap().to_owned();
    let curl = |args: &[&str]| {
        let out = Command::new("curl")
            .env_clear()
            .args(["--silent", "--max-time", "20"])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let (to, ca, control) = (format!("::{}", text("addr")), text("ca"), text("control"));
    let asked =
        ["--connect-to", &to, "--cacert", &ca, "-H", "authorization: Bearer k", "https://any.example/echo"];
    assert!(curl(&asked).contains("\"path\":\"/echo\""));
    let seen = curl(&[&format!("http://{control}/_standin/seen")]);
    assert!(seen.contains("\"presented\":\"real\""), "{seen}");
    assert_eq!(ready["pid"].as_u64().unwrap(), u64::from(child.id()));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    assert!(!Path::new(&ca).exists(), "the temporary directory is gone");
}

/// A model that calls the agent's shell where the prompt asks for it, and repeats what the shell said.
#[test]
fn models_call_a_shell_that_is_offered() {
    let standin = start(&[]);
    let anthropic = |tools: &str, rest: &str| {
        format!(
            r#"{{"model":"m","max_tokens":9,"stream":true,"tools":[{tools}],"messages":[
            {{"role":"user","content":[{{"type":"text","text":"do [[shell: echo hi]] now"}}]}}{rest}]}}"#
        )
    };
    let openai = |tools: &str, rest: &str| {
        format!(
            r#"{{"model":"m","stream":true,"tools":[{tools}],"input":[{{"type":"message","role":"user",
            "content":[{{"type":"input_text","text":"do [[shell: echo hi]] now"}}]}}{rest}]}}"#
        )
    };
    let result = r#",{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":"hi\n"}]}"#;
    let output = r#",{"type":"function_call_output","call_id":"c","output":"hi\n"}"#;
    let cases = [
        ("api.anthropic.com/v1/messages", anthropic(r#"{"name":"Bash"}"#, ""), r#"{\"command\":\"echo hi\""#),
        ("api.anthropic.com/v1/messages", anthropic("", ""), "Hello"),
        ("api.anthropic.com/v1/messages", anthropic(r#"{"name":"Bash"}"#, result), r#""text":"hi\n""#),
        ("api.openai.com/v1/responses", openai(r#"{"name":"exec_command"}"#, ""), r#"{\"cmd\":\"echo hi\"}"#),
        ("api.openai.com/v1/responses", openai(r#"{"name":"other"}"#, ""), "Hello"),
        ("api.openai.com/v1/responses", openai("", output), r#""delta":"hi\n""#),
    ];
    for (path, body, expected) in cases {
        let args =
            ["-H", "content-type: application/json", "-H", "anthropic-version: 2023-06-01", "--data", &body];
        let (said, status) = asked(&standin, &format!("https://{path}"), &args);
        assert_eq!(status, 200, "{said}");
        assert!(said.contains(expected), "{body}\n{said}");
    }
}
