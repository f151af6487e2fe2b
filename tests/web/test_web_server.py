"""`edge-demo web`: real processes, asked by real clients, strangers among them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gzip
import json
import mimetypes
import os
import random
import re
import signal
import socket
import time

import numpy as np
import pytest
from helpers import until
from served import GET, mutated, running

from edge_demo.server import bounded_http, web_folder

SECRET = b"not for browsers"
WASM = np.random.default_rng(0).integers(0, 20, 3_000_000, np.uint8).tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An exported folder: web/ in it, secrets beside it and links to them."""
    root = tmp_path_factory.mktemp("exported")
    (root / "report.json").write_bytes(SECRET)
    web = root / "web"
    (web / "models/one.level").mkdir(parents=True)
    (web / "classifier.json").write_text("{}")
    (web / "index.html").write_text("<title>page</title>" * 100)
    (web / "models/one.level/a b+c%é.tflite").write_bytes(b"model")
    (web / "engine.wasm").write_bytes(WASM)
    for suffix in (*web_folder.TYPES, ".unknown", ""):
        (web / f"file{suffix}").write_bytes(suffix.encode() * 999)
    (web / "inside.txt").symlink_to("index.html")
    (web / "outside.txt").symlink_to(root / "report.json")
    (web / "up").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def served(site, folder):
    return site(folder)


def compressed(served, path):
    """The answer once it comes compressed."""

    def answer():
        found = served.ask(path, headers={"Accept-Encoding": "br, gzip"})
        return found if found.headers["Content-Encoding"] else None

    return until(answer)


# --- what is served, and how


@pytest.mark.parametrize("suffix", [*web_folder.TYPES, ".unknown", ""])
def test_every_kind_of_file(served, folder, suffix):
    name = f"file{suffix}"
    content = (folder / "web" / name).read_bytes()
    answer = served.ask(f"/{name}")
    kind, gains = web_folder.TYPES.get(suffix, ("application/octet-stream", False))
    assert (answer.code, answer.body) == (200, content)
    assert answer.headers["Content-Type"] == kind and answer.headers["Content-Encoding"] is None
    assert answer.headers["Content-Length"] == str(len(content))
    known, _ = mimetypes.MimeTypes().guess_type(name)
    if known and suffix not in (".ts", ".ico"):  # TypeScript's; vnd.microsoft.icon
        assert kind.partition(";")[0].partition("/")[2] == known.partition("/")[2]
    variants = [answer]
    if gains:
        packed = compressed(served, f"/{name}")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Content-Type"] == kind
        assert gzip.decompress(packed.body) == content and len(packed.body) < len(content)
        variants.append(packed)
    assert len({variant.headers["ETag"] for variant in variants}) == len(variants)
    for variant in variants:
        tag = variant.headers["ETag"]
        again = served.ask(f"/{name}", headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.code, again.body, again.headers["ETag"]) == (304, b"", tag)


def test_what_a_browser_needs_for_threads_and_freshness(served):
    for path in ("/", "/engine.wasm", "/models/one.level/a%20b+c%25%C3%A9.tflite"):
        headers = served.ask(path).headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-cache" and headers["Vary"] == "Accept-Encoding"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


ENCODINGS = {
    "gzip": True,
    "GZIP;q=0.5, br": True,
    "gzip;q=0": False,
    "br;q=1, gzip; q=0.000": False,
    "gzipped, *": False,
    "": False,
}


@pytest.mark.parametrize("accepted", ENCODINGS)
def test_compressed_only_for_whom_it_is_good(served, accepted):
    compressed(served, "/engine.wasm")
    answer = served.ask("/engine.wasm", headers={"Accept-Encoding": accepted})
    assert (answer.headers["Content-Encoding"] == "gzip") == ENCODINGS[accepted]
    head = served.ask("/engine.wasm", "HEAD", headers={"Accept-Encoding": accepted})
    assert head.body == b"" and head.headers["Content-Length"] == str(len(answer.body))
    assert (gzip.decompress(answer.body) if ENCODINGS[accepted] else answer.body) == WASM


def test_only_get_and_head(served):
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = served.ask("/index.html", method)
        assert (answer.code, answer.headers["Allow"]) == (405, "GET, HEAD")


def test_a_file_that_changes_is_told_apart(site, tmp_path):
    for name in web_folder.NEEDED:
        (tmp_path / name).write_text("old" * 1000)
    served = site(tmp_path)
    before = [served.ask("/"), compressed(served, "/")]
    (tmp_path / ".new").write_text("newer" * 1000)
    os.replace(tmp_path / ".new", tmp_path / "index.html")
    (tmp_path / "added.txt").write_text("added")
    for old in before:
        asked = {"If-None-Match": old.headers["ETag"], "Accept-Encoding": "gzip"}
        assert served.ask("/", headers=asked).code == 200
    assert served.ask("/").text == "newer" * 1000
    assert gzip.decompress(compressed(served, "/").body) == b"newer" * 1000
    assert served.ask("/added.txt").text == "added"


# --- strangers

