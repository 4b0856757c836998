//! The life of a lease, and of what depends on it: one question for many, renewal, expiry, revocation, silence, the session's end.

use std::{collections::HashSet, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    time::timeout,
};
use writ_audit::Verdict;
use writ_core::{BoxFuture, LeaseEnd, Refusal, RefusalKind};
use writ_proxy::Names;

use crate::support::{
    HOST, OTHER, PATIENCE, Raw, Reply, SECRET, Upstream, World, basic, connect_request, echo, get, post,
    shared, text,
};

/// What a service does that never comes to an end.
struct Endless {
    /// Bodies that were broken off.
    closed: watch::Sender<usize>,
    /// Sends another piece.
    more: Notify,
}

/// Answers `/open` with a body that does not end by itself and `/never` not at all; anything else as an echo.
async fn open_ended(alpn: &[&str]) -> (Upstream, watch::Receiver<usize>, Arc<Endless>) {
    let (closed, told) = watch::channel(0);
    let endless = Arc::new(Endless { closed, more: Notify::new() });
    let service = endless.clone();
    let upstream =
        Upstream::start(alpn, move |request: http::Request<Incoming>| -> BoxFuture<'static, Reply> {
            match request.uri().path() {
                "/open" => {}
                "/never" => {
                    let gone = Gone(service.clone());
                    return Box::pin(async move {
                        let _gone = gone;
                        std::future::pending().await
                    });
                }
                _ => return echo(request),
            }
            let service = service.clone();
            Box::pin(async move {
                let (events, queue) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
                tokio::spawn(async move {
                    let _gone = Gone(service.clone());
                    let mut piece = "first\n";
                    loop {
                        events.send(Ok(Frame::data(piece.into()))).await.unwrap();
                        piece = "more\n";
                        tokio::select! {
                            () = events.closed() => break,
                            () = service.more.notified() => {}
                        }
                    }
                });
                let stream = futures_util::stream::unfold(queue, |mut queue| async {
                    queue.recv().await.map(|event| (event, queue))
                });
                http::Response::new(shared(StreamBody::new(stream)))
            })
        })
        .await;
    (upstream, told, endless)
}

struct Gone(Arc<Endless>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.closed.send_modify(|count| *count += 1);
    }
}

/// Waits for the next piece of a body.
async fn piece(body: &mut Incoming) -> Result<Bytes, hyper::Error> {
    let frame = timeout(PATIENCE, body.frame()).await.expect("a piece, or an end, in time");
    let frame = frame.unwrap_or_else(|| panic!("a clean end"));
    frame.map(|frame| frame.into_data().unwrap())
}

/// A resolver that takes its time.
struct Slow {
    address: SocketAddr,
    asked: Notify,
    go: Notify,
}

impl Names for Slow {
    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            self.asked.notify_one();
            self.go.notified().await;
            Ok(vec![self.address])
        })
    }
}

#[tokio::test]
async fn a_lease_that_expires_before_the_request_leaves_is_not_used() {
    let upstream = Upstream::start(&["h2", "http/1.1"], echo).await;
    let slow = Arc::new(Slow { address: upstream.address, asked: Notify::new(), go: Notify::new() });
    let world = World::with(upstream, |setup| {
        setup.names = slow.clone();
        setup.plan.routes.iter_mut().for_each(|route| route.dial = None);
    })
    .await;
    world.broker.ttl("10s");
    let mut sender = world.client("http/1.1").sender(HOST).await;
    let request = tokio::spawn(async move { sender.send(HOST, get("/a"), "").await.unwrap() });
    timeout(PATIENCE, slow.asked.notified()).await.expect("a dial");
    world.advance(Duration::from_secs(11)).await;
    slow.go.notify_one();
    let answer = request.await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(text(answer).await.contains("lease-expired"));
    assert_eq!(world.upstream.seen().len(), 0, "the credential did not leave");
    let outcome = &world.uses(1).await[0].outcome;
    assert_eq!((outcome.result, outcome.reason.as_deref()), (Verdict::Refused, Some("lease-expired")));
}

#[tokio::test]
async fn many_requests_ask_once() {
    let world = World::new().await;
    world.broker.gate.forget_permits(usize::MAX >> 4);
    let client = world.client("http/1.1");
    let mut requests = Vec::new();
    for _ in 0..16 {
        let mut sender = client.sender(HOST).await;
        requests.push(tokio::spawn(async move { sender.send(HOST, get("/a"), "").await.unwrap().status() }));
    }
    while world.broker.asked() == 0 {
        tokio::task::yield_now().await;
    }
    world.broker.gate.add_permits(1);
    for request in requests {
        assert_eq!(timeout(PATIENCE, request).await.expect("one answer for all").unwrap(), 200);
    }
    assert_eq!(world.broker.asked(), 1);
}

