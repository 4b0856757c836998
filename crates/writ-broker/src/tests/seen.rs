//! The summary of what was tried.

use writ_audit::{Attempt, Kind, Outcome, Verdict};
use writ_core::Timestamp;

use super::harness::{Home, Life};
use crate::seen::seen;

const START: u64 = 1_800_000_000_000_000;

fn attempt<'a>(kind: Kind, at: u64, host: &'a str, port: Option<u16>, role: &'a str) -> Attempt<'a> {
    Attempt { host: Some(host), port, role: Some(role), ..Attempt::new(kind, START + at * 1_000_000) }
}

fn record(life: &Life, attempt: &Attempt<'_>, outcome: &Outcome<'_>) {
    life.broker.unlocked().unwrap().log.record(attempt, outcome).unwrap();
}

#[tokio::test]
async fn hosts_are_summed_up_with_the_lines_that_would_allow_them() {
    let home = Home::new();
    let life = home.life().await;
    let refused = Outcome::refused("unlisted-host");
    record(&life, &attempt(Kind::Refused, 1, "new.example", Some(8443), "dev"), &refused);
    record(&life, &attempt(Kind::Refused, 9, "new.example", Some(8443), "ops"), &refused);
    record(&life, &attempt(Kind::Refused, 2, "new.example", Some(443), "dev"), &refused);
    record(&life, &attempt(Kind::Refused, 3, "u.example", Some(443), "dev"), &refused);
    let request = Attempt { method: Some("DELETE"), ..attempt(Kind::Use, 4, "t.example", Some(443), "dev") };
    record(&life, &request, &Outcome::ok());
    record(&life, &request, &Outcome::refused("out-of-scope"));
    let tunnel =
        Attempt { action: Some("public tunnel"), ..attempt(Kind::Use, 5, "pub.example", Some(443), "dev") };
    record(&life, &tunnel, &Outcome::ok());
    let private = Outcome { dialled: Some("10.1.2.3:443"), ..Outcome::refused("forbidden-address") };
    record(&life, &attempt(Kind::Refused, 6, "u.example", Some(443), "ops"), &private);
    // The broker's half of a request that the data plane has on record as well.
    record(&life, &attempt(Kind::Acquire, 6, "t.example", Some(443), "dev"), &Outcome::refused("denied"));
    record(&life, &attempt(Kind::Refused, 7, "localhost", Some(5432), "dev"), &refused);
    record(&life, &attempt(Kind::Control, 8, "not.counted", None, "dev"), &Outcome::ok());
    let open = life.broker.unlocked().unwrap();
    let (rows, more) = seen(&life.broker, open, None).await.unwrap();
    assert_eq!(more, 0);
    let row = |host: &str, port: u16| {
        rows.iter()
            .find(|row| row.host == host && row.port == Some(port))
            .unwrap_or_else(|| panic!("{rows:?}"))
    };
    let new = row("new.example", 8443);
    assert_eq!(
        (new.refused, new.tunnelled, new.used, &new.roles),
        (2, 0, 0, &vec!["dev".to_owned(), "ops".to_owned()])
    );
    assert_eq!(new.last.saturating_since(new.first).as_secs(), 8);
    assert_eq!(new.reason.as_deref(), Some("unlisted-host"));
    assert_eq!(
        new.lines,
        [
            "[[target]]",
            "name = \"new-example\"",
            "host = \"new.example:8443\"",
            "{ target = \"new-example\" }  # into the grants of the role dev",
            "{ target = \"new-example\" }  # into the grants of the role ops",
        ]
    );
    assert_eq!(row("new.example", 443).lines[2], "host = \"new.example\"");
    assert_eq!(row("u.example", 443).lines, ["allow_private = [\"10.1.2.3/32\"]  # into the target u"]);
    let known = row("t.example", 443);
    assert_eq!((known.refused, known.used), (1, 1));
    assert_eq!(
        known.lines,
        ["{ target = \"t\", methods = [\"DELETE\"] }  # into the grants of the role dev"]
    );
    let public = row("pub.example", 443);
    assert_eq!((public.refused, public.tunnelled, public.used, public.lines.len()), (0, 1, 0, 0));
    assert_eq!(row("localhost", 5432).lines, ["local = [5432]"]);
    assert!(rows.iter().all(|row| row.host != "not.counted"));
    assert_eq!(rows[0].host, "new.example", "the most recent first");
    let since = Timestamp::from_millis(i64::try_from(START / 1000).unwrap() + 7000);
    let (rows, _) = seen(&life.broker, open, Some(since)).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.host.as_str()).collect::<Vec<_>>(), ["new.example", "localhost"]);
}

/// A target that there is needs a grant only.
#[tokio::test]
async fn a_host_that_another_role_may_reach_needs_a_grant() {
    let home = Home::new();
    let life = home.life().await;
    let at = attempt(Kind::Refused, 1, "u.example", Some(443), "dev");
    record(&life, &at, &Outcome::refused("unlisted-host"));
    let (rows, _) = seen(&life.broker, life.broker.unlocked().unwrap(), None).await.unwrap();
    assert_eq!(rows[0].lines, ["{ target = \"u\" }  # into the grants of the role dev"]);
}

/// The lines are what they say: a configuration with them loads.
#[tokio::test]
async fn the_lines_can_be_written_into_the_configuration() {
    let home = Home::new();
    let life = home.life().await;
    let port = attempt(Kind::Refused, 1, "new.example", Some(8443), "dev");
    record(&life, &port, &Outcome::refused("unlisted-host"));
    let (rows, _) = seen(&life.broker, life.broker.unlocked().unwrap(), None).await.unwrap();
    let (target, grant) = (rows[0].lines[..3].join("\n"), rows[0].lines[3].split("  #").next().unwrap());
    let text = home.text("key-file").replacen("[[role]]", &format!("{target}\n[[role]]"), 1);
    home.write(&text.replacen("grants = [", &format!("grants = [{grant}, "), 1));
    let (opened, _attached) = life.open().await;
    assert_eq!(opened.hosts, ["new.example:8443", "t.example"]);
}

/// An agent that asks for a host of another name each time fills a number, not the memory.
#[tokio::test]
async fn what_is_kept_is_bounded() {
    let home = Home::new();
    let life = home.life().await;
    for number in 0..1100 {
        let host = format!("h{number}.example");
        let at = attempt(Kind::Refused, 1, &host, Some(443), "dev");
        while life.broker.unlocked().unwrap().log.record(&at, &Outcome::new(Verdict::Refused)).is_err() {
            life.broker.unlocked().unwrap().log.flush().await.unwrap();
        }
    }
    let (rows, more) = seen(&life.broker, life.broker.unlocked().unwrap(), None).await.unwrap();
    assert_eq!((rows.len(), rows.len() + more), (500, 1100));
}
