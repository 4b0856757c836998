//! `writ lease reconcile`: what upstreams have and leases do not, and the other way around; repaired after asking.
//!
//! It exits with 0 where there is nothing to do or all of it was done, and with 1 where something is left. An upstream that
//! could not be asked counts as left: nobody knows what is there.

use std::process::ExitCode;

use serde_json::json;
use writ_api::control::{Answer, Ask, Finding, FindingKind, Mended, Repair, Survey};
use writ_core::LeaseId;

use super::{ask::Questions, proof};
use crate::{
    client::Control,
    fault::Fault,
    output::{self, Output},
};

/// Something is left to do.
const EXIT_LEFT: u8 = 1;
/// The way out where nobody can be asked.
const NEXT: &str = "writ lease reconcile --yes repairs what was found";

pub fn run(control: &mut Control, output: Output, yes: bool) -> Result<ExitCode, Fault> {
    let Answer::Survey(survey) = control.ask(&Ask::LeaseSurvey)? else { return Ok(ExitCode::SUCCESS) };
    for unreached in &survey.unreachable {
        output.say(&format!("{} could not be asked: {}", unreached.credential, unreached.why));
    }
    let mut wanted: Vec<LeaseId> = survey.findings.iter().map(|finding| finding.lease).collect();
    wanted.sort();
    wanted.dedup();
    let repairs = if wanted.is_empty() {
        Vec::new()
    } else {
        if !output.json {
            output.result(&survey.findings, || findings(&survey.findings));
        }
        let question = format!("repair {} of them?", wanted.len());
        match Questions::new(output, yes, NEXT).and_then(|questions| questions.question(&question)) {
            Ok(true) => repair(control, wanted)?,
            Ok(false) => Vec::new(),
            // The findings are a result also where nobody can be asked.
            Err(fault) => {
                if output.json {
                    output.result(&shown(&survey, &[]), String::new);
                }
                return Err(fault.exit(EXIT_LEFT));
            }
        }
    };
    let left = left(&survey, &repairs);
    output.result(&shown(&survey, &repairs), || report(&survey, &repairs));
    Ok(if left { ExitCode::from(EXIT_LEFT) } else { ExitCode::SUCCESS })
}

fn repair(control: &mut Control, wanted: Vec<LeaseId>) -> Result<Vec<Repair>, Fault> {
    proof::give(control)?;
    match control.ask(&Ask::LeaseReconcile { repair: wanted })? {
        Answer::Reconciled { repairs } => Ok(repairs),
        _ => Ok(Vec::new()),
    }
}

/// Whether something is left to do.
fn left(survey: &Survey, repairs: &[Repair]) -> bool {
    let mended = |lease: LeaseId| {
        let done = |repair: &&Repair| matches!(repair.mended, Mended::Done | Mended::Agrees);
        repairs.iter().filter(done).any(|repair| repair.lease == lease)
    };
    !survey.unreachable.is_empty()
        || survey.more > 0
        || survey.findings.iter().any(|finding| !mended(finding.lease))
}

fn shown(survey: &Survey, repairs: &[Repair]) -> serde_json::Value {
    json!({ "survey": survey, "repairs": repairs })
}

fn findings(findings: &[Finding]) -> String {
    let row = |finding: &Finding| {
        let (kind, means) = match finding.kind {
            FindingKind::Orphan => {
                ("orphan", "exists there, and no lease stands for it: it would be removed")
            }
            FindingKind::Lost => {
                ("lost", "is gone there, and a lease stands for it: the lease would be ended")
            }
        };
        [
            kind.to_owned(),
            finding.credential.to_string(),
            finding.lease.to_string(),
            finding.lane.clone(),
            finding.name.clone(),
            means.to_owned(),
        ]
    };
    output::table(["FINDING", "CREDENTIAL", "LEASE", "WHERE", "NAME", "MEANS"], findings.iter().map(row))
}

fn report(survey: &Survey, repairs: &[Repair]) -> String {
    let mut text = format!(
        "{} asked, {} that agree, {} found\n",
        count(survey.surveyed.len(), "upstream"),
        count(survey.agreed, "account"),
        count(survey.findings.len().saturating_add(survey.more), "difference"),
    );
    for repair in repairs {
        let became = match &repair.mended {
            Mended::Done => "repaired".to_owned(),
            Mended::Agrees => "agrees by now".to_owned(),
            Mended::Begun { why } => format!("is being repaired: {why}; writ goes on by itself"),
            Mended::Failed { why } => format!("could not be repaired: {why}"),
        };
        text.push_str(&format!("lease {}: {became}\n", repair.lease));
    }
    if survey.more > 0 {
        text.push_str(&format!("{} more: run it again\n", survey.more));
    }
    text
}

fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use writ_api::control::Unreached;
    use writ_core::Timestamp;

    use super::*;

    fn lease(number: u8) -> LeaseId {
        LeaseId::new(Timestamp::from_millis(1), &[number; 10])
    }

    fn finding(number: u8) -> Finding {
        Finding {
            kind: FindingKind::Orphan,
            credential: "orders".parse().unwrap(),
            lease: lease(number),
            name: "writ_0a1b2c3d_1".to_owned(),
            lane: "postgres db.example:5432".to_owned(),
        }
    }

    #[test]
    fn what_is_left_is_told_by_the_status() {
        let found = Survey { findings: vec![finding(1), finding(2)], ..Survey::default() };
        let repair = |number, mended| Repair { lease: lease(number), mended };
        let begun = || Mended::Begun { why: String::new() };
        assert!(!left(&Survey::default(), &[]));
        assert!(left(&found, &[]));
        assert!(left(&found, &[repair(1, Mended::Done)]));
        assert!(left(&found, &[repair(1, Mended::Done), repair(2, begun())]));
        assert!(!left(&found, &[repair(1, Mended::Done), repair(2, Mended::Agrees)]));
        assert!(left(&Survey { more: 1, ..Survey::default() }, &[]));
        let unreached = Unreached { credential: "orders".parse().unwrap(), why: String::new() };
        assert!(left(&Survey { unreachable: vec![unreached], ..Survey::default() }, &[]));
    }
}
