"""What a hostile program tries. `attacks.py NAME ARGUMENT…` exits with 0 if it obtained what it was after and with 1 if it was refused.

The same script runs confined and unconfined: an attack that fails in both proves nothing.
"""
import ctypes
import os
import signal
import socket
import struct
import sys
import threading

libc = ctypes.CDLL(None, use_errno=True)


def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def read(path):
    with open(path, "rb") as file:
        return len(file.read()) > 0


def memory(pid):
    with open(f"/proc/{pid}/maps") as maps:
        line = next(line for line in maps if "[stack]" in line)
    begin, end = (int(word, 16) for word in line.split()[0].split("-"))
    with open(f"/proc/{pid}/mem", "rb") as file:
        file.seek(begin)
        return b"canary" in file.read(end - begin)


def tcp(host, port):
    return socket.create_connection((host, int(port)), timeout=10)


def greeted(connection):
    """Whether whoever answers is the host's service, which says so."""
    connection.settimeout(10)
    return connection.recv(64) == b"host"


def multipath(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as connection:
        connection.connect((host, int(port)))
        return greeted(connection)


def fast_open(host, port):
    with socket.socket() as connection:
        connection.sendto(b"x", socket.MSG_FASTOPEN, (host, int(port)))
        return greeted(connection)


def fast_open_message(host, port):
    with socket.socket() as connection:
        connection.sendmsg([b"x"], [], socket.MSG_FASTOPEN, (host, int(port)))
        return greeted(connection)


def fast_open_option(host, port):
    with socket.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, 30, 1)
        return True


def udp(host, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"x", (host, int(port))) == 1


def raw():
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return True


def packet():
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return True


def io_uring():
    parameters = ctypes.create_string_buffer(120)
    return call(425, 4, parameters) >= 0


def source_route():
    with socket.socket() as connection:
        # Loose source and record route, one hop.
        connection.setsockopt(socket.IPPROTO_IP, 4, bytes([131, 7, 4, 192, 0, 2, 1, 0]))
        return True


def device():
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, 25, b"lo\0")
        return True


