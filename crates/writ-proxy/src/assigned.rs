//! The names that a session has asked for, and the addresses that stand for them inside of it.
//!
//! ```text
//!   name ──► number ──► 198.18.0.0/15 (RFC 2544), fd77:7269:7400::/64 (RFC 4193) ──► number ──► name
//! ```
//!
//! An address means nothing outside of its session, leads nowhere by itself, and is for one name as long as the session lives: whoever
//! keeps an address longer than a resolver would still reaches the name that it was given for. So nothing can be bound
//! anew to an address that was judged.
//!
//! The table of a lost daemon is lost with it, but for the names that have doors. An agent that lives on may hold other addresses of
//! it, so the session that goes on assigns its own elsewhere, and *adopts* one that it does not know by the name that the agent says
//! next: it could have asked for that name as well.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use writ_core::Host;

/// Numbers of one session: the addresses of 198.18.0.0/15, but its first and its last.
const NUMBERS: usize = (1 << 17) - 2;
/// Names of one session, and their letters in all. Nothing of a name is ever forgotten, so an agent that asks for as many as it can
/// would otherwise hold tens of megabytes of the daemon's memory; a browser that reads all day asks for some thousands. With
/// both, a session holds four megabytes at the most.
const NAMES_MAX: usize = 1 << 14;
const LETTERS_MAX: usize = 1 << 20;
/// 198.18.0.0.
const FIRST_V4: u32 = 0xc612_0000;
/// fd77:7269:7400::, a unique local network.
const FIRST_V6: u128 = 0xfd77_7269_7400_0000_0000_0000_0000_0000;

/// How far apart the first numbers of successive daemons are.
const LIFE_NUMBERS: usize = 8191;

/// No more names, or letters of names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session has asked for more names than it may")]
pub(crate) struct Exhausted;

/// The addresses of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

/// One session's names.
pub(crate) struct Assigned {
    table: Mutex<Table>,
    /// Names, letters.
    limits: (usize, usize),
    adopts: bool,
}

#[derive(Default)]
struct Table {
    numbers: HashMap<Arc<str>, u32>,
    names: HashMap<u32, Arc<str>>,
    next: u32,
    letters: usize,
}

impl Assigned {
    pub(crate) fn new() -> Self {
        Self::with_limits(NAMES_MAX, LETTERS_MAX)
    }

    /// Of a session that goes on where `lives` daemons were lost: names with doors keep their numbers.
    pub(crate) fn again(kept: &[(Host, u32)], lives: u32) -> Self {
        let mut assigned = Self { adopts: true, ..Self::new() };
        let table = assigned.table.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (host, number) in kept {
            table.bind(host, *number);
        }
        let first = usize::try_from(lives).unwrap_or_default().wrapping_mul(LIFE_NUMBERS) % NUMBERS;
        table.next = u32::try_from(first).unwrap_or_default();
        assigned
    }

    fn with_limits(names: usize, letters: usize) -> Self {
        Self { table: Mutex::default(), limits: (names, letters), adopts: false }
    }

    /// The addresses of a name, the same at every call.
    pub(crate) fn assign(&self, host: &Host) -> Result<Addresses, Exhausted> {
        self.number(host).map(addresses)
    }

    /// The number of a name, which its addresses are made of.
    pub(crate) fn number(&self, host: &Host) -> Result<u32, Exhausted> {
        let mut table = self.table();
        if let Some(number) = table.numbers.get(host.as_str()) {
            return Ok(*number);
        }
        if !table.has_room(host, self.limits) {
            return Err(Exhausted);
        }
        let limit = u32::try_from(NUMBERS).map_err(|_| Exhausted)?;
        // There is a free one, since fewer than all are taken.
        while table.names.contains_key(&table.next) {
            table.next = table.next.wrapping_add(1) % limit;
        }
        let number = table.next;
        table.next = number.wrapping_add(1) % limit;
        table.bind(host, number);
        Ok(number)
    }

    /// The name that an address was given for; `None` for one that never was.
    pub(crate) fn name(&self, address: IpAddr) -> Option<Host> {
        let name = self.table().names.get(&number(address)?)?.clone();
        name.parse().ok()
    }

    /// Whether an address may be one that a lost daemon gave.
    pub(crate) fn may_adopt(&self, address: IpAddr) -> bool {
        let known = |number| self.table().names.contains_key(&number);
        self.adopts && number(address).is_some_and(|number| !known(number))
    }

    /// Binds an address for which [`may_adopt`](Self::may_adopt) was true to a name. Returns the name that it is for now: another
    /// connection may have been quicker.
    pub(crate) fn adopt(&self, address: IpAddr, host: &Host) -> Option<Host> {
        if self.may_adopt(address) {
            let mut table = self.table();
            if table.has_room(host, self.limits) {
                table.bind(host, number(address)?);
            }
        }
        self.name(address)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn has_room(&self, host: &Host, (names, letters): (usize, usize)) -> bool {
        self.names.len() < names && self.letters.saturating_add(host.as_str().len()) <= letters
    }

    /// A name may have several numbers, of which one is told; a number has one name, for ever.
    fn bind(&mut self, host: &Host, number: u32) {
        let name: Arc<str> = host.as_str().into();
        self.letters = self.letters.saturating_add(name.len());
        self.numbers.entry(name.clone()).or_insert(number);
        self.names.entry(number).or_insert(name);
    }
}

/// The number that an address of ours is made of.
fn number(address: IpAddr) -> Option<u32> {
    let number = match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(FIRST_V4 + 1)?,
        IpAddr::V6(v6) => u32::try_from(u128::from(v6).checked_sub(FIRST_V6 + 1)?).ok()?,
    };
    usize::try_from(number).is_ok_and(|number| number < NUMBERS).then_some(number)
}

