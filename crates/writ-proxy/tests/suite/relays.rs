//! Bytes that pass untouched: to public hosts, to targets that are tunnels, to the host's loopback. And what may not.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use writ_audit::{Event, Verdict};
use writ_core::{BoxFuture, DOORS_MAX, DataPlane, Door, Egress, LeaseEnd, RoutePlan};
use writ_proxy::Names;

use crate::support::{
    HELD, HOST, Inside, OTHER, OWN, PATIENCE, QUIET, Raw, SECRET, Sender, Setup, Space, Upstream, World,
    echo, get, isolated, parrot, placeholder, route, text,
};

/// A host of the world that no target names, and for which the stand-in has a certificate.
const PUBLIC: &str = "www.vendor.example";
/// A database that is a target with a port of its own.
const DATABASE: &str = "db.vendor.example:5432";
const WORLD: Ipv4Addr = Ipv4Addr::new(1, 1, 1, 1);

/// Every name leads to the same addresses.
struct Leading(Mutex<Vec<IpAddr>>);

impl Names for Leading {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let addresses = self.0.lock().unwrap().clone();
        Box::pin(async move { Ok(addresses.into_iter().map(|one| SocketAddr::new(one, port)).collect()) })
    }
}

fn public(setup: &mut Setup, addresses: &[IpAddr]) -> Arc<Leading> {
    let names = Arc::new(Leading(Mutex::new(addresses.to_vec())));
    setup.plan.egress = Egress::Public;
    setup.names = names.clone();
    names
}

/// A session that may reach public hosts, and a service at port 443 of all of them.
async fn open_world(addresses: &[IpAddr]) -> (Inside, Arc<Leading>) {
    let upstream = Upstream::start_at("0.0.0.0:443", &["h2", "http/1.1"], echo).await;
    let mut names = None;
    let inside = Inside::with(upstream, |setup| names = Some(public(setup, addresses))).await;
    (inside, names.unwrap())
}

/// A session with a database behind a door of its own.
async fn with_database() -> Inside {
    let address = parrot("127.0.0.1:0", "hello ").await;
    let upstream = Upstream::start(&["http/1.1"], echo).await;
    let inside = Inside::with(upstream, |setup| {
        let mut database = route("database", DATABASE, &Upstream { address, ..no_service() });
        (database.tunnel, database.credential, database.tls_ca) = (true, None, None);
        database.injections.clear();
        setup.plan.routes.push(database);
    })
    .await;
    inside.world.broker.credential("database", DATABASE, "");
    inside.open_named().await;
    inside
}

fn no_service() -> Upstream {
    Upstream { address: SocketAddr::new(WORLD.into(), 1), ca_pem: String::new(), record: Arc::default() }
}

async fn says(stream: &mut TcpStream, word: &str) {
    let mut heard = vec![0; word.len()];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("a word in time").unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), word);
}

/// Waits until the other side is gone.
async fn is_cut(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("an end in time");
}

fn is_denied(fault: &io::Error) -> bool {
    fault.get_ref().is_some_and(|fault| fault.to_string().contains("AccessDenied"))
}

fn facts(event: &Event) -> (&str, &str, u16, Verdict) {
    let resource = &event.resource;
    let host = resource.host.as_deref().unwrap_or_default();
    (event.action.as_str(), host, resource.port.unwrap_or_default(), event.outcome.result)
}

#[tokio::test]
async fn a_public_host_is_reached_untouched_and_on_record() {
    if !isolated() {
        return;
    }
    let (inside, _) = open_world(&[WORLD.into()]).await;
    let there = SocketAddr::new(inside.resolve(PUBLIC), 443);
    // The service's own certificate: nobody terminates TLS between.
    let pem = inside.world.upstream.ca_pem.clone();
    let tls = inside.tls_trusting(&pem, there, PUBLIC, "h2").await.unwrap();
    let mut sender = Sender::over(tls, "h2").await;
    let own = placeholder("vendor").placeholder;
    let request = get("/a").header("x-api-key", own.as_str());
    assert_eq!(sender.send(PUBLIC, request, "").await.unwrap().status(), 200);
    drop(sender);
    let seen = inside.world.upstream.seen();
    assert_eq!(seen[0].headers["x-api-key"], own.as_str(), "as it was sent: worth nothing there");
    assert!(!format!("{seen:?}").contains(SECRET));
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!(facts(&event), ("public tunnel", PUBLIC, 443, Verdict::Ok));
    assert_eq!(event.resource.dialled.as_deref(), Some("1.1.1.1:443"));
    assert!(event.resource.credential.is_none() && event.lease_id.is_none(), "{event:?}");
    assert!(event.outcome.bytes_up > Some(500) && event.outcome.bytes_down > Some(500), "{event:?}");
    assert_eq!(inside.world.broker.asked(), 0);
}

