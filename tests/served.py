"""A running `edge-demo --serve` or `edge-demo web`, and ways to ask it: well, and badly."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import re
import signal
import socket
import subprocess
import tempfile
import urllib.parse
from pathlib import Path

from helpers import BIN, until

from edge_demo.server import live_page
from edge_demo.sources.source import Source

# path -> methods; everything else is refused
ROUTES = {
    "/": ("GET", "HEAD"),
    "/stream": ("GET", "HEAD"),
    "/snapshot.jpg": ("GET", "HEAD"),
    "/result.json": ("GET", "HEAD"),
    "/classify": ("POST",),
    "/health": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
}
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@dataclasses.dataclass(frozen=True)
class Served:
    """process: of the command; out, err: what it has written so far; url: where it says that it is."""

    process: subprocess.Popen
    out: Path
    err: Path
    url: str

    @property
    def address(self) -> tuple[str, int]:
        found = urllib.parse.urlsplit(self.url)
        return found.hostname, found.port

    def ask(self, path, method="GET", body=None, headers=()):
        return ask(self.url, path, method, body, headers)

    def tell(self, data):
        """Sends bytes as they are, and gives what came back, up to 1 MB."""
        with socket.create_connection(self.address, timeout=60) as connection:
            received = b""
            with contextlib.suppress(OSError):  # it may have had enough of them
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while len(received) < 1e6 and (part := connection.recv(1 << 16)):
                    received += part
            return received

    def number(self, name):
        """Of `/proc/PID/status`: Threads, VmRSS in kB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])

    def metric(self, sample):
        """The value of a sample of /metrics."""
        return float(re.search(rf"^{re.escape(sample)} (.*)$", self.ask("/metrics").text, re.M)[1])


@dataclasses.dataclass(frozen=True)
class Answer:
    code: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self):
        return self.body.decode()


def ask(url, path, method="GET", body=None, headers=(), tls=None):
    """One request by Python's client; tls: with this context."""
    kind = functools.partial(http.client.HTTPSConnection, context=tls)
    kind = kind if tls else http.client.HTTPConnection
    with contextlib.closing(kind(urllib.parse.urlsplit(url).netloc, timeout=60)) as client:
        client.request(method, path, body, dict(headers))
        answer = client.getresponse()
        return Answer(answer.status, answer.headers, answer.read())


@contextlib.contextmanager
def running(*arguments, environment=None):
    """`edge-demo` as a process that says its URL, until SIGTERM, which must end it well."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with out.open("w") as stdout, err.open("w") as stderr:
            command = [BIN / "edge-demo", *map(str, arguments)]
            process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)

        def url():
            assert process.poll() is None, err.read_text()
            return re.search(r"^https?://\S+$", said(out, err), re.M)

        try:
            yield Served(process, out, err, until(url)[0])
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, err.read_text()
            assert "Traceback" not in err.read_text()
        finally:
            process.kill()
            process.wait()


def said(*files):
    return "".join(file.read_text() for file in files)


def served(model, *options, address="127.0.0.1:0"):
    """A model's live page."""
    return running(model, *options, "--serve", address)


@contextlib.contextmanager
def at_once(pipeline, source=Source(iter(())), draw=lambda result: result.picture):
    """The server in this process: (take, its URL)."""
    said = []
    with live_page.serve(
        ("127.0.0.1", 0), pipeline, 5, draw, model="m", source=source, say=said.append
    ) as take:
        yield take, said[0]


WORDS = [
    b"\0",
    b"\r",
    b"\n",
    b"\r\n\r\n",
    b"\xff\xfe",
    b"%00",
    b"../",
    b" ",
    b":",
    b"-1",
    b"9" * 30,
]
WORDS += [b"A" * 20_000, b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"HTTP/1.1"]
WORDS += [b"Host: evil\r\n", b"Expect: 100-continue\r\n", b"?top=", b"\xf0\x9f\x8c\xb9", b"GET "]


def mutated(requests, chance):
    """One of the requests, changed in some places."""
    data = bytearray(chance.choice(requests))
    for _ in range(chance.randint(1, 4)):
        at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + 40)
        kind = chance.randrange(5)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at:end] = b""
        elif kind == 2:
            data[at:at] = chance.choice(WORDS)
        elif kind == 3:
            data[at:at] = data[at:end]
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


def parts(stream, count):
    """The next JPEGs of a /stream, each with the boundary that shows a browser its end."""
    found = []
    while len(found) < count:
        assert stream.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(re.fullmatch(rb"Content-Length: (\d+)\r\n", stream.readline())[1])
        assert stream.readline() == b"\r\n"
        found.append(stream.read(size))
        assert stream.readline() == b"\r\n" and stream.readline() == b"--frame\r\n"
    return found


@contextlib.contextmanager
def watching(url):
    """An open /stream, after its head and its first boundary."""
    address = urllib.parse.urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=60) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(GET % b"/stream")
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert b" 200 " not in head or stream.readline() == b"--frame\r\n"
        yield head, stream
