//! Programs that know nothing of proxies: names, addresses, TLS, and what an attacker tries with them.

use std::{io, net::IpAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use writ_audit::Verdict;

use crate::support::{
    HOST, Inside, OTHER, OTHER_SECRET, PATIENCE, QUIET, Raw, SECRET, Sender, Upstream, echo, get, isolated,
    placeholder, post, query, text, trusting,
};

/// Connections of one session that may not have said yet what they want.
const UNREAD_MAX: usize = 256;

async fn upstream() -> Upstream {
    Upstream::start(&["h2", "http/1.1"], echo).await
}

async fn inside() -> Inside {
    Inside::with(upstream().await, |_| {}).await
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The kind of error with which TLS failed.
fn alert(fault: &io::Error) -> String {
    fault.get_ref().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn a_program_without_a_proxy_is_served() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    for alpn in ["h2", "http/1.1"] {
        for address in [inside.resolve(HOST), inside.resolve_v6(HOST)] {
            let tls = inside.tls(address, HOST, alpn).await.unwrap();
            let mut sender = Sender::over(tls, alpn).await;
            let answer = sender.send(HOST, post("/v1/chat"), "hello").await.unwrap();
            assert_eq!(answer.status(), 200);
            assert!(text(answer).await.contains("body=hello"));
        }
    }
    let seen = inside.world.upstream.seen();
    assert_eq!(seen.len(), 4);
    for one in seen {
        assert_eq!(one.headers["authorization"], format!("Bearer {SECRET}"));
    }
    for event in inside.world.uses(4).await {
        assert_eq!((event.outcome.result, event.resource.host.as_deref()), (Verdict::Ok, Some(HOST)));
    }
}

#[tokio::test]
async fn a_program_with_a_proxy_is_served_without_a_password() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let mut raw = Raw(inside.connect(address("127.0.0.1"), 3128));
    raw.say(&format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn names_are_answered_over_both_transports() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let first = inside.resolve("a.example");
    let pipelined =
        [query("b.example", 1), query("a.example", 1), query("c.example", 28), query("a.example", 65)];
    let answers = inside.ask_over_tcp(&pipelined);
    assert_eq!(answers[1][answers[1].len() - 4..], octets(first));
    assert_ne!(answers[0][answers[0].len() - 4..], octets(first));
    assert_eq!(answers[3][6..8], [0, 0], "no other type has an answer");
    assert_eq!(inside.resolve("A.Example"), first, "the same name, all the session long");
    assert!(inside.world.events().await.is_empty(), "asking is no fact about a host");
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("{address}"),
    }
}

#[tokio::test]
async fn threat_04_sni_is_the_name_that_the_address_is_for() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let there = inside.resolve(HOST);
    // Another name of the session's is refused in HTTP, and nothing reaches either service.
    let mut sender = Sender::over(inside.tls(there, OTHER, "http/1.1").await.unwrap(), "http/1.1").await;
    let answer = sender.send(OTHER, get("/a"), "").await.unwrap();
    assert_eq!(answer.status(), 421);
    // Any other is refused below it.
    let fault = inside.tls(there, "front.cdn.example", "http/1.1").await.unwrap_err();
    assert!(alert(&fault).contains("AccessDenied"), "{fault:?}");
    assert_eq!(inside.world.upstream.connections(), 0);
    let refused = inside.world.refused(3).await;
    assert!(refused.iter().all(|one| *one == ("ambiguous".into(), HOST.into(), 443)), "{refused:?}");
    // None at all is the name that was asked for.
    let mut config = trusting(&inside.world.ca_pem, "http/1.1");
    config.enable_sni = false;
    let name = HOST.to_owned().try_into().unwrap();
    let tls = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config))
        .connect(name, inside.connect(there, 443))
        .await
        .unwrap();
    let mut sender = Sender::over(tls, "http/1.1").await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
}

#[tokio::test]
async fn threat_04_one_connection_is_for_one_name() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let mut sender = inside.sender(HOST, "h2").await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    // As a program would that coalesces connections to what it takes for one server.
    assert_eq!(sender.send(OTHER, get("/a"), "").await.unwrap().status(), 421);
    assert_eq!(inside.world.upstream.seen().len(), 1);
    let bytes = format!("{:?}", inside.world.upstream.seen());
    assert!(!bytes.contains(OTHER_SECRET));
}

