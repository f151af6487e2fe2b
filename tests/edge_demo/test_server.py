"""`edge-demo --serve`: real processes asked by real clients, and by sockets that mean no good."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html.parser
import io
import json
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

import numpy as np
import pytest
from network_camera import Camera, encoded, jpeg
from PIL import Image
from served import ask, served

from edge_demo import Classifier, bounded_http, server, sources
from edge_demo.frames import Frame
from edge_demo.pipeline import Pipeline

pytest.importorskip("av")
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
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def live(int8):
    """A camera that is watched, with --json on stdout."""
    camera = Camera(picture=lambda number: jpeg(number, (64, 160)))
    with served(int8, "--source", camera.address, "--json") as found:
        while found.ask("/snapshot.jpg").code != 200:
            time.sleep(0.05)
        yield found
    camera.stop()


@pytest.fixture(scope="module")
def pipeline(int8):
    return Pipeline(Classifier(int8))


@contextlib.contextmanager
def at_once(pipeline, source=sources.Source(iter(())), draw=lambda result: result.picture):
    """The server in this process: (take, its URL)."""
    said = []
    with server.serve(
        ("127.0.0.1", 0), pipeline, 5, draw, model="m", source=source, say=said.append
    ) as take:
        yield take, said[0]


def parts(stream, count):
    """JPEGs of a multipart answer that was opened as a file."""
    found = []
    assert stream.readline() == b"--frame\r\n"
    while len(found) < count:
        assert stream.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(re.fullmatch(rb"Content-Length: (\d+)\r\n", stream.readline())[1])
        assert stream.readline() == b"\r\n"
        found.append(stream.read(size))
        assert stream.readline() == b"\r\n" and stream.readline() == b"--frame\r\n"
    return found


@contextlib.contextmanager
def watching(url):
    """An open /stream, after its head."""
    address = urllib.parse.urlsplit(url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=10) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(GET % b"/stream")
        head = b"".join(iter(stream.readline, b"\r\n"))
        yield head, stream


# --- what it shows


class Outside(html.parser.HTMLParser):
    """Whatever a page would fetch, and its style and script."""

    def __init__(self):
        super().__init__()
        self.links, self.inline, self._tag = [], {}, None

    def handle_starttag(self, tag, attributes):
        self._tag = tag
        self.links += [value for name, value in attributes if name in ("src", "href", "action")]
        assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]

    def handle_data(self, data):
        if self._tag in ("style", "script"):
            self.inline[self._tag] = data
            self._tag = None


def test_the_page_is_one_file_and_its_policy_lets_nothing_else_in(live):
    answer = live.ask("/")
    assert answer.code == 200 and answer.headers["Content-Type"] == "text/html; charset=utf-8"
    found = Outside()
    found.feed(answer.text)
    assert all(link.startswith("data:") for link in found.links), found.links
    assert not re.search(r"@import|url\(", found.inline["style"])
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(found.inline[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    asked = set(re.findall(r'(?:fetch|ask)\("([\w.]+)"', found.inline["script"]))
    assert {f"/{address}" for address in asked} == ROUTES.keys() - {"/", "/metrics"}


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_a_browser_shows_the_newest_picture_and_its_label(live, tmp_path):
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    options += ["--virtual-time-budget=3000", "--dump-dom", live.url]
    done = subprocess.run([CHROMIUM, *options], capture_output=True, text=True, timeout=60)
    page = re.sub(r"<script>.*</script>", "", done.stdout, flags=re.DOTALL)
    assert re.search(r'id="model">int8\.tflite<', page), done.stderr
    assert re.search(r'id="state"[^>]* class="ok">http://127\.0\.0\.1:\d+/video\.mjpeg<', page)
    assert re.search(r'id="label">\d<', page) and len(re.findall("<li[ >]", page)) == 5
    assert re.search(r'<canvas [^>]*width="64" height="160"', page)


@pytest.mark.parametrize("path", [*ROUTES, "/none"])
def test_every_address_takes_its_methods_and_no_other(live, path):
    allowed = ROUTES.get(path, ())
    for method in METHODS:
        if (method, path) == ("GET", "/stream"):
            continue
        answer = live.ask(path, method, body=b"" if method == "POST" else None)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in answer.headers
        if method in allowed:
            assert answer.code == (400 if method == "POST" else 200)  # an empty picture
        else:
            assert answer.code == (405 if allowed else 404)
            assert (answer.headers["Allow"] or "").split(", ") == list(allowed or [""])
        if method == "HEAD":
            assert answer.body == b""
        elif answer.code >= 400:
            assert answer.body.count(b"\n") == 1 and json.loads(answer.text)["error"]
    assert live.ask(path + "/.").code == 404


def test_no_path_leads_to_a_file(live):
    for path in ("/../setup.py", "/%2e%2e/page.html", "/page.html", "//etc/passwd", "/etc/passwd"):
        assert live.ask(path).code == 404
        assert live.ask("/..%2f" * 9 + path).code == 404


def test_the_stream_is_jpegs_that_go_on(live):
    with watching(live.url) as (head, stream):
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n" in head
        start, found = time.monotonic(), parts(stream, 30)
        assert time.monotonic() - start < 4  # of a camera of 30 frames a second
    levels = []
    for data in found:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG" and picture.size == (64, 160)
            levels.append(np.asarray(picture)[:60].mean())  # above the labels
    steps = np.diff(levels) % 256
    assert (steps > 0.5).all() and steps.sum() < 60


def test_the_newest_result_is_a_line_of_json(live):
    found = []
    for _ in range(3):
        text = live.ask("/result.json").text
        assert "secret" not in text and text.count("\n") == 1
        found.append(json.loads(text))
    time.sleep(0.2)
    printed = {row["frame"]: row for row in map(json.loads, live.out.read_text().splitlines())}
    for row in found:
        line = printed[row["frame"]]
        assert row["time"] == pytest.approx(line["time"], abs=2e-3)
        assert row == line | {"time": row["time"]}


def test_health_tells_how_it_is(live):
    answer = live.ask("/health")
    found = json.loads(answer.text)
    assert answer.code == 200 and found["status"] == "ok" and found["model"] == "int8.tflite"
    assert found["source"].startswith("http://127.0.0.1:")
    assert found["age_seconds"] < 0.5 and 15 < found["results_per_second"] < 40
    assert 0 < found["uptime_seconds"] < 600
    before = found["results"]
    time.sleep(0.5)
    assert json.loads(live.ask("/health").text)["results"] > before


SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)'
)


def samples(text):
    """(name, labels, value) of the text format 0.0.4; fails where the grammar does."""
    kinds, found = {}, []
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in kinds and kind in ("counter", "gauge", "histogram")
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            family = re.sub("_(bucket|sum|count)$", "", name)
            assert kinds.get(name, kinds.get(family)), line
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")
            found.append((name, dict(pairs), float(value)))
    return found


def test_metrics_follow_the_grammar_and_add_up(live):
    answer = live.ask("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.text)
    single = {name: value for name, labels, value in found if not labels}
    results = single["edge_demo_results_total"]
    labels = [n for name, _, n in found if name == "edge_demo_labels_total"]
    assert sum(labels) == pytest.approx(results, abs=2)
    assert single["edge_demo_frames_total"] >= results > 0
    buckets = [
        (float(labels["le"]), n)
        for name, labels, n in found
        if name == "edge_demo_inference_seconds_bucket"
    ]
    assert buckets == sorted(buckets) and [n for _, n in buckets] == sorted(n for _, n in buckets)
    assert buckets[-1] == (float("inf"), single["edge_demo_inference_seconds_count"])
    mean = single["edge_demo_inference_seconds_sum"] / buckets[-1][1]
    assert 0 < mean < 1
    assert single["process_resident_memory_bytes"] == pytest.approx(
        1024 * live.number("VmRSS"), rel=0.2
    )
    asked = '{path="/health",code="200"}'
    before = live.metric("edge_demo_http_requests_total" + asked)
    live.ask("/health")
    assert live.metric("edge_demo_http_requests_total" + asked) == before + 1


def test_a_picture_stays_and_its_label_is_escaped(
    int8, split_model, join_model, tmp_path, sample_photos
):
    graph, _, description = split_model(int8)
    name = 'quo"te\\ </script>é'
    labels = "".join(f"{name}{n}\n" for n in range(10))
    model = tmp_path / "named.tflite"
    model.write_bytes(join_model(graph, {"labels.txt": labels, "tfvit.json": description}))
    sample_photos["china"].resize((4000, 300)).save(tmp_path / "photo.png")
    with served(model, "--source", tmp_path / "photo.png") as found:
        deadline = time.monotonic() + 10
        while found.ask("/result.json").code == 503 and time.monotonic() < deadline:
            time.sleep(0.05)
        label = json.loads(found.ask("/result.json").text)["label"]
        assert label == Classifier(model).classify(tmp_path / "photo.png")[0][0]
        rows = [r for r in samples(found.ask("/metrics").text) if r[0] == "edge_demo_labels_total"]
        escaped = label.replace("\\", r"\\").replace('"', r"\"")
        assert rows == [("edge_demo_labels_total", {"label": escaped}, 1)]
        assert json.loads(found.ask("/health").text)["status"] == "ok"
        with Image.open(io.BytesIO(found.ask("/snapshot.jpg").body)) as picture:
            assert picture.size == (1280, 96)
        assert found.out.read_text() == ""


def test_a_source_that_went_silent_is_not_well(pipeline, monkeypatch):
    monkeypatch.setattr(server, "STALE", 0.5)
    picture = np.zeros((8, 8, 3), np.uint8)
    for live in (True, False):
        source = sources.Source(iter(()), is_live=live)
        with at_once(pipeline, source) as (take, url):
            answer = ask(url, "/health")
            assert (answer.code, json.loads(answer.text)["status"]) == (200, "starting")
            assert ask(url, "/result.json").code == ask(url, "/stream").code == 503
            frames = iter([Frame(picture, "camera", 0, time.monotonic())])
            for result in pipeline.results(sources.Source(frames, is_live=live)):
                take(result)
            assert json.loads(ask(url, "/health").text)["status"] == "ok"
            time.sleep(0.7)
            answer = ask(url, "/health")
            found = json.loads(answer.text)
            assert (answer.code, found["status"]) == ((503, "stale") if live else (200, "ok"))
            assert 0.6 < found["age_seconds"] < 5 and ask(url, "/snapshot.jpg").code == 200


def test_a_frame_is_drawn_once_for_all_viewers_and_never_for_none(pipeline):
    drawn = []

    def draw(result):
        drawn.append(result.frame.number)
        return result.picture

    with at_once(pipeline, draw=draw) as (take, url):
        results = [
            pipeline.result(Frame(np.full((9, 9, 3), n, np.uint8), "s", n)) for n in range(8)
        ]
        for result in results[:5]:
            take(result)
        assert drawn == [0]  # whether it can be
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(watching(url))[1] for _ in range(3)]
            for stream in streams:
                parts(stream, 1)
            for result in results[5:]:
                time.sleep(0.1)
                take(result)
            time.sleep(0.2)
        assert drawn == [0, 4, 5, 6, 7]


# --- pictures that are posted


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_posted_picture_is_classified_as_ever(live, int8, sample_photos, kind, tmp_path):
    classifier = Classifier(int8)
    for top, photo in zip((1, 3, 10, 99), [*sample_photos.values()] * 2):
        (tmp_path / "photo").write_bytes(data := encoded(photo.resize((200, 150)), kind))
        headers = {"Content-Type": "text/html"} if top == 3 else {"Expect": "100-continue"}
        answer = live.ask(f"/classify?top={top}", "POST", data, headers)
        found = json.loads(answer.text)
        assert answer.code == 200 and "source" not in found
        expected = classifier.classify(tmp_path / "photo", top)
        assert [row["label"] for row in found["top"]] == [label for label, _ in expected]
        scores = [row["score"] for row in found["top"]]
        assert scores == pytest.approx([score for _, score in expected], abs=1e-4)
        assert found["label"] == expected[0][0] and found["milliseconds"]["inference"] > 0


def test_what_cannot_be_classified_is_one_line(live, sample_photos):
    photo = encoded(sample_photos["china"], "JPEG")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    unreadable = {b"": "an empty file", b"text": "not a JPEG", photo[:5000]: "damaged image"}
    unreadable[bomb.getvalue()] = "larger than 100 megapixels"
    before = live.metric("edge_demo_unreadable_total")
    for data, words in unreadable.items():
        answer = live.ask("/classify", "POST", data)
        assert answer.code == 400 and words in json.loads(answer.text)["error"]
        assert answer.body.count(b"\n") == 1
    assert live.metric("edge_demo_unreadable_total") == before + len(unreadable)
    for top in ("0", "-1", "x", "1e9", "9" * 5000, "", "%00"):
        answer = live.ask(f"/classify?top={top}", "POST", photo)
        assert answer.code == 400 and "top is a number" in answer.text


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
    with socket.create_connection(live.address, timeout=10) as client:
        head = POST.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n")
        client.sendall(head % (30 * 2**20))
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(live.address, timeout=10) as client:
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
            client = stack.enter_context(socket.create_connection(live.address, timeout=10))
            client.sendall(POST % len(photo) + photo[:100])
            waiting.append(client)
        time.sleep(0.3)
        answer = live.ask("/classify", "POST", photo)
        assert answer.code == 503 and int(answer.headers["Retry-After"]) > 0
        assert live.ask("/health").code == 200
        for client in waiting:
            client.sendall(photo[100:])
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")
    assert live.ask("/classify", "POST", photo).code == 200


# --- who may ask

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
    before, start = live.metric("edge_demo_results_total"), time.monotonic()
    time.sleep(1.5)
    usual = (live.metric("edge_demo_results_total") - before) / (time.monotonic() - start)
    with contextlib.ExitStack() as stack:
        stalled = stack.enter_context(socket.socket())
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(live.address)
        stalled.sendall(GET % b"/stream")  # and reads nothing
        streams = [stack.enter_context(watching(live.url))[1] for _ in range(7)]
        with watching(live.url) as (head, _):
            assert head.startswith(b"HTTP/1.1 503 ") and b"Retry-After: " in head
        before, start = live.metric("edge_demo_results_total"), time.monotonic()
        counts = [0] * len(streams)

        def watch(n):
            while time.monotonic() - start < 3:
                counts[n] += len(parts_after(streams[n]))

        threads = [threading.Thread(target=watch, args=(n,)) for n in range(len(streams))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - start
        results = live.metric("edge_demo_results_total") - before
        assert live.metric("edge_demo_viewers") == 8
        assert usual > 10 and results / took > 0.7 * usual
        assert live.metric("edge_demo_frame_age_seconds") < 0.5
        assert min(counts) / took > 0.5 * usual, (counts, took)
    deadline = time.monotonic() + 20
    while live.metric("edge_demo_viewers"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def parts_after(stream):
    """One JPEG, the boundary before it having been read, or not."""
    line = stream.readline()
    if line == b"--frame\r\n":
        line = stream.readline()
    assert line == b"Content-Type: image/jpeg\r\n"
    size = int(stream.readline().split()[1])
    stream.readline()
    data = stream.read(size)
    assert data[:2] == b"\xff\xd8" and stream.readline() == b"\r\n"
    return [data]


def test_many_who_never_finish_keep_nobody_out(live):
    with contextlib.ExitStack() as stack:
        for n in range(200):
            client = stack.enter_context(socket.create_connection(live.address, timeout=10))
            client.sendall([b"", b"GET /", b"POST /classify HTTP/1.1\r\nHost: lo"][n % 3])
        start = time.monotonic()
        assert live.ask("/health").code == 200
        assert time.monotonic() - start < 3
        assert live.number("Threads") < 120
    deadline = time.monotonic() + 20
    while live.number("Threads") > 20:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_whoever_is_slow_is_cut_off(pipeline, monkeypatch):
    for name in ("HEAD", "BODY", "ANSWER", "LINGER"):
        monkeypatch.setattr(bounded_http, name, 0.6)
    monkeypatch.setattr(bounded_http, "POLL", 0.1)
    with at_once(pipeline) as (_, url):
        address = urllib.parse.urlsplit(url)
        for head in (b"GET /health HTTP/1.1\r\nA: ", POST % 1_000_000):
            with socket.create_connection((address.hostname, address.port)) as client:
                start = time.monotonic()
                client.sendall(head)
                with pytest.raises(OSError):
                    for _ in range(100):
                        client.sendall(b"a")  # a byte now and then
                        time.sleep(0.05)
                assert 0.4 < time.monotonic() - start < 3
        picture = encoded(Image.effect_noise((900, 900), 99), "PNG")
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(POST % len(picture) + picture)  # in time, however long it then takes
            assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_viewer_who_takes_nothing_is_cut_off(pipeline, monkeypatch):
    monkeypatch.setattr(bounded_http, "ANSWER", 0.6)
    monkeypatch.setattr(bounded_http, "POLL", 0.1)
    noise = np.asarray(Image.effect_noise((900, 900), 99).convert("RGB"))
    with at_once(pipeline) as (take, url), socket.socket() as client:
        result = pipeline.result(Frame(noise, "s", 0))
        take(result)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        address = urllib.parse.urlsplit(url)
        client.connect((address.hostname, address.port))
        client.sendall(GET % b"/stream")
        viewers = []
        for _ in range(30):
            take(result)
            time.sleep(0.1)
            viewers.append(json.loads(ask(url, "/health").text)["viewers"])
        assert max(viewers) == 1 and viewers[-1] == 0


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
    assert live.number("Threads") <= threads + 2
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
        while found.ask("/snapshot.jpg").code != 200:
            time.sleep(0.05)
        for data in (GET % b"/stream", GET % b"/stream", POST % 100_000 + b"x", b"GET /"):
            client = stack.enter_context(socket.create_connection(found.address, timeout=10))
            client.sendall(data)
        time.sleep(0.2)
        start = time.monotonic()
        found.process.send_signal(number)
        assert found.process.wait(10) == 0
        assert time.monotonic() - start < 4
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
    assert threading.active_count() == before


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
