//! Random bytes of the kernel's.
//!
//! The library that does our cryptography seeds its own generator from the jitter of the processor's clock, once a process, which takes
//! tens of milliseconds. A process that lives for one launch and needs one password asks the kernel instead.

use std::io;

/// The most that the kernel gives at once (`getentropy(3)`).
pub const RANDOM_MAX: usize = 256;

/// Fills `bytes` with random bytes that are good for keys. It waits only where the machine has just started.
///
/// # Errors
/// `EIO` for more than [`RANDOM_MAX`] bytes, `ENOSYS` where the kernel is older than Linux 3.17.
pub fn random(bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of one slice that is ours alone for the call.
    let failed = unsafe { libc::getentropy(bytes.as_mut_ptr().cast(), bytes.len()) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_all_of_it_and_never_the_same() {
        let mut one = [0; RANDOM_MAX];
        let mut other = one;
        random(&mut one).unwrap();
        random(&mut other).unwrap();
        assert_ne!(one, other);
        // A part that stayed as it was would have 64 zeros in a row.
        assert!(one.chunks(64).all(|part| part.iter().any(|byte| *byte != 0)));
        assert!(random(&mut [0; RANDOM_MAX + 1]).is_err());
    }
}