#[tokio::test]
async fn a_refusal_of_the_broker_reaches_the_agent_and_is_not_kept() {
    let world = World::new().await;
    world.broker.refuse(Some(Refusal::new(RefusalKind::Denied, "only on weekdays", "wait for Monday")));
    let client = world.client("http/1.1");
    let answer = client.send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 403);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    let problem: serde_json::Value = serde_json::from_str(&text(answer).await).unwrap();
    assert_eq!(
        (problem["detail"].as_str(), problem["next"].as_str()),
        (Some("only on weekdays"), Some("wait for Monday"))
    );
    world.broker.refuse(None);
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
}

#[tokio::test]
async fn a_credential_that_cannot_be_scrubbed_is_not_used() {
    let world = World::new().await;
    world.broker.credential("vendor", HOST, "short");
    let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 403);
    assert!(text(answer).await.contains("no-credential"));
    assert_eq!(world.upstream.seen().len(), 0);
}

#[tokio::test]
async fn a_lease_is_renewed_ahead_beside_its_requests() {
    let world = World::new().await;
    world.broker.ttl("100s");
    let mut sender = world.client("http/1.1").sender(HOST).await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    world.advance(Duration::from_secs(78)).await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    assert_eq!(world.broker.asked(), 1, "four fifths are not over");
    world.advance(Duration::from_secs(4)).await;
    world.broker.gate.forget_permits(usize::MAX >> 4);
    assert_eq!(
        sender.send(HOST, get("/a"), "").await.unwrap().status(),
        200,
        "the request does not wait for the renewal"
    );
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    while world.broker.asked() < 2 {
        tokio::task::yield_now().await;
    }
    world.broker.gate.add_permits(8);
    let new = loop {
        assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
        let leases: HashSet<_> =
            world.events().await.into_iter().filter_map(|event| event.lease_id).collect();
        if leases.len() == 2 {
            break world.broker.last_lease();
        }
    };
    world.advance(Duration::from_secs(20)).await;
    assert_eq!(world.broker.last_lease(), new);
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200, "under the new lease");
    assert_eq!(world.broker.asked(), 2);
}

#[tokio::test]
async fn an_expired_lease_is_asked_for_again_and_its_response_gets_a_minute() {
    let (upstream, mut closed, _) = open_ended(&["http/1.1"]).await;
    let world = World::with(upstream, |_| {}).await;
    world.broker.ttl("10s");
    let client = world.client("http/1.1");
    let mut body = client.send(HOST, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), "first\n");
    world.advance(Duration::from_secs(11)).await;
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
    assert_eq!(world.broker.asked(), 2, "the old lease is not used");
    world.broker.refuse(Some(Refusal::new(RefusalKind::Denied, "no more", "none")));
    world.advance(Duration::from_secs(57)).await;
    assert_eq!(*closed.borrow(), 0, "an open response may finish");
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 403, "a new request may not begin");
    world.advance(Duration::from_secs(4)).await;
    assert!(piece(&mut body).await.is_err(), "after a minute it is cut");
    timeout(PATIENCE, closed.changed()).await.unwrap().unwrap();
    let reasons: Vec<_> = world.uses(2).await.into_iter().filter_map(|event| event.outcome.reason).collect();
    assert_eq!(reasons, ["lease-expired"]);
}

#[tokio::test]
async fn the_end_of_an_old_lease_leaves_its_successor_alone() {
    let (upstream, closed, endless) = open_ended(&["http/1.1"]).await;
    let world = World::with(upstream, |setup| setup.workers = 1).await;
    world.broker.ttl("10s");
    let client = world.client("http/1.1");
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
    world.advance(Duration::from_secs(11)).await;
    world.broker.ttl("1h");
    let mut body = client.send(HOST, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), "first\n");
    world.advance(Duration::from_secs(65)).await;
    endless.more.notify_one();
    assert_eq!(piece(&mut body).await.unwrap(), "more\n");
    assert_eq!(*closed.borrow(), 0);
}

