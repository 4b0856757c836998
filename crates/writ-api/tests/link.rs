//! [`Brokerage`], in process and over a socket pair: the same questions, the same answers.
//!
//! The broker behind it is a small one of our own: what it is asked for by a target's name decides what it does.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests: a failure here is a failed test")]

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::UnixStream,
    sync::Notify,
    time::{Instant, timeout},
};
use writ_api::{
    frame::{self, FRAME_MAX},
    link::{ACQUIRE_MAX, ACQUIRES_MAX, Link, TELLS_MAX, WATCH_MAX, WRITE_MAX, serve},
};
use writ_core::{
    AcquireAsk, BoxFuture, Brokerage, Granted, LeaseEnd, LeaseId, Lost, Notice, Refusal, RefusalKind,
    RequestId, Scope, Sealed, SessionId, Tiding, Timestamp, WatchAnswer, WatchAsk,
};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

#[derive(Default)]
struct Fake {
    /// Lets an acquisition of `gated` go on.
    gate: Notify,
    told: Mutex<Vec<String>>,
    /// Acquisitions that came to their end.
    finished: AtomicUsize,
}

impl Brokerage for Fake {
    fn acquire(&self, ask: AcquireAsk) -> BoxFuture<'_, Result<Granted, Refusal>> {
        Box::pin(async move {
            match ask.target.as_str() {
                "gated" => self.gate.notified().await,
                "never" => pending().await,
                "panic" => panic!("a broker that breaks down"),
                "denied" => return Err(Refusal::new(RefusalKind::Denied, "no: \"é\n", "ask\0 the operator")),
                _ => {}
            }
            self.finished.fetch_add(1, Ordering::SeqCst);
            Ok(granted(&ask))
        })
    }

    fn watch(&self, ask: WatchAsk) -> BoxFuture<'_, Result<WatchAnswer, Lost>> {
        Box::pin(async move {
            match ask.since {
                0 => Ok(WatchAnswer { upto: 2, missed: false, notices: notices(2) }),
                1 => pending().await,
                2 => Err(Lost("its log is full".to_owned())),
                // Longer than a frame.
                since => Ok(WatchAnswer { upto: since, missed: false, notices: notices(20_000) }),
            }
        })
    }

    fn tell(&self, tiding: Tiding) -> BoxFuture<'_, Result<(), Lost>> {
        Box::pin(async move {
            if tiding.text == "never" {
                pending().await
            }
            self.told.lock().unwrap().push(tiding.text);
            Ok(())
        })
    }
}

fn session() -> SessionId {
    SessionId::new(NOW, &[1; 10])
}

fn ask(target: &str) -> AcquireAsk {
    AcquireAsk { session: session(), target: target.parse().unwrap(), request: RequestId::new(NOW, &[2; 10]) }
}

fn granted(ask: &AcquireAsk) -> Granted {
    Granted {
        lease: LeaseId::new(NOW, &[3; 10]),
        credential: Some(ask.target.as_str().parse().unwrap()),
        credential_type: "static".to_owned(),
        scope: Scope { authority: "api.example:8443".parse().unwrap(), grants: vec![] },
        issued_at: NOW,
        expires_at: NOW,
        sealed: Some(Sealed { enc: "ZW5j".to_owned(), ciphertext: "Y2lwaGVydGV4dA==".to_owned() }),
    }
}

fn notices(count: usize) -> Vec<Notice> {
    let lease = LeaseId::new(NOW, &[4; 10]);
    (0..count).map(|_| Notice::LeaseEnded { lease, end: LeaseEnd::Revoked }).collect()
}

fn line(text: &str) -> Tiding {
    Tiding { session: session(), text: text.to_owned() }
}

/// A link over a socket pair to a broker.
fn linked(fake: &Arc<Fake>) -> Link {
    let (near, far) = UnixStream::pair().unwrap();
    tokio::spawn(serve(far, fake.clone()));
    Link::connect(near)
}

/// A link to a broker's end that the test plays.
fn played() -> (Link, DuplexStream) {
    let (near, far) = duplex(64 * 1024);
    (Link::connect(near), far)
}

