//! While a confined program works: nothing of a key in the memory, environment, mappings and descriptors of any process around
//! it, nor in any file that it can read itself.

#![expect(clippy::unwrap_used, reason = "clippy does not see that the helpers here are tests")]

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::time::Duration;

use rustix::process::Pid;
use writ_testkit::{Provider, Scene, SceneConfig};

const WRIT: &str = env!("CARGO_BIN_EXE_writ");
const PATIENCE: Duration = Duration::from_secs(60);
/// A mapping of which so much is read at the most, bytes.
const MAPPING_MAX: u64 = 256 << 20;

/// Calls, then prints every file that it can read outside of the trees of the system and of installed tools, then holds a response open.
const AGENT: &str = r#"
curl -sS -H "Authorization: Bearer $OPENAI_API_KEY" https://api.openai.com/echo
find / \( -path /proc -o -path /sys -o -path /usr -o -path /opt -o -path /dev -o -path /var/lib -o -path /root \) -prune \
    -o -type f -size -1024k -exec cat {} + 2>/dev/null
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null
echo; echo "read everything"
curl -sS --no-buffer -H "Authorization: Bearer $OPENAI_API_KEY" 'https://api.openai.com/wait?gate=go'
"#;

/// The launcher and everything below it.
fn tree(root: Pid) -> Vec<i32> {
    let mut found = vec![root.as_raw_nonzero().get()];
    let parents: Vec<(i32, i32)> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?))
        })
        .collect();
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// Everything of a process that a debugger sees and that it can have written, and how many bytes of memory that was.
fn search(scene: &Scene, pid: i32) -> usize {
    for name in ["environ", "cmdline", "maps"] {
        let read = fs::read(format!("/proc/{pid}/{name}")).unwrap();
        assert_eq!(scene.windows(&read), 0, "{name} of {pid}");
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
        let state = scene.home.writ_home().join("state");
        // The stage holds the lock of the home's layer.
        let ours = target.starts_with(&state) && !target.starts_with(state.join("layers"));
        assert!(!ours, "{target:?} is open in {pid}");
    }
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut searched = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|bound| u64::from_str_radix(bound, 16).unwrap());
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(start)).unwrap();
        // What cannot be read is nobody's to read.
        let _ = (&memory).take((end - start).min(MAPPING_MAX)).read_to_end(&mut bytes);
        assert_eq!(scene.windows(&bytes), 0, "{line} of {pid}");
        searched += bytes.len();
    }
    searched
}

#[test]
fn nothing_of_a_key_is_within_reach_of_a_confined_program() {
    let config = SceneConfig::of(&[Provider::OpenAi]).options(&["--require", "confined"]);
    let scene = config.start(WRIT).unwrap();
    let run = scene.spawn(&["sh", "-c", AGENT]).unwrap();
    assert!(scene.standin.wait_seen(PATIENCE, |seen| seen.iter().any(|s| s.path == "/wait")));
    let processes = tree(run.pid().unwrap());
    assert!(processes.len() >= 5, "launcher, stage, init, sh, curl: {processes:?}");
    let searched: usize = processes.iter().map(|pid| search(&scene, *pid)).sum();
    assert!(searched > 1 << 20, "{searched} bytes of memory");
    scene.standin.open_gate("go");
    let ran = run.wait(PATIENCE).unwrap();
    assert_eq!(ran.code, Some(0), "{}", ran.err());
    assert!(ran.out().contains("read everything") && ran.stdout.len() > 100_000, "{}", ran.err());
    assert_eq!(scene.windows(&ran.both()), 0);
    assert!(scene.wrongs().is_empty());
    scene.home.close().unwrap();
}
