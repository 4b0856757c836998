//! Which servers are the session's own.
//!
//! Without a network namespace the session shares loopback and the files of Unix sockets with the rest of the machine, so an
//! address says nothing about who answers. The number of a socket does: it is the kernel's, is not chosen, and is given out
//! again only after four billion others. Each `listen` of the session is seen by the supervisor, which notes the number; an
//! address is the session's own if *every* socket that listens there was noted.
//!
//! ```text
//!   TCP            /proc/net/tcp, tcp6    port and address  → numbers of the sockets that listen
//!   Unix sockets   sock_diag(7)           file, or name     → the same
//! ```
//!
//! What is in another network namespace is not listed, and then nobody listens there as far as we say.

use std::collections::BTreeSet;
use std::io::{self, BufReader};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FileType, fstat, major, minor};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with, sockopt,
};

/// The most sockets that are remembered; the oldest are forgotten, and then they are strangers.
const NOTED_MAX: usize = 1 << 16;

/// Who listens at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    Ours,
    Nobody,
    Stranger,
}

/// The session's listening sockets, by number.
#[derive(Debug, Default)]
pub(super) struct Servers(Mutex<BTreeSet<u64>>);

/// A Unix socket that is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// An open file (`O_PATH`).
    File(&'a OwnedFd),
    Abstract(&'a [u8]),
}

impl Servers {
    /// Notes a socket of the session that is about to listen.
    pub(super) fn note(&self, socket: impl AsFd) -> io::Result<()> {
        let number = fstat(socket)?.st_ino;
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert(number);
        while noted.len() > NOTED_MAX {
            noted.pop_first();
        }
        Ok(())
    }

    /// Who listens at `address`, which is on loopback and neither "any" nor IPv4 in IPv6.
    pub(super) fn tcp(&self, address: SocketAddr) -> io::Result<Server> {
        let mut found = Vec::new();
        for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
            let file = match std::fs::File::open(table) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound && table.ends_with('6') => continue,
                other => other?,
            };
            found.extend(listening(BufReader::new(file), address)?);
        }
        Ok(self.verdict(&found))
    }

    /// Who listens at a Unix socket's place.
    pub(super) fn unix(&self, place: Place<'_>) -> io::Result<Server> {
        let wanted = Wanted::of(place)?;
        let found: Vec<u64> =
            unix_listeners()?.iter().filter(|one| one.is(&wanted)).map(|one| one.number).collect();
        Ok(self.verdict(&found))
    }

    fn verdict(&self, found: &[u64]) -> Server {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            [] => Server::Nobody,
            all if all.iter().all(|number| noted.contains(number)) => Server::Ours,
            _ => Server::Stranger,
        }
    }
}

/// The numbers of the sockets in a table of the kernel's that listen where `address` leads to.
fn listening(table: impl io::BufRead, address: SocketAddr) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let line = line?;
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, number, ..] = fields.as_slice() else { continue };
        if *state != "0A" {
            // The listening ones come first.
            break;
        }
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let (ip, port) = local_address(local).ok_or_else(bad)?;
        if port == address.port() && serves(ip, address.ip()) {
            found.push(number.parse().map_err(|_| bad())?);
        }
    }
    Ok(found)
}

/// Whether a socket bound to `bound` may get a connection to `asked`. In doubt it may: one more must be ours then.
fn serves(bound: IpAddr, asked: IpAddr) -> bool {
    bound.to_canonical() == asked || bound.is_unspecified()
}

/// `0100007F:1F90`: words in the machine's order, the port in the usual one.
fn local_address(text: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |from: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(ip.get(from..from + 8)?, 16).ok()?.to_ne_bytes())
    };
    if ip.len() == 8 {
        return Some((IpAddr::from(word(0)?), port));
    }
    let words = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
    Some((Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into(), port))
}

/// What is looked for among the Unix sockets, in the kernel's words.
enum Wanted {
    File { inode: u32, device: u32 },
    Abstract(Vec<u8>),
}

impl Wanted {
    fn of(place: Place<'_>) -> io::Result<Self> {
        match place {
            Place::Abstract(name) => Ok(Self::Abstract([&[0], name].concat())),
            Place::File(file) => {
                let about = fstat(file)?;
                if FileType::from_raw_mode(about.st_mode) != FileType::Socket {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                // The kernel reports the lower half of the number, and devices in its own form (`MKDEV`).
                let inode = u32::try_from(about.st_ino & u64::from(u32::MAX)).unwrap_or_default();
                let device = major(about.st_dev) << MINOR_BITS | minor(about.st_dev);
                Ok(Self::File { inode, device })
            }
        }
    }
}

/// A Unix socket that listens.
#[derive(Debug, Default)]
struct UnixListener {
    number: u64,
    name: Vec<u8>,
    file: Option<(u32, u32)>,
}

impl UnixListener {
    fn is(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::File { inode, device } => self.file == Some((*inode, *device)),
            Wanted::Abstract(name) => self.file.is_none() && self.name == *name,
        }
    }
}

