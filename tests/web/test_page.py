"""The page of an exported web folder, as people meet it: in a real browser, with a camera that is a clip."""

from __future__ import annotations

import functools
import http.server
import io
import json
import re
import shutil
import struct
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from edge_demo import Classifier

AXE = Path(__file__).parents[2] / "edge_demo/web/node_modules/axe-core/axe.min.js"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 800}
FIRST = "performance.getEntriesByName('first-result')[0].startTime"


@pytest.fixture(scope="module")
def folder(web_export):
    return web_export / "web"


@pytest.fixture(scope="module")
def answers(folder):
    """What Python says of each reference picture: [(label, score), ...], of all labels."""
    classifier = Classifier(folder / "models/int8.tflite")
    pictures = json.loads((folder / "classifier.json").read_text())["reference"]
    return [classifier.classify(folder / entry["picture"], top=10) for entry in pictures]


@pytest.fixture(scope="module")
def url(site, folder):
    return site(folder).url


class Plain(http.server.SimpleHTTPRequestHandler):
    """Any static host: no headers of its own."""

    def log_message(self, *_):
        pass


@pytest.fixture
def host(folder, tmp_path):
    """A static host of a copy of the folder: (the copy, URL, a function that ends it)."""
    copy = tmp_path / "site"
    shutil.copytree(folder, copy)
    handler = functools.partial(Plain, directory=copy)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def end():
        server.shutdown()
        server.server_close()

    yield copy, f"http://127.0.0.1:{server.server_port}", end
    end()


ROWS = "rows => rows.map(row => [...row.querySelectorAll('span')].map(span => span.innerText))"


def found(page):
    """[(label, score), ...] as the page shows them, all at one time."""
    rows = page.locator("#bars li").evaluate_all(ROWS)
    return [(label, float(score.removesuffix(" %")) / 100) for label, score in rows]


def best(page):
    """The label the page shows first: without its score, which may have the same digits."""
    return page.locator("#bars li:first-child span:first-child")


def see(page, answer):
    """Waits for a result, and it is Python's: the surest labels, each with its score."""
    expect(best(page)).to_have_text(answer[0][0])
    rows, expected = found(page), dict(answer)
    scores = [score for _, score in rows]
    assert len(rows) == 5 and scores == sorted(scores, reverse=True)
    assert scores == pytest.approx([score for _, score in answer[:5]], abs=0.03)
    assert scores == pytest.approx([expected[label] for label, _ in rows], abs=0.03)


def one_without(answers, label):
    """The number of a picture whose answer is another label, of those the one that is surest."""
    others = [i for i, answer in enumerate(answers) if answer[0][0] != label]
    return max(others, key=lambda i: answers[i][0][1])


def test_first_result(url, browse, answers, folder):
    page = browse(url, viewport=PHONE)
    see(page, answers[0])
    assert page.evaluate(FIRST) > 0
    assert page.title() == json.loads((folder / "classifier.json").read_text())["name"]
    expect(page.locator("#loading")).to_be_hidden()
    expect(page.locator("#running")).to_contain_text("int8 in LiteRT.js, wasm")
    for stage in ("pixels", "resize", "inference"):
        assert re.fullmatch(r"[\d.]+ ms", page.locator(f"#{stage}").inner_text())
    other = one_without(answers, answers[0][0][0])
    page.locator("#examples button").nth(other).click()
    see(page, answers[other])


def test_attention(url, browse, answers):
    page = browse(url)
    see(page, answers[0])
    heat, toggle = page.locator("#heat"), page.get_by_role("button", name="Attention")
    expect(heat).to_be_hidden()
    toggle.click()
    expect(heat).to_be_visible()
    assert re.match("The model looked most at the", heat.get_attribute("aria-label"))
    box, picture = heat.bounding_box(), page.locator("#picture").bounding_box()
    assert box == pytest.approx(picture, abs=1)  # squashed: all of it was seen
    opacity = heat.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 === 3)"
    )
    assert min(opacity) < 20 and max(opacity) > 150
    toggle.click()
    expect(heat).to_be_hidden()


def clip(path, picture):
    """A camera's film of one picture."""
    buffer = io.BytesIO()
    Image.open(picture).convert("RGB").resize((640, 480)).save(buffer, "JPEG", quality=95)
    path.write_bytes(10 * buffer.getvalue())
    return f"--use-file-for-fake-video-capture={path}"


HIDDEN = """hidden => {
  Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
}"""
DEVICE = "video => video.srcObject?.getVideoTracks()[0].getSettings().deviceId"
OTHER = f"""device => {{
  const now = ({DEVICE})(document.querySelector("#video"));
  return now && now !== device;
}}"""
WATCH = """picture => {
  globalThis.wasSeen = false;
  new MutationObserver(() => (wasSeen ||= !picture.hidden)).observe(picture, {attributes: true});
}"""


