"""`edge-demo --serve`: real processes asked by real clients, a browser among them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html.parser
import io
import json
import re
import time

import numpy as np
import pytest
from helpers import until
from network_camera import encoded
from PIL import Image
from served import ROUTES, ask, at_once, parts, served, watching

from edge_demo import Classifier
from edge_demo.server import live_page
from edge_demo.sources.frames import Frame
from edge_demo.sources.source import Source

pytest.importorskip("av")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


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


def test_a_browser_shows_the_newest_picture_and_its_label(live, browse):
    page = browse(live.url)
    page.wait_for_selector("#state.ok")
    page.wait_for_selector("li")
    assert page.text_content("#model") == "int8.tflite"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/video\.mjpeg", page.text_content("#state"))
    assert re.fullmatch(r"\d", page.text_content("#label")) and page.locator("li").count() == 5
    page.wait_for_selector("canvas[width='64'][height='160']")


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
    before = live.metric("edge_demo_results_total")
    with watching(live.url) as (head, stream):
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: multipart/x-mixed-replace; boundary=frame\r\n" in head
        found = parts(stream, 30)
    assert live.metric("edge_demo_results_total") - before < 5 * 30  # few are passed over
    levels = []
    for data in found:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG" and picture.size == (64, 160)
            levels.append(np.asarray(picture)[:60].mean())  # above the labels
    steps = np.diff(levels) % 256
    assert (steps > 0.5).all() and steps.sum() < 200  # and none is older than the one before


def printed(live):
    """Of each frame the line of JSON; the last one may be on its way."""
    whole = live.out.read_text().rpartition("\n")[0]
    return {row["frame"]: row for row in map(json.loads, whole.splitlines())}


def test_the_newest_result_is_a_line_of_json(live):
    found = []
    for _ in range(3):
        text = live.ask("/result.json").text
        assert "secret" not in text and text.count("\n") == 1
        found.append(json.loads(text))
    until(lambda: found[-1]["frame"] in printed(live))
    lines = printed(live)
    for row in found:
        line = lines[row["frame"]]
        assert row["time"] == pytest.approx(line["time"], abs=2e-3)
        assert row == line | {"time": row["time"]}


def test_health_tells_how_it_is(live):
    began = time.time()
    answer = live.ask("/health")
    ended, found = time.time(), json.loads(answer.text)
    assert answer.code == 200 and found["status"] == "ok" and found["model"] == "int8.tflite"
    assert found["source"].startswith("http://127.0.0.1:")
    assert 0 < found["uptime_seconds"] < 600
    until(lambda: json.loads(live.ask("/health").text)["results"] > found["results"])
    times = np.array([row["time"] for row in printed(live).values()])
    taken = np.array([began, ended]) - found["age_seconds"]  # the newest frame then
    assert ((taken[0] - 0.01 < times) & (times < taken[1] + 0.01)).any()
    recent = times[(began - live_page.RECENT < times) & (times < began)]
    rate = (len(recent) - 1) / (recent[-1] - recent[0])
    assert found["results_per_second"] == pytest.approx(rate, rel=0.2)


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
    assert single["edge_demo_frames_total"] + 2 > results > 0  # which are read one after the other
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
        until(lambda: found.ask("/result.json").code != 503)
        label = json.loads(found.ask("/result.json").text)["label"]
        assert label == Classifier(model).classify(tmp_path / "photo.png")[0][0]
        rows = [r for r in samples(found.ask("/metrics").text) if r[0] == "edge_demo_labels_total"]
        escaped = label.replace("\\", r"\\").replace('"', r"\"")
        assert rows == [("edge_demo_labels_total", {"label": escaped}, 1)]
        assert json.loads(found.ask("/health").text)["status"] == "ok"
        with Image.open(io.BytesIO(found.ask("/snapshot.jpg").body)) as picture:
            assert picture.size == (1280, 96)
        assert found.out.read_text() == ""


def test_a_picture_of_one_row_is_shown(int8, tmp_path):
    Image.new("RGB", (70_000, 1)).save(tmp_path / "row.png")
    with served(int8, "--source", tmp_path / "row.png") as found:
        until(lambda: found.ask("/result.json").code == 200)
        with Image.open(io.BytesIO(found.ask("/snapshot.jpg").body)) as picture:
            assert picture.size == (live_page.SIDE, 1)


def test_a_source_that_went_silent_is_not_well(pipeline, monkeypatch):
    picture = np.zeros((8, 8, 3), np.uint8)
    for live in (True, False):
        source = Source(iter(()), is_live=live)
        with at_once(pipeline, source) as (take, url):
            answer = ask(url, "/health")
            assert (answer.code, json.loads(answer.text)["status"]) == (200, "starting")
            assert ask(url, "/result.json").code == ask(url, "/stream").code == 503
            began = time.monotonic()
            frames = iter([Frame(picture, "camera", 0, began)])
            for result in pipeline.results(Source(frames, is_live=live)):
                take(result)
            assert json.loads(ask(url, "/health").text)["status"] == "ok"
            with monkeypatch.context() as impatient:
                impatient.setattr(live_page, "STALE", 0)
                answer = ask(url, "/health")
            found = json.loads(answer.text)
            assert (answer.code, found["status"]) == ((503, "stale") if live else (200, "ok"))
            assert 0 <= found["age_seconds"] <= time.monotonic() - began + 1e-3
            assert ask(url, "/snapshot.jpg").code == 200


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
                take(result)
                for stream in streams:
                    parts(stream, 1)
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
