//! What the agent does: one word each. It writes what it found to standard output; errors by the name of their kind.

use std::{
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::ExitCode,
    time::Duration,
};

/// When nothing comes back from nowhere.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(name: &str, arguments: &[&str]) -> ExitCode {
    match (name, arguments) {
        ("exit", [code]) => return ExitCode::from(code.parse::<u8>().unwrap()),
        ("die", [signal]) => writ_sys::raise_to_signal_death(signal.parse().unwrap()),
        ("show", _) => show(),
        ("read", files) => files.iter().for_each(|file| read(file)),
        ("status", _) => print!("{}", fs::read_to_string("/proc/self/status").unwrap()),
        ("descriptors", _) => descriptors(),
        ("connect", addresses) => addresses.iter().for_each(|address| connect(address)),
        ("udp", addresses) => addresses.iter().for_each(|address| udp(address)),
        ("serve", [address]) => serve(address),
        ("sockets", families) => families.iter().for_each(|family| socket(family)),
        other => panic!("{other:?}"),
    }
    ExitCode::SUCCESS
}

/// Its arguments and variables, as the kernel has them.
fn show() {
    for file in ["/proc/self/cmdline", "/proc/self/environ"] {
        io::stdout().write_all(&fs::read(file).unwrap()).unwrap();
        io::stdout().write_all(b"\n").unwrap();
    }
}

fn read(file: &str) {
    match fs::read(file) {
        Ok(_) => println!("{file} readable"),
        Err(error) => println!("{file} {:?}", error.kind()),
    }
}

fn descriptors() {
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        println!(
            "{} {}",
            entry.file_name().display(),
            fs::read_link(entry.path()).unwrap_or_default().display()
        );
    }
}

fn connect(address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    match TcpStream::connect(address) {
        Ok(stream) => println!("{address} from {}", stream.local_addr().unwrap().ip()),
        Err(error) => println!("{address} {:?}", error.kind()),
    }
}

fn udp(address: &str) {
    let unspecified = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(unspecified).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent = socket.connect(address).and_then(|()| socket.send(b"?"));
    let answer = sent.and_then(|_| socket.recv(&mut [0; 16]));
    println!("{address} {:?}", answer.map_err(|error| error.kind()));
}

/// Accepts one connection and says what came.
fn serve(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    println!("listening");
    let (stream, peer) = listener.accept().unwrap();
    println!("{} {}", peer.ip(), io::read_to_string(stream).unwrap());
}

fn socket(family: &str) {
    use rustix::net::{AddressFamily, SocketType};

    let raw = AddressFamily::from_raw(family.parse().unwrap());
    let kind = if family == "38" { SocketType::SEQPACKET } else { SocketType::STREAM };
    match rustix::net::socket(raw, kind, None) {
        Ok(_) => println!("{family} open"),
        Err(error) => println!("{family} {:?}", error.kind()),
    }
}
