//! Frames: four bytes of length, big endian, then JSON.
//!
//! Invariant: the length is judged before anything is read, and memory is taken as bytes arrive, not as they are announced. Both a blocking and an asynchronous reader exist,
//! because the launcher and the operator's commands have no runtime.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest frame: 1 MiB.
pub const FRAME_MAX: usize = 1 << 20;
/// The bytes in front of a frame that hold its length.
pub const PREFIX: usize = 4;
/// What an announced length alone takes of memory.
const STEP: usize = 4 * 1024;

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameFault {
    /// The other end closed between two frames: the ordinary end.
    #[error("the other end closed the connection")]
    Closed,
    #[error("a frame of {0} bytes is over the limit of 1 MiB")]
    TooLong(usize),
    /// The source has the details. They quote the frame, so they are for whoever debugs, not for an answer or a log.
    #[error("a frame is not the message that was expected, at byte {}", .0.column())]
    Form(#[from] serde_json::Error),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The bytes of a message with its length in front.
///
/// # Errors
/// [`FrameFault::TooLong`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameFault> {
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len().saturating_sub(PREFIX);
    if length > FRAME_MAX {
        return Err(FrameFault::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameFault::TooLong(length))?.to_be_bytes();
    bytes.splice(..PREFIX, prefix);
    Ok(bytes)
}

/// Reads one message, blocking.
///
/// # Errors
/// Any [`FrameFault`].
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, FrameFault> {
    let mut prefix = [0; PREFIX];
    let (first, rest) = prefix.split_at_mut(1);
    stream.read_exact(first).map_err(closed)?;
    stream.read_exact(rest)?;
    let length = length(prefix)?;
    let mut bytes = Vec::with_capacity(length.min(STEP));
    stream.take(limit(length)).read_to_end(&mut bytes)?;
    parse(&bytes, length)
}

/// Writes one message, blocking.
///
/// # Errors
/// Any [`FrameFault`].
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> Result<(), FrameFault> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads one message. Not safe to cancel: what was read of a frame is lost.
///
/// # Errors
/// Any [`FrameFault`].
pub async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameFault> {
    let mut prefix = [0; PREFIX];
    let (first, rest) = prefix.split_at_mut(1);
    stream.read_exact(first).await.map_err(closed)?;
    stream.read_exact(rest).await?;
    receive_body(stream, prefix).await
}

/// Reads the rest of a message whose length was already read, beside descriptors for example.
///
/// # Errors
/// Any [`FrameFault`] but [`FrameFault::Closed`].
pub async fn receive_body<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    prefix: [u8; PREFIX],
) -> Result<T, FrameFault> {
    let length = length(prefix)?;
    let mut bytes = Vec::with_capacity(length.min(STEP));
    stream.take(limit(length)).read_to_end(&mut bytes).await?;
    parse(&bytes, length)
}

/// Writes one message.
///
/// # Errors
/// Any [`FrameFault`].
pub async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> Result<(), FrameFault> {
    stream.write_all(&encode(message)?).await?;
    Ok(stream.flush().await?)
}

fn parse<T: DeserializeOwned>(bytes: &[u8], length: usize) -> Result<T, FrameFault> {
    if bytes.len() < length {
        return Err(FrameFault::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(serde_json::from_slice(bytes)?)
}

fn limit(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn length(prefix: [u8; PREFIX]) -> Result<usize, FrameFault> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_MAX { Err(FrameFault::TooLong(length)) } else { Ok(length) }
}

fn closed(error: io::Error) -> FrameFault {
    if error.kind() == io::ErrorKind::UnexpectedEof { FrameFault::Closed } else { FrameFault::Io(error) }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tokio::io::ReadBuf;

    use super::*;

    #[test]
    fn a_frame_survives_and_a_long_one_is_refused_before_it_is_read() {
        let mut wire = encode(&vec!["a", "b"]).unwrap();
        assert_eq!(read::<Vec<String>>(&mut wire.as_slice()).unwrap(), ["a", "b"]);
        assert!(matches!(read::<u8>(&mut [].as_slice()), Err(FrameFault::Closed)));
        wire.splice(..4, u32::MAX.to_be_bytes());
        assert!(matches!(read::<Vec<String>>(&mut wire.as_slice()), Err(FrameFault::TooLong(_))));
        assert!(matches!(encode(&"x".repeat(FRAME_MAX)), Err(FrameFault::TooLong(_))));
        assert!(matches!(read::<u8>(&mut [0, 0, 0, 1, b'x'].as_slice()), Err(FrameFault::Form(_))));
        assert!(matches!(read::<u8>(&mut [0, 0, 0, 9, b'1'].as_slice()), Err(FrameFault::Io(_))));
        assert!(matches!(read::<u8>(&mut [0, 0].as_slice()), Err(FrameFault::Io(_))), "cut, not closed");
        assert_eq!(read::<u8>(&mut [0, 0, 0, 1, b'7', 0, 0].as_slice()).unwrap(), 7);
    }

    /// A stream that remembers the largest buffer it was asked to fill.
    struct Offered<'a> {
        bytes: &'a [u8],
        largest: usize,
    }

    impl Read for Offered<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.largest = self.largest.max(buffer.len());
            Read::read(&mut self.bytes, buffer)
        }
    }

    impl AsyncRead for Offered<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.largest = self.largest.max(buffer.remaining());
            Pin::new(&mut self.bytes).poll_read(context, buffer)
        }
    }

    #[tokio::test]
    async fn an_announced_length_takes_no_memory() {
        let announced = [u32::try_from(FRAME_MAX).unwrap().to_be_bytes().as_slice(), b"\"only this"].concat();
        let mut blocking = Offered { bytes: &announced, largest: 0 };
        assert!(matches!(read::<String>(&mut blocking), Err(FrameFault::Io(_))));
        let mut waiting = Offered { bytes: &announced, largest: 0 };
        assert!(matches!(receive::<String>(&mut waiting).await, Err(FrameFault::Io(_))));
        for largest in [blocking.largest, waiting.largest] {
            assert!(largest <= 4 * STEP, "{largest}");
        }
    }

    #[test]
    fn a_frame_is_not_quoted_to_whoever_reads_the_fault() {
        let wire = encode(&"hunter2-hunter2").unwrap();
        let fault = read::<u8>(&mut wire.as_slice()).unwrap_err();
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }

    #[tokio::test]
    async fn both_readers_agree() {
        let long = encode(&"x".repeat(FRAME_MAX - 2)).unwrap();
        let cases: [&[u8]; 7] = [
            b"",
            &[0],
            &[0, 0, 0, 0],
            &[0, 0, 0, 2, b'1'],
            &[0xff; 4],
            &[0, 0, 0, 3, b'"', b'a', b'"'],
            &long,
        ];
        let told = |fault: FrameFault| match fault {
            FrameFault::Io(error) => error.kind().to_string(),
            fault => fault.to_string(),
        };
        for wire in cases {
            let blocking = read::<String>(&mut &*wire).map_err(told);
            assert_eq!(receive::<String>(&mut &*wire).await.map_err(told), blocking);
        }
    }
}
