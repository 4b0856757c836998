//! What an attacker tries at an injecting proxy, by the numbers of the threat model. Each test fails when its defense is removed.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::StatusCode;
use hyper::body::Incoming;
use tokio::time::timeout;
use writ_core::{BoxFuture, Place};
use writ_proxy::Names;

use crate::support::{
    HOST, OTHER, OTHER_SECRET, PASSWORD, PATIENCE, QUIET, Raw, Reply, SECRET, Setup, Upstream, World, basic,
    connect_request, echo, get, injection, placeholder, post, reply, text,
};

/// Hosts of one kind about which the launcher is told.
const TOLD_MAX: usize = 256;

/// Answers every name with the next of its lists.
struct Scripted {
    answers: Mutex<Vec<Vec<SocketAddr>>>,
    asked: AtomicUsize,
}

impl Names for Scripted {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.is_empty() { Vec::new() } else { answers.remove(0) };
        Box::pin(async move { Ok(answer) })
    }
}

fn scripted(setup: &mut Setup, answers: Vec<Vec<SocketAddr>>) -> Arc<Scripted> {
    let names = Arc::new(Scripted { answers: Mutex::new(answers), asked: AtomicUsize::new(0) });
    setup.names = names.clone();
    for route in &mut setup.plan.routes {
        route.dial = None;
    }
    names
}

async fn upstream() -> Upstream {
    Upstream::start(&["h2", "http/1.1"], echo).await
}

#[tokio::test]
async fn threat_01_private_addresses_are_not_dialled() {
    let upstream = upstream().await;
    let here = upstream.address;
    for (answers, slug) in [
        (vec![here], "forbidden-address"),
        (vec!["169.254.169.254:443".parse().unwrap()], "forbidden-address"),
        (vec!["[::ffff:127.0.0.1]:443".parse().unwrap()], "forbidden-address"),
        (vec!["1.1.1.1:443".parse().unwrap(), here], "forbidden-address"),
        (vec![], "forbidden-address"),
    ] {
        let world = World::with(self::upstream().await, |setup| {
            setup.plan.routes.iter_mut().for_each(|route| route.allow_private.clear());
            scripted(setup, vec![answers.clone()]);
        })
        .await;
        let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
        assert_eq!(answer.status(), 403, "{answers:?}");
        let text = text(answer).await;
        assert!(text.contains(slug), "{text}");
        assert_eq!(world.upstream.connections(), 0);
        let uses = world.uses(1).await;
        assert_eq!(uses[0].outcome.reason.as_deref(), Some(slug));
    }
    // `dial` of the person's own configuration is judged alike.
    let world = World::with(upstream, |setup| {
        setup.plan.routes.iter_mut().for_each(|route| route.allow_private.clear())
    })
    .await;
    assert_eq!(world.client("http/1.1").send(HOST, get("/a"), "").await.status(), 403);
}

#[tokio::test]
async fn threat_02_what_was_judged_is_what_is_dialled() {
    let upstream = upstream().await;
    let good = upstream.address;
    let names = Arc::new(Mutex::new(None));
    let world = World::with(upstream, |setup| {
        // The first answer is the service; a second look-up would lead to metadata.
        *names.lock().unwrap() =
            Some(scripted(setup, vec![vec![good], vec!["169.254.169.254:80".parse().unwrap()]]));
    })
    .await;
    let mut sender = world.client("http/1.1").sender(HOST).await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    let names = names.lock().unwrap().take().unwrap();
    assert_eq!(names.asked.load(Ordering::SeqCst), 1, "one look-up for one connection");
    world.upstream.hang_up().await;
    let second = world.client("http/1.1").send(HOST, get("/a"), "").await;
    assert_eq!(second.status(), 403, "each dial judges its own answers");
}

