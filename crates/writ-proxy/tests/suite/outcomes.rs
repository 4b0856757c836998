//! Exactly one outcome on every path, and what the pool does between requests.

use std::sync::Mutex;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use writ_audit::Verdict;
use writ_core::BoxFuture;

use crate::support::{HOST, PATIENCE, Reply, SECRET, Upstream, World, echo, get, post, shared, text};

#[tokio::test]
async fn connections_are_kept_and_bounded() {
    for alpn in ["h2", "http/1.1"] {
        let world = World::with(Upstream::start(&[alpn], echo).await, |setup| setup.workers = 1).await;
        let mut sender = world.client("http/1.1").sender(HOST).await;
        for _ in 0..20 {
            let answer = sender.send(HOST, get("/a"), "").await.unwrap();
            text(answer).await;
        }
        assert_eq!(world.upstream.connections(), 1, "{alpn}");
        let mut others = Vec::new();
        for _ in 0..8 {
            let mut sender = world.client("h2").sender(HOST).await;
            others.push(tokio::spawn(async move {
                for _ in 0..5 {
                    text(sender.send(HOST, get("/a"), "").await.unwrap()).await;
                }
            }));
        }
        for other in others {
            other.await.unwrap();
        }
        let most = if alpn == "h2" { 1 } else { 8 };
        assert!(world.upstream.connections() <= most, "{alpn} {}", world.upstream.connections());
        assert_eq!(world.uses(60).await.len(), 60);
    }
}

#[tokio::test]
async fn a_kept_connection_that_closed_costs_nothing() {
    for alpn in ["h2", "http/1.1"] {
        let world = World::with(Upstream::start(&[alpn], echo).await, |setup| setup.workers = 1).await;
        let mut sender = world.client("http/1.1").sender(HOST).await;
        for round in 1..=3 {
            let answer = sender.send(HOST, post("/a"), "again").await.unwrap();
            assert_eq!(answer.status(), 200, "{alpn} {round}");
            text(answer).await;
            world.upstream.hang_up().await;
        }
        assert!(world.uses(3).await.iter().all(|event| event.outcome.result == Verdict::Ok));
    }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_a_failure() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let world = World::with(Upstream::start(&["h2"], echo).await, |setup| {
        setup.plan.routes[0].dial = Some(closed.to_string());
    })
    .await;
    let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    let uses = world.uses(1).await;
    assert_eq!(
        (uses[0].outcome.result, uses[0].outcome.reason.as_deref()),
        (Verdict::Failed, Some("upstream-failed"))
    );
    assert_eq!(world.refusals().await, [], "one record, not two");
}

#[tokio::test]
async fn a_service_that_breaks_off_is_a_failure() {
    for alpn in ["h2", "http/1.1"] {
        let (feed, queue) = mpsc::channel(1);
        let queue = Mutex::new(Some(queue));
        let handler = move |_: Request<Incoming>| -> BoxFuture<'static, Reply> {
            let queue: mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>> =
                queue.lock().unwrap().take().unwrap();
            let stream = futures_util::stream::unfold(queue, |mut queue| async {
                queue.recv().await.map(|event| (event, queue))
            });
            Box::pin(async move { http::Response::new(shared(StreamBody::new(stream))) })
        };
        let world = World::with(Upstream::start(&[alpn], handler).await, |_| {}).await;
        let answer = world.client("http/1.1").send(HOST, get("/broken"), "").await;
        assert_eq!(answer.status(), 200);
        feed.send(Ok(Frame::data("half".into()))).await.unwrap();
        feed.send(Err(std::io::Error::other("gone"))).await.unwrap();
        let body = timeout(PATIENCE, answer.into_body().collect()).await.unwrap();
        assert!(body.is_err(), "half a body is not passed off as a whole one");
        let uses = world.uses(1).await;
        assert_eq!((uses[0].outcome.result, uses[0].outcome.status), (Verdict::Failed, Some(200)));
    }
}

#[tokio::test]
async fn an_agent_that_goes_away_is_recorded() {
    for alpn in ["h2", "http/1.1"] {
        let never = |_| -> BoxFuture<'static, Reply> { Box::pin(std::future::pending()) };
        let world = World::with(Upstream::start(&["http/1.1"], never).await, |_| {}).await;
        let mut sender = world.client(alpn).sender(HOST).await;
        let request =
            tokio::spawn(
                async move { sender.send(HOST, get("/never"), "").await.map(|answer| answer.status()) },
            );
        while world.upstream.seen().is_empty() {
            tokio::task::yield_now().await;
        }
        request.abort();
        let uses = world.uses(1).await;
        assert_eq!(
            (uses[0].outcome.result, uses[0].outcome.reason.as_deref()),
            (Verdict::Cut, Some("downstream-closed")),
            "{alpn}"
        );
    }
}

#[tokio::test]
async fn a_refusal_has_the_status_at_which_the_service_s_programs_give_up() {
    let world = World::new().await;
    world.broker.grants(Vec::new());
    for (path, status) in [("/v1/responses", 400), ("/v1/responses/compact", 400), ("/v1/chat", 403)] {
        assert_eq!(world.client("http/1.1").send(HOST, get(path), "").await.status(), status, "{path}");
    }
}

#[tokio::test]
async fn refused_requests_have_one_record_too() {
    let world = World::new().await;
    world.broker.grants(Vec::new());
    assert_eq!(world.client("h2").send(HOST, get("/a"), "").await.status(), 403);
    assert_eq!(world.refusals().await, [("out-of-scope".to_owned(), HOST.to_owned())]);
    assert_eq!(world.uses(0).await.len(), 0);
}

#[tokio::test]
async fn without_a_record_there_is_no_use() {
    let world = World::new().await;
    assert_eq!(world.client("h2").send(HOST, get("/a"), "").await.status(), 200);
    world.stream.close().unwrap();
    let answer = world.client("h2").send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 403);
    let text = text(answer).await;
    assert!(text.contains("audit-unavailable") && !text.contains(SECRET), "{text}");
    assert_eq!(world.upstream.seen().len(), 1, "nothing left");
}

#[tokio::test]
async fn the_record_says_who_what_and_where() {
    let world = World::new().await;
    text(world.client("h2").send(HOST, post("/v1/chat?token=abc"), "12345").await).await;
    let event = world.uses(1).await.remove(0);
    assert_eq!(event.actor.workload.as_deref(), Some("spiffe://writ.local/test"));
    assert_eq!((event.actor.role.as_deref(), event.actor.requester.as_deref()), (Some("dev"), Some("ada")));
    assert_eq!(event.resource.credential.as_deref(), Some("vendor"));
    assert_eq!(event.resource.credential_type.as_deref(), Some("static"));
    assert_eq!(
        (event.resource.method.as_deref(), event.resource.path.as_deref()),
        (Some("POST"), Some("/v1/chat"))
    );
    assert_eq!((event.resource.host.as_deref(), event.resource.port), (Some(HOST), Some(443)));
    assert_eq!(event.session_id, Some(world.session.to_string()));
    assert_eq!(event.lease_id, Some(world.broker.last_lease().to_string()));
    assert_eq!(event.within_ttl, Some(true));
    assert!(event.request_id.is_some() && event.outcome.duration_us.is_some());
}
