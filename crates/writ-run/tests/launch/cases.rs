//! A launch that works: programs run as they would without us, and the network is ours.

use std::{
    fs::File,
    io::Write,
    net::{TcpListener, TcpStream, UdpSocket},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
};

use rustix::io::{FdFlags, fcntl_setfd};
use writ_core::Door;
use writ_run::{Bytes, Event, Step, Terminal, probe};

use crate::{
    Case,
    lab::{Lab, capture, end, event, own, process, told, told_unconfined, view},
};

pub const CASES: &[Case] = &[
    ("a_probe_launches_a_program_that_does_nothing", a_probe_launches),
    ("a_program_ends_as_it_would_without_us", endings),
    ("arguments_and_variables_arrive_as_they_are", arguments),
    ("a_program_starts_with_its_signals_free", signals_free),
    ("no_descriptor_is_inherited", descriptors),
    ("any_address_at_a_captured_port_leads_to_its_door", capture_all),
    ("other_ports_and_udp_are_refused_at_once", others_refused),
    ("names_are_asked_at_our_sockets", names),
    ("doors_are_added_on_loopback_and_at_addresses_of_names", added_doors),
    ("a_door_that_cannot_be_is_named", impossible_door),
    ("the_host_dials_in", dial),
    ("a_program_that_cannot_be_executed_is_named", not_executable),
    ("a_script_without_an_interpreter_is_the_shells", script),
    ("a_stop_is_told_and_a_resumed_program_goes_on", stops),
    ("signals_are_relayed", relayed),
    ("nobody_else_holds_the_output", output_ends),
];

fn a_probe_launches() {
    probe(view()).unwrap();
}

fn endings() {
    for code in [0, 1, 7, 255] {
        assert_eq!(end(Lab::new().agent(&["exit", &code.to_string()])).code(), Some(code));
    }
    for signal in [2, 9, 15] {
        assert_eq!(end(Lab::new().agent(&["die", &signal.to_string()])).signal(), Some(signal));
    }
}

fn arguments() {
    let mut plan = own(&["show"]);
    plan.arguments[0] = "named otherwise".into();
    plan.arguments.extend([Bytes(b"\xff\"\n".to_vec()), "".into()]);
    let pair = |name: &[u8], value: &[u8]| (Bytes(name.to_vec()), Bytes(value.to_vec()));
    plan.environment = vec![pair(b"Z", b"2"), pair(b"A", b"\xfe"), pair(b"Z", b"3")];
    let mut output = capture();
    // The harness reads its arguments as text, so it only looks at the first ones here.
    let mut script = process("/bin/cat", &["/proc/self/cmdline", "/proc/self/environ"]);
    script.arguments[0] = "named otherwise".into();
    script.environment = plan.environment;
    script.arguments.insert(1, "--".into());
    script.arguments.push(Bytes(b"/nowhere/\xff\"\n".to_vec()));
    assert_eq!(end(Lab::new().start(script).unwrap()).code(), Some(1), "there is no such file");
    let expected =
        b"named otherwise\0--\0/proc/self/cmdline\0/proc/self/environ\0/nowhere/\xff\"\n\0Z=2\0A=\xfe\0Z=3\0";
    assert_eq!(output.bytes(), expected);
}

/// The launcher blocks some, and our runtime ignores SIGPIPE. What our caller ignores stays ignored.
fn signals_free() {
    let set = |text: &str, name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        // 32 and 33 are the C library's own.
        u64::from_str_radix(line.trim(), 16).unwrap() & 0x7fff_ffff
    };
    let ours = std::fs::read_to_string("/proc/self/status").unwrap();
    let pipe = 1 << (libc::SIGPIPE - 1);
    assert_eq!(set(&ours, "SigIgn:") & pipe, pipe);
    let mut output = capture();
    assert!(end(Lab::new().program("/bin/cat", &["/proc/self/status"])).success());
    let text = output.text();
    assert_eq!(set(&text, "SigBlk:"), 0);
    assert_eq!(set(&text, "SigIgn:"), set(&ours, "SigIgn:") & !pipe);
}

