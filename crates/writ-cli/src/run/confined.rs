//! The level `confined`: a session on doors of its own network, and a program in a view of its own.
//!
//! ```text
//!   namespaces, lo, routes ─► doors ─► Open + doors ─► Opened ─► doors of named targets and of the host's loopback
//!     ─► the view from facts and wishes ─► the environment ─► the plan ─► start
//! ```

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use writ_api::run::Opened;
use writ_core::{CAPTURED_PORTS, Door, Level, PRESETS};
use writ_run::{
    Agent, Captured, EtcFile, NetworkPlan, Plan, Prepared, ProcessPlan, Replacement, Wishes,
    view::{self, PlanFault},
};

use super::{
    Request, Session, agents,
    deliver::Place,
    environment::{self, Way},
    launch::{self, Failed, Keep, Launch, Rung, Started},
    logins::Delivery,
};
use crate::fault::Fault;

/// The session's certificate alone, for programs that add it to their own.
const OWN_CERTIFICATE: &str = "ssl/writ-session.pem";
/// Where the view has the bundle if the system has none.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Namespaces with a network, a session on their doors, and the plan of the rest.
struct Ready {
    prepared: Prepared,
    session: Session,
    plan: Plan,
    notes: Vec<String>,
    logins: Place,
}

/// Takes every step but the last, or says which one failed.
pub fn ready(launch: &Launch<'_>) -> Result<Box<dyn Rung>, Failed> {
    let network = NetworkPlan { captured: CAPTURED_PORTS.to_vec(), proxy_port: 0 };
    let mut prepared = Prepared::begin(&network)?;
    let host = view::Host::look()?; // while the namespaces are made
    let (doors, captured) = prepared.doors()?;
    let mut session = Request::for_program(launch.program, launch.args)?.within(launch.paths, doors)?;
    let late = prepared.bind(&late(&session.opened))?;
    session.add(late)?;
    let logins = Place::inside();
    let delivery = logins.deliver(&session.opened, session.held.recipient())?;
    let process = process(launch, &session.opened, captured, &delivery)?;
    let wishes = Wishes { delivered: delivery.files, ..wishes(launch, &session.opened, &process)? };
    let planned = view::plan(&view::Facts::gather(host, &wishes)?, &wishes).map_err(unplanned)?;
    let plan = Plan { view: planned.view, process };
    Ok(Box::new(Ready { prepared, session, plan, notes: planned.notes, logins }))
}

impl Rung for Ready {
    fn start(self: Box<Self>, launch: &Launch<'_>) -> Result<Started, Failed> {
        let running = self.prepared.start(&self.plan, &|| launch.job.ready())?;
        for note in self.notes.iter().chain(running.notes()) {
            launch.output.say(note);
        }
        let (agent, keep) = (Agent::Confined(running), Keep::Nothing);
        Ok(Started { level: Level::Confined, agent, session: self.session, keep, logins: self.logins })
    }

    fn session(&self) -> &Session {
        &self.session
    }

    fn process(&self) -> &ProcessPlan {
        &self.plan.process
    }

    fn reaches(&self) -> Vec<String> {
        let doors = self.session.doors().map(|door| match door {
            Door::Proxy => "an explicit proxy on its loopback".to_owned(),
            Door::Capture { port } => format!("every address at port {port}, captured"),
            Door::DnsUdp | Door::DnsTcp => "names, answered by writ".to_owned(),
            Door::Local { port } => format!("the host's loopback at port {port}"),
            Door::Named { authority } => authority.to_string(),
        });
        // Each address family has a door of its own.
        doors.collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn sees(&self) -> Vec<String> {
        self.plan.view.lines().chain(self.notes.iter().map(|note| format!("note: {note}"))).collect()
    }
}

fn unplanned(fault: PlanFault) -> Fault {
    Fault::new(fault.to_string(), "start it in another directory, or take the line out of writ.toml")
}

/// The doors whose addresses only the opened session tells.
fn late(opened: &Opened) -> Vec<(Door, SocketAddr)> {
    let named = opened.named.iter().flat_map(|named| {
        let at = |address: &IpAddr| SocketAddr::new(*address, named.authority.port());
        named.addresses.iter().map(at).map(|at| (Door::Named { authority: named.authority.clone() }, at))
    });
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let local = opened.local.iter().flat_map(|port| {
        loopback.map(|address| (Door::Local { port: *port }, SocketAddr::new(address, *port)))
    });
    named.chain(local).collect()
}

/// What the session asks of the view.
fn wishes(launch: &Launch<'_>, opened: &Opened, process: &ProcessPlan) -> Result<Wishes, Fault> {
    let own = EtcFile { path: OWN_CERTIFICATE.into(), content: opened.ca_pem.as_str().into() };
    let layers = launch.paths.layers();
    crate::paths::private_directory(&layers).map_err(|error| {
        Fault::new(format!("{}: {error}", layers.display()), "free some space, or make it yours")
    })?;
    Ok(Wishes {
        directory: launch.directory()?.into(),
        caches: launch::expand(&opened.caches),
        readable: [launch.tools(), launch::expand(&opened.readable)].concat(),
        hidden: launch.hidden(),
        ca_pem: opened.ca_pem.clone(),
        etc: agents::etc(process).chain([own]).collect(),
        home: agents::home(process),
        replacements: replacements(opened),
        delivered: Vec::new(),
        read_only: launch.repository_files(),
        layers: (!launch.args.fresh).then(|| layers.into()),
    })
}

/// Which placeholder stands for keys that begin how.
fn replacements(opened: &Opened) -> Vec<Replacement> {
    let of = |variable: &writ_api::run::Variable| {
        let presets = PRESETS.iter().filter(|preset| preset.env.contains(&variable.name.as_str()));
        let key_prefixes: Vec<String> =
            presets.flat_map(|preset| preset.key_prefixes).map(ToString::to_string).collect();
        (!key_prefixes.is_empty())
            .then(|| Replacement { placeholder: variable.placeholder.clone(), key_prefixes })
    };
    opened.variables.iter().filter_map(of).collect()
}

fn process(
    launch: &Launch<'_>,
    opened: &Opened,
    captured: Captured,
    logins: &Delivery,
) -> Result<ProcessPlan, Fault> {
    let own = Path::new("/etc").join(OWN_CERTIFICATE);
    let way = Way {
        proxy_url: &format!("http://127.0.0.1:{}", captured.proxy_port),
        bundle: super::system_bundle().map_or(Path::new(BUNDLE), Path::new),
        own: &own,
        confined: true,
        logins,
    };
    let environment = environment::plan(std::env::vars_os(), opened, &way);
    let directory = launch.directory()?.into();
    Ok(ProcessPlan { directory, ..launch.program.plan(environment, launch.terminal) })
}