#[tokio::test]
async fn threat_01_public_means_public_addresses() {
    if !isolated() {
        return;
    }
    let (inside, names) = open_world(&[]).await;
    let pem = inside.world.upstream.ca_pem.clone();
    let there = SocketAddr::new(inside.resolve(PUBLIC), 443);
    let answers: [&[&str]; 7] = [
        &["10.0.0.1"],
        &["127.0.0.1"],
        &["169.254.169.254"],
        &["198.18.0.1"],
        &["::ffff:1.1.1.1"],
        &["1.1.1.1", "192.168.1.1"],
        &[],
    ];
    for (count, answer) in answers.iter().enumerate() {
        *names.0.lock().unwrap() = answer.iter().map(|one| one.parse().unwrap()).collect();
        let fault = inside.tls_trusting(&pem, there, PUBLIC, "h2").await.unwrap_err();
        assert!(is_denied(&fault), "{answer:?} {fault:?}");
        let event = inside.world.uses(count + 1).await.pop().unwrap();
        assert_eq!(facts(&event), ("public tunnel", PUBLIC, 443, Verdict::Refused), "{answer:?}");
        assert_eq!(event.outcome.reason.as_deref(), Some("forbidden-address"));
        // The line of the configuration that would allow it needs the address.
        let address = event.resource.dialled.as_deref();
        assert_eq!(address, answer.last().filter(|_| !answer.is_empty()).copied(), "{event:?}");
    }
    assert_eq!(inside.world.upstream.connections(), 0);
}

#[tokio::test]
async fn threat_01_addresses_are_judged_like_names() {
    if !isolated() {
        return;
    }
    let (inside, _) = open_world(&[WORLD.into()]).await;
    let pem = inside.world.upstream.ca_pem.clone();
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 443);
    let tls = inside.tls_trusting(&pem, at("8.8.8.8"), PUBLIC, "http/1.1").await.unwrap();
    let mut sender = Sender::over(tls, "http/1.1").await;
    assert_eq!(sender.send(PUBLIC, get("/a"), "").await.unwrap().status(), 200);
    drop(sender);
    let own = OWN.to_string();
    for bad in
        ["10.0.0.1", "169.254.169.254", "192.168.0.1", "198.18.77.7", "fd00:ec2::254", "64:ff9b::a9fe:a9fe"]
            .into_iter()
            .chain([own.as_str()])
    {
        let fault = inside.tls_trusting(&pem, at(bad), PUBLIC, "http/1.1").await.unwrap_err();
        assert!(is_denied(&fault), "{bad} {fault:?}");
    }
    let mut raw = Raw(inside.connect("169.254.169.254".parse().unwrap(), 80));
    raw.say("GET /latest/meta-data/iam HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n").await;
    let (head, body) = raw.answer().await;
    assert!(head.starts_with("HTTP/1.1 403") && body.contains("forbidden-address"), "{body}");
    let uses = inside.world.uses(9).await;
    let passed = uses.iter().filter(|event| event.outcome.result == Verdict::Ok);
    assert_eq!(passed.map(facts).collect::<Vec<_>>(), [("public tunnel", "8.8.8.8", 443, Verdict::Ok)]);
}