def test_camera_sees_what_python_sees(url, browse, answers, folder, tmp_path):
    other = one_without(answers, answers[0][0][0])
    film = clip(tmp_path / "clip.mjpeg", folder / f"reference/{other:02d}.jpg")
    page = browse(url, *CAMERA, film)  # which allows the camera: it starts by itself
    expect(best(page)).to_have_text(answers[other][0][0])
    expect(page.locator("#video")).to_be_visible()
    expect(page.locator("#rate")).to_have_text(re.compile(r"\d"))
    expect(page.locator("#spoken")).to_have_text(answers[other][0][0])
    assert "matrix(-1" in page.locator("#frame").evaluate("f => getComputedStyle(f).transform")

    video, still = page.locator("#video"), page.locator("#picture")
    page.evaluate(HIDDEN, True)
    expect(still).to_be_visible()
    assert video.evaluate(DEVICE) is None
    page.evaluate(HIDDEN, False)
    expect(video).to_be_visible()
    expect(best(page)).to_have_text(answers[other][0][0])

    page.keyboard.press("Escape")  # what it saw last stays
    expect(page.locator("#picture")).to_be_visible()
    expect(page.locator("#rate")).to_be_hidden()
    expect(best(page)).to_have_text(answers[other][0][0])
    assert page.locator("#video").evaluate("video => video.srcObject") is None

    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#video")).to_be_visible()
    page.locator("#examples button").nth(0).click()  # instead of the camera
    see(page, answers[0])
    expect(page.get_by_role("button", name="Camera")).to_be_visible()


def test_flip(url, browse):
    page = browse(url, f"{CAMERA[0]}=device-count=2", CAMERA[1])
    video = page.locator("#video")
    expect(video).to_be_visible()
    device = video.evaluate(DEVICE)
    page.locator("#picture").evaluate(WATCH)
    page.get_by_role("button", name="Flip").click()
    page.wait_for_function(OTHER, arg=device)
    expect(video).to_be_visible()
    assert device and page.evaluate("wasSeen")  # meanwhile, what the first one saw last


