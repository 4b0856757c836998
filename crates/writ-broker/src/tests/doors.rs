//! Doors: what a session may be reached through, with real sockets in real network namespaces.

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    process::{Command, Stdio},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use writ_api::run::{FromBroker, FromLauncher, Open};
use writ_core::{DOORS_MAX, Door, Level, NamedAddress, RefusalKind};

use super::{
    harness::{Home, Life, ask_open, myself, until},
    run::{Launcher, ended},
};
use crate::sessions::{self, End};

/// What the child is told, so that it knows itself for one.
const CHILD: &str = "WRIT_TEST_DOORS";
const TEST: &str = "tests::doors::the_sockets_of_another_namespace";

/// One socket of another network namespace, by its place in what the child sends.
#[derive(Clone, Copy)]
enum Foreign {
    Proxy,
    Capture443,
    Capture443V6,
    DnsUdp,
    DnsTcp,
    Local5432,
    Local5432V6,
    Named5432,
    NamedElsewhere,
    Capture8080,
    Capture80OnLoopback,
    NotListening,
    UdpUnbound,
}

/// `tcp` or `udp`, whether it listens, or is bound or connected at all, and where.
const SOCKETS: [(&str, &str, &str); 13] = [
    ("tcp", "listen", "127.0.0.1:3128"),
    ("tcp", "listen", "0.0.0.0:443"),
    ("tcp", "listen", "[::]:443"),
    ("udp", "bind", "127.0.0.1:53"),
    ("tcp", "listen", "127.0.0.1:53"),
    ("tcp", "listen", "127.0.0.1:5432"),
    ("tcp", "listen", "[::1]:5432"),
    ("tcp", "listen", "198.18.0.1:5432"),
    ("tcp", "listen", "198.18.0.2:5432"),
    ("tcp", "listen", "0.0.0.0:8080"),
    ("tcp", "listen", "127.0.0.2:80"),
    ("tcp", "bind", "127.0.0.1:3129"),
    ("udp", "nothing", "127.0.0.1:1"),
];

fn made((kind, stage, at): (&str, &str, &str)) -> OwnedFd {
    let at: SocketAddr = at.parse().unwrap();
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if kind == "tcp" { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    if stage == "nothing" {
        return socket;
    }
    // The namespace is new: no address is up in it.
    if at.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true).unwrap();
    } else {
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
        sockopt::set_ipv6_freebind(&socket, true).unwrap();
    }
    bind(&socket, &at).unwrap();
    if stage == "listen" {
        listen(&socket, 8).unwrap();
    }
    socket
}

/// The child: makes the sockets where `unshare` put it, and passes them out.
#[test]
fn the_sockets_of_another_namespace() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let parent = StdStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let sockets: Vec<OwnedFd> = SOCKETS.into_iter().map(made).collect();
    let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    writ_sys::send_with_fds(&parent, b"x", &borrowed).unwrap();
}

/// Another network namespace, by the sockets in it.
struct Elsewhere(Vec<OwnedFd>);

impl Elsewhere {
    fn new() -> Self {
        let (here, there) = StdStream::pair().unwrap();
        let mut child = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", TEST])
            .env(CHILD, "1")
            .stdin(OwnedFd::from(there))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let received = writ_sys::receive_with_fds(&here, &mut [0; 1], SOCKETS.len());
        assert!(child.wait().unwrap().success(), "a namespace is needed here");
        Self(received.unwrap().1)
    }

    fn door(&self, door: Door, socket: Foreign) -> (Door, OwnedFd) {
        (door, self.0[socket as usize].try_clone().unwrap())
    }

    fn proxy(&self) -> (Door, OwnedFd) {
        self.door(Door::Proxy, Foreign::Proxy)
    }
}

fn confined() -> Open {
    Open { level: Level::Confined, password_sha256: None, ..ask_open() }
}

async fn refused(life: &Life, ask: &Open, doors: Vec<(Door, OwnedFd)>) -> Option<String> {
    match sessions::open(&life.broker, &myself(), ask, doors).await {
        Ok((opened, _)) => {
            sessions::end(&life.broker, opened.session, End::Revoked).await.unwrap();
            None
        }
        Err(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::Invalid, "{refusal:?}");
            Some(refusal.detail)
        }
    }
}

fn listener(at: &str) -> OwnedFd {
    TcpListener::bind(at).unwrap().into()
}

