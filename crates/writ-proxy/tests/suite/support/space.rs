//! Network namespaces: one that a session is confined to, and one that stands for the world.
//!
//! A namespace belongs to a thread. Each [`Space`] is a thread that makes sockets in its own, and threads that are started in one
//! stay there. All addresses are local in them, as in a real run.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    process::Command,
    sync::{Arc, mpsc},
};

use rustix::{
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, listen, recv, send, socket_with,
        sockopt,
    },
    thread::UnshareFlags,
};
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, client::TlsStream};
use writ_core::{CAPTURED_PORTS, DataPlane, Door};

use super::{PATIENCE, Sender, Setup, Upstream, World, trusting};

/// Where names are asked for inside of a session.
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 53);
/// Where its proxy is.
const PROXY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 3128);
/// An address of the world that is this machine's own.
pub const OWN: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace.
pub struct Space(mpsc::Sender<Job>);

/// A world whose session is confined to a namespace.
pub struct Inside {
    pub world: World,
    pub space: Space,
}

/// Puts the calling thread, and those that it starts, into a namespace that stands for the world: every address is local, and is
/// connected to from loopback; [`OWN`] is connected to from itself. `false`: the test has run in another process, because threads
/// of an ordinary user cannot leave their namespace.
pub fn isolated() -> bool {
    if rustix::process::geteuid().is_root() {
        leave(Some(Ipv4Addr::LOCALHOST));
        return true;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
    let output = again.args(["--exact", &name, "--nocapture"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}

impl Space {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            leave(None);
            queue.iter().for_each(|job| job());
        });
        Self(jobs)
    }

    /// Does something in there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        self.0.send(Box::new(move || drop(answer.send(job())))).unwrap();
        answered.recv().unwrap()
    }

    pub fn listen(&self, address: SocketAddr) -> OwnedFd {
        self.run(move || {
            let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
            if address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, true).unwrap();
                sockopt::set_ipv6_freebind(&socket, true).unwrap();
            }
            bind(&socket, &address).unwrap();
            listen(&socket, 4096).unwrap();
            socket
        })
    }

    pub fn connect(&self, address: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let stream = self.run(move || TcpStream::connect(address))?;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }

    /// The doors of a confined session.
    pub fn doors(&self) -> Vec<(Door, OwnedFd)> {
        let mut doors = vec![(Door::Proxy, self.listen(PROXY)), (Door::DnsTcp, self.listen(DNS))];
        doors.push((Door::DnsUdp, self.run(|| UdpSocket::bind(DNS).unwrap().into())));
        for port in CAPTURED_PORTS.iter().copied() {
            for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
                doors.push((Door::Capture { port }, self.listen(SocketAddr::new(any, port))));
            }
        }
        doors
    }
}

impl Inside {
    pub async fn with(upstream: Upstream, change: impl FnOnce(&mut Setup)) -> Self {
        let space = Space::new();
        let doors = space.doors();
        let world = World::with(upstream, |setup| {
            setup.plan.password_sha256 = None;
            setup.doors = doors;
            change(setup);
        })
        .await;
        Self { world, space }
    }

    /// A door for each address that a named target got.
    pub async fn open_named(&self) {
        let mut doors = Vec::new();
        for named in &self.world.named {
            for address in &named.addresses {
                let socket = self.space.listen(SocketAddr::new(*address, named.authority.port()));
                doors.push((Door::Named { authority: named.authority.clone() }, socket));
            }
        }
        self.world.proxy.extend(self.world.session, doors).await.unwrap();
    }

    /// The v4 address of a name, over UDP.
    pub fn resolve(&self, name: &str) -> IpAddr {
        let answer = self.ask(&query(name, 1));
        let octets: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
        Ipv4Addr::from(octets).into()
    }

    /// The v6 address of a name, over UDP.
    pub fn resolve_v6(&self, name: &str) -> IpAddr {
        let answer = self.ask(&query(name, 28));
        let octets: [u8; 16] = answer[answer.len() - 16..].try_into().unwrap();
        Ipv6Addr::from(octets).into()
    }

