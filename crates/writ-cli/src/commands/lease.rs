//! `writ lease`: what was handed out, and the end of it.

use writ_api::control::{Answer, Ask, LeaseRow};
use writ_core::LeaseId;

use super::when;
use crate::{
    args,
    client::Control,
    fault::Fault,
    output::{self, Output},
    paths::Paths,
};

pub fn run(paths: &Paths, output: Output, command: args::Lease) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    match command {
        args::Lease::List { all } => show(output, control.ask(&Ask::LeaseList { ended: all })?),
        args::Lease::Show { id } => show(output, control.ask(&Ask::LeaseShow { lease: id })?),
        args::Lease::Revoke { id } => revoke(&mut control, output, id)?,
    }
    Ok(())
}

fn show(output: Output, answer: Answer) {
    if let Answer::Leases { leases } = answer {
        output.result(&leases, || table(leases.iter()));
    }
}

fn revoke(control: &mut Control, output: Output, lease: LeaseId) -> Result<(), Fault> {
    control.ask(&Ask::LeaseRevoke { lease })?;
    output.say(&format!("lease {lease} is revoked: use is blocked and its connections are cut"));
    output.say("a static key lives on at its service: rotate it there if it may have leaked");
    Ok(())
}

/// Leases as a table.
pub fn table<'a>(leases: impl Iterator<Item = &'a LeaseRow>) -> String {
    let row = |row: &LeaseRow| {
        let end = row.end.map_or_else(|| row.state.to_string(), |end| end.to_string());
        [
            row.lease.to_string(),
            row.session.to_string(),
            row.target.to_string(),
            match &row.credential {
                Some(credential) if row.revealed => format!("{credential}, revealed"),
                Some(credential) => format!("{credential} v{}", row.version),
                None => "none".to_owned(),
            },
            row.scope.to_string(),
            when(row.issued_at),
            when(row.expires_at),
            row.revoked.as_ref().map_or(end.clone(), |revoked| format!("{end}, {revoked}")),
        ]
    };
    output::table(
        ["LEASE", "SESSION", "TARGET", "CREDENTIAL", "SCOPE", "ISSUED", "EXPIRES", "STATE"],
        leases.map(row),
    )
}
