//! `writ lease`: what was handed out, how long it lives, and the end of it.

use std::process::ExitCode;

use jiff::Timestamp as Instant;
use writ_api::control::{Answer, Ask, LeaseRow};
use writ_core::{LeaseId, LeaseState, Timestamp};

use super::{proof, reconcile, when};
use crate::{
    args,
    client::Control,
    fault::Fault,
    output::{self, Output},
    paths::Paths,
};

pub fn run(paths: &Paths, output: Output, command: args::Lease) -> Result<ExitCode, Fault> {
    let mut control = Control::connect(paths)?;
    match command {
        args::Lease::List { all } => {
            let answer = control.ask(&Ask::LeaseList { ended: all })?;
            show(output, answer, |leases| table(leases.iter()));
        }
        args::Lease::Show { id } => {
            let answer = control.ask(&Ask::LeaseShow { lease: id })?;
            show(output, answer, |leases| leases.iter().map(|row| describe(row, now())).collect());
        }
        args::Lease::Renew { id } => renew(&mut control, output, id)?,
        args::Lease::Revoke { id } => revoke(&mut control, output, id)?,
        args::Lease::Reconcile { yes } => return reconcile::run(&mut control, output, yes),
    }
    Ok(ExitCode::SUCCESS)
}

fn show(output: Output, answer: Answer, human: impl FnOnce(&[LeaseRow]) -> String) {
    if let Answer::Leases { leases } = answer {
        output.result(&leases, || human(&leases));
    }
}

fn renew(control: &mut Control, output: Output, lease: LeaseId) -> Result<(), Fault> {
    proof::give(control)?;
    let answer = control.ask(&Ask::LeaseRenew { lease })?;
    show(output, answer, |leases| {
        let until =
            |row: &LeaseRow| format!("lease {} lives until {}\n", row.lease, expiry(row.expires_at, now()));
        leases.iter().map(until).collect()
    });
    Ok(())
}

fn revoke(control: &mut Control, output: Output, lease: LeaseId) -> Result<(), Fault> {
    control.ask(&Ask::LeaseRevoke { lease })?;
    output.say(&format!("lease {lease} is revoked: use is blocked and its connections are cut"));
    let Answer::Leases { leases } = control.ask(&Ask::LeaseShow { lease })? else { return Ok(()) };
    match leases.first() {
        Some(row) if row.revoked.as_deref() == Some("gone") => {
            output.say("what was made for it is gone upstream");
        }
        Some(row) if row.lane == STATIC => {
            output.say("a static key lives on at its service: rotate it there if it may have leaked");
        }
        Some(row) => {
            output.say(&format!("it is removed at {}; `writ lease show {lease}` says when", row.lane))
        }
        None => {}
    }
    Ok(())
}

/// The lane of values that writ only uses.
const STATIC: &str = "static";

/// Leases as a table.
pub fn table<'a>(leases: impl Iterator<Item = &'a LeaseRow>) -> String {
    let now = now();
    let row = |row: &LeaseRow| {
        [
            row.lease.to_string(),
            row.session.to_string(),
            row.target.to_string(),
            held(row),
            row.scope.to_string(),
            when(row.issued_at),
            if row.ended_at.is_some() { when(row.expires_at) } else { expiry(row.expires_at, now) },
            state(row),
        ]
    };
    output::table(
        ["LEASE", "SESSION", "TARGET", "CREDENTIAL", "SCOPE", "ISSUED", "EXPIRES", "STATE"],
        leases.map(row),
    )
}

/// One lease, with everything that is known of it.
fn describe(row: &LeaseRow, now: Timestamp) -> String {
    let delivery = match (&row.credential, row.revealed) {
        (None, _) => "nothing: the target takes no credential",
        (_, true) => "revealed: the program holds it",
        (_, false) => "injected: the program does not hold it",
    };
    format!(
        "lease       {}\nsession     {}\nworkload    {}\nrole        {}\ntarget      {}\ncredential  {}\n\
         delivery    {delivery}\nscope       {}\nlane        {}\nissued      {}\nexpires     {}\nstate       {}\n{}\n",
        row.lease,
        row.session,
        row.workload,
        row.role,
        row.target,
        held(row),
        row.scope,
        row.lane,
        when(row.issued_at),
        expiry(row.expires_at, now),
        state(row),
        ended(row),
    )
}

fn held(row: &LeaseRow) -> String {
    match &row.credential {
        Some(credential) if row.revealed && row.version == 0 => format!("{credential}, revealed"),
        Some(credential) if row.revealed => format!("{credential} v{}, revealed", row.version),
        Some(credential) => format!("{credential} v{}", row.version),
        None => "none".to_owned(),
    }
}

/// Where it stands, why it ends, and what that achieved.
fn state(row: &LeaseRow) -> String {
    let why = row.end.map(|end| end.to_string());
    match (row.state, why, &row.revoked) {
        (LeaseState::Revoking, Some(why), _) => format!("revoking ({why}), tried again until it is gone"),
        (_, Some(why), Some(revoked)) => format!("{why}, {revoked}"),
        (_, Some(why), None) => why,
        (state, None, _) => state.to_string(),
    }
}

fn ended(row: &LeaseRow) -> String {
    row.ended_at.map_or_else(String::new, |at| format!("ended       {}\n", when(at)))
}

/// An instant, and how far away it is.
fn expiry(at: Timestamp, now: Timestamp) -> String {
    let away = match at.millis() > now.millis() {
        true => format!("in {}", span(at.saturating_since(now).as_secs())),
        false => format!("{} ago", span(now.saturating_since(at).as_secs())),
    };
    format!("{} ({away})", when(at))
}

/// The two largest units.
fn span(secs: u64) -> String {
    match secs {
        0..=59 => format!("{secs}s"),
        60..=3599 => format!("{}m{:02}s", secs / 60, secs % 60),
        3600..=86_399 => format!("{}h{:02}m", secs / 3600, secs % 3600 / 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs % 86_400 / 3600),
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(Instant::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (secs, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3599, "59m59s"),
            (3600, "1h00m"),
            (86_399, "23h59m"),
            (90_000, "1d01h"),
        ] {
            assert_eq!(span(secs), text);
        }
    }

    #[test]
    fn expiries() {
        let (now, at) =
            (Timestamp::from_millis(1_800_000_000_000), Timestamp::from_millis(1_800_000_090_000));
        assert_eq!(expiry(at, now), "2027-01-15 08:01:30Z (in 1m30s)");
        assert_eq!(expiry(now, at), "2027-01-15 08:00:00Z (1m30s ago)");
    }
}