#[tokio::test]
async fn threat_03_redirects_are_the_agents_to_follow() {
    let handler = |request: http::Request<Incoming>| -> BoxFuture<'static, Reply> {
        let secret =
            request.headers()["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
        Box::pin(async move {
            let mut answer = reply("");
            *answer.status_mut() = StatusCode::FOUND;
            let there = format!("https://{OTHER}/steal?key={secret}");
            answer.headers_mut().insert("location", there.parse().unwrap());
            answer
        })
    };
    let world = World::with(Upstream::start(&["http/1.1"], handler).await, |_| {}).await;
    let request = get("/a").header("referer", "https://ada:hunter2@elsewhere.example/");
    let answer = world.client("http/1.1").send(HOST, request, "").await;
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap();
    assert!(
        location.starts_with("https://other.vendor.example/steal?key=[writ:vendor]")
            && !location.contains(SECRET)
    );
    let seen = world.upstream.seen();
    assert_eq!(seen.len(), 1, "nothing was followed");
    assert!(!seen[0].headers.contains_key("referer"));
}

#[tokio::test]
async fn threat_04_every_name_of_the_authority_agrees() {
    let world = World::new().await;
    let client = world.client("http/1.1");
    for head in [
        format!("GET /a HTTP/1.1\r\nHost: {OTHER}\r\n\r\n"),
        format!("GET https://{OTHER}/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nHost: {HOST}:8443\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nHost: {HOST}.\r\n\r\n"),
        format!("GET https://ada:pw@{HOST}/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("GET /a HTTP/1.1\r\nHost: ada@{HOST}\r\n\r\n"),
    ] {
        let mut raw = client.raw(HOST).await;
        raw.say(&head).await;
        let (status, body) = raw.answer().await;
        assert!(status.starts_with("HTTP/1.1 421") || status.starts_with("HTTP/1.1 400"), "{head} {status}");
        assert!(body.contains("urn:writ:refusal:ambiguous"), "{body}");
    }
    for head in [
        format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\nHost: {HOST}\r\n\r\n"),
        "GET /a HTTP/1.1\r\nX-A: b\r\n\r\n".to_owned(),
        format!("GET http://{HOST}/a HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    ] {
        let mut raw = client.raw(HOST).await;
        raw.say(&head).await;
        let (status, _) = raw.answer().await;
        assert!(status.starts_with("HTTP/1.1 400"), "{head} {status}");
    }
    // HTTP/2: a connection to one authority is not used for another.
    let mut sender = world.client("h2").sender(HOST).await;
    let coalesced = sender.send(HOST, get(&format!("https://{OTHER}/a")), "").await.unwrap();
    assert_eq!(coalesced.status(), 421);
    let disagreeing = sender.send(HOST, get("/a").header("host", OTHER), "").await;
    assert!(disagreeing.is_err() || disagreeing.unwrap().status() == 421);
    // CONNECT and SNI.
    let mut sender = world.client("http/1.1").sender_as(HOST, OTHER).await;
    for host in [HOST, OTHER] {
        assert_eq!(sender.send(host, get("/a"), "").await.unwrap().status(), 421, "whichever Host then says");
    }
    assert!(
        world.client("http/1.1").tunnel(HOST, "evil.example").await.is_err(),
        "no certificate for a stranger's name"
    );
    // CONNECT and its Host.
    let mut raw = Raw::connect(&world).await;
    let head = connect_request(HOST, &basic(PASSWORD))
        .replace(&format!("\r\nHost: {HOST}"), &format!("\r\nHost: {OTHER}"));
    raw.say(&head).await;
    assert!(raw.answer().await.0.starts_with("HTTP/1.1 400"));
    assert_eq!(world.upstream.seen().len(), 0, "nothing of all this reached a service");
    assert_eq!(world.broker.asked(), 0, "nor asked for a lease");
}

#[tokio::test]
async fn threat_05_one_path_is_judged_and_sent() {
    let world = World::new().await;
    let grant =
        |path: &str| writ_core::Grant { methods: vec!["GET".into()], paths: vec![path.parse().unwrap()] };
    world.broker.grants(vec![grant("/v1/*")]);
    let client = world.client("http/1.1");
    for path in [
        "/v1/../admin",
        "/v1/%2e%2e/admin",
        "/v1/..;/admin",
        "/v1//admin",
        "/v1/a%2fb",
        "/v1/a%5cb",
        "/v1/%252e%252e/admin",
    ] {
        let mut raw = client.raw(HOST).await;
        raw.say(&format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
        let (status, _) = raw.answer().await;
        assert!(status.starts_with("HTTP/1.1 400"), "{path} {status}");
    }
    for (method, path) in [("GET", "/admin"), ("POST", "/v1/a"), ("TRACE", "/v1/a"), ("GET", "/V1/a")] {
        let mut raw = client.raw(HOST).await;
        raw.say(&format!("{method} {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
        let (status, body) = raw.answer().await;
        assert!(
            status.starts_with("HTTP/1.1 403") && body.contains("out-of-scope"),
            "{method} {path} {status}"
        );
    }
    assert_eq!(world.upstream.seen().len(), 0);
    let answer = client.send(HOST, get("/v1/%63hat?q=%2e%2e"), "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(world.upstream.seen()[0].uri.path_and_query().unwrap(), "/v1/chat?q=%2e%2e", "sent as judged");
}

#[tokio::test]
async fn threat_05_nothing_asks_for_another_method_or_path_than_is_judged() {
    let world = World::new().await;
    let client = world.client("http/1.1");
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X_HTTP_Method-Override",
        "X-Original-URL",
        "X-Rewrite-URL",
    ] {
        let answer = client.send(HOST, post("/a").header(name, "DELETE"), "").await;
        assert_eq!(answer.status(), 400, "{name}");
        assert!(text(answer).await.contains("urn:writ:refusal:ambiguous"), "{name}");
    }
    for query in [
        "_method=DELETE",
        "a=b&_method=DELETE",
        "a=b;_method=DELETE",
        "%5fMethod=DELETE",
        "+.method=DELETE",
        "_method",
        "x-http-method-override=PUT",
    ] {
        let answer = client.send(HOST, post(&format!("/a?{query}")), "").await;
        assert_eq!(answer.status(), 400, "{query}");
    }
    assert_eq!(world.upstream.seen().len(), 0);
    for innocent in ["/a?method=_method", "/a?my_method=x&q=%", "/a?_methods=1"] {
        assert_eq!(client.send(HOST, post(innocent), "").await.status(), 200, "{innocent}");
    }
}

#[tokio::test]
async fn threat_06_nothing_goes_in_the_clear() {
    let world = World::new().await;
    for target in [format!("http://{HOST}/a"), format!("https://{HOST}/a"), "/a".to_owned()] {
        let mut raw = Raw::connect(&world).await;
        raw.say(&format!(
            "GET {target} HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: {}\r\n\r\n",
            basic(PASSWORD)
        ))
        .await;
        let (status, body) = raw.answer().await;
        assert!(status.starts_with("HTTP/1.1 403"), "{target} {status}");
        assert!(body.contains("https"), "{body}");
    }
    let mut raw = Raw::connect(&world).await;
    raw.say(&connect_request(&format!("{HOST}:80"), &basic(PASSWORD))).await;
    assert!(raw.answer().await.0.starts_with("HTTP/1.1 403"), "the port is part of the binding");
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn threat_07_a_placeholder_elsewhere_is_refused_and_told() {
    let world = World::new().await;
    let client = world.client("http/1.1");
    let (own, foreign) = (placeholder("vendor").placeholder, placeholder("foreign").placeholder);
    let hidden = basic(foreign.as_str());
    for request in [
        get("/a").header("authorization", format!("Bearer {foreign}")),
        get("/a").header("authorization", hidden),
        get("/a").header("x-other", own.as_str()),
        get("/a").header("cookie", format!("k={own}")),
        get(&format!("/a?key={own}")),
        get(&format!("/a/{foreign}")),
    ] {
        let answer = client.send(HOST, request, "").await;
        assert_eq!(answer.status(), 403);
        let text = text(answer).await;
        assert!(text.contains("placeholder-elsewhere"), "{text}");
    }
    assert_eq!(world.upstream.seen().len(), 0);
    assert_eq!(world.refusals().await, vec![("placeholder-elsewhere".to_owned(), HOST.to_owned()); 6]);
    let told = world.broker.told().await;
    assert_eq!(told.len(), 1, "once for each host: {told:?}");
    assert!(told[0].contains("exfiltration") && told[0].contains(HOST), "{told:?}");
    // A quiet host is refused without an alarm, whatever it is sent.
    let answer = client.send(QUIET, get("/a").header("authorization", format!("Bearer {own}")), "").await;
    assert_eq!(answer.status(), 403);
    assert!(text(answer).await.contains("unlisted-host"));
    assert_eq!(world.broker.told().await.len(), 1);
}

#[tokio::test]
async fn threat_07_an_alarm_is_not_drowned_by_others() {
    let world = World::new().await;
    for number in 0..TOLD_MAX {
        let mut raw = Raw::connect(&world).await;
        raw.say(&connect_request(&format!("h{number}.example"), &basic(PASSWORD))).await;
        assert!(raw.answer().await.0.starts_with("HTTP/1.1 403"));
    }
    let foreign = placeholder("foreign").placeholder;
    let request = get("/a").header("authorization", format!("Bearer {foreign}"));
    assert_eq!(world.client("http/1.1").send(HOST, request, "").await.status(), 403);
    let alarm = async {
        while !world.broker.told().await.iter().any(|line| line.contains("exfiltration")) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, alarm).await.expect("the person is told");
}

#[tokio::test]
async fn threat_08_reflections_come_back_scrubbed() {
    let handler = |request: http::Request<Incoming>| -> BoxFuture<'static, Reply> {
        let value = request.headers()["authorization"].to_str().unwrap().to_owned();
        Box::pin(async move {
            use base64::Engine as _;
            let secret = value.trim_start_matches("Bearer ");
            let encoded = base64::engine::general_purpose::STANDARD.encode(format!("x{secret}"));
            let mut answer = reply(format!("{value} {encoded} {}", "y".repeat(100)));
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            for name in ["www-authenticate", "set-cookie", "x-debug"] {
                answer.headers_mut().insert(name, format!("got {secret}").parse().unwrap());
            }
            answer
                .extensions_mut()
                .insert(hyper::ext::ReasonPhrase::try_from(secret.as_bytes().to_vec()).unwrap());
            answer
        })
    };
    let world = World::with(Upstream::start(&["http/1.1"], handler).await, |_| {}).await;
    let mut raw = world.client("http/1.1").raw(HOST).await;
    raw.say(&format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    let (head, body) = raw.answer().await;
    assert!(!head.contains(SECRET), "{head}");
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "not even in the reason phrase: {head}");
    assert_eq!(head.matches("[writ:vendor]").count(), 3, "{head}");
    assert!(head.contains("x-should-retry: false"), "{head}");
    assert_eq!(body.matches("[writ:vendor]").count(), 2, "{body}");
    assert!(body.ends_with(&"y".repeat(100)), "the length is what was announced");
    assert!(!body.contains(SECRET));
    assert_eq!(world.uses(1).await[0].outcome.scrubbed, Some(5));
}

#[tokio::test]
async fn threat_10_a_compressed_transfer_is_refused_too() {
    let handler = |_: http::Request<Incoming>| -> BoxFuture<'static, Reply> {
        Box::pin(async {
            let mut answer = reply("compressed");
            answer.headers_mut().insert("transfer-encoding", "gzip, chunked".parse().unwrap());
            answer
        })
    };
    let world = World::with(Upstream::start(&["http/1.1"], handler).await, |_| {}).await;
    let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 502);
    assert!(text(answer).await.contains("upstream-encoding"));
}

#[tokio::test]
async fn threat_12_smuggled_requests_do_not_arrive() {
    let world = World::new().await;
    let client = world.client("http/1.1");
    for head in [
        "Connection: authorization\r\n",
        "Connection: keep-alive, X-Api-Key\r\n",
        "Connection: close, content-length\r\n",
        "Content-Length: 3\r\nContent-Length: 4\r\n",
        "Content-Length: +3\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X-Folded: a\r\n b\r\n",
        "X-Bare: a\nEvil: b\rc\r\n",
        "X-Space : a\r\n",
        "X\x00Nul: a\r\n",
        "Expect: 200-maybe\r\n",
        "Authorization: a\r\nAuthorization: b\r\n",
    ] {
        let mut raw = client.raw(HOST).await;
        raw.say(&format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\n{head}\r\nabc")).await;
        let status = raw.head().await;
        assert!(status.starts_with("HTTP/1.1 400") || status.is_empty(), "{head:?} {status}");
    }
    assert_eq!(world.upstream.seen().len(), 0);
    // Both lengths: chunked counts (RFC 9112 §6.3), the other is not sent on, and the connection ends with the answer, so that what
    // follows is nobody's next request.
    let mut raw = client.raw(HOST).await;
    raw.say(&format!(
        "POST /a HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
    ))
    .await;
    let rest = raw.rest().await;
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    let seen = world.upstream.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(!seen[0].headers.contains_key("content-length"));
}

#[tokio::test]
async fn threat_12_headers_of_this_hop_stay_here() {
    let world = World::new().await;
    let request = get("/a")
        .header("connection", "x-private, keep-alive")
        .header("x-private", "1")
        .header("proxy-authorization", "Basic b3duOm93bg==")
        .header("proxy-connection", "keep-alive")
        .header("te", "gzip")
        .header("x-kept", "yes");
    assert_eq!(world.client("http/1.1").send(HOST, request, "").await.status(), 200);
    let names: Vec<String> = world.upstream.seen()[0].headers.keys().map(ToString::to_string).collect();
    for gone in [
        "connection",
        "x-private",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "via",
        "forwarded",
        "x-forwarded-for",
    ] {
        assert!(!names.contains(&gone.to_owned()), "{names:?}");
    }
    assert!(names.contains(&"x-kept".to_owned()));
}

#[tokio::test]
async fn threat_13_the_password_is_asked_for_on_every_connect() {
    let world = World::new().await;
    let mut raw = Raw::connect(&world).await;
    let good = basic(PASSWORD);
    for bad in [
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
        connect_request(HOST, &basic("wrong")),
        connect_request(HOST, &basic("")),
        connect_request(HOST, "Basic !!!"),
        connect_request(HOST, "Digest abc"),
        connect_request("unlisted.example", &basic("wrong")),
        connect_request(HOST, &format!("{good}\r\nProxy-Authorization: {}", basic("wrong"))),
        format!("GET http://{HOST}/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
    ] {
        raw.say(&bad).await;
        let (head, body) = raw.answer().await;
        assert!(head.starts_with("HTTP/1.1 407"), "{bad} {head}");
        assert!(head.contains("proxy-authenticate: Basic realm=\"writ\""), "{head}");
        assert!(!body.contains("listed"), "the same to all: {body}");
    }
    // The connection stayed open for a better try; a bearer token is as good.
    raw.say(&connect_request(HOST, &format!("Bearer {PASSWORD}"))).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    let mut again = Raw::connect(&world).await;
    again.say(&connect_request(HOST, &good)).await;
    assert!(again.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn threat_16_no_spelling_of_an_address_is_a_host() {
    let world = World::new().await;
    for host in [
        "127.0.0.1:443",
        "2130706433:443",
        "0x7f000001:443",
        "0177.0.0.1:443",
        "127.1:443",
        "[::1]:443",
        "[::ffff:127.0.0.1]:443",
        "api.vendor.example.:443",
        "unlisted.example:443",
        "ada@api.vendor.example:443",
        "api.vendor.example:0443",
    ] {
        let mut raw = Raw::connect(&world).await;
        raw.say(&format!(
            "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {}\r\n\r\n",
            basic(PASSWORD)
        ))
        .await;
        let (head, _) = raw.answer().await;
        assert!(head.starts_with("HTTP/1.1 403") || head.starts_with("HTTP/1.1 400"), "{host} {head}");
    }
    assert_eq!(world.upstream.connections(), 0);
}

#[tokio::test]
async fn an_unlisted_host_is_refused_at_connect_and_told_once() {
    let world = World::new().await;
    for _ in 0..2 {
        let mut raw = Raw::connect(&world).await;
        raw.say(&connect_request("unlisted.example", &basic(PASSWORD))).await;
        let (head, body) = raw.answer().await;
        assert!(head.starts_with("HTTP/1.1 403") && head.contains("application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["type"], "urn:writ:refusal:unlisted-host");
        assert!(problem["error"]["message"].as_str().unwrap().contains("unlisted.example"));
        assert!(head.contains("x-should-retry: false") && head.contains("cache-control: no-store"), "{head}");
    }
    assert_eq!(world.broker.told().await.len(), 1);
    assert_eq!(world.refusals().await, vec![("unlisted-host".to_owned(), "unlisted.example".to_owned()); 2]);
}

#[tokio::test]
async fn a_credential_goes_to_its_own_host_only() {
    let world = World::new().await;
    let client = world.client("h2");
    for (host, secret) in [(HOST, SECRET), (OTHER, OTHER_SECRET)] {
        assert_eq!(client.send(host, get("/a").header("authorization", "Bearer x"), "").await.status(), 200);
        let seen = world.upstream.seen();
        assert_eq!(seen.last().unwrap().headers["authorization"], format!("Bearer {secret}"));
    }
    // A broker that grants another host's credential is not believed.
    world.broker.credential("vendor", OTHER, OTHER_SECRET);
    let world = World::new().await;
    world.broker.credential("vendor", OTHER, OTHER_SECRET);
    let answer = world.client("h2").send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 403);
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_service_with_another_name_or_root_is_not_trusted() {
    let stranger = upstream().await;
    let world = World::with(upstream().await, |setup| {
        setup.plan.routes[0].dial = Some(stranger.address.to_string());
        setup.plan.routes[1].authority = "wrong.name.example".parse().unwrap();
    })
    .await;
    world.broker.credential("other", "wrong.name.example", OTHER_SECRET);
    for host in [HOST, "wrong.name.example"] {
        let answer = world.client("http/1.1").send(host, get("/a"), "").await;
        assert_eq!(answer.status(), 502, "{host}");
        assert!(text(answer).await.contains("upstream-failed"));
    }
    assert_eq!(stranger.seen().len() + world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_place_without_its_placeholder_is_not_filled() {
    let world = World::with(upstream().await, |setup| {
        setup.plan.routes[0].injections = vec![injection(Place::Placeholder)]
    })
    .await;
    let client = world.client("http/1.1");
    let answer = client.send(HOST, post("/a").header("authorization", "Bearer mine"), "").await;
    assert_eq!(answer.status(), 403);
    assert_eq!(world.upstream.seen().len(), 0);
    let own = placeholder("vendor").placeholder;
    let answer = client.send(HOST, post("/a").header("x-token", format!("token {own}")), "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(world.upstream.seen()[0].headers["x-token"], format!("token {SECRET}"));
}

#[tokio::test]
async fn websockets_are_sent_to_plain_requests() {
    let world = World::new().await;
    let mut raw = world.client("http/1.1").raw(HOST).await;
    raw.say(&format!(
        "GET /v1/responses HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ))
    .await;
    let (head, body) = raw.answer().await;
    assert!(head.starts_with("HTTP/1.1 426"), "{head}");
    assert!(body.contains("WebSockets"), "{body}");
    assert_eq!(world.upstream.seen().len(), 0);
}
