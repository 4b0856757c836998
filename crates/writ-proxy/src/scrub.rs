//! Scrub: the credential out of the answer, on every path back.
//!
//! Every header value and every byte of the body is searched for what was rendered on the wire, in its common encodings. Replacements
//! have the length of what they replace, so a body keeps its `Content-Length` and its framing, and an answer without a hit passes
//! through uncopied. Bytes wait only while they are the start of a needle, and no longer than [`HOLD_MAX`].
//!
//! A compressed body is decoded if it is gzip; what cannot be read is refused, unless the operator lets the route pass it.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use writ_core::RefusalKind;
use writ_detect::{MIN_NEEDLE_LEN, Needles, Scrubber};

use crate::{
    body::{Answer, BodyFault},
    headers,
    inflate::Inflate,
    pool::Kept,
    record::Exchange,
    refuse::{NO, Refused, SHOULD_RETRY},
    route::Target,
    upstream::{self, Reply},
};

/// Longest that the start of a possible needle holds up what came before its end.
const HOLD_MAX: Duration = Duration::from_millis(20);

/// How an answer's body is coded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Other,
}

/// Refuses an answer that cannot be scrubbed.
pub(crate) fn readable(target: &Target, reply: Reply) -> Result<Reply, Refused> {
    let response = &reply.response;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(upstream::failed(&target.route, "switched protocols without being asked"));
    }
    let readable = coding(response) != Coding::Other || response.body().is_end_stream();
    let nothing_to_find = target.route.plan.credential.is_none();
    if readable || nothing_to_find || target.route.plan.pass_unscrubbed {
        return Ok(reply);
    }
    let detail = format!(
        "{} answers in an encoding that writ cannot search for the credential",
        target.route.plan.authority
    );
    Err(Refused::new(
        RefusalKind::UpstreamEncoding,
        detail,
        "the operator can let such answers pass with `pass_unscrubbed` of the target",
    ))
}

/// The service's answer on its way to the agent.
pub(crate) fn answer(reply: Reply, mut exchange: Exchange) -> Response<Answer> {
    let coding = coding(&reply.response);
    let (mut parts, body) = reply.response.into_parts();
    exchange.status = Some(parts.status.as_u16());
    headers::clean_response(&mut parts.headers);
    exchange.scrubbed += scrub_headers(&exchange.lease.needles, &mut parts.headers);
    if parts.status == StatusCode::UNAUTHORIZED {
        // Agents otherwise repeat it for minutes, in silence.
        parts.headers.insert(SHOULD_RETRY, NO);
    }
    // A reason phrase is the service's own text, too.
    parts.extensions.clear();
    parts.version = Version::HTTP_11;
    if coding == Coding::Gzip {
        parts.headers.remove(CONTENT_ENCODING);
        parts.headers.remove(CONTENT_LENGTH);
    }
    if body.is_end_stream() {
        reply.kept.give_back();
        exchange.done();
        return Response::from_parts(parts, Answer::EMPTY);
    }
    Response::from_parts(parts, Answer::Stream(Box::new(Download::new(coding, body, reply.kept, exchange))))
}

fn coding(response: &Response<Incoming>) -> Coding {
    // Chunks are undone by now; any other coding of the transfer is not (RFC 9112 §7), and nobody asked for one.
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !response.headers().get_all(TRANSFER_ENCODING).iter().all(chunked) {
        return Coding::Other;
    }
    let mut codings = response.headers().get_all(CONTENT_ENCODING).iter();
    match (codings.next().map(HeaderValue::as_bytes), codings.next()) {
        (None, _) => Coding::Identity,
        (Some(one), None) if one.eq_ignore_ascii_case(b"identity") => Coding::Identity,
        // A part of a compressed body cannot be decoded.
        (Some(one), None)
            if (one.eq_ignore_ascii_case(b"gzip") || one.eq_ignore_ascii_case(b"x-gzip"))
                && response.status() != StatusCode::PARTIAL_CONTENT =>
        {
            Coding::Gzip
        }
        _ => Coding::Other,
    }
}

fn scrub_headers(needles: &Needles, headers: &mut HeaderMap) -> u64 {
    let mut hits = 0;
    for value in headers.values_mut().filter(|value| value.len() >= MIN_NEEDLE_LEN) {
        if let Some(clean) = needles.scrub_value(value.as_bytes()) {
            *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static("[writ]"));
            hits += 1;
        }
    }
    hits
}

enum Source {
    Plain(Incoming),
    Gzip(Box<Inflate>),
}

/// An answer's body on its way to the agent. It carries the exchange, and closes it.
pub(crate) struct Download {
    source: Source,
    /// `None` for what cannot be read and may pass.
    scrubber: Option<Scrubber>,
    ready: Pieces,
    trailers: Option<HeaderMap>,
    /// The source has nothing more.
    ended: bool,
    /// Bytes still to come, where the service said so.
    left: Option<u64>,
    release: Option<Pin<Box<Sleep>>>,
    kept: Option<Kept>,
    exchange: Exchange,
}

