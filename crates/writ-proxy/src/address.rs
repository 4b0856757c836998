//! Which addresses may be dialled.
//!
//! Judged is the very address that goes into `connect`, after resolution. Public is what is left when every range with a meaning of
//! its own is taken away (IANA special-purpose registries, RFC 6890), and every form of IPv6 that carries an IPv4 address with it:
//! those are refused as forms, without asking what they carry. A route's `allow_private` opens named networks.
//!
//! A name with both public and other answers is refused whole: it is how DNS rebinding looks from here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why the addresses of a name are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressFault {
    #[error("the name has no address")]
    None,
    #[error("it leads to {0}, which is not a public address")]
    NotPublic(IpAddr),
    #[error("it leads to public and to other addresses at once")]
    Mixed,
}

impl AddressFault {
    /// The address at fault, where it is one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::NotPublic(address) => Some(*address),
            Self::None | Self::Mixed => None,
        }
    }
}

/// Judges all answers for one name. `allow` are the networks that the route opens.
pub(crate) fn judge(answers: &[SocketAddr], allow: &[IpNet]) -> Result<(), AddressFault> {
    let mut public = 0;
    for address in answers.iter().map(SocketAddr::ip) {
        if is_public(address) {
            public += 1;
        } else if !allow.iter().any(|net| net.contains(&address)) {
            return Err(AddressFault::NotPublic(address));
        }
    }
    match public {
        _ if answers.is_empty() => Err(AddressFault::None),
        0 => Ok(()),
        all if all == answers.len() => Ok(()),
        _ => Err(AddressFault::Mixed),
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !SPECIAL_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => {
            GLOBAL_V6.contains(&v6) && !SPECIAL_V6.iter().any(|net| net.contains(&v6)) && !isatap(v6)
        }
    }
}

/// RFC 5214 §6.1: an interface identifier of `0000:5efe` or `0200:5efe` and an IPv4 address, under any prefix.
fn isatap(address: Ipv6Addr) -> bool {
    let [.., high, low, _, _] = address.segments();
    matches!(high, 0 | 0x0200) && low == 0x5efe
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

const SPECIAL_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),        // this network, unspecified
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carrier-grade NAT
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link-local: cloud metadata lives here
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
    v4(168, 63, 129, 16, 32), // the host's service address in Azure
];

/// Global unicast. Outside it are unspecified, loopback, mapped (`::ffff:0:0/96`), compatible (`::/96`), NAT64 (`64:ff9b::/96`,
/// `64:ff9b:1::/48`), unique local, link-local, site-local, multicast and everything unassigned.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

const SPECIAL_V6: &[Ipv6Net] = &[
    v6(0x2001, 0, 23),     // protocol assignments, with Teredo, benchmarking, ORCHID
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4
    v6(0x3ffe, 0, 16),     // the former 6bone
    v6(0x3fff, 0, 20),     // documentation
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(answers: &[&str], allow: &[&str]) -> Result<(), AddressFault> {
        let answers: Vec<SocketAddr> =
            answers.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 443)).collect();
        let allow: Vec<IpNet> = allow.iter().map(|text| text.parse().unwrap()).collect();
        judge(&answers, &allow)
    }

    #[test]
    fn public_addresses_pass() {
        for good in [
            "1.1.1.1",
            "104.18.6.192",
            "2606:4700::6812:6c0",
            "2a00:1450:4001:830::200a",
            "100.63.0.1",
            "172.32.0.1",
        ] {
            assert_eq!(check(&[good], &[]), Ok(()), "{good}");
        }
    }

    #[test]
    fn special_addresses_are_refused_in_every_form() {
        for bad in [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "2001:db8::1",
            "3fff::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "4000::1",
            "5f00::1",
            // an IPv4 address inside: mapped, compatible, translated, NAT64, 6to4, Teredo, ISATAP
            "::ffff:127.0.0.1",
            "::ffff:1.1.1.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2606:4700::5efe:7f00:1",
            "2606:4700::200:5efe:a9fe:a9fe",
        ] {
            assert_eq!(check(&[bad], &[]), Err(AddressFault::NotPublic(bad.parse().unwrap())), "{bad}");
        }
    }

    #[test]
    fn every_answer_is_judged() {
        assert_eq!(
            check(&["1.1.1.1", "127.0.0.1"], &[]),
            Err(AddressFault::NotPublic("127.0.0.1".parse().unwrap()))
        );
        assert_eq!(check(&["1.1.1.1", "10.2.0.1"], &["10.2.0.0/16"]), Err(AddressFault::Mixed));
        assert_eq!(check(&[], &[]), Err(AddressFault::None));
    }

    #[test]
    fn an_explicit_line_opens_its_network_only() {
        assert_eq!(check(&["10.2.0.1", "10.2.9.9"], &["10.2.0.0/16"]), Ok(()));
        assert!(check(&["10.3.0.1"], &["10.2.0.0/16"]).is_err());
        assert!(check(&["::ffff:10.2.0.1"], &["10.2.0.0/16"]).is_err());
        assert_eq!(check(&["::1"], &["::1/128"]), Ok(()));
    }
}