#[tokio::test]
async fn threat_02_an_address_stays_with_its_name() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let there = inside.resolve(HOST);
    for count in 0..300 {
        assert_ne!(inside.resolve(&format!("n{count}.example")), there);
    }
    assert_eq!(inside.resolve(HOST), there);
    let mut sender = Sender::over(inside.tls(there, HOST, "h2").await.unwrap(), "h2").await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_unlisted_host_is_refused_with_an_alert_and_told_once() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    for _ in 0..2 {
        let there = inside.resolve("elsewhere.example");
        let fault = inside.tls(there, "elsewhere.example", "h2").await.unwrap_err();
        assert!(alert(&fault).contains("AccessDenied"), "{fault:?}");
    }
    let refused = inside.world.refused(2).await;
    assert_eq!(refused[0], ("unlisted-host".into(), "elsewhere.example".into(), 443));
    let told = inside.world.broker.told().await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("host = \"elsewhere.example\"") && told[0].contains("egress"), "{told:?}");
}

#[tokio::test]
async fn a_quiet_host_is_refused_in_http() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let mut sender = inside.sender(QUIET, "http/1.1").await;
    assert_eq!(sender.send(QUIET, post("/events"), "x").await.unwrap().status(), 403);
}

#[tokio::test]
async fn threat_06_plain_http_is_told_to_use_https() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let own = placeholder("vendor").placeholder;
    for host in [HOST, "elsewhere.example"] {
        let mut raw = Raw(inside.connect(inside.resolve(host), 80));
        raw.say(&format!(
            "GET /a HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n\r\n",
            own.as_str()
        ))
        .await;
        let (head, body) = raw.answer().await;
        assert!(head.starts_with("HTTP/1.1 403"), "{head}");
        assert!(body.contains("https://") && head.contains("application/problem+json"), "{body}");
    }
    assert_eq!(inside.world.upstream.connections(), 0);
    assert_eq!(inside.world.refused(2).await[0], ("unlisted-host".into(), HOST.into(), 80));
}

#[tokio::test]
async fn threat_14_ssh_is_refused_with_a_reason() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let mut stream = inside.connect(inside.resolve("git.example"), 22);
    stream.write_all(b"SSH-2.0-OpenSSH_10.0\r\n").await.unwrap();
    let mut word = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut word)).await.unwrap().unwrap();
    let packet = word.strip_prefix(b"SSH-2.0-writ\r\n").unwrap();
    let length = usize::try_from(u32::from_be_bytes(packet[..4].try_into().unwrap())).unwrap();
    assert_eq!((length + 4, packet.len() % 8, packet[5]), (packet.len(), 0, 1));
    assert!(String::from_utf8_lossy(packet).contains("git.example:22 is not listed"), "{packet:?}");
    assert_eq!(inside.world.refused(1).await[0], ("unlisted-host".into(), "git.example".into(), 22));
}

#[tokio::test]
async fn threat_16_addresses_are_refused_readably() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    for (meant, recorded) in [
        ("1.1.1.1", "1.1.1.1"),
        ("169.254.169.254", "169.254.169.254"),
        ("::ffff:1.1.1.1", "1.1.1.1"),
        ("2606:4700::1111", "2606:4700::1111"),
        // In the range of what is assigned, and never assigned.
        ("198.18.200.7", "198.18.200.7"),
    ] {
        let before = inside.world.refusals().await.len();
        // The name that it claims changes nothing.
        let fault = inside.tls(address(meant), HOST, "h2").await.unwrap_err();
        assert!(alert(&fault).contains("AccessDenied"), "{meant} {fault:?}");
        let mut raw = Raw(inside.connect(address(meant), 80));
        raw.say(&format!("GET /latest/meta-data HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
        let (head, body) = raw.answer().await;
        assert!(head.starts_with("HTTP/1.1 403") && body.contains("is an address"), "{body}");
        let refused = inside.world.refused(before + 2).await;
        assert_eq!(refused.last().unwrap(), &("unlisted-host".into(), recorded.into(), 80));
    }
    assert_eq!(inside.world.upstream.connections(), 0);
}

#[tokio::test]
async fn an_address_of_another_session_is_none_of_this_one() {
    if !isolated() {
        return;
    }
    let (one, other) = (inside().await, inside().await);
    one.resolve("first.example");
    let there = one.resolve(HOST);
    // There, nobody has asked for so many names.
    let fault = other.tls(there, HOST, "h2").await.unwrap_err();
    assert!(alert(&fault).contains("AccessDenied"), "{fault:?}");
    assert_eq!(other.world.refused(1).await[0].1, there.to_string());
}

#[tokio::test]
async fn the_sessions_own_loopback_is_refused_at_once() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    for (meant, port) in [("127.0.0.1", 443), ("127.0.0.1", 80), ("::1", 443), ("127.1.2.3", 22)] {
        let mut stream = inside.connect(address(meant), port);
        let mut byte = [0];
        let read = timeout(PATIENCE, stream.read(&mut byte)).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{meant}:{port}");
    }
    assert_eq!(inside.world.refused(4).await[0], ("forbidden-address".into(), "localhost".into(), 443));
}

