//! The first message of TLS, read without answering it: which name does the agent ask for?
//!
//! What was read goes on, byte for byte, to whoever terminates TLS. Where nobody here may, the agent gets an alert,
//! which programs print, rather than a connection that merely closes.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Largest ClientHello, with the framing of its records. Today's, with post-quantum key shares, have under 2 KiB.
const HELLO_MAX: usize = 32 * 1024;
/// Bytes that are asked for at once.
const PIECE: usize = 4096;
/// A record of a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Alert, version 1.2 as in every record, two bytes: fatal, `access_denied` (RFC 8446 §6.2).
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];
/// Longest that the other side is waited for after a refusal, so that it reads it.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// Most of what it still sends that is read meanwhile.
const LINGER_BYTES: u64 = 64 * 1024;

/// What a connection opens with.
#[derive(Debug)]
pub(crate) struct Hello {
    /// The name in SNI, if there is one that is a name.
    pub(crate) sni: Option<String>,
    /// Everything that was read.
    pub(crate) bytes: Vec<u8>,
}

/// Why there is no name to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloFault {
    #[error("the connection ended before it said what it wants")]
    Closed,
    #[error("the connection does not begin with TLS")]
    NotTls,
    #[error("the connection's first message is no ClientHello that can be read")]
    Unreadable,
}

/// Reads the ClientHello, of which `early` is the beginning. The caller limits the time.
pub(crate) async fn read(stream: &mut TcpStream, early: &[u8]) -> Result<Hello, HelloFault> {
    let mut acceptor = Acceptor::default();
    let mut bytes = early.to_vec();
    let mut fed = 0;
    let mut piece = [0; PIECE];
    loop {
        if bytes.first().is_some_and(|first| *first != HANDSHAKE) {
            return Err(HelloFault::NotTls);
        }
        while let Some(fresh) = bytes.get(fed..).filter(|fresh| !fresh.is_empty()) {
            let mut rest = fresh;
            fed += acceptor.read_tls(&mut rest).map_err(|_| HelloFault::Unreadable)?;
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let sni = accepted.client_hello().server_name().map(str::to_owned);
                    return Ok(Hello { sni, bytes });
                }
                Err(_) => return Err(HelloFault::Unreadable),
            }
        }
        if bytes.len() > HELLO_MAX {
            return Err(HelloFault::Unreadable);
        }
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => bytes.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Ok(_) | Err(_) => return Err(HelloFault::Closed),
        }
    }
}

/// Ends a connection that has sent its ClientHello.
pub(crate) async fn deny(stream: TcpStream) {
    farewell(stream, &ACCESS_DENIED).await;
}

/// Says a last word, and waits a little for it to be read: closing over unread bytes would reset the connection under it.
pub(crate) async fn farewell(mut stream: TcpStream, word: &[u8]) {
    let say = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    // The refusal is on record; whether it was read is the agent's affair.
    let _: Result<io::Result<u64>, _> = timeout(LINGER_MAX, say).await;
}
