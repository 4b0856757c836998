//! A passphrase read from the terminal, without showing it.
//!
//! It is read from the controlling terminal and not from standard input, so that a pipe cannot answer in place of
//! the person. The terminal is switched to single characters, signals off: an interrupted prompt must
//! not leave the person with a terminal that shows nothing. So the few editing keys are handled here.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// The longest passphrase in bytes.
pub const PASSPHRASE_MAX: usize = 1024;

/// A terminal that does not show what is typed, until this is dropped.
#[derive(Debug)]
pub struct HiddenInput {
    terminal: OwnedFd,
    before: Termios,
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Switches off echo, line editing and signal keys of `terminal`, until the answer is dropped. Input that was typed
/// ahead is discarded, before and after. See `termios(3)`.
///
/// # Errors
/// `ENOTTY` if it is no terminal; otherwise the error of `tcgetattr` and `tcsetattr`.
pub fn hide_terminal_echo(terminal: &impl AsFd) -> io::Result<HiddenInput> {
    let terminal = terminal.as_fd().try_clone_to_owned()?;
    let before = tcgetattr(&terminal)?;
    let mut hidden = before.clone();
    hidden.local_modes -=
        LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden)?;
    Ok(HiddenInput { terminal, before })
}

/// Asks for a passphrase on the controlling terminal (`/dev/tty`) and returns it without its line end.
///
/// The memory that held it is wiped when it is dropped.
///
/// # Errors
/// `NotFound` or `ENXIO` if there is no controlling terminal, `Interrupted` for Ctrl-C, `UnexpectedEof`
/// for Ctrl-D on an empty line or a terminal that went away, `InvalidData` over [`PASSPHRASE_MAX`] bytes.
pub fn read_passphrase(prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
    read_passphrase_from(&terminal, prompt)
}

fn read_passphrase_from(mut terminal: &File, prompt: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let hidden = hide_terminal_echo(&terminal)?;
    terminal.write_all(prompt.as_bytes())?;
    let line = read_line(&mut terminal);
    drop(hidden);
    terminal.write_all(b"\n")?;
    line
}

/// Reads one line, byte by byte, with the editing keys of a terminal.
fn read_line(input: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Never grown beyond this, so that no copy stays behind where the bytes moved away from.
    let mut line = Zeroizing::new(Vec::with_capacity(PASSPHRASE_MAX));
    let mut key = Zeroizing::new([0_u8; 1]);
    loop {
        match input.read(key.as_mut_slice()) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        match *key {
            [b'\n' | b'\r'] => return Ok(line),
            [INTERRUPT] => return Err(io::ErrorKind::Interrupted.into()),
            [END] if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            [END] => return Ok(line),
            [ERASE_LINE] => line.clear(),
            [ERASE | BACKSPACE] => erase_character(&mut line),
            [_] if line.len() == PASSPHRASE_MAX => return Err(io::ErrorKind::InvalidData.into()),
            [byte] => line.push(byte),
        }
    }
}

/// Removes the last character, which in UTF-8 may be several bytes.
fn erase_character(line: &mut Vec<u8>) {
    while line.pop().is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000) {}
}

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const ERASE_LINE: u8 = 0x15;
const ERASE: u8 = 0x7f;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    fn pseudo_terminal() -> (File, File) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname(&person, Vec::new()).unwrap();
        let terminal = OpenOptions::new().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        (person.into(), terminal)
    }

    fn read_until(person: &mut File, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let mut byte = [0];
            person.read_exact(&mut byte).unwrap();
            seen.extend(byte);
        }
        String::from_utf8(seen).unwrap()
    }

    #[test]
    fn a_passphrase_is_not_shown_and_the_terminal_is_as_before() {
        let (mut person, terminal) = pseudo_terminal();
        let before = tcgetattr(&terminal).unwrap().local_modes;
        assert!(before.contains(LocalModes::ECHO));
        let typed = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_passphrase_from(&terminal, "Passphrase: ").unwrap());
            assert_eq!(read_until(&mut person, ": "), "Passphrase: ");
            person.write_all("hunteer\x7f\x7fr 2 é\n".as_bytes()).unwrap();
            assert_eq!(read_until(&mut person, "\n"), "\r\n", "nothing that was typed comes back");
            reader.join().unwrap()
        });
        assert_eq!(*typed, "hunter 2 é".as_bytes());
        assert_eq!(tcgetattr(&terminal).unwrap().local_modes, before);
    }

    #[test]
    fn an_interrupted_prompt_leaves_the_terminal_as_before() {
        let (mut person, terminal) = pseudo_terminal();
        let before = tcgetattr(&terminal).unwrap().local_modes;
        let result = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read_passphrase_from(&terminal, "? "));
            read_until(&mut person, "? ");
            person.write_all(b"abc\x03").unwrap();
            reader.join().unwrap()
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(tcgetattr(&terminal).unwrap().local_modes, before);
    }

    #[test]
    fn lines_are_edited_as_on_a_terminal() {
        let long = "x".repeat(PASSPHRASE_MAX);
        let read = |typed: &str| {
            let line = read_line(&mut typed.as_bytes()).map_err(|error| error.kind());
            line.map(|line| String::from_utf8(line.to_vec()).unwrap())
        };
        let expected: &[(String, Result<&str, io::ErrorKind>)] = &[
            ("abc\n".into(), Ok("abc")),
            ("abc\r".into(), Ok("abc")),
            ("abc\x04".into(), Ok("abc")),
            ("\n".into(), Ok("")),
            ("wrong\x15right\n".into(), Ok("right")),
            ("\x7f\x08ab\x08\n".into(), Ok("a")),
            ("aé\x7f\n".into(), Ok("a")),
            ("\x04".into(), Err(io::ErrorKind::UnexpectedEof)),
            ("no end".into(), Err(io::ErrorKind::UnexpectedEof)),
            ("abc\x03\n".into(), Err(io::ErrorKind::Interrupted)),
            (format!("{long}\n"), Ok(&long)),
            (format!("{long}x\n"), Err(io::ErrorKind::InvalidData)),
        ];
        for (typed, line) in expected {
            assert_eq!(read(typed), line.map(str::to_owned), "{typed:?}");
        }
    }

    #[test]
    fn what_is_no_terminal_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let error = hide_terminal_echo(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
    }
}