fn descriptors() {
    let careless = File::open("/dev/zero").unwrap();
    fcntl_setfd(&careless, FdFlags::empty()).unwrap();
    assert!(told_unconfined(&["descriptors"]).contains("/dev/zero"));
    let text = told(&["descriptors"]);
    // The last one is the open directory.
    let numbers: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3"], "{text}");
    assert!(text.contains("3 /proc/"), "{text}");
}

fn capture_all() {
    let mut output = capture();
    let mut lab = Lab::new();
    let doors = lab.take(&Door::Capture { port: 443 });
    let [v4, v6] = <[OwnedFd; 2]>::try_from(doors).unwrap().map(TcpListener::from);
    let meant = ["1.2.3.4:443", "[2001:db8::1]:443", "[::ffff:5.6.7.8]:443"];
    let status = end(lab.agent(&["connect", meant[0], meant[1], meant[2]]));
    assert!(status.success(), "{}", output.text());
    assert_eq!(
        output.text(),
        "1.2.3.4:443 from 1.2.3.4\n[2001:db8::1]:443 from ::1\n[::ffff:5.6.7.8]:443 from ::ffff:5.6.7.8\n"
    );
    let reached = |listener: &TcpListener| listener.accept().unwrap().0.local_addr().unwrap().to_string();
    assert_eq!(
        [reached(&v4), reached(&v6), reached(&v4)],
        ["1.2.3.4:443", "[2001:db8::1]:443", "5.6.7.8:443"]
    );
}

fn others_refused() {
    let text = told(&["connect", "1.2.3.4:444", "[2001:db8::1]:8443", "127.0.0.1:5432"]);
    assert_eq!(text.matches("ConnectionRefused").count(), 3, "{text}");
    let text = told(&["udp", "1.2.3.4:443", "[2001:db8::1]:53", "8.8.8.8:53"]);
    assert_eq!(text.matches("Err(ConnectionRefused)").count(), 3, "{text}");
}

fn names() {
    let mut output = capture();
    let mut lab = Lab::new();
    let udp: UdpSocket = lab.take(&Door::DnsUdp).remove(0).into();
    let tcp: TcpListener = lab.take(&Door::DnsTcp).remove(0).into();
    let proxy: TcpListener = lab.take(&Door::Proxy).remove(0).into();
    let proxied = format!("127.0.0.1:{}", lab.proxy_port);
    let answering = std::thread::spawn(move || {
        let (_, from) = udp.recv_from(&mut [0; 16]).unwrap();
        udp.send_to(b"!", from).unwrap();
    });
    assert!(end(lab.agent(&["udp", "127.0.0.53:53"])).success());
    answering.join().unwrap();
    assert_eq!(output.text(), "127.0.0.53:53 Ok(1)\n");
    assert_eq!(tcp.local_addr().unwrap().to_string(), "127.0.0.53:53");
    assert_eq!(proxy.local_addr().unwrap().to_string(), proxied);
}

fn added_doors() {
    let mut output = capture();
    let mut lab = Lab::new();
    let authority = "db.example:5432".parse().unwrap();
    let named = Door::Named { authority };
    let local = Door::Local { port: 6379 };
    let addresses = ["127.0.0.1:6379", "[::1]:6379", "198.18.0.7:5432", "[fd00:77::7]:5432"];
    let doors = [local.clone(), local, named.clone(), named];
    let listeners: Vec<TcpListener> =
        doors.into_iter().zip(addresses).map(|(door, at)| lab.bind(door, at).unwrap().into()).collect();
    let all = [&["connect"][..], &addresses, &["198.18.0.8:5432"]].concat();
    assert!(end(lab.agent(&all)).success());
    let text = output.text();
    assert_eq!(text.matches(" from ").count(), 4, "{text}");
    assert!(text.ends_with("198.18.0.8:5432 ConnectionRefused\n"), "{text}");
    for (listener, address) in listeners.iter().zip(addresses) {
        assert_eq!(listener.accept().unwrap().0.local_addr().unwrap().to_string(), address);
    }
}

