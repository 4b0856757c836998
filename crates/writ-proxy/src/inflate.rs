//! Gzip to identity, streaming and bounded.
//!
//! Some services compress although identity was asked for. What is compressed cannot be scrubbed, so it is decoded; and because a few
//! kilobytes can decode to gigabytes, what comes out is bounded by what went in.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::Bytes;
use futures_util::Stream;
use http_body::Body;
use hyper::body::Incoming;
use tokio_util::io::{ReaderStream, StreamReader};

/// Output that is free of the ratio: small answers may compress as well as they like.
const FREE: u64 = 8 << 20;
/// Bytes out for one byte in, beyond that. Deflate itself ends at about 1,032.
const RATIO_MAX: u64 = 256;
/// Size of the pieces that come out.
const PIECE: usize = 16 * 1024;

/// A compressed body, decoded.
pub(crate) struct Inflate {
    pieces: ReaderStream<GzipDecoder<StreamReader<Compressed, Bytes>>>,
    read: Arc<AtomicU64>,
    made: u64,
}

impl Inflate {
    pub(crate) fn new(body: Incoming) -> Self {
        let read = Arc::new(AtomicU64::new(0));
        let mut decoder = GzipDecoder::new(StreamReader::new(Compressed { body, read: read.clone() }));
        decoder.multiple_members(true);
        Self { pieces: ReaderStream::with_capacity(decoder, PIECE), read, made: 0 }
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = match Pin::new(&mut self.pieces).poll_next(context) {
            Poll::Ready(Some(Ok(piece))) => piece,
            other => return other,
        };
        self.made = self.made.saturating_add(piece.len() as u64);
        let allowed = FREE.saturating_add(self.read.load(Ordering::Relaxed).saturating_mul(RATIO_MAX));
        if self.made > allowed {
            return Poll::Ready(Some(Err(io::ErrorKind::FileTooLarge.into())));
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

struct Compressed {
    body: Incoming,
    read: Arc<AtomicU64>,
}

impl Stream for Compressed {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            return Poll::Ready(match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => None,
                Poll::Ready(Some(Err(fault))) => Some(Err(io::Error::other(fault))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        self.read.fetch_add(data.len() as u64, Ordering::Relaxed);
                        Some(Ok(data))
                    }
                    // Trailers of a compressed body are not carried.
                    Err(_) => continue,
                },
            });
        }
    }
}
