//! Messages as bytes: what is read, what is refused, and that nothing is too much for the reader. Absent: what names lead to, which is
//! tested beside it.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    if name.is_empty() {
        message.push(0);
    } else {
        message.extend(wire_name(name));
    }
    message.extend(kind.to_be_bytes());
    message.extend(IN.to_be_bytes());
    message
}

fn with_records(mut message: Vec<u8>, count: u8, records: &[u8]) -> Vec<u8> {
    message[11] = count;
    message.extend(records);
    message
}

const OPT_RECORD: [u8; 11] = [0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_question_is_read_and_repeated_as_it_came() {
    let message = query("aPi.Example", A);
    let question = read(&message).unwrap();
    assert_eq!((question.name.as_str(), question.kind, question.class_is_in), ("aPi.Example", A, true));
    let answer = answer(&question, &Reply::V4(Ipv4Addr::new(198, 18, 0, 1)));
    let expected: Vec<u8> = [
        // The id, an answer, recursion desired and available, no error; one question, one answer.
        &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0][..],
        b"\x03aPi\x07Example\x00\x00\x01\x00\x01",
        // The name by its place, A, IN, a TTL of 0, four bytes.
        &[0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 198, 18, 0, 1],
    ]
    .concat();
    assert_eq!(answer, expected);
}

#[test]
fn edns_is_answered_in_kind_and_other_versions_are_refused() {
    let message = with_records(query("a.example", A), 1, &OPT_RECORD);
    let question = read(&message).unwrap();
    let plain = answer(&question, &Reply::Nothing);
    assert_eq!(plain[10..12], [0, 1]);
    assert_eq!(plain[plain.len() - 11..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    let mut record = OPT_RECORD;
    record[6] = 7;
    let message = with_records(query("a.example", A), 1, &record);
    let question = read(&message).unwrap();
    assert_eq!(question.edns_version, 7);
    let refused = answer(&question, &Reply::BadVersion);
    assert_eq!(refused[refused.len() - 6], 1, "the upper bits of BADVERS");
}

#[test]
fn what_is_malformed_is_said_to_be() {
    let bad = |message: &[u8]| match read(message) {
        Err(Unreadable::Bad { reply, .. }) => reply,
        other => panic!("{other:?}"),
    };
    let mut two = query("a.example", A);
    two[5] = 2;
    assert_eq!(bad(&two), Reply::Malformed, "two questions");
    two[5] = 0;
    assert_eq!(bad(&two), Reply::Malformed, "no question");
    let header = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for (name, what) in [
        (&[0xc0, 0x0c, 0, 1, 0, 1][..], "a pointer to itself"),
        (&[1, b'a', 0xc0, 0x0c, 0, 1, 0, 1][..], "a pointer to its own start"),
        (&[0x40, 0, 0, 1, 0, 1][..], "a label of an unknown form"),
        (&[63, b'a'][..], "a label that goes on behind the end"),
        (&[1, b'a'][..], "no end"),
        (&[0, 0, 1, 0][..], "half a class"),
        (&[][..], "nothing"),
    ] {
        assert_eq!(bad(&[&header[..], name].concat()), Reply::Malformed, "{what}");
    }
    let long = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4);
    assert_eq!(bad(&[&header[..], &long, &[0, 0, 1, 0, 1]].concat()), Reply::Malformed, "256 bytes");
    let records = [OPT_RECORD, OPT_RECORD].concat();
    assert_eq!(bad(&with_records(query("a.example", A), 2, &records)), Reply::Malformed, "two OPT");
    assert_eq!(bad(&with_records(query("a.example", A), 17, &[0; 400])), Reply::Malformed, "17 records");
    assert_eq!(
        bad(&with_records(query("a.example", A), 1, &[0xc0, 0x0c])),
        Reply::Malformed,
        "half a record"
    );
    let mut notify = query("a.example", A);
    notify[2] = 0x20;
    assert_eq!(bad(&notify), Reply::NotImplemented);
}

#[test]
fn answers_and_scraps_are_not_answered() {
    let mut response = query("a.example", A);
    response[2] |= 0x80;
    assert_eq!(read(&response), Err(Unreadable::Noise), "or two resolvers would talk for ever");
    assert_eq!(read(&[0; 11]), Err(Unreadable::Noise));
    assert_eq!(read(&[]), Err(Unreadable::Noise));
    assert_eq!(read(&vec![0; QUERY_MAX + 1]), Err(Unreadable::Noise));
}

#[test]
fn a_label_with_a_dot_is_not_two_labels() {
    let message = [&[0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03a.b\x00", &[0, 1, 0, 1]].concat();
    assert_eq!(read(&message).unwrap().name, "a?b");
}

proptest! {
    #[test]
    fn no_message_is_too_much(message in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&message);
    }

    #[test]
    fn what_is_read_is_a_question_of_the_message(
        tail in proptest::collection::vec(any::<u8>(), 0..300),
        questions in 0..3_u8,
        records in 0..4_u8,
    ) {
        let message = [&[9, 9, 1, 0, 0, questions, 0, 0, 0, 0, 0, records][..], &tail].concat();
        if let Ok(question) = read(&message) {
            prop_assert!(question.name.len() < NAME_MAX);
            prop_assert!(message[12..].starts_with(question.raw));
            let answer = answer(&question, &Reply::V6(std::net::Ipv6Addr::LOCALHOST));
            prop_assert!(answer.len() <= usize::from(PAYLOAD) / 2);
            prop_assert_eq!(&answer[..2], &[9, 9]);
        }
    }
}