#[tokio::test]
async fn threat_04_what_passes_has_one_name_too() {
    if !isolated() {
        return;
    }
    let (inside, _) = open_world(&[WORLD.into()]).await;
    let pem = inside.world.upstream.ca_pem.clone();
    let there = SocketAddr::new(inside.resolve(PUBLIC), 443);
    let fault = inside.tls_trusting(&pem, there, "front.vendor.example", "h2").await.unwrap_err();
    assert!(is_denied(&fault), "{fault:?}");
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!(facts(&event), ("public tunnel", PUBLIC, 443, Verdict::Refused));
    assert_eq!((event.outcome.bytes_up, event.outcome.bytes_down), (Some(0), Some(0)));
    // Not by the proxy's own door either.
    let mut raw = Raw(inside.connect(Ipv4Addr::LOCALHOST.into(), 3128));
    raw.say(&format!("CONNECT {PUBLIC}:443 HTTP/1.1\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    let config = Arc::new(crate::support::trusting(&pem, "h2"));
    let name = "front.vendor.example".to_owned().try_into().unwrap();
    assert!(is_denied(&tokio_rustls::TlsConnector::from(config).connect(name, raw.0).await.unwrap_err()));
}

#[tokio::test]
async fn threat_06_the_clear_is_for_hosts_without_a_target() {
    if !isolated() {
        return;
    }
    let (inside, _) = open_world(&[WORLD.into()]).await;
    for (address, greeting) in [("0.0.0.0:80", "http "), ("0.0.0.0:22", "ssh ")] {
        parrot(address, greeting).await;
    }
    for (port, greeting) in [(80, "http "), (22, "ssh ")] {
        let mut stream = inside.connect(inside.resolve(PUBLIC), port);
        says(&mut stream, greeting).await;
        stream.write_all(b"anything").await.unwrap();
        says(&mut stream, "anything").await;
    }
    for host in [HOST, OTHER, QUIET] {
        let mut raw = Raw(inside.connect(inside.resolve(host), 80));
        raw.say(&format!("GET /a HTTP/1.1\r\nHost: {PUBLIC}\r\n\r\n")).await;
        assert!(raw.head().await.starts_with("HTTP/1.1 403"), "{host}");
    }
    let uses: Vec<Event> = inside.world.uses(2).await;
    let mut ports: Vec<u16> = uses.iter().filter_map(|event| event.resource.port).collect();
    ports.sort_unstable();
    assert_eq!(ports, [22, 80]);
}

#[tokio::test]
async fn a_program_with_a_proxy_reaches_the_same() {
    if !isolated() {
        return;
    }
    let (inside, names) = open_world(&[WORLD.into()]).await;
    let ask = |authority: &str| {
        let mut raw = Raw(inside.connect(Ipv4Addr::LOCALHOST.into(), 3128));
        let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
        async move {
            raw.say(&request).await;
            raw
        }
    };
    let mut raw = ask("www.vendor.example:443").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    let config = Arc::new(crate::support::trusting(&inside.world.upstream.ca_pem, "http/1.1"));
    let name = PUBLIC.to_owned().try_into().unwrap();
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, raw.0).await.unwrap();
    let mut sender = Sender::over(tls, "http/1.1").await;
    assert_eq!(sender.send(PUBLIC, get("/a"), "").await.unwrap().status(), 200);
    for bad in
        ["www.vendor.example:25", "www.vendor.example:8443", "1.1.1.1:443", "[::1]:443", "10.0.0.1:443"]
    {
        let (head, body) = ask(bad).await.answer().await;
        assert!(head.starts_with("HTTP/1.1 403") && body.contains("unlisted-host"), "{bad} {head}");
    }
    *names.0.lock().unwrap() = vec!["10.0.0.1".parse().unwrap()];
    let (head, body) = ask("www.vendor.example:443").await.answer().await;
    assert!(head.starts_with("HTTP/1.1 403") && body.contains("forbidden-address"), "{head}");
}

#[tokio::test]
async fn a_target_with_a_port_of_its_own_has_its_own_door() {
    if !isolated() {
        return;
    }
    let inside = with_database().await;
    let named = &inside.world.named;
    assert_eq!((named.len(), named[0].authority.to_string().as_str()), (1, DATABASE));
    let there = inside.resolve("db.vendor.example");
    assert_eq!(named[0].addresses, [there, inside.resolve_v6("db.vendor.example")]);
    for address in named[0].addresses.clone() {
        let mut stream = inside.connect(address, 5432);
        says(&mut stream, "hello ").await;
        stream.write_all(b"select 1").await.unwrap();
        says(&mut stream, "select 1").await;
        stream.shutdown().await.unwrap();
        is_cut(&mut stream).await;
    }
    for event in inside.world.uses(2).await {
        assert_eq!(facts(&event), ("tunnel", "db.vendor.example", 5432, Verdict::Ok));
        assert_eq!((event.outcome.bytes_up, event.outcome.bytes_down), (Some(8), Some(14)));
        assert_eq!(event.resource.target.as_deref(), Some("database"));
        assert!(event.lease_id.is_some() && event.resource.credential.is_none());
    }
    // Other ports of the same name are not its own, and other names not at its port.
    let other = inside.resolve("elsewhere.example");
    for refused in [SocketAddr::new(there, 5433), SocketAddr::new(other, 5432)] {
        assert_eq!(inside.space.connect(refused).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn an_https_target_at_another_port_is_served() {
    if !isolated() {
        return;
    }
    let upstream = Upstream::start(&["http/1.1"], echo).await;
    let inside = Inside::with(upstream, |setup| {
        setup.plan.routes[0].authority = format!("{HOST}:8443").parse().unwrap();
    })
    .await;
    inside.world.broker.credential("vendor", &format!("{HOST}:8443"), SECRET);
    inside.open_named().await;
    let there = SocketAddr::new(inside.resolve(HOST), 8443);
    let tls = inside.tls_trusting(&inside.world.ca_pem, there, HOST, "http/1.1").await.unwrap();
    let mut sender = Sender::over(tls, "http/1.1").await;
    let answer = sender.send(&format!("{HOST}:8443"), get("/a"), "").await.unwrap();
    assert_eq!(answer.status(), 200, "{}", text(answer).await);
    assert_eq!(inside.world.upstream.seen()[0].headers["authorization"], format!("Bearer {SECRET}"));
}

#[tokio::test]
async fn threat_19_what_passes_is_cut_with_its_lease() {
    if !isolated() {
        return;
    }
    let inside = with_database().await;
    let mut stream = inside.connect(inside.resolve("db.vendor.example"), 5432);
    says(&mut stream, "hello ").await;
    inside.world.broker.end_lease(LeaseEnd::Revoked).await;
    is_cut(&mut stream).await;
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!(facts(&event), ("tunnel", "db.vendor.example", 5432, Verdict::Cut));
    assert_eq!(event.outcome.reason.as_deref(), Some("lease-revoked"));
    assert_eq!(event.outcome.bytes_down, Some(6));
}

#[tokio::test]
async fn threat_19_what_passes_is_cut_with_its_session() {
    if !isolated() {
        return;
    }
    let (inside, _) = open_world(&[WORLD.into()]).await;
    parrot("0.0.0.0:22", "ssh ").await;
    let mut stream = inside.connect(inside.resolve(PUBLIC), 22);
    says(&mut stream, "ssh ").await;
    inside.world.broker.end_session(inside.world.session).await;
    is_cut(&mut stream).await;
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!(event.outcome.reason.as_deref(), Some("session-ended"));
}

#[tokio::test]
async fn what_passes_is_cut_when_the_broker_falls_silent() {
    if !isolated() {
        return;
    }
    let (inside, _) = open_world(&[WORLD.into()]).await;
    parrot("0.0.0.0:22", "ssh ").await;
    let mut stream = inside.connect(inside.resolve(PUBLIC), 22);
    says(&mut stream, "ssh ").await;
    inside.world.silence(Duration::from_secs(4));
    is_cut(&mut stream).await;
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!(event.outcome.reason.as_deref(), Some("broker-unavailable"));
    let mut late = inside.connect(inside.resolve(PUBLIC), 22);
    is_cut(&mut late).await;
    assert_eq!(inside.world.refused(1).await[0], ("broker-unavailable".into(), PUBLIC.into(), 22));
}

#[tokio::test]
async fn a_tunnel_that_the_broker_does_not_grant_is_refused() {
    if !isolated() {
        return;
    }
    let inside = with_database().await;
    let refusal = writ_core::Refusal::new(writ_core::RefusalKind::Denied, "not now", "wait");
    inside.world.broker.refuse(Some(refusal));
    is_cut(&mut inside.connect(inside.resolve("db.vendor.example"), 5432)).await;
    assert_eq!(inside.world.refused(1).await[0], ("denied".into(), "db.vendor.example".into(), 5432));
}

#[tokio::test]
async fn the_hosts_loopback_is_reached_where_it_may_be() {
    if !isolated() {
        return;
    }
    let port = parrot("127.0.0.1:0", "hello ").await.port();
    let upstream = Upstream::start(&["http/1.1"], echo).await;
    let inside = Inside::with(upstream, |setup| setup.plan.local = vec![port]).await;
    let door = |port| {
        let socket = inside.space.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        (Door::Local { port }, socket)
    };
    let session = inside.world.session;
    inside.world.proxy.extend(session, vec![door(port)]).await.unwrap();
    let mut stream = inside.connect(Ipv4Addr::LOCALHOST.into(), port);
    says(&mut stream, "hello ").await;
    drop(stream);
    let event = inside.world.uses(1).await.remove(0);
    assert_eq!(facts(&event), ("local tunnel", "localhost", port, Verdict::Ok));
    let fault = inside.world.proxy.extend(session, vec![door(port ^ 1)]).await.unwrap_err();
    assert!(fault.0.contains("not allowed"), "{fault}");
}

#[tokio::test]
async fn connections_of_a_session_are_bounded() {
    const CONNECTIONS_MAX: usize = 1024;
    if !isolated() {
        return;
    }
    // Each is four descriptors here: the agent's, the proxy's two, the service's.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let port = parrot("127.0.0.1:0", "hello ").await.port();
    let upstream = Upstream::start(&["http/1.1"], echo).await;
    let inside = Inside::with(upstream, |setup| setup.plan.local = vec![port]).await;
    let socket = inside.space.listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    inside.world.proxy.extend(inside.world.session, vec![(Door::Local { port }, socket)]).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = inside.connect(Ipv4Addr::LOCALHOST.into(), port);
        says(&mut stream, "hello ").await;
        open.push(stream);
    }
    let mut late = inside.connect(Ipv4Addr::LOCALHOST.into(), port);
    let early = timeout(Duration::from_millis(300), late.read_u8()).await;
    assert!(early.is_err(), "one more waits: {early:?}");
    open.pop();
    says(&mut late, "hello ").await;
}

#[tokio::test]
async fn doors_are_checked_before_any_is_open() {
    if !isolated() {
        return;
    }
    let space = Space::new();
    let any = |port| space.listen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port));
    // A session with a password has no door that asks for none.
    let world = World::new().await;
    let doors = vec![(Door::Capture { port: 443 }, any(443))];
    let fault = world.proxy.extend(world.session, doors).await.unwrap_err();
    assert!(fault.0.contains("namespace"), "{fault}");
    let inside = Inside::with(Upstream::start(&["http/1.1"], echo).await, |_| {}).await;
    let authority = "nowhere.example:5432".parse().unwrap();
    for (door, what) in [
        (Door::Capture { port: 25 }, "not captured"),
        (Door::Local { port: 1 }, "not allowed"),
        (Door::Named { authority }, "no target"),
    ] {
        let doors = vec![(Door::Proxy, any(7000)), (door, any(7001))];
        let fault = inside.world.proxy.extend(inside.world.session, doors).await.unwrap_err();
        assert!(fault.0.contains(what), "{fault}");
        let gone = space.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 7000)).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
    }
    // Nine it has; not one more than the limit, over its whole life.
    let more = |count| (0..count).map(|_| (Door::Proxy, any(0))).collect();
    inside.world.proxy.extend(inside.world.session, more(DOORS_MAX - 9)).await.unwrap();
    assert!(inside.world.proxy.extend(inside.world.session, more(1)).await.is_err());
    inside.world.broker.end_session(inside.world.session).await;
    let fault = inside.world.proxy.extend(inside.world.session, more(1)).await.unwrap_err();
    assert!(fault.0.contains("not open"), "{fault}");
}

