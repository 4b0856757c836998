//! The bodies that pass through: up to the service as they are, down to the agent scrubbed.
//!
//! Neither direction is buffered. Request trailers are dropped: nothing declares a credential there, and nothing looks there.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::scrub::Download;

/// Why a response's body broke off. hyper closes the connection or resets the stream on it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyFault {
    #[error("the upstream broke off")]
    Upstream(#[source] hyper::Error),
    #[error("the upstream ended before what it had announced, or was cut off")]
    Short,
    #[error("the upstream's compressed body is broken or unreasonably large")]
    Inflate(#[source] std::io::Error),
}

/// A request's body on its way up, counted.
pub(crate) struct Upload {
    inner: Incoming,
    sent: Option<Arc<AtomicU64>>,
}

impl Upload {
    /// `sent` is `None` for a request without a body.
    pub(crate) fn new(inner: Incoming, sent: Option<Arc<AtomicU64>>) -> Self {
        Self { inner, sent }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            other => return other,
        };
        let Ok(data) = frame.into_data() else { return Poll::Ready(None) };
        if let Some(sent) = &self.sent {
            sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What the agent gets: a text of ours, or the service's answer.
pub(crate) enum Answer {
    Text(Option<Bytes>),
    Stream(Box<Download>),
}

impl Answer {
    pub(crate) const EMPTY: Self = Self::Text(None);
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Stream(stream) => stream.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Stream(stream) => stream.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(stream) => stream.size_hint(),
        }
    }
}
