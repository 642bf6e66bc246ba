"""Programs and the outside network: what a policy grants works as natively, nothing else does, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from asynckvm.errors import UsageError
from asynckvm.platform import Machine
from asynckvm.sandbox import AllowConnect, Limits, NetworkRequest, Reason, Sandbox
from asynckvm.sandbox.grants import Grant
from support.pace import paced

SECONDS = paced(30)
FAR = "198.51.100.7"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Of a server on this host that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()


def python(*lines: str) -> list[str]:
    return ["python3", "-c", "\n".join(lines)]


async def test_without_a_policy_there_is_no_network(machine: Machine) -> None:
    async with Sandbox(machine=machine) as sandbox:
        result = await sandbox.run(python("import socket", f"socket.create_connection(({FAR!r}, 80))"), timeout=SECONDS)
    assert b"OSError: [Errno 101] Network is unreachable" in result.stderr


async def test_a_guest_s_loopback_is_its_own(port: int, machine: Machine) -> None:
    """Whatever is granted: a server of the host is not reached by it."""
    asked: list[NetworkRequest] = []

    def grant(request: NetworkRequest) -> bool:
        asked.append(request)
        return True

    code = f"""
import socket
for family, host in ((2, "127.0.0.1"), (2, "0.0.0.0"), (2, "127.9.9.9"), (10, "::1"), (10, "::ffff:127.0.0.1"), (10, "::")):
    try:
        socket.socket(family).connect((host, {port}))
    except ConnectionRefusedError:
        print("refused")
"""
    async with Sandbox(machine=machine, network=grant) as sandbox:
        result = await sandbox.run(["python3", "-c", code], timeout=SECONDS)
    assert (result.stdout, result.stderr) == (b"refused\n" * 6, b"")
    assert asked == []


async def test_much_both_ways(port: int, machine: Machine) -> None:
    """With blocking calls, which wait for room and for bytes."""
    code = f"""
import hashlib, os, socket, threading
sock = socket.create_connection(({FAR!r}, 7))
print(sock.getpeername(), sock.getsockname()[0])
data = os.urandom(1 << 20) * 4
threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))).start()
got = b"".join(iter(lambda: sock.recv(1 << 16), b""))
print(got == data)
"""
    async with Sandbox(machine=machine, network=AllowConnect(f"{FAR}:7=127.0.0.1:{port}")) as sandbox:
        result = await sandbox.run(["python3", "-c", code], timeout=SECONDS)
    assert (result.stdout.decode(), result.stderr) == (f"('{FAR}', 7) 192.0.2.1\nTrue\n", b"")


async def test_asyncio_inside(port: int, machine: Machine) -> None:
    """Connects that do not block, with epoll, of which some fail; the policy takes its time."""

    async def policy(request: NetworkRequest) -> Any:
        await asyncio.sleep(0.01)
        if request.port == 9:
            raise RuntimeError("a broken policy")
        return ("127.0.0.1", port) if request.port == 7 else request.port == 1

    code = f"""
import asyncio
async def talk(number):
    reader, writer = await asyncio.open_connection({FAR!r}, 7)
    writer.write(b"%d" % number * 1000)
    writer.write_eof()
    data = await reader.read()
    writer.close()
    return data == b"%d" % number * 1000
async def fail(port):
    try:
        await asyncio.open_connection({FAR!r}, port)
    except OSError as error:
        return error.errno
async def main():
    print(await asyncio.gather(*map(talk, range(20))), await fail(8), await fail(9))
asyncio.run(main())
"""
    with capture_logs() as logs:
        async with Sandbox(machine=machine, network=policy) as sandbox:
            result = await sandbox.run(["python3", "-c", code], timeout=SECONDS)
    assert (result.stdout.decode(), result.stderr) == (f"{[True] * 20} 13 13\n", b"")
    failed = {"request": f"tcp:{FAR}:9", "error": "RuntimeError('a broken policy')"}
    assert logs == [{"event": "policy_failed", "log_level": "error"} | failed]


async def test_a_time_out_of_the_program_s_own(machine: Machine) -> None:
    """Nobody takes connections there, as where packets are lost."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        name = full.getsockname()
        with socket.create_connection(name), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(name)
            code = f"import socket\ntry: socket.create_connection(({FAR!r}, 7), timeout=0.2)\nexcept TimeoutError: print('late')"
            async with Sandbox(machine=machine, network=lambda request: name) as sandbox:
                result = await sandbox.run(["python3", "-c", code], timeout=SECONDS)
    assert (result.stdout, result.stderr) == (b"late\n", b"")


async def test_a_program_that_waits_for_a_policy_can_be_killed(machine: Machine) -> None:
    asked = asyncio.Event()

    async def policy(request: NetworkRequest) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with Sandbox(machine=machine, network=policy) as sandbox, asyncio.timeout(SECONDS):
        for kind in ("SOCK_STREAM", "SOCK_DGRAM"):
            asked.clear()
            code = python("import socket", f"socket.socket(type=socket.{kind}).connect(({FAR!r}, 7))")
            running = asyncio.create_task(sandbox.run(code))
            await asked.wait()
            sandbox.kernel.kill_all("enough")
            assert (await running).detail == "enough"


async def test_a_sandbox_closed_in_mid_connection(port: int, machine: Machine) -> None:
    """The fixture of `machine` looks for what is left."""
    code = f"import socket; sock = socket.create_connection(({FAR!r}, 7)); sock.sendall(bytes(1 << 24))"
    async with Sandbox(machine=machine, network=AllowConnect(f"{FAR}:7=127.0.0.1:{port}")) as sandbox:
        running = asyncio.create_task(sandbox.run(["python3", "-c", code], timeout=SECONDS))
        async with asyncio.timeout(SECONDS):
            while not sandbox.kernel.network.outside.used:
                await asyncio.sleep(0.01)
    assert (await running).reason is Reason.CLOSED


