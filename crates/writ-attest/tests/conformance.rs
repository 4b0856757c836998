//! What every attestor must do, for each entry of the registry.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests: a failure here is a failed test")]

use std::collections::BTreeSet;

use writ_attest::{attestor, attestors, questions};
use writ_core::{Evidence, Selector, UnixEvidence};

/// Evidence about this very test, by kind.
fn evidence(kind: &str) -> Evidence {
    let program = std::fs::canonicalize(std::env::current_exe().unwrap()).unwrap();
    match kind {
        "unix" => {
            let script = Some(std::fs::canonicalize("Cargo.toml").unwrap());
            // The one account that every machine has.
            Evidence::Unix(UnixEvidence { uid: 0, gid: 0, pid: 1, program, script })
        }
        other => panic!("say what evidence of kind {other} looks like"),
    }
}

#[test]
fn every_attestor_is_found_by_its_kind_and_once() {
    let kinds: BTreeSet<&str> = attestors().iter().map(|one| one.kind()).collect();
    assert_eq!(kinds.len(), attestors().len());
    for kind in kinds {
        assert_eq!(attestor(kind).unwrap().kind(), kind);
    }
    assert!(attestor("nobody").is_none());
}

#[test]
fn every_attestor_proves_what_its_examples_promise() {
    for attestor in attestors() {
        let kind = attestor.kind();
        let asked: BTreeSet<String> = attestor
            .examples()
            .iter()
            .map(|(example, meaning)| {
                assert!(!meaning.is_empty());
                example.parse::<Selector>().unwrap().question().to_owned()
            })
            .collect();
        assert_eq!(asked.len(), attestor.examples().len(), "{kind}: an example of each, once");
        let shown = evidence(kind);
        assert_eq!(shown.kind(), kind);
        let attestation = attestor.attest(&shown, &asked).unwrap();
        let proven: BTreeSet<String> =
            attestation.selectors.iter().map(|selector| selector.question().to_owned()).collect();
        assert_eq!(proven, asked, "{kind}");
        assert!(proven.iter().all(|question| question.starts_with(&format!("{kind}:"))));
        assert!(asked.is_subset(&questions()));
        // The same evidence proves the same, and asking for nothing proves no more.
        assert_eq!(attestor.attest(&shown, &asked).unwrap(), attestation);
        let fewer = attestor.attest(&shown, &BTreeSet::new()).unwrap();
        assert!(fewer.selectors.is_subset(&attestation.selectors));
    }
}
