//! The session's CA in the forms that programs read: the bundle, the hash link, Java's key store.
//!
//! The key store is the old format JKS, because every Java reads it with its default settings and it is thirty lines; a PKCS#12 file made by
//! OpenSSL loads as empty. Its SHA-1 protects nothing here: the store has a well-known password anyway.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The name of the session CA's file in a directory of hashes. OpenSSL's `subject_hash` is the first four bytes, little-endian,
/// of SHA-1 over the canonical subject, which never changes: `CN=writ session root`.
pub(super) const HASH_LINK: &str = "3ddd8108.0";

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The host's bundle and our certificates after it.
pub(super) fn bundle(host: &[u8], extra: &[u8]) -> Vec<u8> {
    let mut all = host.to_vec();
    if !all.is_empty() && !all.ends_with(b"\n") {
        all.push(b'\n');
    }
    all.extend_from_slice(extra);
    all
}

/// The certificates of `pem` as a JKS key store. What is no certificate is passed over.
pub(super) fn key_store(pem: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(pem);
    let mut one_line = Vec::new();
    let mut decode = |body: &str| {
        one_line.clear();
        body.lines().for_each(|line| one_line.extend_from_slice(line.trim_ascii().as_bytes()));
        STANDARD.decode(&one_line).ok()
    };
    let bodies = text.split(BEGIN).skip(1).filter_map(|rest| rest.split_once(END));
    let certificates: Vec<Vec<u8>> = bodies.filter_map(|(body, _)| decode(body)).collect();
    let mut out = vec![0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2];
    out.extend(length(certificates.len()));
    for (index, certificate) in certificates.iter().enumerate() {
        out.extend(2_u32.to_be_bytes());
        utf(&mut out, &format!("writ-{index}"));
        out.extend(0_u64.to_be_bytes());
        utf(&mut out, "X.509");
        out.extend(length(certificate.len()));
        out.extend(certificate);
    }
    let mut keyed: Vec<u8> = PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    keyed.extend(b"Mighty Aphrodite");
    keyed.extend(&out);
    out.extend(sha1(&keyed));
    out
}

/// What every Java assumes.
const PASSWORD: &str = "changeit";

fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

/// Java's `writeUTF`, for short ASCII.
fn utf(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(text.as_bytes());
}

/// SHA-1 (FIPS 180-4 §6.1), for formats that demand it. Never for anything that must not be forged.
pub(super) fn sha1(data: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let whole = data.len() / 64 * 64;
    let (blocks, rest) = data.split_at(whole);
    let mut tail = rest.to_vec();
    tail.push(0x80);
    tail.resize(if tail.len() > 56 { 120 } else { 56 }, 0);
    tail.extend((data.len() as u64).wrapping_mul(8).to_be_bytes());
    for block in blocks.chunks_exact(64).chain(tail.chunks_exact(64)) {
        compress(&mut state, block);
    }
    let mut out = [0; 20];
    for (bytes, word) in out.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn compress(state: &mut [u32; 5], block: &[u8]) {
    let mut words = [0_u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for round in 16..80 {
        let (done, rest) = words.split_at_mut(round);
        if let ([.., w16, _, w14, _, _, _, _, _, w8, _, _, _, _, w3, _, _], Some(next)) =
            (&*done, rest.first_mut())
        {
            *next = (w3 ^ w8 ^ w14 ^ w16).rotate_left(1);
        }
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (round, word) in words.into_iter().enumerate() {
        let (mixed, constant) = match round {
            0..20 => (b & c | !b & d, 0x5a82_7999_u32),
            20..40 => (b ^ c ^ d, 0x6ed9_eba1),
            40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        let sum =
            a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant).wrapping_add(word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, sum);
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d, e]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }

    #[test]
    fn sha1_gives_the_published_digests() {
        for (data, digest) in [
            (b"".to_vec(), "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (b"abc".to_vec(), "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".to_vec(),
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
            (vec![b'a'; 1_000_000], "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
        ] {
            assert_eq!(hex(&sha1(&data)), digest);
        }
    }

    #[test]
    fn the_hash_link_is_openssls_hash_of_the_subject() {
        let name = b"writ session root";
        let mut subject = vec![0x31, 26, 0x30, 24, 6, 3, 0x55, 4, 3, 0x0c, 17];
        subject.extend(name);
        let [a, b, c, d, ..] = sha1(&subject);
        assert_eq!(format!("{:08x}.0", u32::from_le_bytes([a, b, c, d])), HASH_LINK);
    }

    #[test]
    fn a_bundle_without_a_last_newline_stays_readable() {
        assert_eq!(bundle(b"one", b"two"), b"one\ntwo");
        assert_eq!(bundle(b"", b"two"), b"two");
    }
}
