//! The whole way of a request: every pair of protocols, every place, streams, the pool, the record.

use crate::support::{HOST, SECRET, Upstream, World, echo, get, placeholder, post, text};
use writ_audit::Verdict;

#[tokio::test]
async fn the_credential_is_put_in_whatever_protocol_either_side_speaks() {
    for upstream in ["h2", "http/1.1"] {
        let world = World::with(Upstream::start(&[upstream], echo).await, |_| {}).await;
        for downstream in ["h2", "http/1.1"] {
            let answer = world.client(downstream).send(HOST, post("/v1/chat?x=1"), "hello").await;
            assert_eq!(answer.status(), 200);
            let body = text(answer).await;
            assert!(body.contains("POST /v1/chat") && body.contains("body=hello"), "{body}");
            assert!(!body.contains(SECRET), "the echo comes back scrubbed: {body}");
            assert!(body.contains("authorization=Bearer [writ:vendor]"), "{body}");
        }
        let seen = world.upstream.seen();
        assert_eq!(seen.len(), 2);
        for one in seen {
            assert_eq!(one.headers["authorization"], format!("Bearer {SECRET}"));
            assert_eq!(one.uri.path_and_query().unwrap(), "/v1/chat?x=1");
            assert_eq!(one.headers["accept-encoding"], "identity");
        }
        assert_eq!(world.broker.asked(), 1, "one lease serves both");
        for event in world.uses(2).await {
            assert_eq!(event.outcome.result, Verdict::Ok, "{event:#?}");
            assert_eq!(event.outcome.bytes_up, Some(5));
            assert_eq!(event.outcome.status, Some(200));
            assert_eq!(event.resource.dialled.as_deref(), Some(world.upstream.address.to_string().as_str()));
        }
    }
}

#[tokio::test]
async fn the_place_is_where_the_placeholder_stands() {
    let world = World::new().await;
    let own = placeholder("vendor").placeholder;
    let answer = world
        .client("http/1.1")
        .send(HOST, get("/a").header("x-api-key", own.as_str()).header("authorization", "Bearer mine"), "")
        .await;
    assert_eq!(answer.status(), 200, "{}", text(answer).await);
    let seen = world.upstream.seen();
    assert_eq!(seen[0].headers["x-api-key"], SECRET);
    assert!(!seen[0].headers.contains_key("authorization"), "the other declared place is emptied");
}