def unix(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as connection:
        connection.connect(path)
        return greeted(connection)


def unix_relative(path):
    os.chdir(os.path.dirname(path))
    return unix(os.path.basename(path))


def unix_by_link(path):
    link = f"link-{os.getpid()}"
    os.symlink(path, link)
    return unix(link)


def unix_renamed(path):
    """Puts the host's socket where an own one listened."""
    own, moved = f"own-{os.getpid()}", f"{path}.moved"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(own)
        server.listen()
        os.rename(path, moved)
        try:
            os.rename(moved, own)
            return unix(own)
        finally:
            os.rename(own, path)


def unix_datagram(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        return sender.sendmsg([b"x"], [], 0, path) == 1


def unix_datagram_of_a_pair(path):
    sender, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return sender.sendto(b"x", path) == 1


def reuse(host, port):
    """Listens beside the host's service, so that the address looks like one's own."""
    for name in (host, "0.0.0.0", "127.0.0.3"):
        try:
            own = socket.socket()
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            own.bind((name, int(port)))
            own.listen()
        except OSError:
            pass
    return greeted(tcp(host, port))


def flip(good, bad):
    """Changes the address while it is being judged."""
    def address(port):
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", int(port), socket.inet_aton("127.0.0.1"))
    memory = ctypes.create_string_buffer(address(good), 16)
    others = [address(good)[2:4], address(bad)[2:4]]
    done = False

    def flipping():
        while not done:
            for other in others:
                ctypes.memmove(ctypes.addressof(memory) + 2, other, 2)

    thread = threading.Thread(target=flipping)
    thread.start()
    try:
        for _ in range(400):
            with socket.socket() as connection:
                result = libc.connect(connection.fileno(), memory, 16)
                if result == 0 and connection.getpeername()[1] == int(bad):
                    return True
        return False
    finally:
        done = True
        thread.join()


def exchange(good, bad):
    """Exchanges the socket while it is being judged: what counts is where any of them ended up."""
    number, done, pair = os.dup(0), False, []

    def exchanging():
        while not done:
            for one in pair:
                os.dup2(one, number)

    thread = threading.Thread(target=exchanging)
    thread.start()
    try:
        for port in [int(good), int(bad)] * 200:
            address = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, socket.inet_aton("127.0.0.1"))
            sockets = [socket.socket(), socket.socket()]
            pair = [one.fileno() for one in sockets]
            os.dup2(pair[0], number)
            libc.connect(number, address, 16)
            pair = []
            for one in sockets:
                try:
                    if one.getpeername()[1] == int(bad):
                        return True
                except OSError:
                    pass
        return False
    finally:
        done = True
        thread.join()


def trace(pid):
    if libc.ptrace(0x4206, int(pid), None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    return True


def take_descriptor(pid):
    return call(438, os.pidfd_open(int(pid)), 0, 0) >= 0


def limit(pid):
    import resource
    resource.prlimit(int(pid), resource.RLIMIT_NPROC, resource.prlimit(int(pid), resource.RLIMIT_NPROC))
    return True


def launcher():
    os.kill(os.getppid(), 0)
    return True


def terminal(path):
    """Another window of the person's."""
    with open(os.open(path, os.O_RDWR | os.O_NOCTTY), "wb", buffering=0) as window:
        return window.write(b"x") == 1


def mount():
    os.makedirs("mounted", exist_ok=True)
    if libc.mount(b"none", b"mounted", b"tmpfs", 0, None) != 0:
        raise OSError(ctypes.get_errno(), "mount")
    libc.umount2(b"mounted", 2)
    return True


def capable():
    with open("/proc/self/status") as status:
        return any(int(line.split()[1], 16) for line in status if line.startswith(("CapEff", "CapPrm", "CapBnd")) and
                   (os.getuid() == 0 or not line.startswith("CapBnd")))


def descriptors():
    return any(int(name) > 2 and not os.readlink(f"/proc/self/fd/{name}").startswith("/proc/")
               for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}"))


def append(path):
    with open(path, "a") as file:
        file.write("")
    return True


def move_in(path):
    os.link(path, f"taken-{os.getpid()}")
    return read(f"taken-{os.getpid()}")


def root_of(pid, path):
    return read(f"/proc/{pid}/root{path}")


ATTACKS = {
    "read": read,
    "list": lambda path: len(os.listdir(path)) > 0,
    "append": append,
    "move-in": move_in,
    "environment": lambda pid: b"canary" in open(f"/proc/{pid}/environ", "rb").read(),
    "memory": memory,
    "root": root_of,
    "cwd": lambda pid: bool(os.readlink(f"/proc/{pid}/cwd")),
    "signal": lambda pid: os.kill(int(pid), signal.SIGCONT) is None,
    "launcher": launcher,
    "trace": trace,
    "take-descriptor": take_descriptor,
    "limit": limit,
    "tcp": lambda host, port: greeted(tcp(host, port)),
    "multipath": multipath,
    "fast-open": fast_open,
    "fast-open-message": fast_open_message,
    "fast-open-option": fast_open_option,
    "udp": udp,
    "raw": raw,
    "packet": packet,
    "io-uring": io_uring,
    "source-route": source_route,
    "device": device,
    "unix": unix,
    "abstract": lambda name: unix("\0" + name),
    "unix-relative": unix_relative,
    "unix-by-link": unix_by_link,
    "unix-renamed": unix_renamed,
    "unix-datagram": unix_datagram,
    "unix-pair": unix_datagram_of_a_pair,
    "reuse": reuse,
    "flip": flip,
    "exchange": exchange,
    "terminal": terminal,
    "mount": mount,
    "capable": capable,
    "descriptors": descriptors,
}

if __name__ == "__main__":
    # So that threads that race do so.
    sys.setswitchinterval(1e-5)
    try:
        obtained = ATTACKS[sys.argv[1]](*sys.argv[2:])
    except OSError as error:
        print(f"refused: {error}")
        sys.exit(1)
    print("obtained" if obtained else "nothing")
    sys.exit(0 if obtained else 1)
