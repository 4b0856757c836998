//! Relay: bytes that pass untouched, judged once and on record for as long as they flow.
//!
//! A relay carries no credential, and nothing of what it carries can be judged: all there is to judge is where it leads. Its attempt is on
//! record before the first byte leaves, its outcome when the last has, with the bytes of both directions. A target's relay
//! holds a lease like a request does, renewed while it runs, so revoking the lease cuts it; every relay ends with its session,
//! and when the broker falls silent. It has no time limit of its own: a database connection may be idle for a day.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    time::sleep,
};
use writ_audit::{Attempt, Entry, Kind, Outcome, Verdict};
use writ_core::{CanonicalPath, RefusalKind};

use crate::{
    acquire, dial,
    lead::{self, Passage},
    lease::{Lease, Life},
    names, record,
    refuse::Refused,
    route::Target,
    session::Route,
    tunnel::Tunnel,
};

/// Bytes that wait in each direction.
const BUFFER: usize = 64 * 1024;
/// How often a relay looks whether its lease is to be renewed.
const RENEW_LOOK: Duration = Duration::from_secs(5);

/// A relay that is on record, and connected.
pub(crate) struct Passing {
    tunnel: Arc<Tunnel>,
    pub(crate) passage: Passage,
    target: Option<Target>,
    lease: Option<Arc<Lease>>,
    upstream: Option<TcpStream>,
    dialled: Option<String>,
    entry: Option<Entry>,
    started: Duration,
    up: Arc<AtomicU64>,
    down: Arc<AtomicU64>,
}

/// Judges, records and dials. A refusal says itself whether it is on record.
pub(crate) async fn open(tunnel: &Arc<Tunnel>, passage: Passage) -> Result<Box<Passing>, Refused> {
    // Marked first, judged then: whoever cuts relays finds the mark, or is found by the judgment.
    tunnel.open.mark_relay();
    let now = tunnel.plane.now();
    if tunnel.session.is_over() || tunnel.session.expired(now.wall) {
        return Err(Life::SessionEnded.refusal().into());
    }
    tunnel.plane.live.connected(now)?;
    let mut passing = Box::new(Passing {
        tunnel: tunnel.clone(),
        target: None,
        lease: None,
        upstream: None,
        dialled: None,
        entry: None,
        started: now.boot,
        up: Arc::default(),
        down: Arc::default(),
        passage,
    });
    if let Passage::Target(route) = &passing.passage {
        let target = whole(tunnel, route)?;
        let lease = acquire::lease(tunnel, &target).await?;
        tunnel.open.enter(&lease);
        passing.lease = Some(lease.clone());
        passing.target = Some(target);
        lease.usable(tunnel.plane.now())?;
    }
    passing.record()?;
    match passing.dial().await {
        Ok((stream, address)) => {
            passing.upstream = Some(stream);
            passing.dialled = Some(address.to_string());
            Ok(passing)
        }
        Err(refused) => Err(passing.refuse(refused)),
    }
}

/// Carries bytes both ways until both sides have ended, `early` first.
pub(crate) async fn carry(mut passing: Box<Passing>, agent: TcpStream, early: Bytes) {
    let Some(upstream) = passing.upstream.take() else { return };
    let mut agent = Counted { stream: agent, read: passing.up.clone() };
    let mut service = Counted { stream: upstream, read: passing.down.clone() };
    let copied = async {
        service.write_all(&early).await?;
        passing.up.fetch_add(early.len() as u64, Ordering::Relaxed);
        copy_bidirectional_with_sizes(&mut agent, &mut service, BUFFER, BUFFER).await
    };
    let ended = tokio::select! {
        ended = copied => ended,
        never = renew(&passing.tunnel, passing.target.as_ref(), &mut passing.lease) => match never {},
    };
    match ended {
        Ok(_) => passing.close(Verdict::Ok, None),
        // Which side broke off is not told apart, and is not writ's doing.
        Err(_) => passing.close(Verdict::Ok, Some("broken-off")),
    };
}

/// Keeps the lease of a relay alive while the broker grants it. Where it does not, the lease runs out and its end cuts the relay.
async fn renew(tunnel: &Tunnel, target: Option<&Target>, lease: &mut Option<Arc<Lease>>) -> Never {
    let (Some(target), Some(held)) = (target, lease) else { return std::future::pending().await };
    loop {
        sleep(RENEW_LOOK).await;
        let came = tunnel.plane.now();
        let asked = Target { came, ..target.clone() };
        let Ok(fresh) = acquire::lease(tunnel, &asked).await else { continue };
        if !Arc::ptr_eq(&fresh, held) {
            tunnel.open.enter(&fresh);
            tunnel.open.leave(held);
            *held = fresh;
        }
    }
}