PATHS = [  # that lead nowhere
    "/../report.json",
    "/%2e%2e/report.json",
    "/..%2freport.json",
    "/%252e%252e/report.json",
    "/models/../../report.json",
    "/models/..%5c..%5creport.json",
    "/..\\report.json",
    "/../web/index.html",
    "/./index.html",
    "/index.html/",
    "/index.html%00.png",
    "/%00",
    "/%",
    "/%ff",
    "/models",
    "/models/",
    "/outside.txt",
    "/up/report.json",
    "/up/web/index.html",
    "//etc/passwd",
    "/etc/passwd",
    "/file:///etc/passwd",
    "/C:/report.json",
    "/INDEX.HTML",
    "/" + "%2e%2e%2f" * 9 + "etc/passwd",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leaves_the_folder(served, path):
    answer = served.tell(GET % path.encode())
    assert answer.startswith(b"HTTP/1.1 404 ") and SECRET not in answer
    assert answer.partition(b"\r\n\r\n")[2].count(b"\n") == 1
    assert served.ask("/inside.txt").text.startswith("<title>page")  # a link that stays


SENDERS = {  # what tells who asks -> status
    (): 200,
    ("Host", "localhost"): 200,
    ("Host", "evil.example"): 403,
    ("Host", "192.168.1.7:8000"): 403,
    ("Origin", "https://evil.example"): 403,
    ("Sec-Fetch-Site", "same-origin"): 200,
    ("Sec-Fetch-Site", "cross-site"): 403,
}


@pytest.mark.parametrize("header", SENDERS)
def test_pages_elsewhere_get_nothing(served, header):
    assert served.ask("/", headers=[header] if header else ()).code == SENDERS[header]


def test_many_at_once(served):
    def fetch(n):
        encoding = {"Accept-Encoding": "gzip"} if n % 2 else {}
        answer = served.ask("/engine.wasm", headers=encoding)
        return gzip.decompress(answer.body) if n % 2 else answer.body

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert all(body == WASM for body in pool.map(fetch, range(120)))


def test_slow_clients_hold_nobody_up(served):
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(served.address)
            client.sendall(GET % b"/engine.wasm")  # and takes next to nothing
            client.recv(10)
        start = time.monotonic()
        assert served.ask("/").code == 200 and served.ask("/engine.wasm").body == WASM
        assert time.monotonic() - start < bounded_http.ANSWER / 2  # when the slow ones are cut off
        assert served.number("VmRSS") < 200_000  # kB: files are not held in memory


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_broken_requests_leave_no_trace(served, count):
    paths = ["/", "/file.json", "/models/one.level/a%20b+c%25%C3%A9.tflite", *PATHS]
    requests = [GET % path.encode() for path in paths]
    header = b"\r\nAccept-Encoding: gzip\r\nIf-None-Match: "
    requests += [request.replace(b"\r\n\r\n", header + b'"a"\r\n\r\n') for request in requests]
    chance, codes = random.Random(0), set()
    for n in range(count):
        if n == count // 4:
            threads, memory = served.number("Threads"), served.number("VmRSS")
        answer = served.tell(mutated(requests, chance))
        assert SECRET not in answer and (not answer or re.match(rb"HTTP/1\.1 \d{3} ", answer))
        codes.add(answer.split(b" ")[1] if answer else b"")
    assert {b"200", b"400", b"404"} <= codes and b"500" not in codes, codes
    assert served.ask("/").code == 200
    until(lambda: served.number("Threads") <= threads + 2)  # of the last some linger
    assert served.number("VmRSS") < memory + 20_000  # kB
    assert served.err.read_text().count("\n") == 1  # the hint on phones


# --- the command


def test_what_cannot_be_served_is_one_line(edge_cli, folder, served, tmp_path):
    (tmp_path / "key.pem").write_text("no key")
    pem = tmp_path / "key.pem"
    cases = {
        (tmp_path,): "no exported web folder; `tfvit convert RUN --format web",
        (tmp_path / "none",): "no exported web folder",
        (folder / "report.json",): "no exported web folder",
        (folder, "--port", served.address[1]): "Address already in use; port 0 picks a free one",
        (folder, "--host", "192.0.2.77", "--port", 0): "cannot serve on 192.0.2.77:0",
        (folder, "--port", 70000): "--port",
        (folder, "--cert", pem): "give both",
        (folder, "--cert", pem, "--key", tmp_path / "none"): "none: No such file",
        (folder, "--cert", pem, "--key", pem): "no certificate in PEM with",
    }
    for arguments, words in cases.items():
        done = edge_cli("web", *arguments)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), (arguments, done)
        assert words in done.err, (arguments, done.err)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_whoever_is_connected(folder, number):
    with running("web", folder, "--port", 0) as found, contextlib.ExitStack() as stack:
        threads = found.number("Threads")
        for data in (GET % b"/engine.wasm", b"GET /", b""):
            client = stack.enter_context(socket.create_connection(found.address, timeout=60))
            client.sendall(data)
        until(lambda: found.number("Threads") >= threads + 3)
        found.process.send_signal(number)
        assert found.process.wait(bounded_http.HEAD - 2) == 0  # before any of them is cut off
        assert not re.search("Error|Traceback", found.err.read_text())


def test_open_shows_it_in_the_browser(folder, tmp_path):
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/asked\n')
    browser.chmod(0o755)
    environment = {**os.environ, "BROWSER": str(browser)}
    with running("web", folder / "web", "--port", 0, "--open", environment=environment) as found:
        asked = tmp_path / "asked"
        assert until(lambda: asked.exists() and asked.read_text()).strip() == found.url
        assert json.loads(found.ask("/classifier.json").text) == {}
