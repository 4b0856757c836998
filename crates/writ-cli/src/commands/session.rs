//! `writ session`: who runs, since when, with which leases.

use writ_api::{
    control::{Answer, Ask, LeaseRow, SessionRow},
    frame,
    run::FromBroker,
};
use writ_core::{Level, SessionId};

use super::{lease, when};
use crate::{
    args,
    client::Control,
    fault::Fault,
    output::{self, Output},
    paths::Paths,
    run,
};

pub fn run(paths: &Paths, output: Output, command: args::Session) -> Result<(), Fault> {
    match command {
        args::Session::List { all } => list(paths, output, all),
        args::Session::Show { id } => show(paths, output, id),
        args::Session::Revoke { id } => revoke(paths, output, id),
        args::Session::Open { role, ttl, listen } => {
            open(paths, output, &run::Request::by_hand(role, ttl)?, &run::PasswordDoor::listen(listen)?)
        }
    }
}

fn list(paths: &Paths, output: Output, ended: bool) -> Result<(), Fault> {
    let Answer::Sessions { sessions } = Control::connect(paths)?.ask(&Ask::SessionList { ended })? else {
        return Ok(());
    };
    output.result(&sessions, || {
        let row = |row: &SessionRow| {
            [
                row.session.to_string(),
                row.workload.to_string(),
                row.role.to_string(),
                row.pid.to_string(),
                row.program.clone(),
                when(row.opened_at),
                row.end.clone().unwrap_or_else(|| format!("until {}", when(row.expires_at))),
                row.leases.to_string(),
            ]
        };
        output::table(
            ["SESSION", "WORKLOAD", "ROLE", "PID", "PROGRAM", "OPENED", "END", "LEASES"],
            sessions.iter().map(row),
        )
    });
    Ok(())
}

fn show(paths: &Paths, output: Output, session: SessionId) -> Result<(), Fault> {
    let mut control = Control::connect(paths)?;
    let Answer::Sessions { sessions } = control.ask(&Ask::SessionShow { session })? else { return Ok(()) };
    let Answer::Leases { leases } = control.ask(&Ask::LeaseList { ended: true })? else { return Ok(()) };
    let leases: Vec<&LeaseRow> = leases.iter().filter(|lease| lease.session == session).collect();
    output.result(&serde_json::json!({ "session": sessions.first(), "leases": leases }), || {
        let mut text = sessions.first().map(describe).unwrap_or_default();
        text.push_str(&lease::table(leases.iter().copied()));
        text
    });
    Ok(())
}

fn describe(row: &SessionRow) -> String {
    let end = row.end.as_deref().unwrap_or("open");
    let prompt = row.prompt_sha256.as_deref().unwrap_or("none named");
    format!(
        "session    {}\nworkload   {}\nrole       {}\nrequester  {}\nprogram    {}\ndirectory  {}\npid        {}\nlevel      {:?}\n\
         prompt     {prompt}\nopened     {}\nexpires    {}\nstate      {end}\n\n",
        row.session,
        row.workload,
        row.role,
        row.requester,
        row.program,
        row.directory,
        row.pid,
        row.level,
        when(row.opened_at),
        when(row.expires_at),
    )
}

fn revoke(paths: &Paths, output: Output, session: SessionId) -> Result<(), Fault> {
    Control::connect(paths)?.ask(&Ask::SessionRevoke { session })?;
    output.say(&format!("session {session} is over"));
    Ok(())
}

/// Opens a session, prints how to use it, and keeps it until it is over or this command is ended.
fn open(
    paths: &Paths,
    output: Output,
    request: &run::Request,
    door: &run::PasswordDoor,
) -> Result<(), Fault> {
    let mut session = request.behind(paths, Level::Advisory, door)?;
    let bundle = paths.run.join(format!("ca-{}.pem", session.opened.session));
    std::fs::write(&bundle, &session.opened.ca_pem)
        .map_err(|error| Fault::new(format!("{}: {error}", bundle.display()), ""))?;
    let shown = serde_json::json!({
        "session": session.opened.session, "proxy": format!("http://{}", door.address), "user": "writ",
        "password": door.password(), "ca": bundle, "pid": std::process::id(), "variables": session.opened.variables,
        "daemon": Control::connect(paths)?.ask(&Ask::Status).ok().and_then(|answer| match answer { Answer::Status(status) => Some(status.pid), _ => None }),
    });
    output.result(&shown, || {
        let mut text = format!("HTTPS_PROXY={}\nSSL_CERT_FILE={}\n", door.url(), bundle.display());
        for variable in &session.opened.variables {
            text.push_str(&format!("{}={}\n", variable.name, variable.placeholder));
        }
        text
    });
    output.say("the session lasts as long as this command");
    let end = listen(&mut session, output);
    let _ = std::fs::remove_file(&bundle);
    Err(end)
}

/// What the daemon says, to the session's end.
fn listen(session: &mut run::Session, output: Output) -> Fault {
    loop {
        match frame::read(&mut session.stream) {
            Ok(FromBroker::Said { text }) => output.say(&text),
            Ok(FromBroker::Ended { why }) => return Fault::new(format!("the session is over: {why}"), ""),
            Ok(_) => {}
            Err(fault) => return fault.into(),
        }
    }
}