#[tokio::test]
async fn a_hello_may_come_byte_by_byte() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let there = inside.resolve(HOST);
    let (near, far) = tokio::io::duplex(1);
    let mut wire = inside.connect(there, 443);
    wire.set_nodelay(true).unwrap();
    tokio::spawn(async move {
        let mut far = far;
        tokio::io::copy_bidirectional_with_sizes(&mut far, &mut wire, 1, 1).await
    });
    let name = HOST.to_owned().try_into().unwrap();
    let config = std::sync::Arc::new(trusting(&inside.world.ca_pem, "http/1.1"));
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, near).await.unwrap();
    let mut raw = Raw(tls);
    raw.say(&format!("GET /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn what_is_no_hello_is_refused_and_an_endless_one_too() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let there = inside.resolve(HOST);
    let endless: Vec<u8> = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 0x3ffb]].concat();
    let more = [&[22, 3, 1, 0x40, 0][..], &[0; 0x4000]].concat();
    for word in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), [endless, more.repeat(4)].concat()] {
        let mut stream = inside.connect(there, 443);
        let _ = stream.write_all(&word).await;
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
    }
    let refused = inside.world.refused(2).await;
    assert!(refused.iter().all(|one| *one == ("ambiguous".into(), HOST.into(), 443)), "{refused:?}");
}

#[tokio::test]
async fn connections_that_say_nothing_are_bounded() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let mut served = inside.sender(HOST, "http/1.1").await;
    assert_eq!(served.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    // At the proxy's door a connection may take the longest to say what it wants.
    let mut silent: Vec<_> = (0..UNREAD_MAX).map(|_| inside.connect(address("127.0.0.1"), 3128)).collect();
    let mut late = Raw(inside.connect(address("127.0.0.1"), 3128));
    late.say(&format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n")).await;
    assert_eq!(served.send(HOST, get("/a"), "").await.unwrap().status(), 200, "what is open goes on");
    let early = timeout(std::time::Duration::from_millis(300), late.head()).await;
    assert!(early.is_err(), "one more waits: {early:?}");
    silent.truncate(UNREAD_MAX - 1);
    assert!(late.head().await.starts_with("HTTP/1.1 200"), "until one of them is gone");
}

#[tokio::test]
async fn threat_07_a_placeholder_at_a_captured_host_is_refused_and_told() {
    if !isolated() {
        return;
    }
    let inside = inside().await;
    let foreign = placeholder("foreign").placeholder;
    let mut sender = inside.sender(HOST, "h2").await;
    let request = get("/a").header("x-api-key", foreign.as_str());
    assert_eq!(sender.send(HOST, request, "").await.unwrap().status(), 403);
    assert!(inside.world.broker.told().await[0].contains("possible exfiltration"));
}

#[tokio::test]
async fn a_target_without_a_credential_is_judged_and_carries_none() {
    if !isolated() {
        return;
    }
    let inside = Inside::with(upstream().await, |setup| {
        setup.plan.routes[0].credential = None;
        setup.plan.routes[0].injections.clear();
    })
    .await;
    inside.world.broker.credential("vendor", HOST, "");
    let reading = writ_core::Grant { methods: vec!["GET".into()], ..Default::default() };
    inside.world.broker.grants(vec![reading]);
    let mut sender = inside.sender(HOST, "http/1.1").await;
    let request = get("/a").header("authorization", "Bearer my-own");
    assert_eq!(sender.send(HOST, request, "").await.unwrap().status(), 200);
    assert_eq!(inside.world.upstream.seen()[0].headers["authorization"], "Bearer my-own");
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!((event.resource.credential, event.lease_id.is_some()), (None, true));
    assert_eq!(sender.send(HOST, post("/a"), "").await.unwrap().status(), 403, "out of scope");
    for credential in ["vendor", "other"] {
        let request = get("/a").header("authorization", placeholder(credential).placeholder.as_str());
        assert_eq!(sender.send(HOST, request, "").await.unwrap().status(), 403, "{credential}");
    }
    assert!(inside.world.broker.told().await[0].contains("possible exfiltration"));
}