/// Below `confined`, a login that the program holds has a door on loopback without a password, and nothing else has.
#[tokio::test]
async fn a_door_on_loopback_leads_to_a_login_and_its_relay_ends_with_the_lease() {
    let address = parrot("127.0.0.1:0", "hello ").await;
    let upstream = Upstream::start(&["http/1.1"], echo).await;
    let world = World::with(upstream, |setup| {
        let mut login = route("login", DATABASE, &Upstream { address, ..no_service() });
        (login.tunnel, login.tls_ca) = (true, None);
        login.injections.clear();
        let (target, authority) = ("bare".parse().unwrap(), "bare.example:5432".parse().unwrap());
        let bare = RoutePlan { target, authority, credential: None, ..login.clone() };
        setup.plan.routes.extend([login, bare]);
    })
    .await;
    world.broker.credential("login", DATABASE, HELD);
    let door = |name: &str| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let authority = name.parse().unwrap();
        (listener.local_addr().unwrap(), vec![(Door::Named { authority }, listener.into())])
    };
    for name in [HOST, "bare.example:5432"] {
        let fault = world.proxy.extend(world.session, door(name).1).await.unwrap_err();
        assert!(fault.0.contains("namespace"), "{name}: {fault}");
    }
    let (at, doors) = door(DATABASE);
    world.proxy.extend(world.session, doors).await.unwrap();
    let mut stream = TcpStream::connect(at).await.unwrap();
    says(&mut stream, "hello ").await;
    // In its last fifth the lease is asked for again. The broker has renewed it: the one that the relay holds lives on.
    world.advance(Duration::from_secs(14 * 60)).await;
    let mut other = TcpStream::connect(at).await.unwrap();
    says(&mut other, "hello ").await;
    assert!(world.broker.asked() >= 1);
    world.broker.end_lease(LeaseEnd::Revoked).await;
    is_cut(&mut stream).await;
    is_cut(&mut other).await;
    for event in world.uses(2).await {
        assert_eq!(facts(&event), ("tunnel", "db.vendor.example", 5432, Verdict::Cut));
        assert_eq!(event.outcome.reason.as_deref(), Some("lease-revoked"), "{event:?}");
    }
}