fn impossible_door() {
    let mut lab = Lab::new();
    let fault = lab.bind(Door::Local { port: 443 }, "127.0.0.1:443").unwrap_err();
    assert_eq!((fault.step, fault.errno), (Step::Door, libc::EADDRINUSE));
    assert_eq!(fault.what, "127.0.0.1:443");
}

fn dial() {
    let (mut written, output) = std::io::pipe().unwrap();
    rustix::stdio::dup2_stdout(&output).unwrap();
    drop(output);
    let mut running = Lab::new().agent(&["serve", "127.0.0.1:3000"]);
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null").unwrap()).unwrap();
    let mut line = [0; 10];
    std::io::Read::read_exact(&mut written, &mut line).unwrap();
    assert_eq!(&line, b"listening\n");

    let address: std::net::SocketAddr = "127.0.0.1:3000".parse().unwrap();
    assert!(TcpStream::connect(address).is_err(), "it is not on the host's network");
    let v6 = running.dial(true).unwrap();
    assert!(rustix::net::connect(&v6, &"[::1]:3000".parse::<std::net::SocketAddr>().unwrap()).is_err());
    let socket = running.dial(false).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    TcpStream::from(socket).write_all(b"hello").unwrap();
    assert_eq!(std::io::read_to_string(written).unwrap(), "127.0.0.1 hello\n");
    assert_eq!(event(&mut running), Event::Started);
    assert_eq!(event(&mut running), Event::Ended { status: 0 });
    assert!(running.dial(false).is_err());
}

fn not_executable() {
    for (path, errno) in [("/nowhere/program", libc::ENOENT), ("/etc/passwd", libc::EACCES)] {
        let fault = Lab::new().start(process(path, &[])).unwrap_err();
        assert_eq!((fault.step, fault.errno, fault.what.as_str()), (Step::Execute, errno, path));
    }
    let mut plan = process("/bin/true", &[]);
    plan.directory = "/nowhere".into();
    let fault = Lab::new().start(plan).unwrap_err();
    assert_eq!((fault.step, fault.errno), (Step::WorkTree, libc::ENOENT));
}

fn script() {
    let path = std::env::current_dir().unwrap().join("script");
    std::fs::write(&path, "echo \"$0 $1\"\n").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut output = capture();
    assert!(end(Lab::new().program(path.to_str().unwrap(), &["one"])).success());
    assert_eq!(output.text(), format!("{} one\n", path.display()));
}

fn stops() {
    let mut running = Lab::new().program("/bin/sh", &["-c", "kill -TSTP $$; exec sleep 600"]);
    assert_eq!(event(&mut running), Event::Started);
    assert_eq!(event(&mut running), Event::Stopped { signal: libc::SIGTSTP });
    running.resume(None).unwrap();
    assert_eq!(event(&mut running), Event::Continued);
    running.signal(libc::SIGTERM).unwrap();
    assert_eq!(event(&mut running), Event::Ended { status: libc::SIGTERM });
}

/// To the whole group if it leads one, and to the program in any case.
fn relayed() {
    for terminal in [Terminal::OwnGroup, Terminal::CallersGroup] {
        let mut plan = process("/bin/sleep", &["600"]);
        plan.terminal = terminal;
        let mut running = Lab::new().start(plan).unwrap();
        running.signal(libc::SIGTERM).unwrap();
        assert_eq!(event(&mut running), Event::Started);
        assert_eq!(event(&mut running), Event::Ended { status: libc::SIGTERM });
    }
}

/// A program that closes its output is seen to by whoever reads it, although the stages go on.
fn output_ends() {
    let (written, output) = std::io::pipe().unwrap();
    rustix::stdio::dup2_stdout(&output).unwrap();
    drop(output);
    let mut running = Lab::new().program("/bin/sh", &["-c", "echo x; exec >&-; sleep 600"]);
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null").unwrap()).unwrap();
    assert_eq!(std::io::read_to_string(written).unwrap(), "x\n");
    assert_eq!(event(&mut running), Event::Started);
    running.kill().unwrap();
}
