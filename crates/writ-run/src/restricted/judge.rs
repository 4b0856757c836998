//! Where a program wants to connect, and whether it may: pure functions over a copy of what it asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The longest address (`struct sockaddr_storage`).
pub(super) const ADDRESS_MAX: usize = 128;

/// An address as it was passed to `connect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Tcp(SocketAddr),
    /// A Unix socket in a file.
    File(Vec<u8>),
    /// A Unix socket in the abstract namespace.
    Abstract(Vec<u8>),
    /// Undoes an earlier `connect`.
    Nothing,
}

/// What is to be done with a TCP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is one of the session's own addresses.
    Connect,
    /// It is on loopback: only if every server there is the session's own. The address that the kernel will use.
    OwnServer(SocketAddr),
    Refuse,
}

impl Target {
    /// `None` for families that are not served and for addresses that are too short to be what they say.
    pub(super) fn parse(address: &[u8]) -> Option<Self> {
        let family = i32::from(u16::from_ne_bytes(*address.first_chunk()?));
        match family {
            libc::AF_UNSPEC => Some(Self::Nothing),
            libc::AF_INET => {
                let ip = Ipv4Addr::from(*part::<4>(address, 4)?);
                // The kernel wants the padding too.
                part::<16>(address, 0)?;
                Some(Self::Tcp(SocketAddrV4::new(ip, port(address)?).into()))
            }
            libc::AF_INET6 => {
                let flow = u32::from_be_bytes(*part(address, 4)?);
                let ip = Ipv6Addr::from(*part::<16>(address, 8)?);
                // It may be left out (RFC 2133).
                let scope = part(address, 24).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                Some(Self::Tcp(SocketAddrV6::new(ip, port(address)?, flow, scope).into()))
            }
            libc::AF_UNIX => match address.get(2..)? {
                [] => None,
                [0, name @ ..] => Some(Self::Abstract(name.to_vec())),
                path => Some(Self::File(path.split(|byte| *byte == 0).next()?.to_vec())),
            },
            _ => None,
        }
    }
}

/// Judges a TCP address.
pub(super) fn judge(address: SocketAddr, reachable: &[SocketAddr]) -> Verdict {
    let meant = SocketAddr::new(effective(address.ip()), address.port());
    if reachable.iter().any(|one| SocketAddr::new(effective(one.ip()), one.port()) == meant) {
        return Verdict::Connect;
    }
    if meant.ip().is_loopback() { Verdict::OwnServer(meant) } else { Verdict::Refuse }
}

/// The address that the kernel connects to: an IPv4 one in IPv6 is itself, and "any" is the loopback one.
fn effective(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

fn port(address: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*part(address, 2)?))
}

fn part<const N: usize>(address: &[u8], from: usize) -> Option<&[u8; N]> {
    address.get(from..)?.first_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(ip: [u8; 4], port: u16) -> Vec<u8> {
        let family = u16::try_from(libc::AF_INET).unwrap().to_ne_bytes();
        [&family[..], &port.to_be_bytes(), &ip, &[0; 8]].concat()
    }

    fn unix(path: &[u8]) -> Vec<u8> {
        [&u16::try_from(libc::AF_UNIX).unwrap().to_ne_bytes()[..], path].concat()
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let parse = Target::parse;
        assert_eq!(parse(&v4([1, 2, 3, 4], 443)), Some(Target::Tcp("1.2.3.4:443".parse().unwrap())));
        assert_eq!(parse(&v4([1, 2, 3, 4], 443)[..15]), None);
        let mut v6 = u16::try_from(libc::AF_INET6).unwrap().to_ne_bytes().to_vec();
        v6.extend(443_u16.to_be_bytes());
        v6.extend([0; 4]);
        v6.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(parse(&v6), Some(Target::Tcp("[fe80::1]:443".parse().unwrap())));
        v6.extend(3_u32.to_ne_bytes());
        assert_eq!(parse(&v6), Some(Target::Tcp("[fe80::1%3]:443".parse().unwrap())));
        assert_eq!(parse(&v6[..23]), None);
        assert_eq!(parse(&unix(b"/run/a.sock\0rest")), Some(Target::File(b"/run/a.sock".to_vec())));
        assert_eq!(parse(&unix(b"x")), Some(Target::File(b"x".to_vec())));
        assert_eq!(parse(&unix(b"\0a\0b")), Some(Target::Abstract(b"a\0b".to_vec())));
        assert_eq!(parse(&unix(b"")), None);
        assert_eq!(parse(&[0, 0, 9]), Some(Target::Nothing));
        for other in [&[][..], &[1], &[16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[40, 0, 0, 0]] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn only_the_proxy_and_loopback_are_thought_of() {
        let reachable = ["127.0.0.1:3128".parse().unwrap()];
        for (address, verdict) in [
            ("127.0.0.1:3128", Verdict::Connect),
            ("[::ffff:127.0.0.1]:3128", Verdict::Connect),
            ("0.0.0.0:3128", Verdict::Connect),
            ("192.0.2.1:3128", Verdict::Refuse),
            ("169.254.169.254:80", Verdict::Refuse),
            ("[2001:db8::1]:3128", Verdict::Refuse),
            ("[::ffff:192.0.2.1]:443", Verdict::Refuse),
            ("127.0.0.1:5432", Verdict::OwnServer("127.0.0.1:5432".parse().unwrap())),
            ("127.0.0.2:3128", Verdict::OwnServer("127.0.0.2:3128".parse().unwrap())),
            ("[::1]:3128", Verdict::OwnServer("[::1]:3128".parse().unwrap())),
            ("[::]:80", Verdict::OwnServer("[::1]:80".parse().unwrap())),
            ("[::ffff:127.0.0.1]:80", Verdict::OwnServer("127.0.0.1:80".parse().unwrap())),
        ] {
            assert_eq!(judge(address.parse().unwrap(), &reachable), verdict, "{address}");
        }
    }
}