fn addresses(number: u32) -> Addresses {
    // A number is less than NUMBERS, so neither sum leaves its network.
    let v4 = Ipv4Addr::from(FIRST_V4.saturating_add(1).saturating_add(number));
    let v6 = Ipv6Addr::from(FIRST_V6.saturating_add(1).saturating_add(number.into()));
    Addresses { v4, v6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_keeps_its_addresses_and_an_address_its_name() {
        let names = Assigned::new();
        let first = names.assign(&host("a.example")).unwrap();
        assert_eq!(first.v4.to_string(), "198.18.0.1");
        assert_eq!(first.v6.to_string(), "fd77:7269:7400::1");
        let second = names.assign(&host("b.example")).unwrap();
        assert_ne!(first, second);
        assert_eq!(names.assign(&host("A.Example")).unwrap(), first, "names have no case");
        for (addresses, name) in [(first, "a.example"), (second, "b.example")] {
            assert_eq!(names.name(addresses.v4.into()), Some(host(name)));
            assert_eq!(names.name(addresses.v6.into()), Some(host(name)));
        }
    }

    #[test]
    fn an_address_that_was_not_assigned_has_no_name() {
        let names = Assigned::new();
        names.assign(&host("a.example")).unwrap();
        for address in [
            "198.18.0.0",
            "198.18.0.2",
            "198.17.255.255",
            "1.1.1.1",
            "127.0.0.1",
            "fd77:7269:7400::",
            "fd77:7269:7400::2",
            "fd77:7269:7400:1::1",
            "fd77:7269:7400::1:0:1",
            "::1",
            "::ffff:198.18.0.1",
        ] {
            assert_eq!(names.name(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn only_a_session_that_goes_on_adopts_and_only_what_it_does_not_know() {
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        assert!(!Assigned::new().may_adopt(address("198.18.0.1")), "nothing was lost");
        let names = Assigned::again(&[(host("db.example"), 0)], 1);
        assert_eq!(names.assign(&host("db.example")).unwrap().v4.to_string(), "198.18.0.1", "it has doors");
        let fresh = names.assign(&host("b.example")).unwrap();
        assert!(fresh.v4 > Ipv4Addr::new(198, 18, 16, 0), "{fresh:?} is elsewhere");
        for known in ["198.18.0.1", "1.1.1.1", "127.0.0.1", "198.18.0.0", "198.20.0.1", "fd77:7269:7400:1::1"]
        {
            assert!(!names.may_adopt(address(known)), "{known}");
        }
        assert!(!names.may_adopt(fresh.v4.into()));
        let lost = address("198.18.0.2");
        assert_eq!(names.adopt(lost, &host("a.example")), Some(host("a.example")));
        assert_eq!(names.adopt(lost, &host("evil.example")), Some(host("a.example")), "once and for all");
        assert_eq!(names.adopt(fresh.v4.into(), &host("evil.example")), Some(host("b.example")));
        assert_eq!(names.adopt(address("1.1.1.1"), &host("a.example")), None);
    }

    #[test]
    fn names_and_their_letters_are_limited() {
        let last = u32::try_from(NUMBERS).unwrap() - 1;
        assert_eq!(addresses(last).v4.to_string(), "198.19.255.254");
        let names = Assigned::with_limits(2, 100);
        for name in ["a.example", "b.example"] {
            names.assign(&host(name)).unwrap();
        }
        assert_eq!(names.assign(&host("c.example")), Err(Exhausted));
        assert!(names.assign(&host("a.example")).is_ok(), "a known name is still answered");
        let names = Assigned::with_limits(100, 20);
        assert!(names.assign(&host("a.example")).is_ok());
        assert!(names.assign(&host("b.example")).is_ok());
        assert_eq!(names.assign(&host("c.example")), Err(Exhausted), "27 letters");
    }

    #[test]
    fn a_session_that_asks_for_as_many_names_as_it_can_holds_little() {
        let names = Assigned::again(&[], 1);
        let long =
            |number: usize| host(&format!("{number}.{}.example", ["x".repeat(60), "y".repeat(60)].join(".")));
        let asked = (0..3 * NAMES_MAX).filter(|number| names.assign(&long(*number)).is_ok()).count();
        for number in 0..u32::try_from(NUMBERS).unwrap() {
            names.adopt(addresses(number).v4.into(), &long(usize::try_from(number).unwrap()));
        }
        let table = names.table();
        assert!(asked < NAMES_MAX && table.names.len() <= asked, "{asked}, adopted {}", table.names.len());
        assert!(table.names.values().map(|name| name.len()).sum::<usize>() <= LETTERS_MAX);
    }
}
