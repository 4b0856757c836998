//! Registration: which name and role a workload gets for what it has proven.
//!
//! An entry fits when each of its selectors was proven. Of those that fit, the one with the most selectors wins, because it says
//! the most; where two say as much and differ, nobody guesses. `--role` chooses among the entries that fit, it never adds one.

use std::collections::BTreeSet;

use writ_core::{Attestation, Refusal, RefusalKind, RoleName, Selector, SpiffeId};

/// One `[[workload]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub spiffe_id: SpiffeId,
    /// At least one.
    pub selectors: BTreeSet<Selector>,
    pub role: RoleName,
}

/// What the entries ask for, as `kind:key`: what is dear to find out is found out only then.
pub fn questions(entries: &[Registration]) -> BTreeSet<String> {
    entries.iter().flat_map(|entry| &entry.selectors).map(|selector| selector.question().to_owned()).collect()
}

/// The entry that names this workload, under `role` if the caller asks for one.
///
/// # Errors
/// [`RefusalKind::UnknownWorkload`] when no entry fits or the best two contradict each other; [`RefusalKind::Denied`] when some
/// entry fits, but none with that role.
pub fn register<'a>(
    entries: &'a [Registration],
    attestation: &Attestation,
    role: Option<&RoleName>,
) -> Result<&'a Registration, Refusal> {
    let fits = |entry: &&Registration| {
        !entry.selectors.is_empty() && entry.selectors.is_subset(&attestation.selectors)
    };
    let fitting: Vec<&Registration> = entries.iter().filter(fits).collect();
    if fitting.is_empty() {
        return Err(unknown(attestation));
    }
    let chosen: Vec<&Registration> =
        fitting.iter().copied().filter(|entry| role.is_none_or(|role| entry.role == *role)).collect();
    let most = chosen.iter().map(|entry| entry.selectors.len()).max();
    let mut best = chosen.into_iter().filter(|entry| Some(entry.selectors.len()) == most);
    let Some(first) = best.next() else { return Err(not_that_role(&fitting, role)) };
    match best.find(|other| (&other.spiffe_id, &other.role) != (&first.spiffe_id, &first.role)) {
        Some(other) => Err(tie(first, other)),
        None => Ok(first),
    }
}

fn unknown(attestation: &Attestation) -> Refusal {
    let proven: Vec<&str> = attestation.selectors.iter().map(Selector::as_str).collect();
    Refusal::new(
        RefusalKind::UnknownWorkload,
        format!("no [[workload]] entry fits what this program has proven: {}", proven.join(", ")),
        "add a [[workload]] entry with some of these selectors to writ.toml",
    )
}

fn not_that_role(fitting: &[&Registration], role: Option<&RoleName>) -> Refusal {
    let has: BTreeSet<&str> = fitting.iter().map(|entry| entry.role.as_str()).collect();
    let has = has.into_iter().collect::<Vec<_>>().join(", ");
    let asked = role.map_or("", RoleName::as_str);
    Refusal::new(
        RefusalKind::Denied,
        format!("this program is not registered for the role {asked}, only for {has}"),
        format!("run it with --role {has}, or add a [[workload]] entry with role = \"{asked}\" to writ.toml"),
    )
}

fn tie(first: &Registration, other: &Registration) -> Refusal {
    let name = |entry: &Registration| format!("{} as {}", entry.spiffe_id, entry.role);
    Refusal::new(
        RefusalKind::UnknownWorkload,
        format!("two [[workload]] entries fit equally well and differ: {} and {}", name(first), name(other)),
        "choose one with --role, or give one of them another selector in writ.toml",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, role: &str, selectors: &[&str]) -> Registration {
        Registration {
            spiffe_id: format!("spiffe://writ.local/{id}").parse().unwrap(),
            selectors: selectors.iter().map(|one| one.parse().unwrap()).collect(),
            role: role.parse().unwrap(),
        }
    }

    fn proven(selectors: &[&str]) -> Attestation {
        Attestation { selectors: selectors.iter().map(|one| one.parse().unwrap()).collect() }
    }

    fn check(entries: &[Registration], role: Option<&str>) -> Result<String, Refusal> {
        let shown = proven(&["unix:uid:1000", "unix:gid:1000", "unix:path:/usr/bin/claude"]);
        let role = role.map(|role| role.parse().unwrap());
        register(entries, &shown, role.as_ref()).map(|found| format!("{} {}", found.spiffe_id, found.role))
    }

    const UID: &str = "unix:uid:1000";
    const PATH: &str = "unix:path:/usr/bin/claude";

    #[test]
    fn the_most_specific_entry_that_fits_wins() {
        let entries = [
            entry("any", "guest", &[UID]),
            entry("claude", "dev", &[UID, PATH]),
            entry("root", "admin", &["unix:uid:0", PATH, "unix:gid:0"]),
        ];
        assert_eq!(check(&entries, None).unwrap(), "spiffe://writ.local/claude dev");
        assert_eq!(check(&entries, Some("guest")).unwrap(), "spiffe://writ.local/any guest");
    }

    #[test]
    fn every_selector_must_be_proven() {
        let entries = [entry("root", "admin", &[PATH, "unix:uid:0"])];
        assert_eq!(check(&entries, None).unwrap_err().kind, RefusalKind::UnknownWorkload);
        assert_eq!(check(&[], None).unwrap_err().kind, RefusalKind::UnknownWorkload);
        assert_eq!(check(&[entry("all", "x", &[])], None).unwrap_err().kind, RefusalKind::UnknownWorkload);
    }

    #[test]
    fn a_role_narrows_and_never_widens() {
        let entries = [entry("claude", "dev", &[UID]), entry("root", "admin", &["unix:uid:0"])];
        let refusal = check(&entries, Some("admin")).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::Denied);
        assert!(refusal.detail.contains("admin") && refusal.detail.contains("dev"), "{refusal}");
    }

    #[test]
    fn a_tie_is_refused_with_both_names() {
        let entries = [entry("a", "dev", &[UID]), entry("b", "dev", &[PATH])];
        let refusal = check(&entries, None).unwrap_err();
        assert!(
            refusal.detail.contains("writ.local/a as dev") && refusal.detail.contains("writ.local/b as dev")
        );
        // The same name and role twice is no contradiction; two roles are one, which --role settles.
        assert!(check(&[entry("a", "dev", &[UID]), entry("a", "dev", &[PATH])], None).is_ok());
        let roles = [entry("a", "dev", &[UID]), entry("a", "ops", &[PATH])];
        assert!(check(&roles, None).is_err() && check(&roles, Some("ops")).is_ok());
    }

    #[test]
    fn only_what_some_entry_asks_is_asked() {
        let entries = [entry("a", "dev", &[UID, PATH]), entry("b", "dev", &["unix:uid:1"])];
        let asked: Vec<String> = questions(&entries).into_iter().collect();
        assert_eq!(asked, ["unix:path", "unix:uid"]);
    }
}
