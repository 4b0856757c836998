//! What the cases share: a launcher as in production, and what the agent wrote.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    net::SocketAddr,
    os::fd::OwnedFd,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    stdio::dup2_stdout,
};
use writ_core::Door;
use writ_run::{
    Bytes, Event, NetworkPlan, Plan, Prepared, ProcessPlan, Running, StepFault, Terminal, View, Wishes,
};

/// Longer than anything here takes, unless it hangs.
pub const LONG: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// A launcher with its doors.
pub struct Lab {
    pub prepared: Prepared,
    pub doors: Vec<(Door, OwnedFd)>,
    pub proxy_port: u16,
}

impl Lab {
    /// As in production: undumpable, with threads, and with signals blocked.
    pub fn new() -> Self {
        assert!(writ_sys::harden_process().holds());
        writ_sys::SignalQueue::of(&[15, 2]).unwrap();
        std::thread::spawn(std::thread::park);
        let plan = NetworkPlan { captured: vec![80, 443, 22], proxy_port: 0 };
        let (prepared, doors, captured) = Prepared::new(&plan).unwrap();
        Self { prepared, doors, proxy_port: captured.proxy_port }
    }

    /// The doors of one kind: IPv4's first.
    pub fn take(&mut self, wanted: &Door) -> Vec<OwnedFd> {
        let (taken, left) = std::mem::take(&mut self.doors).into_iter().partition(|(door, _)| door == wanted);
        self.doors = left;
        let taken: Vec<(Door, OwnedFd)> = taken;
        taken.into_iter().map(|(_, socket)| socket).collect()
    }

    pub fn bind(&mut self, door: Door, address: &str) -> Result<OwnedFd, StepFault> {
        let address: SocketAddr = address.parse().unwrap();
        Ok(self.prepared.bind(&[(door, address)])?.remove(0).1)
    }

    /// This binary, as an agent that does what `name` says.
    pub fn agent(self, arguments: &[&str]) -> Running {
        self.start(own(arguments)).unwrap()
    }

    pub fn program(self, path: &str, arguments: &[&str]) -> Running {
        self.start(process(path, arguments)).unwrap()
    }

    pub fn start(self, process: ProcessPlan) -> Result<Running, StepFault> {
        self.start_in(process, false)
    }

    /// With the terminal, if `foreground`.
    pub fn start_in(self, process: ProcessPlan, foreground: bool) -> Result<Running, StepFault> {
        self.prepared.start(&Plan { view: view(), process }, &|| foreground)
    }
}

/// What an agent sees that works in the current directory, with a home in memory.
pub fn view() -> View {
    let directory = std::env::current_dir().unwrap();
    let wishes = Wishes { directory: directory.into(), ..Wishes::default() };
    let facts = writ_run::view::Facts::gather(writ_run::view::Host::look().unwrap(), &wishes).unwrap();
    writ_run::view::plan(&facts, &wishes).unwrap().view
}

pub fn own(arguments: &[&str]) -> ProcessPlan {
    let path = std::env::current_exe().unwrap();
    let mut plan = process(path.to_str().unwrap(), &[]);
    plan.arguments.extend(["agent"].iter().chain(arguments).map(|argument| Bytes::from(*argument)));
    plan
}

pub fn process(path: &str, arguments: &[&str]) -> ProcessPlan {
    ProcessPlan {
        path: path.into(),
        arguments: [path].iter().chain(arguments).map(|argument| Bytes::from(*argument)).collect(),
        environment: vec![("PATH".into(), "/usr/bin:/bin:/usr/sbin:/sbin".into())],
        directory: "/".into(),
        terminal: Terminal::OwnGroup,
    }
}

/// The next event, whenever it comes.
pub fn event(running: &mut Running) -> Event {
    loop {
        if let Some(event) = running.next().unwrap() {
            return event;
        }
        let mut watched = [PollFd::new(running, PollFlags::IN)];
        assert_ne!(poll(&mut watched, Some(&LONG)).unwrap(), 0, "nothing happens");
    }
}

/// How it ended; nothing else may happen before.
pub fn end(mut running: Running) -> ExitStatus {
    assert_eq!(event(&mut running), Event::Started);
    let Event::Ended { status } = event(&mut running) else { panic!("it did not just end") };
    assert_eq!(running.next().unwrap(), None);
    ExitStatus::from_raw(status)
}

/// What is written to standard output from now on, by us and by agents that start from now on.
pub struct Captured(File);

pub fn capture() -> Captured {
    let memory = memfd_create("output", MemfdFlags::CLOEXEC).unwrap();
    dup2_stdout(&memory).unwrap();
    Captured(memory.into())
}

impl Captured {
    pub fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.seek(SeekFrom::Start(0)).unwrap();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    pub fn text(&mut self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }
}

/// What an agent that must end well wrote.
pub fn told(arguments: &[&str]) -> String {
    let mut output = capture();
    let status = end(Lab::new().agent(arguments));
    let text = output.text();
    assert!(status.success(), "{status}\n{text}");
    text
}

/// What the same binary writes without confinement.
pub fn told_unconfined(arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.arg("agent").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