fn is_lost(answer: &Result<Granted, Refusal>) -> bool {
    matches!(answer, Err(refusal) if refusal.kind == RefusalKind::BrokerUnavailable)
}

/// Everything that a holder of the trait can see.
async fn conversation(broker: &dyn Brokerage) -> Vec<String> {
    vec![
        format!("{:?}", broker.acquire(ask("openai")).await),
        format!("{:?}", broker.acquire(ask("denied")).await),
        format!("{:?}", broker.watch(WatchAsk { since: 0 }).await),
        format!("{:?}", broker.watch(WatchAsk { since: 2 }).await),
        format!("{:?}", broker.tell(line("a line\u{1b}[0m")).await),
    ]
}

#[tokio::test]
async fn in_process_and_over_the_pair_it_is_the_same() {
    let (near, far) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
    assert_eq!(conversation(&*near).await, conversation(&linked(&far)).await);
    assert_eq!(*near.told.lock().unwrap(), *far.told.lock().unwrap());
}

#[tokio::test]
async fn a_refusal_crosses_unchanged() {
    let fake = Arc::new(Fake::default());
    let direct = fake.acquire(ask("denied")).await.unwrap_err();
    assert_eq!(linked(&fake).acquire(ask("denied")).await.unwrap_err(), direct);
}

#[tokio::test]
async fn answers_come_in_any_order_and_a_watch_blocks_nothing() {
    let fake = Arc::new(Fake::default());
    let link = linked(&fake);
    let mut gated = link.acquire(ask("gated"));
    let mut watch = link.watch(WatchAsk { since: 1 });
    tokio::select! {
        biased;
        _ = &mut gated => panic!("the gate is shut"),
        _ = &mut watch => panic!("there is no news"),
        answer = link.acquire(ask("second")) => assert_eq!(answer.unwrap(), granted(&ask("second"))),
    }
    fake.gate.notify_one();
    assert_eq!(gated.await.unwrap(), granted(&ask("gated")));
}

#[tokio::test]
async fn closing_fails_every_waiting_call_and_every_later_one() {
    let (link, far) = played();
    let (one, two, three, ()) = tokio::join!(
        link.acquire(ask("a")),
        link.watch(WatchAsk { since: 0 }),
        link.tell(line("x")),
        async move { drop(far) },
    );
    assert!(is_lost(&one) && two.is_err() && three.is_err());
    assert!(is_lost(&link.acquire(ask("a")).await) && link.watch(WatchAsk { since: 0 }).await.is_err());
}

/// The other end takes no more calls but keeps its writing side open.
#[tokio::test]
async fn a_link_that_goes_one_way_only_is_closed() {
    let (near, far) = UnixStream::pair().unwrap();
    let link = Link::connect(near);
    let far = far.into_std().unwrap();
    far.shutdown(std::net::Shutdown::Read).unwrap();
    let answer = timeout(WATCH_MAX, link.acquire(ask("a"))).await.expect("it does not wait");
    assert!(is_lost(&answer));
    drop(far);
}