def png(width, height):
    """A PNG file that says to be so large, and has nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    body = (
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


HAND_OVER = """([kind, name, type, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type}));
  const init = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
  const event = kind === "paste" ? new ClipboardEvent(kind, init) : new DragEvent(kind, init);
  document.body.dispatchEvent(event);
}"""


def hand_over(page, how, name, data):
    """Chooses, drops or pastes a file."""
    kind = "text/plain" if name.endswith(".txt") else f"image/{name.rpartition('.')[2]}"
    if how == "choose":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Picture").click()
        chooser.value.set_files({"name": name, "mimeType": kind, "buffer": data})
    else:
        page.evaluate(HAND_OVER, [how, name, kind, list(data)])


def test_own_pictures(url, browse, answers, folder):
    page = browse(url)
    see(page, answers[0])
    shown = 0
    jpeg = (folder / "reference/00.jpg").read_bytes()
    bad = {
        "notes.txt": b"no picture",
        "half.jpeg": jpeg[: len(jpeg) // 2],
        "vast.png": png(60000, 60000),
    }
    error = page.locator("#error")
    for how in ("choose", "drop", "paste"):
        for name, data in bad.items():
            before = found(page), page.locator("#picture").get_attribute("src")
            hand_over(page, how, name, data)
            expect(error).to_have_text(re.compile(r"[Tt]he picture is .+\.$"))
            assert before == (found(page), page.locator("#picture").get_attribute("src"))
            shown = one_without(answers, answers[shown][0][0])
            hand_over(page, how, "good.jpeg", (folder / f"reference/{shown:02d}.jpg").read_bytes())
            see(page, answers[shown])
            expect(error).to_be_hidden()
            assert page.locator("#picture").get_attribute("alt") == "good.jpeg"


# what the browser says of the camera -> what the page says
REFUSALS = {
    "NotFoundError": "There is no camera here",
    "NotAllowedError": "not allowed for this page",
    "NotReadableError": "in use by another program",
    "AbortError": "The camera failed: why",
}
REFUSE = """name => {
  const refusal = () => Promise.reject(new DOMException("why", name));
  navigator.mediaDevices.getUserMedia = refusal;
}"""


def test_camera_that_is_not_there(url, browse, answers):
    page = browse(url)
    see(page, answers[0])
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#error")).to_contain_text(REFUSALS["NotFoundError"])
    for name, sentence in REFUSALS.items():
        page.evaluate(REFUSE, name)
        page.get_by_role("button", name="Camera").click()
        expect(page.locator("#error")).to_contain_text(sentence)
        see(page, answers[0])
    page.locator("#examples button").nth(0).click()
    expect(page.locator("#error")).to_be_hidden()


def test_camera_that_the_user_denies(url, browse, answers):
    page = browse(url, CAMERA[0], "--deny-permission-prompts")
    see(page, answers[0])
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#error")).to_contain_text(REFUSALS["NotAllowedError"])
    see(page, answers[0])


def test_insecure_address(host, browse, answers):
    _, url, _ = host
    page = browse(
        url.replace("127.0.0.1", "pi.test"), "--host-resolver-rules=MAP pi.test 127.0.0.1"
    )
    see(page, answers[0])
    expect(page.locator("#running")).to_contain_text("1 thread")
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#error")).to_contain_text("edge-demo web --https")


def test_plain_host_then_offline_then_a_new_version(host, browse, answers):
    copy, url, end = host
    page = browse(url, may_say="net::ERR_FAILED")
    see(page, answers[0])
    assert page.evaluate("crossOriginIsolated")  # which the host did not do
    expect(page.locator("#offline")).to_be_visible()
    versions = page.evaluate("caches.keys()")

    index, build = copy / "index.html", copy / "build.js"
    index.write_text(index.read_text().replace("Self-test", "Self-test 2"))
    build.write_text(re.sub('"id": "[^"]*"', '"id": "another"', build.read_text()))
    page.reload()
    see(page, answers[0])
    expect(page.locator("h2", has_text="Self-test 2")).to_have_count(
        0
    )  # what was kept, all of one version
    page.get_by_role("button", name="reload").click()
    expect(page.locator("h2", has_text="Self-test 2")).to_be_visible()
    see(page, answers[0])
    assert len(versions) == 1 and versions[0] not in (now := page.evaluate("caches.keys()"))
    assert len(now) == 1 and now[0].endswith("another")

    end()
    page.reload()
    see(page, answers[0])
    assert page.evaluate("crossOriginIsolated")
    page.get_by_role("button", name="Run the self-test").click()  # never used so far
    expect(page.locator("#error")).to_contain_text("cannot be loaded")
    see(page, answers[0])


def test_self_test(host, browse, answers):
    copy, url, _ = host
    page = browse(url, viewport=PHONE)
    see(page, answers[0])
    reference = copy / "reference/int8.json"
    expected = json.loads(reference.read_text())
    outcome, differences = page.locator("#outcome"), page.locator("#differences li")
    page.get_by_role("button", name="Run the self-test").click()
    expect(outcome).to_contain_text(re.compile(r"Passed: 16 of 16 agree.* % is allowed"))
    expect(differences).to_have_count(16)
    assert not page.locator(".differs").count()

    expected["logits"][3] = [-value for value in expected["logits"][3]]
    reference.write_text(json.dumps(expected))
    page.evaluate("async () => { for (const key of await caches.keys()) await caches.delete(key) }")
    page.get_by_role("button", name="Run the self-test").click()
    expect(outcome).to_contain_text("Failed: 15 of 16 agree")
    assert "✗" in differences.nth(3).inner_text() and page.locator(".differs").count() == 1
    see(page, answers[0])


def test_other_engines(host, browse, answers):
    copy, url, _ = host
    page = browse(url, may_say="404")
    see(page, answers[0])
    running, error = page.locator("#running"), page.locator("#error")
    page.get_by_label("Engine").select_option("TF.js")
    expect(running).to_contain_text("in TF.js, wasm")
    see(page, answers[0])
    if "webgpu" in page.get_by_label("Backend").inner_html():  # which no machine of tests has
        page.get_by_label("Backend").select_option("webgpu")
        expect(page.locator("#fallback")).to_contain_text("WebGPU is not used")
        expect(page.get_by_label("Backend")).to_have_value("wasm")
    page.get_by_label("Engine").select_option("LiteRT.js")
    expect(running).to_contain_text("int8 in LiteRT.js")
    threads = page.get_by_label("Threads")
    if threads.is_enabled():  # there is a choice, where there are several cores
        for wanted in (threads.locator("option").last.inner_text(), "1"):
            threads.select_option(wanted)
            expect(running).to_contain_text(f", {wanted} thread")

    (copy / "models/float32.tflite").unlink()  # an error leaves the old model there
    page.get_by_label("Weights").select_option("float32")
    expect(error).to_have_text(re.compile("float32.tflite cannot be loaded.*404"))
    expect(page.get_by_label("Weights")).to_have_value("int8")
    other = one_without(answers, answers[0][0][0])
    page.locator("#examples button").nth(other).click()
    see(page, answers[other])


def test_several_labels_and_a_crop(host, browse):
    copy, url, _ = host
    manifest = json.loads((copy / "classifier.json").read_text())
    manifest["scores"], manifest["preprocess"]["resize"] = "sigmoid", "crop"
    (copy / "classifier.json").write_text(json.dumps(manifest))
    page = browse(url)
    there = page.locator("#bars .there")
    expect(page.locator("#inference")).to_contain_text("ms")
    for number in range(4):
        page.locator("#examples button").nth(number).click()
        expect(page.locator("#picture")).to_have_attribute("alt", f"Example {number + 1}")
        present = [label for label, score in found(page) if score >= 0.5]
        assert [row.locator("span").first.inner_text() for row in there.all()] == present
        expect(page.locator("#nothing")).to_be_visible(visible=not present)
        spoken = page.locator("#spoken").text_content()
        assert spoken == (", ".join(present) or page.locator("#nothing").text_content())
    page.get_by_role("button", name="Attention").click()
    heat, picture = (page.locator(name).bounding_box() for name in ("#heat", "#picture"))
    for side in ("width", "height"):
        assert heat[side] == pytest.approx(
            manifest["preprocess"]["crop_fraction"] * picture[side], abs=1
        )
    assert heat["x"] + heat["width"] / 2 == pytest.approx(
        picture["x"] + picture["width"] / 2, abs=1
    )


# a file that is missing -> what the page says
MISSING = {
    "classifier.json": "classifier.json cannot be loaded: the server answers 404",
    "models/int8.tflite": "int8.tflite cannot be loaded: the server answers 404",
    "litert/worker.js": "the worker of litert cannot be loaded",
}


def test_folder_that_is_not_whole(host, browse):
    copy, url, _ = host
    for name, sentence in MISSING.items():
        (copy / name).rename(copy / "away")
        page = browse(url, may_say="404")
        expect(page.locator("#error")).to_contain_text(re.compile(sentence, re.I))
        expect(page.locator("#loading")).to_be_hidden()
        (copy / "away").rename(copy / name)


FOCUSED = """() => {
  const at = document.activeElement, box = at.getBoundingClientRect();
  const ring = getComputedStyle(at).outlineStyle !== "none";
  return {id: at.id, name: at.tagName, ring, side: Math.min(box.width, box.height)};
}"""


def test_keyboard_only(url, browse, answers):
    page = browse(url, viewport=DESKTOP)
    see(page, answers[0])
    expect(page.get_by_role("button", name="Run the self-test")).to_be_enabled()
    page.keyboard.press("Tab")
    stops = []
    while (stop := page.evaluate(FOCUSED))["name"] != "BODY" and len(stops) < 50:
        stops.append(stop)
        page.keyboard.press("Tab")
    ids = [stop["id"] for stop in stops if stop["id"]]
    assert ids[:3] == ["camera", "choose", "attention"] and ids[-1] == "test"
    assert {"engine", "weights", "backend"} <= set(ids) and len(stops) == len(ids) + 16
    assert all(stop["ring"] for stop in stops)
    assert all(stop["side"] >= 44 for stop in stops)  # pixels, for thumbs too
    page.locator("#examples button").nth(0).focus()
    other = one_without(answers, answers[0][0][0])
    for _ in range(other):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    see(page, answers[other])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(url, browse, answers, scheme):
    page = browse(url, viewport=PHONE, color_scheme=scheme, reduced_motion="reduce")
    see(page, answers[0])
    page.get_by_role("button", name="Run the self-test").click()
    expect(page.locator("#outcome")).to_be_visible()
    page.get_by_role("button", name="Camera").click()
    expect(page.locator("#error")).to_be_visible()
    page.evaluate(AXE.read_text())
    for viewport in (PHONE, {"width": 320, "height": 568}, DESKTOP):
        page.set_viewport_size(viewport)
        problems = page.evaluate("async () => (await axe.run()).violations")
        assert [(p["id"], [n["html"] for n in p["nodes"]]) for p in problems] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]


def test_installable(site, folder):
    served = site(folder)
    manifest = json.loads(served.ask("/manifest.webmanifest").body)
    assert manifest["display"] == "standalone" and manifest["start_url"] == "./"
    sizes = set()
    for icon in manifest["icons"]:
        data = served.ask(f"/{icon['src']}").body
        if icon["type"] == "image/png":
            assert "x".join(map(str, Image.open(io.BytesIO(data)).size)) == icon["sizes"]
            sizes.add((icon["sizes"], icon.get("purpose", "any")))
    assert sizes == {("192x192", "any"), ("512x512", "any"), ("512x512", "maskable")}
