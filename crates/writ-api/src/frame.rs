//! Frames: four bytes of length, big endian, then JSON.
//!
//! Invariant: the length is judged before anything is read or allocated. Both a blocking and an asynchronous reader exist,
//! because the launcher and the operator's commands have no runtime.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest frame: 1 MiB.
pub const FRAME_MAX: usize = 1 << 20;

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameFault {
    /// The other end closed between two frames: the ordinary end.
    #[error("the other end closed the connection")]
    Closed,
    #[error("a frame of {0} bytes is over the limit of 1 MiB")]
    TooLong(usize),
    #[error("a frame is not the message that was expected: {0}")]
    Form(#[from] serde_json::Error),
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The bytes of a message with its length in front.
///
/// # Errors
/// [`FrameFault::TooLong`].
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameFault> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len().saturating_sub(4);
    if length > FRAME_MAX {
        return Err(FrameFault::TooLong(length));
    }
    let prefix = u32::try_from(length).map_err(|_| FrameFault::TooLong(length))?.to_be_bytes();
    bytes.splice(..4, prefix);
    Ok(bytes)
}

/// Reads one message, blocking.
///
/// # Errors
/// Any [`FrameFault`].
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<T, FrameFault> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).map_err(closed)?;
    let mut bytes = vec![0; length(prefix)?];
    stream.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Writes one message, blocking.
///
/// # Errors
/// Any [`FrameFault`].
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> Result<(), FrameFault> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads one message.
///
/// # Errors
/// Any [`FrameFault`].
pub async fn receive<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> Result<T, FrameFault> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.map_err(closed)?;
    let mut bytes = vec![0; length(prefix)?];
    stream.read_exact(&mut bytes).await?;
    Ok(serde_json::from_slice(&bytes)?)
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

fn length(prefix: [u8; 4]) -> Result<usize, FrameFault> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).unwrap_or(usize::MAX);
    if length > FRAME_MAX { Err(FrameFault::TooLong(length)) } else { Ok(length) }
}

fn closed(error: io::Error) -> FrameFault {
    if error.kind() == io::ErrorKind::UnexpectedEof { FrameFault::Closed } else { FrameFault::Io(error) }
}

#[cfg(test)]
mod tests {
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
    }
}
