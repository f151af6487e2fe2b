"""An HTTP server that strangers may reach: one request a connection, and everything about it is bounded.

It knows nothing of pictures or files: what it answers is told by the methods of a path (http_messages.py).
"""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import ipaddress
import math
import os
import re
import socket
import socketserver
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable

from edge_demo.errors import UserError
from edge_demo.server.http_messages import Find, Refused, Reply, Request, json_reply, netloc

MAX_CONNECTIONS = 64  # one more, and whoever has the least time left is cut off
MAX_HEAD = 16 * 2**10  # bytes of a request line and its headers
MAX_BODY = 20 * 2**20
UNSENT = 128 * 2**10  # that the system keeps for a slow reader; more would be older than need be
# seconds for the head of a request, its body, an answer or a part of one to be taken, and its end
HEAD, BODY, ANSWER, LINGER = 10.0, 30.0, 30.0, 2.0
POLL = 0.25  # seconds between looks at who is late
REQUEST_LINE = re.compile(rb"[A-Z]{1,16} /[!-~]* HTTP/1\.[01]\r?\n")
HEADER = re.compile(rb"[!#$%&'*+.^`|~\w-]+:[^\0\r\n]*\r?\n")
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@]+)(?::[0-9]*)?")
HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(socketserver.TCPServer):
    """Answers requests by what `find` has for their paths, each in a thread, until `end`.

    address: (host, port); port 0 picks one. say: is told of errors that are nobody's but ours.
    counted: is told path and status of each answer; a path that is not found is "other".
    tls: encrypts, if given.
    Bound to this machine alone, it answers only to its names: a page elsewhere whose name was made to
    lead here (DNS rebinding) has another.
    Raises UserError where it cannot listen.
    """

    request_queue_size = MAX_CONNECTIONS
    allow_reuse_address = os.name != "nt"  # where it would share the port with another program

    def __init__(
        self,
        address: tuple[str, int],
        find: Find,
        say: Callable[[str], None],
        counted: Callable[[str, int], None] = lambda path, code: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.find, self.say, self.counted, self._tls = find, say, counted, tls
        self._changed = threading.Condition()
        self._due: dict[socket.socket, float] = {}  # connection -> when it is cut off
        host, port = address
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family, *_, resolved = found[0]
            super().__init__(resolved, Handler)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                reason += "; port 0 picks a free one"
            raise UserError(f"cannot serve on {netloc(host, port)}: {reason}") from None
        self.bound = ipaddress.ip_address(self.server_address[0].partition("%")[0])
        self.only_here = self.bound.is_loopback
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{netloc(host, self.server_address[1])}"
        self._thread = threading.Thread(target=self.serve_forever, args=(POLL,), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stops listening and cuts off whoever is connected; no thread is left."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._changed:
            for connection in self._due:
                self._cut(connection)
            self._changed.wait_for(lambda: not self._due, ANSWER)

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """From now on, this connection has so much time."""
        with self._changed:
            if self._due.get(connection) != -math.inf:
                self._due[connection] = time.monotonic() + seconds

    def service_actions(self) -> None:
        now = time.monotonic()
        with self._changed:
            for connection, due in self._due.items():
                if due < now:
                    self._cut(connection)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, client = super().get_request()
        if self._tls:  # the handshake is done in the connection's own thread and time
            options = {"server_side": True, "do_handshake_on_connect": False}
            connection = self._tls.wrap_socket(connection, **options)
        return connection, client

    def process_request(self, request: socket.socket, client_address) -> None:
        with self._changed:
            waiting = {c: due for c, due in self._due.items() if math.isfinite(due)}
            if len(self._due) >= MAX_CONNECTIONS and waiting:
                self._cut(min(waiting, key=waiting.__getitem__))
            if len(self._due) >= 2 * MAX_CONNECTIONS:
                self.shutdown_request(request)
                return
            self._due[request] = time.monotonic() + HEAD
        try:
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()
        except RuntimeError:  # this machine has no thread left
            self._forget(request)

    def _answer(self, request: socket.socket) -> None:
        try:
            self.RequestHandlerClass(request, None, self)
        except OSError:  # the other side went away, or was cut off
            pass
        except Exception as error:
            self.say(f"{type(error).__name__}: {error}")
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        self.shutdown_request(request)
        with self._changed:
            del self._due[request]
            self._changed.notify_all()

    def _cut(self, connection: socket.socket) -> None:
        """Its thread finds it closed and ends."""
        self._due[connection] = -math.inf
        with contextlib.suppress(OSError):  # below TLS, which its thread may be using
            socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Handler(http.server.BaseHTTPRequestHandler):
    """Reads a request within its bounds, and answers it."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = ANSWER
    disable_nagle_algorithm = True
    path = command = requestline = ""
    request_version = protocol_version

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
        super().setup()

    def parse_request(self) -> bool:
        if not REQUEST_LINE.fullmatch(self.raw_requestline):
            self.send_error(400, "not a request of HTTP/1.1")
            return False
        head, size = [], len(self.raw_requestline)
        while (line := self.rfile.readline(MAX_HEAD)) not in (b"\r\n", b"\n"):
            size += len(line)
            if size > MAX_HEAD:
                self.send_error(431, f"more than {MAX_HEAD >> 10} KiB of headers")
                return False
            if not HEADER.fullmatch(line):
                self.send_error(400, "not a header of HTTP/1.1")
                return False
            head.append(line)
        rest, self.rfile = self.rfile, io.BytesIO(b"".join([*head, b"\r\n"]))
        try:
            return super().parse_request()
        finally:
            self.rfile = rest

    def handle_expect_100(self) -> bool:
        return True  # it is told to go on when its body is wanted

    def answer(self) -> None:
        """Answers a request whose head was read."""
        path, _, query = self.path.partition("?")
        known = "other"
        try:
            self._check_sender()
            methods = self.server.find(path)
            known = path
            method = "GET" if self.command == "HEAD" else self.command
            if method not in methods:
                allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else [])])
                raise Refused(405, f"{path} takes {allowed}", Allow=allowed)
            self.server.allow(self.connection, math.inf)  # it is our turn
            fields = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
            reply = methods[method](Request(fields, self.headers, self._body))
        except Refused as refused:
            reply = refused.reply
        except UserError as error:
            reply = json_reply({"error": str(error)}, 400)
        except OSError:
            raise
        except Exception as error:
            self.server.say(f"{path}: {type(error).__name__}: {error}")
            reply = json_reply({"error": "an error of the server; it says which on stderr"}, 500)
        self._send(reply, known)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._send(Refused(code, message or self.responses[code][0]).reply, "other")

    def version_string(self) -> str:
        return "edge-demo"

    def log_request(self, *_) -> None:
        """Requests are counted, not logged."""

    def log_message(self, *_) -> None:
        """As above."""

    def _check_sender(self) -> None:
        """Refuses what pages of other sites ask a browser to do.

        As Go's net/http.CrossOriginProtection: browsers say where a request is from, others do not.
        """
        hosts = self.headers.get_all("Host", [])
        host = HOST.fullmatch(hosts[0].strip()) if len(hosts) == 1 else None
        if not host:
            raise Refused(400, "one Host header is needed")
        if self.server.only_here and not _is_here(host[1]):
            raise Refused(403, "served to this machine alone, as localhost")
        site, origin = self.headers.get("Sec-Fetch-Site"), self.headers.get("Origin")
        if site:
            follows_link = (
                self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"
            )
            elsewhere = site not in ("same-origin", "none") and not follows_link
        else:
            elsewhere = bool(origin) and origin.partition("://")[2].lower() != host[0].lower()
        if elsewhere:
            raise Refused(403, "not for pages of other sites")

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or not lengths:
            raise Refused(411, "a Content-Length is needed, and no chunks")
        length = lengths[0].strip()
        if len(lengths) > 1 or not re.fullmatch("[0-9]+", length):
            raise Refused(400, "one Content-Length is needed, a whole number")
        if len(length) > 15 or int(length) > MAX_BODY:
            raise Refused(413, f"larger than {MAX_BODY >> 20} MiB")
        self.server.allow(self.connection, BODY)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Refused(400, f"{length} bytes announced, {len(body)} came")
        self.server.allow(self.connection, math.inf)
        return body

    def _send(self, reply: Reply, known: str) -> None:
        self.server.counted(known, reply.code)
        try:
            self.server.allow(self.connection, ANSWER)
            self.send_response(reply.code)
            whole = isinstance(reply.body, bytes)
            counts = whole and reply.code != http.HTTPStatus.NOT_MODIFIED
            length = {"Content-Length": str(len(reply.body))} if counts else {}
            fields = HEADERS | {"Content-Type": reply.type} | length | reply.headers
            for name, value in fields.items():
                self.send_header(name, value)
            self.end_headers()
            parts = [] if self.command == "HEAD" else [reply.body] if whole else reply.body
            for part in parts:
                self.server.allow(self.connection, ANSWER)
                self.wfile.write(part)
        finally:
            reply.after()
        self._linger()

    def _linger(self) -> None:
        """Takes what is still being sent: a connection closed with bytes unread loses its answer."""
        self.server.allow(self.connection, LINGER)
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.unwrap()  # tells the other side that nothing was cut off
        self.connection.shutdown(socket.SHUT_WR)
        while self.connection.recv(1 << 16):
            pass


def _is_here(host: str) -> bool:
    """Whether a name in a Host header can only be this machine's own."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
