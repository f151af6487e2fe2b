"""`edge-demo --serve`: clients that are slow, mean no good, or come from elsewhere; and its end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import random
import re
import signal
import socket
import threading
import time
import urllib.parse

import numpy as np
import pytest
from helpers import until
from network_camera import Camera, encoded
from PIL import Image
from served import GET, POST, ROUTES, ask, at_once, mutated, parts, served, watching

from edge_demo.server import bounded_http
from edge_demo.sources.frames import Frame

pytest.importorskip("av")


# --- who may ask

LENGTHS = {  # Content-Length -> status
    None: 411,
    b"-1": 400,
    b"+5": 400,
    b"5, 5": 400,
    b"0x10": 400,
    b"\xb2": 400,
    b"": 400,
    b"1e3": 400,
    b"9" * 5000: 413,
    str(20 * 2**20 + 1).encode(): 413,
    b"5\r\nContent-Length: 6": 400,
    b"5\r\nTransfer-Encoding: chunked": 411,
    b"6": 400,  # five come
    b"5": 400,  # not a picture
}


@pytest.mark.parametrize("length", LENGTHS)
def test_lengths_of_a_body(live, length):
    header = b"" if length is None else b"Content-Length: " + length + b"\r\n"
    request = b"POST /classify HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\nabcde"
    answer = live.tell(request)
    assert answer.startswith(b"HTTP/1.1 %d " % LENGTHS[length]), answer
    body = answer.partition(b"\r\n\r\n")[2]
    assert json.loads(body)["error"] and body.count(b"\n") == 1


def test_a_body_too_large_is_refused_before_it_is_sent(live):
    with socket.create_connection(live.address, timeout=60) as client:
        head = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        client.sendall(head % (30 * 2**20))
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(live.address, timeout=60) as client:
        client.sendall(POST % (30 * 2**20))
        with pytest.raises(ConnectionError):  # whoever sends on regardless is cut off
            for _ in range(100):
                client.sendall(b"x" * 2**20)
                time.sleep(0.05)


def test_uploads_are_bounded(live, sample_photos):
    photo = encoded(sample_photos["flower"].resize((64, 64)), "JPEG")
    with contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(4):
            client = stack.enter_context(socket.create_connection(live.address, timeout=60))
            client.sendall(POST % len(photo) + photo[:100])
            waiting.append(client)

        def refused():
            found = live.ask("/classify", "POST", photo)
            return found if found.code == 503 else None

        assert int(until(refused).headers["Retry-After"]) > 0
        assert live.ask("/health").code == 200
        for client in waiting:
            client.sendall(photo[100:])
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert live.ask("/classify", "POST", photo).code == 200


SENDERS = [  # headers, status of GET /health, status of POST /classify with an empty body
    ({}, 200, 400),
    ({"Host": "localhost"}, 200, 400),
    ({"Host": "LOCALHOST:9000"}, 200, 400),  # through a tunnel
    ({"Host": "[::1]:80"}, 200, 400),
    ({"Host": "127.8.8.8"}, 200, 400),
    ({"Host": "evil.example"}, 403, 403),
    ({"Host": "evil.example:80"}, 403, 403),
    ({"Host": "localhost.evil.example"}, 403, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403, 403),
    ({"Host": "192.168.1.7"}, 403, 403),
    ({"Host": "evil@localhost"}, 400, 400),
    ({"Host": ""}, 400, 400),
    ({"Host": "localhost:80", "Origin": "http://localhost:80"}, 200, 400),
    ({"Host": "localhost:80", "Origin": "http://localhost:81"}, 403, 403),
    ({"Origin": "https://evil.example"}, 403, 403),
    ({"Origin": "null"}, 403, 403),
    ({"Sec-Fetch-Site": "same-origin"}, 200, 400),
    ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200, 400),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403, 403),
    ({"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}, 403, 403),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 200, 403),  # a link; a form
]


@pytest.mark.parametrize("headers, get, post", SENDERS)
def test_pages_elsewhere_learn_nothing_and_do_nothing(live, headers, get, post):
    assert live.ask("/health", headers=headers).code == get
    answer = live.ask("/classify", "POST", b"", headers)
    assert answer.code == post
    assert ("an empty file" in answer.text) == (post == 400 and "Host header" not in answer.text)


def test_other_networks_only_where_asked_for(int8):
    with served(int8, address="0.0.0.0:0") as found:
        assert found.url.startswith("http://0.0.0.0:")
        assert "no password" in found.err.read_text()
        here = found.url.replace("0.0.0.0", "127.0.0.1")
        assert ask(here, "/health", headers={"Host": "pi.lan"}).code == 200
        elsewhere = {"Host": "pi.lan", "Origin": "http://evil.example"}
        assert ask(here, "/classify", "POST", b"", elsewhere).code == 403


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6_and_no_source(int8, sample_photos):
    with contextlib.closing(socket.socket(socket.AF_INET6)) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
    with served(int8, address="[::1]:0") as found:
        assert found.url.startswith("http://[::1]:") and "password" not in found.err.read_text()
        health = json.loads(found.ask("/health").text)
        assert (health["status"], health["source"]) == ("ok", None)
        photo = encoded(sample_photos["flower"], "JPEG")
        assert found.ask("/classify", "POST", photo).code == 200
        assert found.ask("/result.json").code == found.ask("/stream").code == 404


# --- clients that mean no good, or are slow

BAD = {  # bytes -> the beginning of the answer
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n": b"HTTP/1.1 400 ",  # TLS
    b"GET /health\r\n": b"HTTP/1.1 400 ",  # HTTP/0.9
    b"get /health HTTP/1.1\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET /he\x00alth HTTP/1.1\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET /h\xc3\xa9 HTTP/1.1\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: b\rOrigin: c\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: x\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: \x00\r\n\r\n": b"HTTP/1.1 400 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n": b"HTTP/1.1 400 ",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n": b"HTTP/1.1 414 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 70_000: b"HTTP/1.1 431 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 9000: b"HTTP/1.1 431 ",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 150 + b"\r\n": b"HTTP/1.1 431 ",
    b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n": b"HTTP/1.1 501 ",
    b"": b"",
}


@pytest.mark.parametrize("data", BAD, ids=lambda data: repr(data[:40]))
def test_what_is_no_request_is_refused(live, data):
    answer = live.tell(data)
    assert answer.startswith(BAD[data]) and answer.count(b"HTTP/1.1 ") == bool(data)
    assert live.ask("/health").code == 200


def test_one_request_a_connection(live):
    answer = live.tell(GET % b"/health" * 3 + b"junk" * 1000)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.count(b"HTTP/1.1") == 1
    assert b"\r\nConnection: close\r\n" in answer and answer.rstrip().endswith(b"}")
    assert live.tell(b"GET /health HTTP/1.0\r\nHost: localhost\n\n").startswith(b"HTTP/1.1 200 ")


def test_slow_viewers_hold_nothing_up_and_a_ninth_is_refused(live):
    with contextlib.ExitStack() as stack:
        stalled = stack.enter_context(socket.socket())
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(live.address)
        stalled.sendall(GET % b"/stream")  # and reads nothing
        streams = [stack.enter_context(watching(live.url))[1] for _ in range(7)]
        with watching(live.url) as (head, _):
            assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in head
        before, start = live.metric("edge_demo_results_total"), time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(len(streams)) as pool:
            list(pool.map(lambda stream: parts(stream, 60), streams))
        took, results = time.monotonic() - start, live.metric("edge_demo_results_total") - before
        assert took < bounded_http.ANSWER / 2  # when the one that stalls is cut off
        assert live.metric("edge_demo_viewers") == 8
        assert results < 5 * 60  # of which everybody got his part
    until(lambda: live.metric("edge_demo_viewers") == 0)


def test_many_who_never_finish_keep_nobody_out(live):
    with contextlib.ExitStack() as stack:
        for n in range(200):
            client = stack.enter_context(socket.create_connection(live.address, timeout=60))
            client.sendall([b"", b"GET /", b"POST /classify HTTP/1.1\r\nHost: lo"][n % 3])
        start = time.monotonic()
        assert live.ask("/health").code == 200
        assert time.monotonic() - start < bounded_http.HEAD / 2  # when the first are cut off
        assert live.number("Threads") < 120
    until(lambda: live.number("Threads") <= 20)


def test_whoever_is_slow_is_cut_off(pipeline, monkeypatch):
    for name in ("HEAD", "BODY", "ANSWER", "LINGER"):
        monkeypatch.setattr(bounded_http, name, 1.5)
    monkeypatch.setattr(bounded_http, "POLL", 0.1)
    with at_once(pipeline) as (_, url):
        address = urllib.parse.urlsplit(url)
        for head in (b"GET /health HTTP/1.1\r\nA: ", POST % 1_000_000):
            with socket.create_connection((address.hostname, address.port)) as client:
                start = time.monotonic()
                client.sendall(head)
                with pytest.raises(OSError):
                    for _ in range(200):
                        client.sendall(b"a")  # a byte now and then
                        time.sleep(0.05)
                assert time.monotonic() - start > 1
        picture = encoded(Image.effect_noise((900, 900), 99), "PNG")
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(POST % len(picture) + picture)  # in time, however long it then takes
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_viewer_who_takes_nothing_is_cut_off(pipeline, monkeypatch):
    monkeypatch.setattr(bounded_http, "ANSWER", 1.5)
    monkeypatch.setattr(bounded_http, "POLL", 0.1)
    noise = np.asarray(Image.effect_noise((900, 900), 99).convert("RGB"))
    with at_once(pipeline) as (take, url), socket.socket() as client:
        result = pipeline.result(Frame(noise, "s", 0))
        take(result)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = urllib.parse.urlsplit(url)
        client.connect((address.hostname, address.port))
        client.sendall(GET % b"/stream")

        def viewers():
            take(result)
            return json.loads(ask(url, "/health").text)["viewers"]

        until(lambda: viewers() == 1)
        until(lambda: viewers() == 0)


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_broken_requests_leave_no_trace(live, sample_photos, count):
    photos = [encoded(sample_photos["flower"].resize((24, 24)), kind) for kind in ("JPEG", "PNG")]
    requests = [POST % len(photo) + photo for photo in photos]
    requests += [GET % path.encode() for path in ROUTES if path != "/stream"]
    requests += [b"HEAD /stream HTTP/1.1\r\nHost: localhost\r\nUser-Agent: x\r\n\r\n"]
    chance, codes = random.Random(0), {}
    for n in range(count):
        if n == count // 4:
            threads, memory = live.number("Threads"), live.number("VmRSS")
        answer = live.tell(mutated(requests, chance))
        code = answer.split(b" ")[1] if answer else b""
        assert not answer or re.match(rb"HTTP/1\.1 \d{3} ", answer)
        codes[code] = codes.get(code, 0) + 1
    assert {b"200", b"400", b"403", b"404"} <= codes.keys() and b"500" not in codes, codes
    assert live.ask("/health").code == 200
    until(lambda: live.number("Threads") <= threads + 2)  # of the last some linger
    assert live.number("VmRSS") < memory + 20_000  # kB
    assert not re.search("Error|Traceback", live.err.read_text())


# --- the command


def test_an_address_that_cannot_be_served_is_one_line(edge_cli, int8, live):
    cases = {
        f"127.0.0.1:{live.address[1]}": "Address already in use",
        "192.0.2.1:0": "cannot serve on 192.0.2.1:0: ",
        "no-such-host.invalid:8080": "cannot serve on no-such-host.invalid:8080: ",
        "é" * 70 + ":1": "cannot serve on ",
        "99999": "'99999' is not like 8080",
        "host:": "'host:' is not like 8080",
        "::1:80": "'::1:80' is not like 8080",
        "-1": "'-1' is not like 8080",
        "": "'' is not like 8080",
    }
    for address, words in cases.items():
        done = edge_cli(int8, "--serve", address)
        assert (done.code, done.out) == (2, "") and words in done.err, (address, done.err)
        assert done.err.count("\n") == 1
    done = edge_cli(int8)
    assert done.code == 2 and "--source" in done.err and done.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_at_once_whoever_is_connected(int8, number):
    camera = Camera()
    with served(int8, "--source", camera.address) as found, contextlib.ExitStack() as stack:
        until(lambda: found.ask("/snapshot.jpg").code == 200)
        for data in (GET % b"/stream", GET % b"/stream", POST % 100_000 + b"x", b"GET /"):
            client = stack.enter_context(socket.create_connection(found.address, timeout=60))
            client.sendall(data)
        until(lambda: found.metric("edge_demo_viewers") == 2)
        until(lambda: found.metric("edge_demo_results_total") > 1)  # of one, no median is told
        found.process.send_signal(number)
        assert found.process.wait(bounded_http.HEAD - 2) == 0  # before any of them is cut off
        assert "median inference" in found.err.read_text()
        assert not re.search("Error|Traceback", found.err.read_text())
        assert found.out.read_text() == ""
    camera.stop()


def test_no_thread_is_left(pipeline):
    before = threading.active_count()
    for _ in range(3):
        with at_once(pipeline) as (take, url):
            take(pipeline.result(Frame(np.zeros((8, 8, 3), np.uint8), "s", 0)))
            with watching(url) as (_, stream):
                parts(stream, 1)
                assert ask(url, "/health").code == 200
    until(lambda: threading.active_count() <= before)


def test_limit_ends_it(edge_cli, int8, sample_photos, tmp_path):
    sample_photos["china"].save(tmp_path / "a.png")
    options = ("--source", tmp_path, "--serve", "127.0.0.1:0", "--limit", 1)
    done = edge_cli(int8, *options, "--csv")
    assert done.code == 0 and done.out.count("\n") == 2
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+\n", done.err)


def test_what_cannot_be_drawn_ends_it(edge_cli, int8, sample_photos, tmp_path):
    sample_photos["china"].save(tmp_path / "a.png")
    options = ("--source", tmp_path / "a.png", "--serve", "127.0.0.1:0", "--overlay", "attention")
    done = edge_cli(int8, *options)
    assert done.code == 2 and "--with-attention" in done.err.splitlines()[-1]