impl Download {
    fn new(coding: Coding, body: Incoming, kept: Kept, exchange: Exchange) -> Self {
        let left = if coding == Coding::Gzip { None } else { body.size_hint().exact() };
        let scrubber = (coding != Coding::Other).then(|| Scrubber::new(exchange.lease.needles.clone()));
        let source = match coding {
            Coding::Gzip => Source::Gzip(Box::new(Inflate::new(body))),
            Coding::Identity | Coding::Other => Source::Plain(body),
        };
        Self {
            source,
            scrubber,
            ready: Pieces::default(),
            trailers: None,
            ended: false,
            left,
            release: None,
            kept: Some(kept),
            exchange,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ended && self.ready.is_empty() && self.trailers.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }

    pub(crate) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            if let Some(piece) = self.ready.pop() {
                self.exchange.down += piece.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
                self.finish_if_over();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            if self.ended {
                let trailers = self.trailers.take();
                self.finish_if_over();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            match self.poll_source(context) {
                Poll::Ready(Ok(())) => self.release = None,
                Poll::Ready(Err(fault)) => {
                    self.ended = true;
                    self.exchange.failed();
                    return Poll::Ready(Some(Err(fault)));
                }
                Poll::Pending if self.released(context) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Takes what the service sent, and puts what may leave into `ready`.
    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BodyFault>> {
        let data = match &mut self.source {
            Source::Gzip(inflate) => match inflate.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(BodyFault::Inflate(fault))),
                Poll::Ready(Some(Ok(data))) => Some(data),
                Poll::Ready(None) => None,
            },
            Source::Plain(body) => match Pin::new(&mut *body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Err(BodyFault::Upstream(fault))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.ended = body.is_end_stream();
                        Some(data)
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        None
                    }
                },
                Poll::Ready(None) => None,
            },
        };
        if data.is_none() && (self.is_short() || self.exchange.is_cut()) {
            // hyper reads a stream that was reset with CANCEL as one that ended: nothing may be passed off as whole that is not.
            return Poll::Ready(Err(BodyFault::Short));
        }
        self.ended |= data.is_none();
        match (&mut self.scrubber, data) {
            (Some(scrubber), Some(data)) => scrubber.push(data, &mut self.ready),
            (None, Some(data)) => self.ready.extend([data]),
            (_, None) => {}
        }
        if self.ended {
            self.end();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether an end here would come before what the service announced.
    fn is_short(&self) -> bool {
        let held = self.scrubber.as_ref().map_or(0, Scrubber::hold) as u64;
        self.left.is_some_and(|left| left > held)
    }

    fn end(&mut self) {
        if let Some(scrubber) = &mut self.scrubber {
            scrubber.flush(&mut self.ready);
            self.exchange.scrubbed += scrubber.hits();
        }
        if let Some(trailers) = &mut self.trailers {
            self.exchange.scrubbed += scrub_headers(&self.exchange.lease.needles, trailers);
        }
    }

    /// Whether held bytes have waited long enough and were let go. Only a start so short that innocent text has it, too.
    fn released(&mut self, context: &mut Context<'_>) -> bool {
        let Some(scrubber) = self.scrubber.as_mut().filter(|one| (1..MIN_NEEDLE_LEN).contains(&one.hold()))
        else {
            return false;
        };
        let timer = self.release.get_or_insert_with(|| Box::pin(sleep(HOLD_MAX)));
        let over = timer.as_mut().poll(context).is_ready();
        if over {
            scrubber.flush(&mut self.ready);
            self.release = None;
        }
        over
    }

    fn finish_if_over(&mut self) {
        if self.is_over()
            && let Some(kept) = self.kept.take()
        {
            kept.give_back();
            self.exchange.done();
        }
    }
}

impl Drop for Download {
    /// A client may close on the last announced byte, before it has seen the end: it has the whole answer, and that is no cut.
    fn drop(&mut self) {
        if !self.ended && self.left == Some(0) {
            self.end();
            self.exchange.done();
        }
    }
}

/// Pieces that may leave, in order. One at a time is the usual case and costs nothing.
#[derive(Default)]
struct Pieces {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
}

impl Pieces {
    fn pop(&mut self) -> Option<Bytes> {
        self.first.take().or_else(|| self.rest.pop_front())
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }
}

impl Extend<Bytes> for Pieces {
    fn extend<I: IntoIterator<Item = Bytes>>(&mut self, pieces: I) {
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            if self.is_empty() {
                self.first = Some(piece);
            } else {
                self.rest.push_back(piece);
            }
        }
    }
}