    fn ask(&self, query: &[u8]) -> Vec<u8> {
        let query = query.to_vec();
        self.space.run(move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(&query, DNS).unwrap();
            let mut answer = vec![0; 4096];
            let length = socket.recv(&mut answer).unwrap();
            answer.truncate(length);
            answer
        })
    }

    /// Several questions at once over TCP, and as many answers.
    pub fn ask_over_tcp(&self, queries: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let queries = queries.to_vec();
        self.space.run(move || {
            let mut stream = TcpStream::connect(DNS).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let framed = queries.iter().flat_map(|query| {
                let length = u16::try_from(query.len()).unwrap().to_be_bytes();
                [&length[..], query].concat()
            });
            stream.write_all(&framed.collect::<Vec<u8>>()).unwrap();
            let answer = |stream: &mut TcpStream| {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut answer = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut answer).unwrap();
                answer
            };
            queries.iter().map(|_| answer(&mut stream)).collect()
        })
    }

    pub fn connect(&self, address: IpAddr, port: u16) -> tokio::net::TcpStream {
        self.space.connect(SocketAddr::new(address, port)).unwrap()
    }

    /// TLS to an address, under a name; without one, the address itself is what TLS knows, and SNI is absent.
    pub async fn tls(
        &self,
        address: IpAddr,
        name: &str,
        alpn: &str,
    ) -> io::Result<TlsStream<tokio::net::TcpStream>> {
        self.tls_trusting(&self.world.ca_pem, SocketAddr::new(address, 443), name, alpn).await
    }

    pub async fn tls_trusting(
        &self,
        pem: &str,
        address: SocketAddr,
        name: &str,
        alpn: &str,
    ) -> io::Result<TlsStream<tokio::net::TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let stream = self.space.connect(address)?;
        TlsConnector::from(Arc::new(trusting(pem, alpn))).connect(name, stream).await
    }

    /// What a program does that has only a name: it asks for the address, and speaks TLS to it.
    pub async fn sender(&self, name: &str, alpn: &str) -> Sender {
        let address = self.resolve(name);
        Sender::over(self.tls(address, name, alpn).await.unwrap(), alpn).await
    }
}

/// A question as a stub resolver asks it.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// A namespace of this thread's own, in which every address is local; those of v4 are connected to from `source`, or from themselves.
fn leave(source: Option<Ipv4Addr>) {
    writ_sys::unshare(UnshareFlags::NEWNET).unwrap();
    let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let tell = |kind: u16, create: u16, body: &[u8]| {
        const REQUEST_AND_ACK: u16 = 5;
        let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_AND_ACK | create).to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        send(&kernel, &message, SendFlags::empty()).unwrap();
        let mut answer = [0; 1024];
        recv(&kernel, &mut answer[..], RecvFlags::empty()).unwrap();
        assert_eq!(answer[16..20], [0; 4], "the kernel's error, negative");
    };
    // RTM_NEWLINK, struct ifinfomsg: the first interface, IFF_UP and the mask of it.
    tell(16, 0, &[0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
    // RTM_NEWROUTE, struct rtmsg: to everything, table local, of the kind local, by the first interface.
    const CREATE: u16 = 0x400;
    const BY_LOOPBACK: [u8; 8] = [8, 0, 4, 0, 1, 0, 0, 0];
    let source = source.map(|source| [&[8, 0, 7, 0][..], &source.octets()].concat()).unwrap_or_default();
    let v4 = |bits: u8| vec![2, bits, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0];
    tell(24, CREATE, &[v4(0), BY_LOOPBACK.to_vec(), source].concat());
    let own = [&[8, 0, 1, 0][..], &OWN.octets()].concat();
    tell(24, CREATE, &[v4(32), own, BY_LOOPBACK.to_vec()].concat());
    tell(24, CREATE, &[vec![10, 0, 0, 0, 255, 3, 0, 2, 0, 0, 0, 0], BY_LOOPBACK.to_vec()].concat());
}

/// A service of plain bytes in the calling thread's namespace: says what it hears, after a greeting.
pub async fn parrot(address: &str, greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                tokio::io::AsyncWriteExt::write_all(&mut stream, greeting.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}
