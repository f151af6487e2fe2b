"""Serves an exported web folder: its files and nothing else, as a browser wants them."""

from __future__ import annotations

import contextlib
import functools
import gzip
import os
import re
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from edge_demo.errors import UserError
from edge_demo.server.bounded_http import Server
from edge_demo.server.http_messages import Methods, Refused, Reply, Request

CHUNK = 2**18  # bytes read at a time
LEVEL = 6  # of gzip
PACKED = ".gz"  # what the ETag of a compressed file ends with
TEXT = "; charset=utf-8"
# suffix -> (MIME type, whether compression gains)
TYPES = {
    ".html": ("text/html" + TEXT, True),
    ".css": ("text/css" + TEXT, True),
    ".js": ("text/javascript" + TEXT, True),
    ".mjs": ("text/javascript" + TEXT, True),
    ".ts": ("text/plain" + TEXT, True),
    ".txt": ("text/plain" + TEXT, True),
    ".md": ("text/markdown" + TEXT, True),
    ".map": ("application/json", True),
    ".json": ("application/json", True),
    ".webmanifest": ("application/manifest+json", True),
    ".wasm": ("application/wasm", True),
    ".svg": ("image/svg+xml", True),
    ".png": ("image/png", False),
    ".jpg": ("image/jpeg", False),
    ".jpeg": ("image/jpeg", False),
    ".webp": ("image/webp", False),
    ".ico": ("image/x-icon", False),
    ".tflite": ("application/octet-stream", False),
    ".bin": ("application/octet-stream", False),
}
OTHER = ("application/octet-stream", False)
HEADERS = {
    "Cache-Control": "no-cache",  # kept, and asked for again by its ETag
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",  # with the next: threads in wasm
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Vary": "Accept-Encoding",
}
NEEDED = ("classifier.json", "index.html")  # what makes a folder an exported web folder


def find(folder: Path) -> Path:
    """The exported web folder that `folder` is or has as web/; UserError if there is none."""
    for found in (folder, folder / "web"):
        if all((found / name).is_file() for name in NEEDED):
            return found.resolve()
    raise UserError(
        f"{folder}: no exported web folder; `tfvit convert RUN --format web --out {folder}` makes one"
    )


class Folder:
    """What is in a folder: `find` has the methods of each path.

    Files are looked up among those that are there when they are asked for: no path is made of what a
    stranger sent.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._packer = ThreadPoolExecutor(1, "gzip")
        self._packed: dict[Path, tuple[str, Future[bytes]]] = {}
        self._lock = threading.Lock()
        for path in self._files().values():
            self._gzip(path, _version(path.stat()))

    def close(self) -> None:
        """Compresses nothing more."""
        self._packer.shutdown(cancel_futures=True)

    def find(self, path: str) -> Methods:
        """The methods of a path of the folder; Refused where there is no such file."""
        name = urllib.parse.unquote(path[1:]) or "index.html"
        file = self._files().get(name)
        if not file:
            raise Refused(404, "there is no such file")
        return {"GET": functools.partial(self._reply, file)}

    def _files(self) -> dict[str, Path]:
        """Name with slashes -> the file; links that lead out of the folder are left out."""
        found = (path for path in self._root.rglob("*") if path.is_file())
        return {
            path.relative_to(self._root).as_posix(): path
            for path in found
            if path.resolve().is_relative_to(self._root)
        }

    def _reply(self, path: Path, request: Request) -> Reply:
        kind, _ = TYPES.get(path.suffix.lower(), OTHER)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(path.open("rb"))
            state = os.fstat(file.fileno())
            version = _version(state)
            kept = _kept(request, version)
            if kept:
                return Reply(b"", kind, 304, HEADERS | {"ETag": f'"{kept}"'})
            packed = self._gzip(path, version) if _takes_gzip(request) else None
            if packed:
                tags = {"ETag": f'"{version}{PACKED}"', "Content-Encoding": "gzip"}
                return Reply(packed, kind, headers=HEADERS | tags)
            tags = {"ETag": f'"{version}"', "Content-Length": str(state.st_size)}
            parts = iter(functools.partial(file.read, CHUNK), b"")
            return Reply(parts, kind, headers=HEADERS | tags, after=stack.pop_all().close)

    def _gzip(self, path: Path, version: str) -> bytes | None:
        """A file compressed, which is done once and meanwhile; None until then, or where it is no gain."""
        _, gains = TYPES.get(path.suffix.lower(), OTHER)
        if not gains:
            return None
        with self._lock:
            known, packed = self._packed.get(path, (None, None))
            if known != version:
                packed = self._packer.submit(_compressed, path)
                self._packed[path] = version, packed
        return packed.result() if packed.done() and not packed.exception() else None


@contextlib.contextmanager
def serve(
    folder: Path,
    address: tuple[str, int],
    say: Callable[[str], None],
    tls: ssl.SSLContext | None = None,
) -> Iterator[Server]:
    """Serves `folder`, as `find` finds it, until the context ends.

    address: (host, port); port 0 picks one. say: is told of errors. tls: makes it https.
    Raises UserError where it cannot listen.
    """
    with contextlib.closing(Folder(folder)) as site:
        server = Server(address, site.find, say, tls=tls)
        try:
            yield server
        finally:
            server.end()


def _compressed(path: Path) -> bytes:
    return gzip.compress(path.read_bytes(), LEVEL, mtime=0)


def _version(state: os.stat_result) -> str:
    return f"{state.st_mtime_ns:x}-{state.st_size:x}"


def _kept(request: Request, version: str) -> str | None:
    """The ETag of this version that the browser has, compressed or not."""
    tags = re.findall(r'"([^"]*)"', request.headers.get("If-None-Match", ""))
    return next((tag for tag in tags if tag in (version, version + PACKED)), None)


def _takes_gzip(request: Request) -> bool:
    for coding in request.headers.get("Accept-Encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return not re.fullmatch(r"q=0(\.0*)?", weight.strip())
    return False