async def test_the_bound(port: int, machine: Machine) -> None:
    code = f"""
import socket
kept = []
try:
    while True:
        kept.append(socket.create_connection(({FAR!r}, 7)))
except OSError as error:
    print(len(kept), error.errno)
"""
    network = AllowConnect(f"{FAR}:7=127.0.0.1:{port}")
    async with Sandbox(machine=machine, network=network, limits=Limits(host_sockets=5)) as sandbox:
        for _ in range(2):
            result = await sandbox.run(["python3", "-c", code], timeout=SECONDS)
            assert (result.stdout, result.stderr) == (b"5 105\n", b"")
            async with asyncio.timeout(SECONDS):
                while sandbox.kernel.network.outside.used:
                    await asyncio.sleep(0.01)


async def test_names_are_resolved_by_a_granted_resolver(machine: Machine, tmp_path: Any) -> None:
    """DNS is messages to the addresses of /etc/resolv.conf, which is empty unless one is bound."""
    with socket.socket(type=socket.SOCK_DGRAM) as resolver:
        resolver.bind(("127.0.0.1", 0))
        resolver.setblocking(False)

        def answer() -> None:
            query, address = resolver.recvfrom(1000)
            question = query[12 : query.index(b"\0", 12) + 5]
            records = bytes.fromhex("c00c00010001000000ff0004") + bytes((198, 51, 100, 9))
            is_v4 = question[-4:-2] == b"\0\1"
            header = query[:2] + bytes.fromhex("81800001") + (b"\0\1" if is_v4 else b"\0\0") + bytes(4)
            resolver.sendto(header + question + (records if is_v4 else b""), address)

        loop = asyncio.get_running_loop()
        loop.add_reader(resolver, answer)
        (tmp_path / "resolv.conf").write_text(f"nameserver {FAR}\n")
        grant = f"{FAR}:53/udp=127.0.0.1:{resolver.getsockname()[1]}"
        binds = [f"{tmp_path}/resolv.conf:/etc/resolv.conf"]
        async with Sandbox(machine=machine, network=AllowConnect(grant), binds=binds) as sandbox:
            code = python("import socket", "print(socket.gethostbyname('far.example'))")
            result = await sandbox.run(code, timeout=SECONDS)
        loop.remove_reader(resolver)
    assert (result.stdout, result.stderr) == (b"198.51.100.9\n", b"")


# ---------------------------------------------------------------- grants and the command


@pytest.mark.parametrize(
    ("text", "protocol", "address", "port", "answer"),
    [
        ("198.51.100.0/24:80", "tcp", "198.51.100.7", 80, True),
        ("198.51.100.0/24:80", "tcp", "198.51.101.7", 80, False),
        ("198.51.100.0/24:80", "udp", "198.51.100.7", 80, False),
        ("198.51.100.0/24:80", "tcp", "198.51.100.7", 81, False),
        ("198.51.100.7:*", "tcp", "198.51.100.7", 81, True),
        ("198.51.100.7:53/udp", "udp", "198.51.100.7", 53, True),
        ("0.0.0.0/0:*", "tcp", "2001:db8::7", 80, False),
        ("[2001:db8::]/32:80", "tcp", "2001:db8::7", 80, True),
        ("[::]/0:80", "tcp", "198.51.100.7", 80, False),
    ],
)
def test_grants(text: str, protocol: Any, address: str, port: int, answer: bool) -> None:
    import ipaddress

    request = NetworkRequest("connect", protocol, ipaddress.ip_address(address), port)
    assert AllowConnect("203.0.113.1:1", text)(request) is answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host.example:80",
        "1.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:70000",
        "2001:db8::7:80",
        "1.2.3.4:80=5",
        ":80",
        "1.2.3.4/8:1",
    ],
)
def test_what_is_no_grant(text: str) -> None:
    with pytest.raises(UsageError, match="not a grant"):
        Grant.parse(text)


@pytest.fixture
def web(tmp_path: Any) -> Iterator[int]:
    (tmp_path / "page").write_bytes(b"a page of the host\n" * 50_000)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"%d bytes" % len(body))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_address[1]
        server.shutdown()
        serving.join()


def test_the_web_from_the_command(web: int) -> None:
    code = f"""
import http.client, urllib.request
print(len(urllib.request.urlopen("http://{FAR}/page").read()))
connection = http.client.HTTPConnection("{FAR}")
for size in (10, 1000000):
    connection.request("POST", "/", bytes(size))
    print(connection.getresponse().read())
try: urllib.request.urlopen("http://{FAR}:81/")
except OSError as error: print(error)
"""
    argv = [sys.executable, "-m", "asynckvm", "run", "--cwd", "/tmp", "--allow-connect", f"{FAR}:80=127.0.0.1:{web}"]
    done = subprocess.run([*argv, "--", "python3", "-c", code], capture_output=True, timeout=SECONDS, text=True)
    assert done.stderr == ""
    shown = done.stdout.splitlines()
    assert shown == [str(19 * 50_000), "b'10 bytes'", "b'1000000 bytes'", "<urlopen error [Errno 13] Permission denied>"]
    wrong = subprocess.run([*argv, "--allow-connect", "nonsense", "--", "true"], capture_output=True, timeout=SECONDS)
    assert wrong.returncode == 2
    assert b"not a grant" in wrong.stderr
