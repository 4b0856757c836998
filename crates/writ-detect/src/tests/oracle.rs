//! What a stream should become, written as plainly as possible: no index, no searcher, no state.

/// A needle and what stands in its place.
pub(super) type Pair = (Vec<u8>, Vec<u8>);

/// The leftmost-longest replacement of `text`, and how many bytes at its end must wait because they may still
/// become (part of) a needle; none when `open` is false, that is when nothing follows.
pub(super) fn replace(pairs: &[Pair], text: &[u8], open: bool) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        if open && pairs.iter().any(|(needle, _)| needle.len() > rest.len() && needle.starts_with(rest)) {
            return (out, rest.len());
        }
        let mut best: Option<&Pair> = None;
        for pair in pairs {
            if rest.starts_with(&pair.0) && best.is_none_or(|(longest, _)| pair.0.len() > longest.len()) {
                best = Some(pair);
            }
        }
        match best {
            Some((needle, replacement)) => {
                out.extend_from_slice(replacement);
                at += needle.len();
            }
            None => {
                out.push(rest[0]);
                at += 1;
            }
        }
    }
    (out, 0)
}
