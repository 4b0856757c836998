//! A session that goes on for the agent of one that lost its daemon: same certificates, same addresses, today's rules.

use writ_audit::Verdict;
use writ_core::{Sealed, SessionId};

use crate::support::{HOST, OTHER, SECRET, Upstream, World, echo, post, route};

async fn upstream() -> Upstream {
    Upstream::start(&["h2", "http/1.1"], echo).await
}

#[tokio::test]
async fn it_is_served_under_the_same_certificates_again_and_again() {
    let mut world = World::new().await;
    for _ in 0..2 {
        world.go_on(|plan| plan.session = SessionId::new(plan.expires_at, &[9; 10])).await.unwrap_err();
        world.go_on(|_| {}).await.unwrap();
        let answer = world.client("h2").send(HOST, post("/a"), "hello").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            world.upstream.seen().last().unwrap().headers["authorization"],
            format!("Bearer {SECRET}")
        );
        let session = world.session;
        world.broker.end_session(session).await;
    }
}

/// What is sealed for another session, or for nobody, is not served with certificates of its own: the agent would trust none.
#[tokio::test]
async fn an_authority_that_does_not_open_is_a_fault() {
    let mut world = World::new().await;
    let nobodys = Sealed { enc: String::new(), ciphertext: String::new() };
    assert!(world.go_on(|plan| plan.authority = Some(nobodys)).await.is_err());
    let kept = world.authority.clone();
    assert!(world.go_on(|plan| plan.authority = Some(kept)).await.is_err(), "it is the keeper's");
    world.go_on(|_| {}).await.unwrap();
}

/// Targets with doors keep their addresses, whatever was added.
#[tokio::test]
async fn named_targets_keep_their_addresses() {
    let service = upstream().await;
    let (one, other) =
        (route("vendor", "b.example:5432", &service), route("other", "a.example:5432", &service));
    let added = route("foreign", "aa.example:5432", &service);
    let mut world = World::with(service, |setup| setup.plan.routes.extend([one, other])).await;
    let before = world.named.clone();
    assert_eq!(before.len(), 2);
    world.go_on(|plan| plan.routes.push(added)).await.unwrap();
    assert_eq!(world.named.len(), 3);
    for named in before {
        assert!(world.named.contains(&named), "{named:?} is not in {:?}", world.named);
    }
}

/// The intermediate certificate does not name it, so no program would believe it: refused below HTTP, with the reason on record.
#[tokio::test]
async fn a_host_that_came_later_is_refused() {
    let service = upstream().await;
    let later = route("foreign", "later.example", &service);
    let mut world = World::with(service, |_| {}).await;
    world.go_on(|plan| plan.routes.push(later)).await.unwrap();
    let fault = world.client("h2").tunnel("later.example", "later.example").await.unwrap_err();
    assert!(format!("{fault:?}").contains("AccessDenied"), "{fault:?}");
    let events = world.events().await;
    let refused =
        events.iter().find(|event| event.resource.host.as_deref() == Some("later.example")).unwrap();
    assert_eq!(refused.outcome.result, Verdict::Refused);
    assert_eq!(world.client("h2").send(OTHER, post("/a"), "hello").await.status(), 200);
}