enum Never {}

/// The whole of a target: a relay has no paths.
fn whole(tunnel: &Tunnel, route: &Arc<Route>) -> Result<Target, Refused> {
    let came = tunnel.plane.now();
    let path = CanonicalPath::parse("/", false).map_err(|fault| Refused::ambiguous(fault.to_string()))?;
    let request = names::request_id(came.wall).ok_or_else(record::no_randomness)?;
    Ok(Target { request, came, route: route.clone(), path, placeholder: None })
}

impl Passing {
    /// Has the log accept the attempt. Without it no byte may leave.
    fn record(&mut self) -> Result<(), Refused> {
        let session = &self.tunnel.session;
        let now = self.tunnel.plane.clock.now();
        let request = match &self.target {
            Some(target) => target.request,
            None => names::request_id(now).ok_or_else(record::no_randomness)?,
        };
        let (request, host, port) = (request.to_string(), self.passage.host(), self.passage.port());
        let target = self.target.as_ref().map(|target| target.route.plan.target.as_str());
        let attempt = Attempt {
            request_id: Some(&request),
            workload: Some(&session.workload),
            role: Some(&session.role),
            session: Some(&session.id_text),
            requester: Some(&session.requester),
            scheme: Some(lead::scheme(port)),
            host: Some(&host),
            port: Some(port),
            lease: self.lease.as_ref().map(|lease| lease.id_text.as_str()),
            within_ttl: self.lease.as_ref().map(|_| true),
            action: Some(self.action()),
            target,
            ..Attempt::new(Kind::Use, record::micros(now))
        };
        self.entry = Some(self.tunnel.audit().open(&attempt).map_err(|fault| record::unrecorded(&fault))?);
        Ok(())
    }

    /// What it is, in the record.
    fn action(&self) -> &'static str {
        match self.passage {
            Passage::Target(_) => "tunnel",
            Passage::Public(_) | Passage::Address(_) => "public tunnel",
            Passage::Local(_) => "local tunnel",
        }
    }

    async fn dial(&self) -> Result<(TcpStream, SocketAddr), Refused> {
        let names = &*self.tunnel.plane.names;
        match &self.passage {
            Passage::Target(route) => dial::dial(names, &route.plan).await,
            Passage::Public(authority) => dial::dial_public(names, authority).await,
            Passage::Address(address) => dial::dial_address(*address).await,
            Passage::Local(port) => dial::dial_local(*port).await,
        }
    }

    /// Closes as refused or failed, and hands the refusal on.
    pub(crate) fn refuse(&mut self, refused: Refused) -> Refused {
        let verdict = match refused.refusal.kind {
            RefusalKind::UpstreamFailed => Verdict::Failed,
            _ => Verdict::Refused,
        };
        self.dialled = refused.address.map(|address| address.to_string()).or(self.dialled.take());
        let recorded = self.close(verdict, Some(refused.refusal.kind.slug()));
        Refused { recorded: recorded || refused.recorded, ..refused }
    }

    fn close(&mut self, verdict: Verdict, reason: Option<&str>) -> bool {
        let Some(entry) = self.entry.take() else { return false };
        let took = self.tunnel.plane.clock.boottime().saturating_sub(self.started);
        entry.close(&Outcome {
            reason,
            duration: u64::try_from(took.as_micros()).ok(),
            bytes_up: Some(self.up.load(Ordering::Relaxed)),
            bytes_down: Some(self.down.load(Ordering::Relaxed)),
            dialled: self.dialled.as_deref(),
            ..Outcome::new(verdict)
        });
        true
    }

    /// Why a relay ends that did not end by itself.
    fn cut_reason(&self) -> &'static str {
        let life = self.lease.as_ref().map_or(Life::Alive, |lease| lease.life());
        if life != Life::Alive {
            return life.cut_reason();
        }
        if self.tunnel.session.is_over() {
            return Life::SessionEnded.cut_reason();
        }
        let connected = self.tunnel.plane.live.connected(self.tunnel.plane.now()).is_ok();
        if connected { Life::Alive.cut_reason() } else { Life::Lost.cut_reason() }
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let reason = self.cut_reason();
        self.close(Verdict::Cut, Some(reason));
        if let Some(lease) = &self.lease {
            self.tunnel.open.leave(lease);
        }
    }
}

/// A stream that counts what is read from it, also for whoever looks after it was cut.
struct Counted {
    stream: TcpStream,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