#[tokio::test]
async fn dropping_the_link_closes_the_stream_and_ends_the_server() {
    let (near, far) = UnixStream::pair().unwrap();
    let server = tokio::spawn(serve(far, Arc::new(Fake::default())));
    let link = Link::connect(near);
    link.tell(line("hello")).await.unwrap();
    drop(link);
    timeout(Duration::from_secs(30), server).await.expect("the server saw the end").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_silent_costs_a_call_its_time_and_no_more() {
    let (link, _far) = played();
    let begin = Instant::now();
    assert!(link.watch(WatchAsk { since: 0 }).await.is_err());
    assert_eq!(begin.elapsed(), WATCH_MAX);
    let begin = Instant::now();
    assert!(is_lost(&link.acquire(ask("a")).await));
    assert_eq!(begin.elapsed(), ACQUIRE_MAX);
}

/// Calls that were given up keep their places until they are answered, so that the broker's end never stops reading.
#[tokio::test(start_paused = true)]
async fn calls_that_were_given_up_neither_pile_up_nor_block_the_watch() {
    let fake = Arc::new(Fake::default());
    let (near, far) = duplex(1 << 20);
    tokio::spawn(serve(far, fake.clone()));
    let link = Link::connect(near);
    for _ in 0..ACQUIRES_MAX {
        assert!(timeout(Duration::from_millis(1), link.acquire(ask("gated"))).await.is_err());
    }
    assert!(
        timeout(Duration::from_millis(1), link.acquire(ask("full"))).await.is_err(),
        "every place is taken"
    );
    assert_eq!(link.watch(WatchAsk { since: 0 }).await.unwrap().upto, 2);
    fake.gate.notify_one();
    assert_eq!(link.acquire(ask("free")).await.unwrap(), granted(&ask("free")), "a place is free again");
}

#[tokio::test(start_paused = true)]
async fn a_line_is_lost_rather_than_waits() {
    let fake = Arc::new(Fake::default());
    let (near, far) = duplex(1 << 20);
    tokio::spawn(serve(far, fake.clone()));
    let link = Link::connect(near);
    for _ in 0..TELLS_MAX {
        assert!(timeout(Duration::from_millis(1), link.tell(line("never"))).await.is_err());
    }
    let begin = Instant::now();
    assert!(link.tell(line("x")).await.is_err());
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_call_that_breaks_the_broker_is_answered() {
    let link = linked(&Arc::new(Fake::default()));
    assert!(is_lost(&timeout(WATCH_MAX, link.acquire(ask("panic"))).await.expect("it is answered")));
    assert!(link.acquire(ask("openai")).await.is_ok(), "and the link goes on");
}

#[tokio::test]
async fn what_is_too_long_fails_its_own_call_only() {
    let link = linked(&Arc::new(Fake::default()));
    assert!(link.tell(line(&"x".repeat(FRAME_MAX))).await.is_err());
    let answer = link.watch(WatchAsk { since: 9 }).await.unwrap();
    assert_eq!(answer, WatchAnswer { upto: 9, missed: true, notices: vec![] });
    assert!(link.acquire(ask("openai")).await.is_ok(), "and the link goes on");
}

#[tokio::test]
async fn answers_to_nobody_and_to_another_question_are_no_answers() {
    let (link, mut far) = played();
    let answers = async {
        let asked: serde_json::Value = frame::receive(&mut far).await.unwrap();
        let number = asked["number"].as_u64().unwrap();
        let tell = |number: u64| serde_json::json!({"number": number, "body": {"call": "tell", "answer": {"Ok": null}}});
        frame::send(&mut far, &tell(number + 1)).await.unwrap();
        frame::send(&mut far, &tell(number)).await.unwrap();
        frame::send(&mut far, &tell(number)).await.unwrap();
        let _: serde_json::Value = frame::receive(&mut far).await.unwrap();
        far.write_all(&[0, 0, 0, 1, b'{']).await.unwrap();
        let _ = far.read(&mut [0]).await;
    };
    let calls = async {
        assert!(is_lost(&link.acquire(ask("a")).await), "another question's answer");
        assert!(is_lost(&link.acquire(ask("a")).await), "a frame that is no answer ends the link");
    };
    tokio::join!(answers, calls);
}

/// Whoever floods the broker and reads nothing is cut off.
#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_no_answers_counts_as_gone() {
    let (mut near, far) = duplex(4096);
    let begin = Instant::now();
    let server = tokio::spawn(serve(far, Arc::new(Fake::default())));
    let call = serde_json::json!({"number": 1, "body": {"call": "watch", "ask": {"since": 0}}});
    while frame::send(&mut near, &call).await.is_ok() {}
    server.await.unwrap();
    assert_eq!(begin.elapsed(), WRITE_MAX);
}

/// An acquisition has its one outcome even if nobody is there to hear of it.
#[tokio::test]
async fn a_call_at_work_runs_to_its_end_when_the_stream_closes() {
    let fake = Arc::new(Fake::default());
    let (near, far) = UnixStream::pair().unwrap();
    let server = tokio::spawn(serve(far, fake.clone()));
    let link = Link::connect(near);
    assert!(timeout(Duration::from_millis(50), link.acquire(ask("gated"))).await.is_err());
    drop(link);
    server.await.unwrap();
    fake.gate.notify_one();
    timeout(Duration::from_secs(30), async {
        while fake.finished.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the acquisition ended");
}