#[tokio::test]
async fn below_confined_there_is_one_listener_on_loopback_and_a_password() {
    let home = Home::new();
    let life = home.life().await;
    let proxy = || (Door::Proxy, listener("127.0.0.1:0"));
    let ask = ask_open();
    assert_eq!(refused(&life, &ask, vec![proxy()]).await, None);
    assert_eq!(refused(&life, &ask, vec![(Door::Proxy, listener("[::1]:0"))]).await, None);
    let bound = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(bound.local_addr().unwrap()).unwrap();
    let restricted = Open { level: Level::Restricted, ..ask_open() };
    for (ask, doors) in [
        (&ask, vec![]),
        (&restricted, vec![proxy(), proxy()]),
        (&ask, vec![(Door::DnsTcp, listener("127.0.0.1:0"))]),
        (&ask, vec![(Door::Proxy, listener("0.0.0.0:0"))]),
        (&ask, vec![(Door::Proxy, connected.into())]),
        (&ask, vec![(Door::Proxy, UdpSocket::bind("127.0.0.1:0").unwrap().into())]),
        (&ask, vec![(Door::Proxy, StdStream::pair().unwrap().0.into())]),
        (&ask, vec![(Door::Proxy, std::fs::File::open("/dev/null").unwrap().into())]),
    ] {
        assert!(refused(&life, ask, doors).await.is_some());
    }
    for password in [None, Some("short".to_owned()), Some("zz".repeat(32))] {
        let ask = Open { password_sha256: password, ..ask_open() };
        assert!(refused(&life, &ask, vec![proxy()]).await.unwrap().contains("password"));
    }
}

#[tokio::test]
async fn confined_doors_are_what_they_are_called() {
    let home = Home::new();
    let life = home.life().await;
    let there = Elsewhere::new();
    let all = vec![
        there.proxy(),
        there.door(Door::Capture { port: 443 }, Foreign::Capture443),
        there.door(Door::Capture { port: 443 }, Foreign::Capture443V6),
        there.door(Door::DnsUdp, Foreign::DnsUdp),
        there.door(Door::DnsTcp, Foreign::DnsTcp),
    ];
    assert_eq!(refused(&life, &confined(), all).await, None);
    assert_eq!(life.plane.doors.lock().unwrap().len(), 5);
    let plan = life.plane.plans.lock().unwrap()[0].clone();
    assert_eq!((plan.password_sha256, plan.level), (None, Level::Confined));
    for (door, socket) in [
        (Door::Proxy, Foreign::Capture443),
        (Door::Proxy, Foreign::NotListening),
        (Door::Proxy, Foreign::DnsUdp),
        (Door::Capture { port: 443 }, Foreign::Capture8080),
        (Door::Capture { port: 8080 }, Foreign::Capture8080),
        (Door::Capture { port: 80 }, Foreign::Capture80OnLoopback),
        (Door::Capture { port: 80 }, Foreign::Capture443),
        (Door::DnsUdp, Foreign::DnsTcp),
        (Door::DnsUdp, Foreign::UdpUnbound),
        (Door::DnsTcp, Foreign::DnsUdp),
        (Door::DnsTcp, Foreign::NotListening),
        (Door::Local { port: 5432 }, Foreign::Local5432),
        (Door::Named { authority: "t.example:5432".parse().unwrap() }, Foreign::Named5432),
    ] {
        let said = refused(&life, &confined(), vec![there.proxy(), there.door(door.clone(), socket)]).await;
        assert!(said.is_some_and(|said| said.contains("not the socket")), "{door:?}");
    }
    let no_proxy = vec![there.door(Door::DnsUdp, Foreign::DnsUdp)];
    assert!(refused(&life, &confined(), no_proxy).await.unwrap().contains("needs a door of kind proxy"));
    let many = (0..=DOORS_MAX).map(|_| there.proxy()).collect();
    assert!(refused(&life, &confined(), many).await.unwrap().contains("too many"));
}

#[tokio::test]
async fn confined_doors_are_in_one_namespace_that_is_nobody_elses() {
    let home = Home::new();
    home.write(&home.text("key-file").replace("accept_below_confined = true", ""));
    let life = home.life().await;
    let (there, beyond) = (Elsewhere::new(), Elsewhere::new());
    let ours = vec![(Door::Proxy, listener("127.0.0.1:0"))];
    assert!(refused(&life, &confined(), ours).await.unwrap().contains("namespace of its own"));
    let mixed = vec![there.proxy(), beyond.door(Door::DnsUdp, Foreign::DnsUdp)];
    assert!(refused(&life, &confined(), mixed).await.unwrap().contains("several network namespaces"));
    let half = vec![there.proxy(), (Door::DnsTcp, listener("127.0.0.1:0"))];
    assert!(refused(&life, &confined(), half).await.unwrap().contains("several network namespaces"));
    let password = Open { password_sha256: Some("ab".repeat(32)), ..confined() };
    assert!(refused(&life, &password, vec![there.proxy()]).await.unwrap().contains("no password"));
    let first = sessions::open(&life.broker, &myself(), &confined(), vec![there.proxy()]).await.unwrap();
    assert!(refused(&life, &confined(), vec![there.proxy()]).await.unwrap().contains("another session"));
    assert_eq!(refused(&life, &confined(), vec![beyond.proxy()]).await, None);
    sessions::end(&life.broker, first.0.session, End::Revoked).await.unwrap();
    assert_eq!(refused(&life, &confined(), vec![there.proxy()]).await, None, "the namespace is free again");
}

