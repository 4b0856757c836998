//! Finds known secrets in byte streams and replaces them.
//!
//! The proxy puts a credential on the wire; some upstreams send it back: in an echo, an error page, a
//! debug header. This crate takes it out again, in the response's body and headers.
//!
//! ```text
//! what was rendered ──► Needles ──Arc──► Scrubber ── push(piece) ──► pieces without the secret
//! (key, Basic pair)     once per lease   one per response            hold(), flush()
//!                          └──────────── scrub_value(header value)
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `needles` | [`Needles`]: the set of byte strings to find, and the search for the next one |
//! | `encode` | the spellings of a secret: base64, percent, JSON, HTML, hex |
//! | `scrub` | [`Scrubber`]: the state of one stream between two pieces |
//!
//! ```
//! use std::sync::Arc;
//! use bytes::Bytes;
//! use writ_detect::{NeedleSource, Needles, Scrubber};
//!
//! let key = NeedleSource { value: b"sk-live-0123456789", replacement: b"[writ:shop]" };
//! let needles = Arc::new(Needles::new(&[key])?);
//!
//! let (mut scrubber, mut out) = (Scrubber::new(needles), Vec::<Bytes>::new());
//! scrubber.push(Bytes::from_static(b"your key is sk-live-01"), &mut out);
//! assert_eq!((out.concat().as_slice(), scrubber.hold()), (&b"your key is "[..], 10));
//! scrubber.push(Bytes::from_static(b"23456789!"), &mut out);
//! scrubber.flush(&mut out);
//! assert_eq!(out.concat(), b"your key is [writ:shop]!");
//! # Ok::<(), writ_detect::NeedleFault>(())
//! ```
//!
//! # What no scrubber can catch
//!
//! The real defense is that the agent never holds the credential. Scrubbing covers *accidents, echoes and
//! lazy encodings*, and a caller must not promise more:
//!
//! * an upstream that wants to leak can encrypt, reverse, split or paraphrase the secret;
//! * an encoding of an encoding is not searched for: base64 twice, base64 inside a JSON string whose writer
//!   escapes `/`, percent-encoded base64, JSON inside JSON where the secret has characters to escape (a
//!   rendered Basic credential is found so, if the caller makes it a source of its own);
//! * nor is a mixture within one secret: one `%XX` among plain letters, `%2f` beside `%2F`, line breaks of
//!   MIME base64, separators or zero-width characters in between, changed case of letters;
//! * nor base32, UTF-16, quoted-printable, shell quoting, `\xXX`, zero-padded numeric entities;
//! * parts of a secret: half of it, or its first twelve characters, are not it. An encoded secret of which the
//!   first or last base64 character also carries a neighbor's bits leaves that character (up to 4 bits each);
//! * compressed bytes: decode first;
//! * a secret that lies across a [`Scrubber::flush`].
//!
//! It also does no *detection of unknown secrets* (rules, entropy): there is nothing here but exact search.

mod encode;
mod needles;
mod scrub;

pub use needles::{MAX_SOURCES, MAX_VALUE_LEN, MIN_NEEDLE_LEN, NeedleFault, NeedleSource, Needles};
pub use scrub::Scrubber;

#[cfg(test)]
mod tests;
