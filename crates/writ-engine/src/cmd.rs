//! The source `cmd://`: a secret that a command prints, such as a password manager's.
//!
//! What follows `cmd://` is a command line. It is split into words without a shell and run with nothing but PATH and HOME, no
//! input, in a process group of its own, which is killed if it takes too long. What it prints on standard output is the secret; what it
//! prints on standard error goes into the fault, unless the secret is in it.

use std::{collections::HashSet, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};
use writ_core::{BoxFuture, Secret, Source, SourceFault};
use zeroize::Zeroizing;

use crate::{SECRET_MAX, fault, secret, words};

/// Runs a command.
pub struct Cmd;

const SCHEME: &str = "cmd";
const TIME_MAX: Duration = Duration::from_secs(10);
/// How much of the command's complaints a fault quotes.
const COMPLAINT_MAX: usize = 4 * 1024;
/// How much of a secret, found among the complaints, makes them unfit to be shown.
const WINDOW: usize = 8;

impl Source for Cmd {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn read<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Secret, SourceFault>> {
        Box::pin(async move { run(reference, TIME_MAX).await.map_err(|detail| fault(reference, detail)) })
    }

    fn example(&self) -> &'static str {
        "cmd://pass show openai"
    }
}

async fn run(reference: &str, time: Duration) -> Result<Secret, String> {
    let line = reference.strip_prefix("cmd://").ok_or("write cmd:// and a command line")?;
    let words = words::split(line)?;
    let [program, arguments @ ..] = words.as_slice() else {
        return Err("there is no command after cmd://".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Handed on, not interpreted: a command is found and finds its own files as it would from a terminal.
    for name in ["PATH", "HOME"] {
        std::env::var_os(name).into_iter().for_each(|value| {
            command.env(name, value);
        });
    }
    let child = command.spawn().map_err(|error| format!("{program} could not be started: {error}"))?;
    let mut group = Group { child, live: true };
    let answer = timeout(time, answer(&mut group.child)).await;
    match answer {
        Ok(Ok(answer)) => {
            group.live = false;
            answer
        }
        Ok(Err(error)) => Err(format!("{program} could not be read: {error}")),
        Err(_) => Err(format!("{program} took more than {} s and was stopped", time.as_secs_f32())),
    }
}

/// A command and everything that it started, ended when nobody waits any more.
struct Group {
    child: Child,
    live: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        // The leader is not reaped before its group is signaled, so the number cannot mean anybody else.
        let leader = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(leader) = leader.filter(|_| self.live) {
            // It may have ended meanwhile, which is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Reads both outputs to their ends and only then waits, which reaps.
async fn answer(child: &mut Child) -> std::io::Result<Result<Secret, String>> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (output, complaint) = tokio::try_join!(take(stdout, SECRET_MAX), take(stderr, COMPLAINT_MAX))?;
    let status = child.wait().await?;
    if !status.success() {
        return Ok(Err(format!("the command failed ({status}){}", quote(&complaint.bytes, &output.bytes))));
    }
    if output.more {
        return Ok(Err(format!("the command printed more than {} KiB", SECRET_MAX / 1024)));
    }
    let said = quote(&complaint.bytes, &output.bytes);
    let mut output = output.bytes;
    Ok(secret(std::mem::take(&mut *output)).ok_or_else(|| format!("the command printed nothing{said}")))
}

/// What one output carried, up to a limit.
struct Taken {
    bytes: Zeroizing<Vec<u8>>,
    /// There was more, which was thrown away.
    more: bool,
}

async fn take(stream: Option<impl AsyncRead + Unpin>, limit: usize) -> std::io::Result<Taken> {
    // Large enough from the start, so that growing leaves no copy behind.
    let mut taken = Taken { bytes: Zeroizing::new(Vec::with_capacity(limit)), more: false };
    let Some(mut stream) = stream else { return Ok(taken) };
    let mut buffer = Zeroizing::new([0; 4096]);
    loop {
        let read = stream.read(buffer.as_mut_slice()).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(taken) };
        let room = limit.saturating_sub(taken.bytes.len()).min(bytes.len());
        taken.bytes.extend_from_slice(bytes.get(..room).unwrap_or_default());
        taken.more |= room < bytes.len();
    }
}

/// The complaint in one line, or nothing where it repeats some of the output.
fn quote(complaint: &[u8], output: &[u8]) -> String {
    let line: String = String::from_utf8_lossy(complaint.trim_ascii())
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    match (line.is_empty(), repeats(complaint, output.trim_ascii())) {
        (true, _) => String::new(),
        (false, true) => ", and what it said is not shown, because it repeats its output".to_owned(),
        (false, false) => format!(": {line}"),
    }
}

fn repeats(complaint: &[u8], output: &[u8]) -> bool {
    let width = WINDOW.min(output.len());
    if width == 0 {
        return false;
    }
    let said: HashSet<&[u8]> = complaint.windows(width).collect();
    output.windows(width).any(|piece| said.contains(piece))
}

#[cfg(test)]
mod tests {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{PidfdFlags, pidfd_open},
    };

    use super::*;

    async fn check(line: &str) -> Result<Vec<u8>, String> {
        match Cmd.read(&format!("cmd://{line}")).await {
            Ok(secret) => Ok(secret.expose().to_owned()),
            Err(fault) => Err(fault.detail),
        }
    }

    #[tokio::test]
    async fn what_a_command_prints_is_the_secret() {
        assert_eq!(check("printf 'sk-1\\n'").await.unwrap(), b"sk-1");
        assert_eq!(check("printf '%s' 'a b' c").await.unwrap(), b"a bc");
        assert_eq!(check("cat").await.unwrap_err(), "the command printed nothing");
    }

    #[tokio::test]
    async fn a_command_gets_path_and_home_and_nothing_else() {
        let shown = String::from_utf8(check("env").await.unwrap()).unwrap();
        let names: Vec<&str> = shown.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        assert!(names.iter().all(|name| ["PATH", "HOME"].contains(name)), "{names:?}");
        assert!(names.contains(&"PATH"));
        // Cargo sets this for every test.
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
    }

    #[tokio::test]
    async fn a_fault_shows_the_complaint_and_never_the_output() {
        let fault = check("sh -c 'echo hunter2-hunter2; echo no such vault >&2; exit 3'").await.unwrap_err();
        assert!(
            fault.contains("no such vault") && fault.contains('3') && !fault.contains("hunter2"),
            "{fault}"
        );
        let fault =
            check("sh -c 'echo hunter2-hunter2; echo bad hunter2-hunter2 >&2; exit 3'").await.unwrap_err();
        assert!(!fault.contains("hunter2") && fault.contains("not shown"), "{fault}");
        let fault = check("sh -c 'printf \"a\\\\033[31mb\\\\nc\" >&2; exit 1'").await.unwrap_err();
        assert!(!fault.contains('\u{1b}') && !fault.contains('\n'), "{fault:?}");
    }

    #[tokio::test]
    async fn limits() {
        assert_eq!(check("head -c 65536 /dev/zero").await.unwrap().len(), SECRET_MAX);
        assert!(check("head -c 65537 /dev/zero").await.unwrap_err().contains("64 KiB"));
        let loud = check("sh -c 'head -c 200000 /dev/zero >&2; exit 1'").await.unwrap_err();
        assert!(loud.len() < COMPLAINT_MAX + 200);
        assert!(check("").await.unwrap_err().contains("no command"));
        assert!(check("no-such-program-of-writ").await.unwrap_err().contains("started"));
        assert!(check("echo $HOME").await.unwrap_err().contains("no shell"));
    }

    /// A child of the command holds the output open: it is ended, too.
    #[tokio::test]
    async fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
        let place = tempfile::tempdir().unwrap();
        let pid = place.path().join("pid");
        let line = format!("cmd://sh -c 'sleep 1000 & echo $! >{}; wait'", pid.display());
        let fault = run(&line, Duration::from_secs(2)).await.unwrap_err();
        assert!(fault.contains("took more than"), "{fault}");
        let pid: i32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
        let mut events = [PollFd::new(&process, PollFlags::IN)];
        let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(poll(&mut events, Some(&limit)).unwrap(), 1, "{pid} lives");
    }
}