#[tokio::test]
async fn later_doors_are_those_that_the_plan_allows() {
    let home = Home::new();
    home.write(&format!("local = [5432]\n{}", home.text("key-file")));
    let life = home.life().await;
    let authority = || "t.example:5432".parse().unwrap();
    let address = NamedAddress { authority: authority(), addresses: vec!["198.18.0.1".parse().unwrap()] };
    life.plane.named.lock().unwrap().push(address.clone());
    let (there, beyond) = (Elsewhere::new(), Elsewhere::new());
    let named = || Door::Named { authority: authority() };
    let local = || Door::Local { port: 5432 };
    let extend = async |doors: Vec<(Door, OwnedFd)>| {
        let opened = sessions::open(&life.broker, &myself(), &confined(), vec![there.proxy()]).await;
        let (opened, mut attached) = opened.unwrap();
        assert_eq!((&opened.named, &opened.local), (&vec![address.clone()], &vec![5432]));
        let (kinds, sockets) = doors.into_iter().unzip();
        let known = &mut attached.doors;
        let extended = sessions::extend(&life.broker, opened.session, known, kinds, sockets).await;
        sessions::end(&life.broker, opened.session, End::Revoked).await.unwrap();
        extended.err().map(|refusal| refusal.detail)
    };
    let good = vec![
        there.door(named(), Foreign::Named5432),
        there.door(local(), Foreign::Local5432),
        there.door(local(), Foreign::Local5432V6),
    ];
    assert_eq!(extend(good).await, None);
    assert_eq!(life.plane.doors.lock().unwrap().clone(), [Door::Proxy, named(), local(), local()]);
    for bad in [
        there.proxy(),
        there.door(Door::DnsUdp, Foreign::DnsUdp),
        there.door(Door::Capture { port: 443 }, Foreign::Capture443),
        there.door(named(), Foreign::NamedElsewhere),
        there.door(named(), Foreign::Local5432),
        there.door(local(), Foreign::Named5432),
        there.door(local(), Foreign::DnsTcp),
        there.door(Door::Local { port: 53 }, Foreign::DnsTcp),
        there.door(Door::Named { authority: "u.example:5432".parse().unwrap() }, Foreign::Named5432),
    ] {
        let what = format!("{bad:?}");
        assert!(extend(vec![bad]).await.unwrap().contains("may add"), "{what}");
    }
    let elsewhere = vec![beyond.door(local(), Foreign::Local5432)];
    assert!(extend(elsewhere).await.unwrap().contains("another network namespace"));
    let many = (0..DOORS_MAX).map(|_| there.door(local(), Foreign::Local5432)).collect();
    assert!(extend(many).await.unwrap().contains("too many"));
}

#[tokio::test]
async fn below_confined_no_door_is_added_but_to_logins() {
    let home = Home::new();
    home.write(&format!("local = [5432]\n{}", home.text("key-file")));
    let life = home.life().await;
    let authority = "t.example:5432".parse().unwrap();
    let address = NamedAddress { authority, addresses: vec!["127.0.0.1".parse().unwrap()] };
    life.plane.named.lock().unwrap().push(address);
    let (opened, mut attached) = life.open().await;
    assert_eq!((opened.named, opened.local), (vec![], vec![]));
    assert_eq!(life.plane.plans.lock().unwrap()[0].local, [0; 0]);
    let kinds = vec![Door::Local { port: 5432 }];
    let sockets = vec![listener("127.0.0.1:0")];
    let known = &mut attached.doors;
    let refusal = sessions::extend(&life.broker, opened.session, known, kinds, sockets).await.unwrap_err();
    assert!(refusal.detail.contains("not one that this session may add"), "{refusal:?}");
}

/// Over the socket: descriptors with the first message, with a second and with a third.
#[tokio::test]
async fn a_confined_conversation() {
    let home = Home::new();
    home.write(&format!("local = [5432]\n{}", home.text("key-file")));
    let life = home.life().await;
    let there = Elsewhere::new();
    let (kinds, sockets): (Vec<Door>, Vec<OwnedFd>) =
        [there.proxy(), there.door(Door::DnsUdp, Foreign::DnsUdp)].into_iter().unzip();
    let ask = Open { doors: kinds, ..confined() };
    let mut launcher = Launcher::send_with(&life, &home, &FromLauncher::Open(ask), &sockets);
    let FromBroker::Opened(opened) = launcher.receive().await else { panic!("it was not opened") };
    let local = || Door::Local { port: 5432 };
    for socket in [Foreign::Local5432, Foreign::Local5432V6] {
        let (door, socket) = there.door(local(), socket);
        launcher.pass(&FromLauncher::Doors { doors: vec![door] }, &[socket]);
    }
    until(async || life.plane.doors.lock().unwrap().len() == 4).await;
    assert_eq!(life.plane.doors.lock().unwrap().clone(), [Door::Proxy, Door::DnsUdp, local(), local()]);
    assert_eq!(life.broker.sessions.count(), 1);
    launcher.pass(&FromLauncher::Closed { status: 0 }, &[]);
    assert_eq!(ended(&life, opened.session).await, "closed");
}