#[tokio::test]
async fn revocation_cuts_requests_that_still_wait_for_their_answer() {
    for upstream_alpn in ["h2", "http/1.1"] {
        for downstream_alpn in ["h2", "http/1.1"] {
            let (upstream, mut closed, _) = open_ended(&[upstream_alpn]).await;
            let world = World::with(upstream, |_| {}).await;
            let mut sender = world.client(downstream_alpn).sender(HOST).await;
            let waiting = tokio::spawn(async move {
                sender.send(HOST, get("/never"), "").await.map(|answer| answer.status())
            });
            while world.upstream.seen().is_empty() {
                tokio::task::yield_now().await;
            }
            world.broker.end_lease(LeaseEnd::Revoked).await;
            let answer = timeout(PATIENCE, waiting).await.unwrap().unwrap();
            assert!(answer.is_err() || answer.unwrap() == 502, "no answer of the service");
            timeout(PATIENCE, closed.changed()).await.expect("the service's side ends").unwrap();
            let uses = world.uses(1).await;
            assert_eq!(
                (uses[0].outcome.result, uses[0].outcome.reason.as_deref()),
                (Verdict::Cut, Some("lease-revoked"))
            );
        }
    }
}

#[tokio::test]
async fn revocation_cuts_both_sides_in_every_pair_of_protocols() {
    for upstream_alpn in ["h2", "http/1.1"] {
        for downstream_alpn in ["h2", "http/1.1"] {
            let (upstream, mut closed, _) = open_ended(&[upstream_alpn]).await;
            let world = World::with(upstream, |_| {}).await;
            let client = world.client(downstream_alpn);
            let mut bystander = client.sender(OTHER).await;
            assert_eq!(bystander.send(OTHER, get("/a"), "").await.unwrap().status(), 200);
            let mut idle = client.sender(HOST).await;
            let mut body = client.send(HOST, get("/open"), "").await.into_body();
            assert_eq!(piece(&mut body).await.unwrap(), "first\n");
            world.broker.refuse(Some(Refusal::new(RefusalKind::LeaseRevoked, "revoked", "ask")));
            world.broker.end_lease(LeaseEnd::Revoked).await;
            assert!(
                piece(&mut body).await.is_err(),
                "the agent's side ends with an error: {downstream_alpn} {upstream_alpn}"
            );
            timeout(PATIENCE, closed.changed()).await.expect("the service's side ends").unwrap();
            let refused = idle.send(HOST, get("/a"), "").await.unwrap();
            assert_eq!(refused.status(), 403, "an idle connection is told why");
            assert!(text(refused).await.contains("lease-revoked"));
            let uses = world.uses(2).await;
            let cut = uses.iter().find(|event| event.outcome.result == Verdict::Cut).unwrap();
            assert_eq!(cut.outcome.reason.as_deref(), Some("lease-revoked"));
            assert_eq!(cut.outcome.bytes_down, Some(6));
        }
    }
}

#[tokio::test]
async fn revocation_touches_one_target_only() {
    let (upstream, closed, _) = open_ended(&["h2", "http/1.1"]).await;
    let world = World::with(upstream, |_| {}).await;
    let client = world.client("h2");
    let mut kept = client.send(OTHER, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut kept).await.unwrap(), "first\n");
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
    world.broker.end_lease(LeaseEnd::Revoked).await;
    world.broker.beat().await;
    assert_eq!(*closed.borrow(), 0);
    assert_eq!(client.send(OTHER, get("/a"), "").await.status(), 200);
    assert_eq!(world.broker.asked(), 2, "the other lease lives");
}

#[tokio::test]
async fn a_revocation_that_overtakes_its_lease_is_not_lost() {
    let world = World::new().await;
    let client = world.client("http/1.1");
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
    // The broker's fake numbers its leases: the next one is known before it is granted.
    let next = world.broker.next_lease();
    world
        .broker
        .say(vec![writ_core::Notice::LeaseEnded { lease: next, end: LeaseEnd::Revoked }], false)
        .await;
    world.broker.end_lease(LeaseEnd::Revoked).await;
    let answer = client.send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 403);
    assert!(text(answer).await.contains("lease-revoked"));
    assert_eq!(world.upstream.seen().len(), 1);
}

#[tokio::test]
async fn a_silent_broker_ends_every_use() {
    let (upstream, mut closed, _) = open_ended(&["http/1.1"]).await;
    let world = World::with(upstream, |_| {}).await;
    let client = world.client("http/1.1");
    let mut body = client.send(HOST, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), "first\n");
    world.silence(Duration::from_millis(2_900));
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200, "not yet");
    world.silence(Duration::from_millis(200));
    let refused = client.send(HOST, get("/a"), "").await;
    assert_eq!(refused.status(), 403, "judged at use, whatever the watch loop does");
    assert!(text(refused).await.contains("broker-unavailable"));
    assert!(piece(&mut body).await.is_err(), "what was open is cut");
    timeout(PATIENCE, closed.changed()).await.unwrap().unwrap();
    world.broker.beat().await;
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200, "it speaks again");
    assert_eq!(world.broker.asked(), 2, "under a new lease");
}

