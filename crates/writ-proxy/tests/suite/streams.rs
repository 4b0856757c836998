//! Bodies: as they come, in order, in both directions, readable and scrubbed.

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{io::AsyncWriteExt, sync::mpsc, time::timeout};
use writ_core::BoxFuture;

use crate::support::{HOST, PATIENCE, Reply, SECRET, Upstream, World, full, get, post, reply, shared, text};

type Events = mpsc::Receiver<Result<Frame<Bytes>, std::io::Error>>;

/// Answers one request with whatever is sent on the channel.
async fn fed(
    alpn: &[&str],
    headers: &'static [(&'static str, &'static str)],
) -> (Upstream, mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>) {
    let (feed, queue) = mpsc::channel(64);
    let queue = std::sync::Mutex::new(Some(queue));
    let upstream = Upstream::start(alpn, move |_| -> BoxFuture<'static, Reply> {
        let queue: Events = queue.lock().unwrap().take().unwrap();
        Box::pin(async move {
            let stream = futures_util::stream::unfold(queue, |mut queue| async {
                queue.recv().await.map(|event| (event, queue))
            });
            let mut answer = http::Response::new(shared(StreamBody::new(stream)));
            for (name, value) in headers {
                answer.headers_mut().insert(*name, value.parse().unwrap());
            }
            answer
        })
    })
    .await;
    (upstream, feed)
}

async fn piece(body: &mut Incoming) -> Bytes {
    let frame = timeout(PATIENCE, body.frame()).await.expect("a piece in time").unwrap().unwrap();
    frame.into_data().unwrap()
}

#[tokio::test]
async fn events_leave_at_once_and_in_order() {
    for upstream_alpn in ["h2", "http/1.1"] {
        for downstream_alpn in ["h2", "http/1.1"] {
            let (upstream, feed) = fed(&[upstream_alpn], &[("content-type", "text/event-stream")]).await;
            let world = World::with(upstream, |_| {}).await;
            let mut body = world.client(downstream_alpn).send(HOST, get("/sse"), "").await.into_body();
            for number in 0..50 {
                let event = format!("data: {{\"n\":{number}}}\n\n");
                feed.send(Ok(Frame::data(event.clone().into()))).await.unwrap();
                assert_eq!(piece(&mut body).await, event, "each before the next is sent");
            }
            // The start of a needle waits a moment, and no longer; a needle over two events does not come through.
            feed.send(Ok(Frame::data("data: sk-".into()))).await.unwrap();
            let mut start = piece(&mut body).await.to_vec();
            while start.len() < "data: sk-".len() {
                start.extend_from_slice(&piece(&mut body).await);
            }
            assert_eq!(start, b"data: sk-");
            let (head, tail) = SECRET.split_at(12);
            feed.send(Ok(Frame::data(format!("data: {head}").into()))).await.unwrap();
            feed.send(Ok(Frame::data(format!("{tail}\n\n").into()))).await.unwrap();
            drop(feed);
            let rest = timeout(PATIENCE, body.collect()).await.unwrap().unwrap().to_bytes();
            let rest = String::from_utf8(rest.to_vec()).unwrap();
            assert!(
                rest.starts_with("data: [writ:vendor]") && rest.ends_with("\n\n") && !rest.contains(tail),
                "{rest}"
            );
            assert_eq!(world.uses(1).await[0].outcome.scrubbed, Some(1));
        }
    }
}

#[tokio::test]
async fn uploads_pass_as_they_come() {
    let handler = |request: http::Request<Incoming>| -> BoxFuture<'static, Reply> {
        Box::pin(
            async move { http::Response::new(shared(request.into_body().map_err(std::io::Error::other))) },
        )
    };
    let world = World::with(Upstream::start(&["http/1.1"], handler).await, |_| {}).await;
    let mut raw = world.client("http/1.1").raw(HOST).await;
    raw.say(&format!("POST /pipe HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 200"));
    for word in ["one", "two", "six"] {
        raw.say(&format!("3\r\n{word}\r\n")).await;
        assert_eq!(raw.chunked(3).await, word, "each comes back before the next is sent");
    }
    raw.say("0\r\n\r\n").await;
    assert_eq!(raw.line().await, "0");
    let uses = world.uses(1).await;
    assert_eq!((uses[0].outcome.bytes_up, uses[0].outcome.bytes_down), (Some(9), Some(9)));
}

#[tokio::test]
async fn large_bodies_pass_whole_with_their_length() {
    let handler = |_| -> BoxFuture<'static, Reply> {
        Box::pin(async { reply(format!("{}{SECRET}{}", "a".repeat(3 << 20), "b".repeat(1 << 20))) })
    };
    for alpn in ["h2", "http/1.1"] {
        let world = World::with(Upstream::start(&[alpn], handler).await, |_| {}).await;
        for downstream in ["h2", "http/1.1"] {
            let answer = world.client(downstream).send(HOST, get("/big"), "").await;
            let length = (4 << 20) + SECRET.len();
            assert_eq!(answer.headers()["content-length"], length.to_string());
            let body = text(answer).await;
            assert_eq!(body.len(), length);
            assert!(!body.contains(SECRET) && body.contains("[writ:vendor]"));
        }
    }
}

async fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = async_compression::tokio::write::GzipEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn encoded(coding: &'static str, body: Vec<u8>, status: StatusCode) -> Upstream {
    let body = Bytes::from(body);
    Upstream::start(&["http/1.1"], move |_| -> BoxFuture<'static, Reply> {
        let body = body.clone();
        Box::pin(async move {
            let mut answer = reply(body);
            *answer.status_mut() = status;
            answer.headers_mut().insert("content-encoding", coding.parse().unwrap());
            answer.headers_mut().insert("content-md5", "x".parse().unwrap());
            answer.headers_mut().insert("repr-digest", "x".parse().unwrap());
            answer
        })
    })
    .await
}

#[tokio::test]
async fn gzip_is_delivered_as_identity() {
    let plain = format!("{}{SECRET}{}", "a".repeat(100_000), "b".repeat(10));
    let world =
        World::with(encoded("gzip", gzip(plain.as_bytes()).await, StatusCode::OK).await, |_| {}).await;
    let answer =
        world.client("http/1.1").send(HOST, get("/a").header("accept-encoding", "gzip, br"), "").await;
    for gone in ["content-encoding", "content-length", "content-md5", "repr-digest"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    let body = text(answer).await;
    assert_eq!(body.len(), plain.len());
    assert!(!body.contains(SECRET) && body.contains("[writ:vendor]"));
    assert_eq!(world.upstream.seen()[0].headers["accept-encoding"], "identity");
}

#[tokio::test]
async fn a_bomb_is_not_delivered() {
    let bomb = gzip(&vec![0; 64 << 20]).await;
    let world = World::with(encoded("gzip", bomb, StatusCode::OK).await, |_| {}).await;
    let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
    assert_eq!(answer.status(), 200);
    assert!(timeout(PATIENCE, answer.into_body().collect()).await.unwrap().is_err(), "cut off");
    assert_eq!(world.uses(1).await[0].outcome.reason.as_deref(), Some("upstream-failed"));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_unless_it_may_pass() {
    for (coding, status) in [
        ("br", StatusCode::OK),
        ("gzip, gzip", StatusCode::OK),
        ("zstd", StatusCode::OK),
        ("gzip", StatusCode::PARTIAL_CONTENT),
    ] {
        let world = World::with(encoded(coding, b"opaque-bytes".to_vec(), status).await, |_| {}).await;
        let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
        assert_eq!(answer.status(), 502, "{coding}");
        assert!(text(answer).await.contains("upstream-encoding"));
        assert_eq!(world.uses(1).await[0].outcome.reason.as_deref(), Some("upstream-encoding"));
        let world = World::with(encoded(coding, b"opaque-bytes".to_vec(), status).await, |setup| {
            setup.plan.routes[0].pass_unscrubbed = true;
        })
        .await;
        let answer = world.client("http/1.1").send(HOST, get("/a"), "").await;
        assert_eq!(answer.headers()["content-encoding"], coding);
        assert_eq!(text(answer).await, "opaque-bytes");
    }
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let handler = |request: http::Request<Incoming>| -> BoxFuture<'static, Reply> {
        Box::pin(async move {
            let mut answer = reply("");
            if request.uri().path() == "/head" {
                answer.headers_mut().insert("content-length", "1234".parse().unwrap());
            } else {
                *answer.status_mut() = request.uri().path().trim_start_matches('/').parse().unwrap();
            }
            answer.headers_mut().insert("etag", "\"e\"".parse().unwrap());
            answer
        })
    };
    for upstream in ["h2", "http/1.1"] {
        let world = World::with(Upstream::start(&[upstream], handler).await, |_| {}).await;
        for downstream in ["h2", "http/1.1"] {
            let mut sender = world.client(downstream).sender(HOST).await;
            let head = sender.send(HOST, http::Request::head("/head"), "").await.unwrap();
            assert_eq!(head.headers()["content-length"], "1234");
            assert_eq!(text(head).await, "");
            for status in [204, 304] {
                let answer = sender.send(HOST, get(&format!("/{status}")), "").await.unwrap();
                assert_eq!(answer.status(), status);
                assert_eq!(answer.headers()["etag"], "\"e\"");
                assert_eq!(text(answer).await, "");
            }
        }
        assert_eq!(world.uses(6).await.len(), 6);
    }
}

#[tokio::test]
async fn trailers_are_scrubbed() {
    let handler = |_| -> BoxFuture<'static, Reply> {
        Box::pin(async {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("grpc-message", SECRET.parse().unwrap());
            let frames = vec![Ok(Frame::data(Bytes::from_static(b"body"))), Ok(Frame::trailers(trailers))];
            http::Response::new(shared(StreamBody::new(futures_util::stream::iter(frames).boxed())))
        })
    };
    let world = World::with(Upstream::start(&["h2"], handler).await, |_| {}).await;
    let request = post("/svc/call").header("te", "trailers");
    let answer = world.client("h2").send(HOST, request, "").await;
    let whole = timeout(PATIENCE, answer.into_body().collect()).await.unwrap().unwrap();
    let trailers = whole.trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(!trailers["grpc-message"].to_str().unwrap().contains(SECRET));
    assert_eq!(world.upstream.seen()[0].headers["te"], "trailers");
}

#[tokio::test]
async fn split_cookies_are_joined_for_older_services() {
    let world = World::with(
        Upstream::start(&["http/1.1"], |_| Box::pin(async { http::Response::new(full("")) })).await,
        |_| {},
    )
    .await;
    let request = get("/a").header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(world.client("h2").send(HOST, request, "").await.status(), 200);
    let seen = world.upstream.seen();
    let cookies: Vec<_> = seen[0].headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}
