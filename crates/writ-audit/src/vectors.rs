//! The vectors of `spec/audit-vectors.json`, made again and compared; and taken apart with nothing but the spec.

use aws_lc_rs::{
    digest::{SHA256, digest},
    hmac,
    signature::{ED25519, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use expect_test::expect_file;
use serde_json::{Value, json};

use crate::{
    Attempt, Events, FieldKey, Head, Kind, Moment, Outcome, PathView, Signer, StreamName, Verdict,
    block::{self, HEADER, Header},
    checkpoint::Checkpoint,
    record::{self, Mark, MarkKind},
    verify,
};

const KEY: [u8; 32] = [0x42; 32];
const AT: u64 = 1_795_219_200_000_000;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn signer() -> Signer {
    let mut pkcs8 = unhex(&json!("302e020100300506032b657004220420"));
    pkcs8.extend(0..32);
    Signer::from_pkcs8(&pkcs8).unwrap()
}

fn attempts() -> [(&'static str, Attempt<'static>); 3] {
    let full = Attempt {
        request_id: Some("0196f3a0-0000-7000-8000-000000000001"),
        workload: Some("spiffe://writ.local/dev/claude"),
        role: Some("dev"),
        session: Some("s-1"),
        requester: Some("ada"),
        credential: Some("openai"),
        credential_type: Some("static"),
        scope: Some("POST /v1/*"),
        method: Some("POST"),
        scheme: Some("https"),
        host: Some("api.openai.com"),
        port: Some(443),
        dialled: Some("192.0.2.1:443"),
        path: Some(PathView { path: "/v1/responses?x=1", plain: true }),
        lease: Some("l-1"),
        within_ttl: Some(true),
        action: Some("use"),
        target: Some("openai"),
        ..Attempt::new(Kind::Use, AT + 1)
    };
    let hashed = Attempt {
        method: Some("BREW"),
        path: Some(PathView { path: "/bot123:abc/send", plain: false }),
        ..Attempt::new(Kind::Refused, AT + 2)
    };
    [("every field", full), ("hashed fields", hashed), ("no field", Attempt::new(Kind::Session, AT + 3))]
}

fn outcomes() -> [(&'static str, u64, Outcome<'static>); 2] {
    let full = Outcome {
        duration: Some(1500),
        status: Some(200),
        bytes_up: Some(512),
        bytes_down: Some(2048),
        scrubbed: Some(1),
        lease: Some("l-1"),
        dialled: Some("192.0.2.1:443"),
        ..Outcome::refused("a-reason")
    };
    [("every field", 2, full), ("no field", 3, Outcome::new(Verdict::Unknown))]
}

fn records() -> Vec<(String, Vec<u8>)> {
    let key = FieldKey::new(&KEY);
    let mut records = Vec::new();
    let mut put = |name: String, push: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        push(&mut bytes);
        records.push((name, bytes));
    };
    let mark = |kind, at| Mark { kind, at, cause: None, cut: 0, last: 0 };
    put("mark: begin".into(), &|out| record::push_mark(out, &mark(MarkKind::Begin, AT)));
    for (name, attempt) in attempts() {
        put(format!("attempt: {name}"), &|out| record::push_attempt(out, &key, &attempt));
    }
    for (name, of, outcome) in outcomes() {
        put(format!("outcome: {name}"), &|out| record::push_outcome(out, &key, of, AT + 1501, &outcome));
    }
    put("mark: end".into(), &|out| record::push_mark(out, &mark(MarkKind::End, AT + 9)));
    records
}

/// Two blocks of one stream: the first record, then all others.
fn blocks() -> Vec<(Header, Vec<u8>)> {
    let stream: StreamName = "broker".parse().unwrap();
    let records = records();
    let mut blocks = Vec::new();
    let mut previous = [0; 32];
    for (first, part) in [(1, &records[..1]), (2, &records[1..])] {
        let mut bytes = vec![0; HEADER];
        part.iter().for_each(|(_, record)| bytes.extend(record));
        let header = Header {
            segment: 1,
            count: u32::try_from(part.len()).unwrap(),
            length: u32::try_from(bytes.len() - HEADER).unwrap(),
            first,
            at: AT + first,
            stream: stream.field(),
            previous,
        };
        previous = block::seal(&mut bytes, &header);
        blocks.push((header, bytes));
    }
    blocks
}

fn checkpoints() -> Vec<Vec<u8>> {
    let (mut sealed, mut previous, mut offset) = (Vec::new(), [0; 32], 0);
    for ((header, bytes), moment) in blocks().iter().zip([Moment::Start, Moment::Close]) {
        offset += bytes.len() as u64;
        let head = Head {
            stream: "broker".parse().unwrap(),
            segment: 1,
            offset,
            sequence: header.last(),
            hash: bytes[bytes.len() - 32..].try_into().unwrap(),
        };
        let number = sealed.len() as u64 + 1;
        let checkpoint = Checkpoint { number, moment, at: AT + number, head, previous };
        let bytes = checkpoint.seal(&signer());
        previous = block::sha256(&bytes);
        sealed.push(bytes);
    }
    sealed
}

fn vectors() -> Value {
    let key = FieldKey::new(&KEY);
    let hashed = [("path", "bot123:abc"), ("method", "BREW"), ("role", "")]
        .map(|(field, value)| json!({ "field": field, "value": value, "text": key.hash(field, value) }));
    json!({
        "about": "Vectors for spec/audit.md. All bytes in hexadecimal.",
        "field_key": hex(&KEY),
        "hashed": hashed,
        "records": records().iter().map(|(name, bytes)| json!({ "name": name, "bytes": hex(bytes) })).collect::<Vec<_>>(),
        "segment_file": "broker-000001.seg",
        "blocks": blocks().iter().map(|(_, bytes)| hex(bytes)).collect::<Vec<_>>(),
        "signing_seed": hex(&(0..32).collect::<Vec<u8>>()),
        "public_key": signer().verifier().to_string(),
        "checkpoints": checkpoints().iter().map(|bytes| hex(bytes)).collect::<Vec<_>>(),
    })
}

#[test]
fn the_vectors_are_what_this_crate_writes() {
    // Another crate of the workspace may make serde_json keep the order of insertion.
    let mut vectors = vectors();
    vectors.sort_all_objects();
    let text = serde_json::to_string_pretty(&vectors).unwrap() + "\n";
    expect_file!["../../../spec/audit-vectors.json"].assert_eq(&text);
}

/// Reads the vectors with the offsets of the spec and no code of this crate.
#[test]
fn the_vectors_are_what_the_spec_says() {
    let vectors: Value = serde_json::from_str(include_str!("../../../spec/audit-vectors.json")).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &unhex(&vectors["field_key"]));
    for hashed in vectors["hashed"].as_array().unwrap() {
        let message = [hashed["field"].as_str().unwrap(), "\0", hashed["value"].as_str().unwrap()].concat();
        let tag = hmac::sign(&key, message.as_bytes());
        let text = format!("h:{}", URL_SAFE_NO_PAD.encode(&tag.as_ref()[..16]));
        assert_eq!(hashed["text"], text);
    }
    let mut previous = vec![0; 32];
    let mut payloads = Vec::new();
    for bytes in vectors["blocks"].as_array().unwrap().iter().map(unhex) {
        let length = u32::from_le_bytes(bytes[16..20].try_into().unwrap()) as usize;
        assert_eq!((&bytes[..8], &bytes[20..24]), (&b"WRAU\x01\0\0\0"[..], &[0; 4][..]));
        assert_eq!((&bytes[40..47], &bytes[72..104]), (&b"broker\0"[..], previous.as_slice()));
        assert_eq!(bytes.len(), 104 + length + 32);
        payloads.extend_from_slice(&bytes[104..104 + length]);
        previous = digest(&SHA256, &bytes[..104 + length]).as_ref().to_vec();
        assert_eq!(bytes[104 + length..], previous);
    }
    let records: Vec<u8> =
        vectors["records"].as_array().unwrap().iter().flat_map(|record| unhex(&record["bytes"])).collect();
    assert_eq!(payloads, records);
    let public = vectors["public_key"].as_str().unwrap().strip_prefix("writ-audit-ed25519:").unwrap();
    let public = UnparsedPublicKey::new(&ED25519, URL_SAFE_NO_PAD.decode(public).unwrap());
    let mut before = vec![0; 32];
    for bytes in vectors["checkpoints"].as_array().unwrap().iter().map(unhex) {
        assert_eq!((bytes.len(), &bytes[104..136]), (200, before.as_slice()));
        let message = [b"writ audit checkpoint v1\n", &bytes[..136]].concat();
        public.verify(&message, &bytes[136..]).unwrap();
        before = digest(&SHA256, &bytes).as_ref().to_vec();
    }
}

#[test]
fn the_vectors_are_a_sound_log() {
    let dir = tempfile::tempdir().unwrap();
    let blocks: Vec<u8> = blocks().into_iter().flat_map(|(_, bytes)| bytes).collect();
    std::fs::write(dir.path().join("broker-000001.seg"), blocks).unwrap();
    std::fs::write(dir.path().join("checkpoints"), checkpoints().concat()).unwrap();
    let report = verify(dir.path(), &signer().verifier(), None).unwrap();
    assert_eq!(report.problems, []);
    assert_eq!(report.checkpoints, 2);
    let results: Vec<_> =
        Events::read(dir.path()).unwrap().map(|event| event.unwrap().outcome.result).collect();
    assert_eq!(results, [Verdict::Refused, Verdict::Unknown, Verdict::Unknown]);
}
