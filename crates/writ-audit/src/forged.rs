//! Logs as a forger would write them who knows the format and can compute every hash, but has no signing key; and as
//! a broken writer would who has it. `tests/tamper.rs` moves bytes; here every block is whole.

use crate::{
    Anchor, Attempt, FieldKey, Head, Kind, Moment, Outcome, Signer, StreamName, Verdict, What,
    block::{self, HEADER, Header},
    checkpoint::Checkpoint,
    record::{push_attempt, push_outcome},
    verify,
};

/// One block to be written: where it says that it stands, and its records.
struct Plan {
    stream: &'static str,
    segment: u32,
    first: u64,
    count: u32,
    payload: Vec<u8>,
}

fn attempt() -> Vec<u8> {
    attempt_by("ada")
}

fn attempt_by(requester: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let attempt = Attempt { requester: Some(requester), ..Attempt::new(Kind::Use, 1) };
    push_attempt(&mut bytes, &FieldKey::new(&[0; 32]), &attempt);
    bytes
}

fn outcome(of: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_outcome(&mut bytes, &FieldKey::new(&[0; 32]), of, 2, &Outcome::new(Verdict::Ok));
    bytes
}

fn plan(first: u64, records: &[Vec<u8>]) -> Plan {
    Plan {
        stream: "broker",
        segment: 1,
        first,
        count: u32::try_from(records.len()).unwrap(),
        payload: records.concat(),
    }
}

/// The segment, and the head behind each of its blocks.
fn write(plans: &[Plan]) -> (Vec<u8>, Vec<Head>) {
    let (mut segment, mut heads, mut previous) = (Vec::new(), Vec::new(), [0; 32]);
    for plan in plans {
        let stream: StreamName = plan.stream.parse().unwrap();
        let header = Header {
            segment: plan.segment,
            count: plan.count,
            length: u32::try_from(plan.payload.len()).unwrap(),
            first: plan.first,
            at: 1,
            stream: stream.field(),
            previous,
        };
        let mut bytes = vec![0; HEADER];
        bytes.extend(&plan.payload);
        previous = block::seal(&mut bytes, &header);
        segment.extend(bytes);
        let offset = segment.len() as u64;
        heads.push(Head { stream, segment: 1, offset, sequence: header.last(), hash: previous });
    }
    (segment, heads)
}

fn sign(signer: &Signer, heads: &[Head]) -> Vec<u8> {
    let (mut bytes, mut previous) = (Vec::new(), [0; 32]);
    for (number, head) in (1..).zip(heads) {
        let entry =
            Checkpoint { number, moment: Moment::Progress, at: 1, head: head.clone(), previous }.seal(signer);
        previous = block::sha256(&entry);
        bytes.extend(entry);
    }
    bytes
}

/// What `verify` finds in these files, under the key of `signer`.
fn found(signer: &Signer, segment: &[u8], checkpoints: &[u8], anchor: Option<&Anchor>) -> Vec<What> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broker-000001.seg"), segment).unwrap();
    std::fs::write(dir.path().join("checkpoints"), checkpoints).unwrap();
    let report = verify(dir.path(), &signer.verifier(), anchor).unwrap();
    report.problems.into_iter().map(|problem| problem.what).collect()
}

fn signer() -> Signer {
    Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap()
}

fn sound() -> Vec<Plan> {
    vec![plan(1, &[attempt(), attempt()]), plan(3, &[outcome(1)]), plan(4, &[outcome(2)])]
}

#[test]
fn the_sound_one_is_sound() {
    let signer = signer();
    let (segment, heads) = write(&sound());
    assert_eq!(found(&signer, &segment, &sign(&signer, &heads), None), []);
}

#[test]
fn a_chain_that_is_computed_anew_does_not_fit_the_checkpoints() {
    let signer = signer();
    let (_, heads) = write(&sound());
    let mut forged = sound();
    forged[0] = plan(1, &[attempt_by("eve"), attempt()]);
    let (segment, _) = write(&forged);
    // With every block signed, and with the last alone.
    for (heads, number) in [(&heads[..], 1), (&heads[2..], 1)] {
        let whats = found(&signer, &segment, &sign(&signer, heads), None);
        assert_eq!(whats, [What::CheckpointDiffers { number }]);
    }
}

#[test]
fn blocks_in_other_batches_do_not_fit_the_checkpoints() {
    let signer = signer();
    let (_, heads) = write(&sound());
    let (segment, _) = write(&[plan(1, &[attempt(), attempt(), outcome(1), outcome(2)])]);
    assert_eq!(
        found(&signer, &segment, &sign(&signer, &heads), None),
        [What::CheckpointDiffers { number: 1 }]
    );
}

#[test]
fn a_checkpoint_of_another_place_does_not_fit() {
    let signer = signer();
    let (segment, heads) = write(&sound());
    let changes: [fn(&mut Head); 4] = [
        |head| head.segment = 2,
        |head| head.offset += 1,
        |head| head.sequence -= 1,
        |head| head.hash = [9; 32],
    ];
    for change in changes {
        let mut heads = heads.clone();
        change(&mut heads[0]);
        let whats = found(&signer, &segment, &sign(&signer, &heads), None);
        assert_eq!(whats, [What::CheckpointDiffers { number: 1 }]);
    }
}

#[test]
fn an_anchor_with_another_hash_is_found() {
    let signer = signer();
    let (segment, heads) = write(&sound());
    let anchor = Anchor { number: 2, hash: [9; 32] };
    let whats = found(&signer, &segment, &sign(&signer, &heads), Some(&anchor));
    assert_eq!(whats, [What::AnchorDiffers { number: 2 }]);
}

#[test]
fn a_block_that_does_not_hold_what_it_says_is_found() {
    let mut too_few = plan(3, &[outcome(1)]);
    too_few.count = 2;
    let mut too_many = plan(3, &[outcome(1), outcome(2)]);
    too_many.count = 1;
    let mut elsewhere = plan(3, &[outcome(1)]);
    elsewhere.segment = 2;
    let mut of_another = plan(3, &[outcome(1)]);
    of_another.stream = "proxy-0";
    let cut = plan(3, &[outcome(1)[..5].to_vec()]);
    let long = plan(3, &[[outcome(1), vec![0]].concat()]);
    let mut unknown_type = outcome(1);
    unknown_type[2] = 9;
    let mut unknown_bit = outcome(1);
    *unknown_bit.last_mut().unwrap() = 1;
    let foreign = |stream: &str, segment| What::Foreign { stream: stream.to_owned(), segment };
    let cases = [
        (too_few, What::Record),
        (too_many, What::Record),
        (cut, What::Record),
        (long, What::Record),
        (plan(3, &[unknown_type]), What::Record),
        (plan(3, &[unknown_bit]), What::Record),
        (elsewhere, foreign("broker", 2)),
        (of_another, foreign("proxy-0", 1)),
        (plan(4, &[outcome(1)]), What::Sequence { expected: 3, found: 4 }),
        (plan(2, &[outcome(1)]), What::Sequence { expected: 3, found: 2 }),
        (plan(3, &[outcome(7)]), What::Orphan { attempt: 7 }),
        (plan(3, &[outcome(3)]), What::Orphan { attempt: 3 }),
        (plan(3, &[outcome(1), outcome(1)]), What::Orphan { attempt: 1 }),
    ];
    for (second, expected) in cases {
        let signer = signer();
        let (segment, heads) = write(&[plan(1, &[attempt(), attempt()]), second]);
        assert_eq!(found(&signer, &segment, &sign(&signer, &heads[..1]), None), [expected]);
    }
}