#[tokio::test]
async fn a_lease_of_a_world_that_is_gone_is_not_used() {
    let world = World::new().await;
    world.broker.gate.forget_permits(usize::MAX >> 4);
    let client = world.client("http/1.1");
    let mut sender = client.sender(HOST).await;
    let waiting = tokio::spawn(async move { text(sender.send(HOST, get("/a"), "").await.unwrap()).await });
    while world.broker.asked() == 0 {
        tokio::task::yield_now().await;
    }
    // Everything may have been revoked between what was missed and now.
    world.broker.say(Vec::new(), true).await;
    world.broker.gate.add_permits(2);
    assert!(timeout(PATIENCE, waiting).await.unwrap().unwrap().contains("broker-unavailable"));
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
    assert_eq!(world.broker.asked(), 2);
}

#[tokio::test]
async fn missed_notices_end_every_lease() {
    let (upstream, mut closed, _) = open_ended(&["http/1.1"]).await;
    let world = World::with(upstream, |_| {}).await;
    let client = world.client("http/1.1");
    let mut body = client.send(HOST, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), "first\n");
    world.broker.say(Vec::new(), true).await;
    assert!(piece(&mut body).await.is_err());
    timeout(PATIENCE, closed.changed()).await.unwrap().unwrap();
    assert_eq!(client.send(HOST, get("/a"), "").await.status(), 200);
    assert_eq!(world.broker.asked(), 2);
}

#[tokio::test]
async fn a_session_ends_with_everything_it_has() {
    let (upstream, mut closed, _) = open_ended(&["h2", "http/1.1"]).await;
    let world = World::with(upstream, |_| {}).await;
    let client = world.client("http/1.1");
    let mut waiting = Raw::connect(&world).await;
    let mut idle = client.raw(OTHER).await;
    let mut body = client.send(HOST, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), "first\n");
    world.broker.end_session(world.session).await;
    assert!(piece(&mut body).await.is_err());
    timeout(PATIENCE, closed.changed()).await.unwrap().unwrap();
    assert_eq!(idle.rest().await, "", "idle connections close, too");
    assert_eq!(waiting.rest().await, "");
    while TcpStream::connect(world.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    let uses = world.uses(1).await;
    assert_eq!(uses[0].outcome.reason.as_deref(), Some("session-ended"));
}

#[tokio::test]
async fn a_session_past_its_time_is_refused_before_the_broker_says_so() {
    let world = World::with(Upstream::start(&["http/1.1"], echo).await, |setup| {
        setup.plan.expires_at = setup.plan.expires_at.saturating_add("1s".parse().unwrap());
    })
    .await;
    let mut sender = world.client("http/1.1").sender(HOST).await;
    assert_eq!(sender.send(HOST, get("/a"), "").await.unwrap().status(), 200);
    world.silence(Duration::from_secs(9 * 3600));
    let answer = sender.send(HOST, get("/a"), "").await.unwrap();
    assert!(text(answer).await.contains("session-ended"));
}

#[tokio::test]
async fn stopping_closes_everything() {
    let (upstream, mut closed, _) = open_ended(&["http/1.1"]).await;
    let world = World::with(upstream, |_| {}).await;
    let mut body = world.client("http/1.1").send(HOST, get("/open"), "").await.into_body();
    assert_eq!(piece(&mut body).await.unwrap(), "first\n");
    world.proxy.stop();
    assert!(piece(&mut body).await.is_err());
    timeout(PATIENCE, closed.changed()).await.unwrap().unwrap();
    assert!(TcpStream::connect(world.address).await.is_err());
    assert_eq!(world.uses(1).await[0].outcome.reason.as_deref(), Some("session-ended"));
}

#[tokio::test]
async fn a_session_is_opened_once_and_has_its_own_certificates() {
    let world = World::new().await;
    let other = World::new().await;
    assert_ne!(world.ca_pem, other.ca_pem);
    assert!(!world.ca_pem.contains("PRIVATE"));
    let mut raw = Raw::connect(&other).await;
    raw.say(&connect_request(HOST, &basic("wrong"))).await;
    assert!(raw.answer().await.0.starts_with("HTTP/1.1 407"));
    let answer = world.client("http/1.1").send(HOST, post("/a"), "x").await;
    assert!(!text(answer).await.contains(SECRET));
}