/// Asks the kernel for all Unix sockets that listen in our network namespace (`sock_diag(7)`).
fn unix_listeners() -> io::Result<Vec<UnixListener>> {
    let flags = SocketFlags::CLOEXEC;
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
    sockopt::set_socket_timeout(&kernel, sockopt::Timeout::Recv, Some(DIAG_PATIENCE))?;
    send(&kernel, &question(), SendFlags::empty())?;
    let mut found = Vec::new();
    let mut buffer = vec![0; DIAG_BUFFER];
    loop {
        let (length, whole) = recv(&kernel, buffer.as_mut_slice(), RecvFlags::TRUNC)?;
        let mut rest = buffer.get(..length).filter(|_| whole <= DIAG_BUFFER).ok_or_else(broken)?;
        while !rest.is_empty() {
            let (kind, body, after) = message(rest).ok_or_else(broken)?;
            match kind {
                DONE => return Ok(found),
                SOCK_DIAG_BY_FAMILY => found.push(listener(body).ok_or_else(broken)?),
                // An error, such as that the kernel has no module for this: then nothing is ours.
                _ => return Err(broken()),
            }
            rest = after;
        }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// `struct nlmsghdr` and `struct unix_diag_req`: a dump of those that listen, with their names and files.
fn question() -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(40_u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend((REQUEST | DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([u8::try_from(libc::AF_UNIX).unwrap_or_default(), 0, 0, 0]);
    bytes.extend((1_u32 << LISTENS).to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend((SHOW_NAME | SHOW_FILE).to_ne_bytes());
    bytes.extend([0xff; 8]);
    bytes
}

/// The kind and the body of the first message, and what follows.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, bytes.get(HEADER..length)?, after))
}

/// `struct unix_diag_msg` and its attributes.
fn listener(body: &[u8]) -> Option<UnixListener> {
    let word = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let mut one = UnixListener { number: word(body, 4)?.into(), ..UnixListener::default() };
    let mut rest = body.get(HEADER..)?;
    while !rest.is_empty() {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        match kind {
            NAME => one.name = value.to_vec(),
            FILE => one.file = Some((word(value, 0)?, word(value, 4)?)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(one)
}

/// How long the kernel may take to answer; it answers at once.
const DIAG_PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
/// Larger than what the kernel puts into one datagram of a dump.
const DIAG_BUFFER: usize = 64 * 1024;
/// Of a device's number in the kernel.
const MINOR_BITS: u32 = 20;

// `linux/netlink.h`, `linux/sock_diag.h`, `linux/unix_diag.h`, `net/tcp_states.h`.
const HEADER: usize = 16;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const LISTENS: u32 = 10;
const SHOW_NAME: u32 = 1;
const SHOW_FILE: u32 = 2;
const NAME: u16 = 0;
const FILE: u16 = 1;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener as Listener};

    use rustix::fs::{Mode, OFlags, open};

    use super::*;

    #[test]
    fn a_tcp_address_is_ours_if_all_who_listen_there_are() {
        let servers = Servers::default();
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = own.local_addr().unwrap();
        assert_eq!(servers.tcp(address).unwrap(), Server::Stranger);
        servers.note(&own).unwrap();
        assert_eq!(servers.tcp(address).unwrap(), Server::Ours);
        drop(own);
        assert_eq!(servers.tcp(address).unwrap(), Server::Nobody);
        let any = TcpListener::bind("[::]:0").unwrap();
        let v4 = SocketAddr::from(([127, 0, 0, 1], any.local_addr().unwrap().port()));
        assert_eq!(servers.tcp(v4).unwrap(), Server::Stranger, "it serves IPv4 too");
    }

    #[test]
    fn a_unix_socket_is_found_by_file_and_by_name() {
        let servers = Servers::default();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let own = Listener::bind(&path).unwrap();
        let file =
            |path: &std::path::Path| open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let held = file(&path);
        assert_eq!(servers.unix(Place::File(&held)).unwrap(), Server::Stranger);
        servers.note(&own).unwrap();
        assert_eq!(servers.unix(Place::File(&held)).unwrap(), Server::Ours);
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        let stranger = Listener::bind(&path).unwrap();
        assert_eq!(servers.unix(Place::File(&file(&path))).unwrap(), Server::Stranger, "a path is no name");
        drop(stranger);
        assert_eq!(servers.unix(Place::File(&file(&path))).unwrap(), Server::Nobody);
        assert!(servers.unix(Place::File(&file(directory.path()))).is_err());

        let name = format!("writ-{}", std::process::id());
        let hidden = Listener::bind_addr(&UnixAddress::from_abstract_name(&name).unwrap()).unwrap();
        assert_eq!(servers.unix(Place::Abstract(name.as_bytes())).unwrap(), Server::Stranger);
        servers.note(&hidden).unwrap();
        assert_eq!(servers.unix(Place::Abstract(name.as_bytes())).unwrap(), Server::Ours);
        assert_eq!(servers.unix(Place::Abstract(b"writ nobody")).unwrap(), Server::Nobody);
    }

    #[test]
    fn the_kernels_table_is_read_to_its_listening_end() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100\n   \
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12 1 0 100\n   \
            2: 0200007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 13 1 0 100\n   \
            3: 0100007F:1F90 0100007F:1000 01 00000000:00000000 00:00000000 00000000  1000        0 14 1 0 100\n";
        let read = |address: &str| listening(table.as_bytes(), address.parse().unwrap()).unwrap();
        assert_eq!(read("127.0.0.1:8080"), [11, 12]);
        assert_eq!(read("127.0.0.2:8080"), [12, 13]);
        assert!(read("127.0.0.1:8081").is_empty());
        let mapped = local_address("0000000000000000FFFF00000100007F:0050").unwrap();
        assert!(serves(mapped.0, "127.0.0.1".parse().unwrap()));
        assert_eq!(local_address("00000000000000000000000001000000:0050").unwrap().0, Ipv6Addr::LOCALHOST);
        assert!(local_address("0100007:0050").is_none());
    }
}
