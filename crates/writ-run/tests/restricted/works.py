"""What must go on working: `works.py NAME ARGUMENT…` exits with 0 if it did."""
import os
import multiprocessing
import socket
import sys
import tempfile
import threading


def say(connection):
    connection.settimeout(10)
    word = connection.recv(16)
    assert word == b"proxy", word


def echo(server):
    def serve():
        while True:
            connection, _ = server.accept()
            connection.sendall(b"own")
            connection.close()
    threading.Thread(target=serve, daemon=True).start()


def own(connection):
    connection.settimeout(10)
    word = connection.recv(16)
    assert word == b"own", word
    connection.close()


def own_servers():
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        server = socket.create_server((host, 0), family=family)
        echo(server)
        port = server.getsockname()[1]
        own(socket.create_connection((host, port), timeout=10))
        if family == socket.AF_INET:
            own(socket.create_connection(("localhost", port), timeout=10))
    for place in ("server.sock", os.path.join(tempfile.gettempdir(), "server.sock"), "\0writ-own-%d" % os.getpid()):
        server = socket.socket(socket.AF_UNIX)
        server.bind(place)
        server.listen()
        echo(server)
        client = socket.socket(socket.AF_UNIX)
        client.connect(place)
        own(client)
        if not place.startswith("\0"):
            client = socket.socket(socket.AF_UNIX)
            client.connect(os.path.abspath(place))
            own(client)


def nobody():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10)
        except ConnectionRefusedError:
            pass
        else:
            raise AssertionError("connected")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind("dead.sock")
    dead.close()
    for path, error in (("dead.sock", ConnectionRefusedError), ("absent.sock", FileNotFoundError)):
        try:
            socket.socket(socket.AF_UNIX).connect(path)
        except error:
            continue
        raise AssertionError(path)


def many(port):
    """Threads and processes that connect at once, blocking and not."""
    failed = []

    def connecting():
        try:
            for turn in range(25):
                with socket.socket() as connection:
                    connection.settimeout(10 if turn % 2 else None)
                    connection.connect(("127.0.0.1", int(port)))
                    say(connection)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=connecting) for _ in range(16)]
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                connecting()
            finally:
                os._exit(1 if failed else 0)
        children.append(pid)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert not failed, failed


def daemon(port):
    """A process whose parents are gone connects as well."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while os.getppid() == 1:
                break
            connection = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
            say(connection)
            os.write(writer, b"y")
            os._exit(0)
        os._exit(0)
    os.wait()
    os.close(writer)
    assert os.read(reader, 1) == b"y"


def interfaces():
    assert "lo" in [name for _, name in socket.if_nameindex()]
    assert socket.getaddrinfo("localhost", 80)


def files(home):
    with open(os.path.expanduser("~/.config-of-a-tool"), "w") as file:
        file.write("x")
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
    with open("made", "w") as file:
        file.write("x")
    os.rename("made", "renamed")
    os.makedirs("a/b", exist_ok=True)
    os.rename("renamed", "a/b/renamed")
    os.symlink("a", "symbolic")
    with open("a/b/renamed") as file:
        assert file.read() == "x"
    assert os.environ["HOME"] != home
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]


globals()[sys.argv[1]](*sys.argv[2:])
