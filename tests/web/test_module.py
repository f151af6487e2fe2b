"""The module `createClassifier` in a real browser, held to Python on the same exported folder."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_demo
from edge_demo import Classifier, images
from edge_demo.preprocess import PreprocessSpec, to_pixels

DIST = Path(edge_demo.__file__).parent / "web" / "dist"
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)
ICON = "<link rel=icon href=data:,>"  # or the browser asks for one that is not there
NOT_LOADED = "Failed to load resource"  # what the console says of a 404, or of no answer
# What differs from the model in Python: the engine's order of additions, or a type of weights.
FLOAT, INTEGER = 1e-4, 1e-3

# What each test's script lies in: `load` is `createClassifier`, what it makes is disposed of at the end.
START = """async (given) => {
  const { createClassifier } = await import(new URL("classifier.js", document.baseURI));
  const all = [];
  const load = async (options) => {
    all.push(await createClassifier(".", options));
    return all.at(-1);
  };
  const fetched = async (name) => (await fetch(name)).blob();
  const told = async (work) => {
    try { await work(); } catch (error) { return `${error.name}: ${error.message}`; }
  };
  try {
    return await (async () => {
      SCRIPT
    })();
  } finally {
    for (const classifier of all) classifier.dispose();
  }
}"""


@pytest.fixture
def bare(site, web_export, browse):
    """bare(*options, may_say=None) -> a page of an exported folder that does nothing by itself."""
    (web_export / "web" / "bare.html").write_text(f"<!doctype html>{ICON}")

    def visit(*options, **kwargs):
        return browse(f"{site(web_export).url}/bare.html", *options, **kwargs)

    return visit


def run(page, script, **given):
    """What a script returns: `load`, `fetched`, `told` and `given` are there; it may await."""
    return page.evaluate(START.replace("SCRIPT", script), given)


def ended(page):
    """Whether no worker is left, after a moment."""
    for _ in range(100):
        if not page.workers:
            return True
        page.wait_for_timeout(50)
    return False


def changed(page, name, change):
    """A file of the folder reaches the page as `change` makes it from the JSON that it is."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, json=change(response.json()))

    page.route(f"**/{name}", answer)


@pytest.fixture(scope="module")
def manifest(web_export):
    return json.loads((web_export / "web" / "classifier.json").read_text())


ALL_LOGITS = """
const classifier = await load(given.options);
const found = [];
for (const name of given.names) {
  const { results, logits, attention, features, milliseconds } = await classifier.classify(
    await fetched(name), { top: given.top });
  found.push({
    results, milliseconds, logits: [...logits], features: [...features],
    attention: { ...attention, values: [...attention.values] },
  });
}
const { backend, threads, fallback, model } = classifier;
return { found, backend, threads, fallback, model: model.name };
"""
# Options -> the model that they choose, the threads and the backend that it has; None where it may have any
LOADED = [
    ({}, "int8", None, "wasm"),
    ({"threads": 1}, "int8", 1, "wasm"),
    ({"model": "dynamic", "threads": 1}, "dynamic", 1, "wasm"),
    ({"model": "float32", "threads": 1}, "float32", 1, "wasm"),
    ({"model": "float32", "threads": 2}, "float32", 2, "wasm"),
    ({"model": "tfjs-float32", "threads": 1}, "tfjs-float32", 1, "wasm"),
    ({"model": "tfjs-float32", "threads": 2}, "tfjs-float32", 1, "wasm"),
    ({"model": "tfjs-float32", "backend": "webgl"}, "tfjs-float32", 1, "webgl"),
]


def test_every_engine_tells_what_python_tells(bare, web_export, manifest):
    page = bare()
    pictures = [reference["picture"] for reference in manifest["reference"]][:4]
    for options, model, threads, backend in LOADED:
        told = run(page, ALL_LOGITS, options=options, names=pictures, top=3)
        assert (told["model"], told["backend"]) == (model, backend)
        assert threads in (None, told["threads"])
        assert told["fallback"] is None
        file = web_export / f"{model.removeprefix('tfjs-')}.tflite"
        native = Classifier(file)
        tolerance = FLOAT if "float" in model else INTEGER
        for name, found in zip(pictures, told["found"]):
            picture = images.read_rgb(web_export / name)
            logits = native.logits(to_pixels(picture, native.preprocess))
            assert np.abs(found["logits"] - logits).max() <= tolerance, (model, name)
            scores = native.scores(picture)
            expected = native.ranked(scores)[:3]
            assert [row["label"] for row in found["results"]] == [label for label, _ in expected]
            np.testing.assert_allclose(
                [row["score"] for row in found["results"]],
                [score for _, score in expected],
                rtol=0,
                atol=tolerance,
            )
            attention = np.reshape(
                found["attention"]["values"],
                (found["attention"]["rows"], found["attention"]["columns"]),
            )
            np.testing.assert_allclose(
                attention, native.extras["attention"], rtol=0, atol=tolerance
            )
            np.testing.assert_allclose(
                found["features"], native.extras["features"], rtol=0, atol=10 * tolerance
            )
            assert all(value >= 0 for value in found["milliseconds"].values())


SOURCES = """
const blob = await fetched(given.name);
const bitmap = await createImageBitmap(blob);
const canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [bitmap.width, bitmap.height];
const context = canvas.getContext("2d");
context.drawImage(bitmap, 0, 0);
const image = new Image();
image.src = URL.createObjectURL(blob);
await image.decode();
const sources = {
  blob, bitmap, canvas, image,
  pixels: context.getImageData(0, 0, canvas.width, canvas.height),
  again: bitmap, // still its owner's
};
const classifier = await load({});
const found = {};
for (const [name, source] of Object.entries(sources)) {
  found[name] = [...(await classifier.classify(source)).logits];
}
return found;
"""


def test_a_picture_is_the_same_wherever_it_comes_from(bare, manifest):
    found = run(bare(), SOURCES, name=manifest["reference"][0]["pixels"])
    assert len(found) == 6
    for logits in found.values():
        assert logits == found["blob"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, sample_photos):
    """Files of all kinds, and what is hard about them in the name."""
    folder = tmp_path_factory.mktemp("kinds")
    china, flower = sample_photos["china"], sample_photos["flower"]
    china.save(folder / "photo.jpg", quality=92)
    china.save(folder / "no-subsampling.jpg", quality=92, subsampling=0)
    china.save(folder / "progressive.jpg", progressive=True)
    flower.save(folder / "lossless.webp", lossless=True)
    flower.convert("L").save(folder / "grey.jpg")
    flower.convert("P").save(folder / "palette.png")
    flower.save(folder / "plain.bmp")
    china.crop((50, 50, 51, 51)).save(folder / "one-pixel.png")
    china.resize((4000, 3000)).save(folder / "twelve-megapixels.jpg")
    clear = flower.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(flower.size))
    clear.save(folder / "half-clear.png")
    for orientation in images.UPRIGHT:
        exif = Image.Exif()
        exif[images.ORIENTATION_TAG] = orientation
        china.save(folder / f"turned-{orientation}.jpg", exif=exif, quality=92)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("resize, interpolation", [("squash", "bilinear"), ("crop", "bicubic")])
def test_pictures_of_all_kinds_are_seen_as_python_sees_them(
    bare, photos, manifest, resize, interpolation, tmp_path
):
    """The self-test compares pictures with their pixels: here with those of Python, of these pictures."""
    page = bare()
    spec = PreprocessSpec(32, 32, resize, interpolation=interpolation, mean=(0,) * 3, std=(1,) * 3)
    reference = []
    for photo in photos:
        pixels = tmp_path / f"{photo.name}.png"
        Image.fromarray(to_pixels(images.read_rgb(photo), spec)).save(pixels)
        reference.append({"picture": photo.name, "pixels": pixels.name})
        for file in (photo, pixels):
            page.route(f"**/{file.name}", replaced(path=file))
    changed(
        page,
        "classifier.json",
        lambda found: found | {"reference": reference, "preprocess": spec.to_json()},
    )
    zeros = [[0] * len(manifest["labels"])] * len(photos)
    changed(page, "reference/int8.json", lambda found: found | {"logits": zeros})
    script = "const test = await (await load({})).selfTest(); return test.pictures;"
    found = {row["picture"]: row["greyLevels"] for row in run(page, script)}
    assert len(found) == len(photos)
    assert max(found.values()) <= 1, found


SELF_TEST = """
const classifier = await load(given.options);
const heard = [];
const test = await classifier.selfTest((progress) => heard.push(progress));
return { ...test, heard };
"""


@pytest.mark.parametrize("model", ["int8", "tfjs-float32"])
def test_the_self_test_passes_and_says_how_far_it_is(bare, manifest, model):
    test = run(bare(), SELF_TEST, options={"model": model})
    count = len(manifest["reference"])
    assert test["passed"] and test["largest"] <= test["tolerance"]
    assert [row["picture"] for row in test["pictures"]] == [
        reference["picture"] for reference in manifest["reference"]
    ]
    assert max(row["difference"] for row in test["pictures"]) == test["largest"]
    assert max(row["greyLevels"] for row in test["pictures"]) <= 1
    assert test["heard"][-1] == {"stage": "self-test", "loaded": count, "total": count}


def test_the_self_test_finds_the_one_logit_that_is_another(bare):
    page = bare()

    def tamper(found):
        spread = max(map(max, found["logits"])) - min(map(min, found["logits"]))
        found["logits"][2][1] -= 1.5 * found["tolerance"] * spread
        return found

    changed(page, "reference/int8.json", tamper)
    test = run(page, SELF_TEST, options={})
    assert not test["passed"]
    assert [row["agrees"] for row in test["pictures"]].index(False) == 2
    assert sum(not row["agrees"] for row in test["pictures"]) == 1
    assert test["largest"] == test["pictures"][2]["difference"] > test["tolerance"]


def only_two(page):
    """The first two reference pictures: on a processor a graphics backend is slow."""
    changed(page, "classifier.json", lambda found: found | {"reference": found["reference"][:2]})
    changed(page, "reference/*.json", lambda found: found | {"logits": found["logits"][:2]})


WEBGPU = """
const { backend, fallback, selfTest } = await load({ model: given.model, backend: "webgpu" });
return { backend, fallback, passed: (await selfTest()).passed };
"""
# The software adapter computes right in TF.js and wrong in LiteRT; without one there is none.
NO_DEVICE = "WebGPU is not used: this browser has no graphics device for it"
WEBGPU_CASES = [
    (SOFTWARE_GPU, "tfjs-float32", "webgpu", None),
    (SOFTWARE_GPU, "float32", "wasm", "WebGPU is not used: its logits are "),
    ((), "float32", "wasm", NO_DEVICE),
    ((), "tfjs-float32", "wasm", NO_DEVICE),
]


@pytest.mark.parametrize("flags, model, backend, fallback", WEBGPU_CASES)
def test_webgpu_is_used_where_it_computes_right(bare, flags, model, backend, fallback):
    page = bare(*flags)
    only_two(page)
    told = run(page, WEBGPU, model=model)
    assert told["passed"]
    assert told["backend"] == backend
    assert (told["fallback"] or "").startswith(fallback or "")
    assert bool(told["fallback"]) == bool(fallback)


def replaced(**answer):
    """A route's handler that answers so."""
    return lambda route: route.fulfill(**answer)


def edited(**fields):
    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | fields)

    return answer


def cut(route):
    response = route.fetch()
    route.fulfill(response=response, body=response.body()[:-7])


def noise(route):
    response = route.fetch()
    route.fulfill(response=response, body=bytes(len(response.body())))


HTML = replaced(status=200, content_type="text/html", body="<h1>Welcome</h1>")
MISSING = replaced(status=404, body="")
SPEC = PreprocessSpec(32, 32).to_json()
# file -> how it reaches the page, options, what is said
BROKEN = [
    ("classifier.json", MISSING, {}, "classifier.json cannot be loaded: the server answers 404"),
    ("classifier.json", HTML, {}, "classifier.json is not JSON; is this the URL of a folder"),
    ("classifier.json", lambda route: route.abort(), {}, "the server does not answer"),
    ("classifier.json", replaced(body="null"), {}, "is of format undefined, this module reads 1"),
    ("classifier.json", edited(format=2), {}, "is of format 2, this module reads 1"),
    ("classifier.json", edited(labels=[]), {}, "classifier.json is damaged (labels)"),
    ("classifier.json", edited(scores="toString"), {}, "damaged (scores)"),
    ("classifier.json", edited(models=[{}]), {}, "damaged (models)"),
    ("classifier.json", edited(preprocess=SPEC | {"height": 0}), {}, "damaged (preprocess)"),
    ("classifier.json", edited(preprocess=SPEC | {"std": [1]}), {}, "damaged (preprocess)"),
    ("classifier.json", edited(labels=["a", "b"]), {}, "has not one logit for each label"),
    ("x", None, {"model": "gone"}, "there is no model gone; this folder has float32"),
    ("x", None, {"backend": "webgl"}, "litert has no webgl; it has wasm, webgpu"),
    ("x", None, {"backend": "cpu", "model": "tfjs-float32"}, "tfjs has no cpu"),
    ("x", None, {"threads": 0}, "threads must be a positive whole number, not 0"),
    ("x", None, {"threads": 1.5}, "threads must be a positive whole number, not 1.5"),
    (
        "models/int8.tflite",
        MISSING,
        {},
        "models/int8.tflite cannot be loaded: the server answers 404",
    ),
    ("models/int8.tflite", HTML, {}, "models/int8.tflite has 16 bytes, not "),
    ("models/int8.tflite", cut, {}, "it is damaged or another file"),
    ("models/int8.tflite", noise, {}, "models/int8.tflite cannot be used: "),
    ("group1-shard1of1.bin", MISSING, {"model": "tfjs-float32"}, "the server answers 404"),
    ("group1-shard1of1.bin", cut, {"model": "tfjs-float32"}, "it is damaged or another file"),
    ("tfjs-float32/model.json", HTML, {"model": "tfjs-float32"}, "model.json is not JSON"),
    ("tfjs-float32/model.json", replaced(json={}), {"model": "tfjs-float32"}, "is no TF.js model"),
    ("litert_wasm_*.wasm", MISSING, {}, "LiteRT cannot be started: "),
    ("litert_wasm_*.js", MISSING, {}, "LiteRT cannot be started: "),
    (
        "*.wasm",
        MISSING,
        {"model": "tfjs-float32"},
        "TF.js cannot be started: its wasm backend failed",
    ),
]
BREAK = """
return told(async () => {
  const classifier = await load(given.options);
  await classifier.classify(await fetched("reference/00.jpg"));
});
"""


def test_what_is_wrong_is_said_in_one_sentence(bare):
    page = bare(may_say=f"{NOT_LOADED}|wasm")
    for file, answer, options, sentence in BROKEN:
        if answer:
            page.route(f"**/{file}", answer)
        said = run(page, BREAK, options=options)
        assert said and said.startswith("ClassifierError: "), (file, options, said)
        assert sentence in said and "\n" not in said
        page.unroute_all()
    assert ended(page)
    assert run(page, BREAK, options={}) is None  # the same, with nothing broken


def test_a_missing_worker_is_said_too(bare):
    page = bare(may_say=NOT_LOADED)
    page.route("**/litert/worker.js", MISSING)
    said = run(page, BREAK, options={})
    assert said == "ClassifierError: the worker of litert cannot be loaded"


@pytest.mark.parametrize("file", ["http://127.0.0.1:9/x.tflite", "//127.0.0.1:9/x.tflite"])
def test_a_manifest_leads_nowhere_else(bare, manifest, file):
    page = bare()
    models = [model | {"file": file} for model in manifest["models"]]
    page.route("**/classifier.json", edited(models=models))
    assert f"{file} is not in this folder" in run(page, BREAK, options={})


def test_what_is_no_picture_is_said_and_the_next_one_is_classified(bare):
    script = """
    const classifier = await load({});
    const said = await told(() => classifier.classify(new Blob(["no picture"])));
    const empty = await told(() => classifier.classify(document.createElement("video")));
    return [said, empty, (await classifier.classify(await fetched("reference/00.jpg"))).results];
    """
    said, empty, results = run(bare(), script)
    assert (
        said
        == "ClassifierError: the picture is damaged, or of a kind that this browser cannot read"
    )
    assert empty == "ClassifierError: the picture is not ready"
    assert len(results) == 10


def test_two_classifiers_at_once_do_not_meet(bare):
    script = """
    const blob = await fetched("reference/00.jpg");
    const logits = async (classifier) => [...(await classifier.classify(blob)).logits];
    const alone = [];
    for (const model of given.models) alone.push(await logits(await load({ model })));
    const many = await Promise.all(given.models.map((model) => load({ model })));
    const together = await Promise.all([...many, ...many].map(logits));
    return { alone, together };
    """
    told = run(bare(), script, models=["float32", "tfjs-float32", "float32"])
    assert told["together"] == told["alone"] * 2


def test_disposed_of_it_ends_its_work_and_its_threads(bare):
    script = """
    const classifier = await load({ threads: 2 });
    const blob = await fetched("reference/00.jpg");
    const running = told(() => classifier.classify(blob));
    classifier.dispose();
    classifier.dispose();
    return [await running, await told(() => classifier.classify(blob))];
    """
    page = bare()
    assert run(page, script) == ["ClassifierError: the classifier was disposed of"] * 2
    assert ended(page)


@pytest.mark.parametrize("file", ["classifier.json", "models/int8.tflite", "litert/*.wasm"])
def test_loading_stops_half_way(bare, file):
    page, held = bare(), []
    page.route(f"**/{file}", lambda route: held.append(route))
    script = """
    globalThis.controller = new AbortController();
    globalThis.loading = told(() => load({ signal: controller.signal }));
    """
    run(page, script)
    while not held:
        page.wait_for_timeout(20)
    assert run(page, "controller.abort(); return loading;").startswith("AbortError: ")
    assert ended(page)
    with contextlib.suppress(Exception):  # what was stopped cannot be answered
        held[0].abort()


def prefixed(script):
    """A route's handler that puts a script in front of the one that was asked for."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, body=script + response.body())

    return answer


ONE_THREAD = """
const { threads, selfTest } = await load({ threads: 2 });
return { threads, passed: (await selfTest()).passed, isolated: crossOriginIsolated };
"""
NO_RELAXED_SIMD = b"""
const instantiate = WebAssembly.instantiate;
WebAssembly.instantiate = async (code, ...imports) => {
  if (code.length < 100) throw new WebAssembly.CompileError("invalid SIMD opcode"); // the library's question
  return instantiate.call(WebAssembly, code, ...imports);
};
"""


def test_a_page_that_is_not_isolated_has_one_thread(bare):
    page = bare()

    def strip(route):
        response = route.fetch()
        kept = {k: v for k, v in response.headers.items() if not k.startswith("cross-origin")}
        route.fulfill(response=response, headers=kept)

    page.route("**/bare.html", strip)
    page.reload()
    assert run(page, ONE_THREAD) == {"threads": 1, "passed": True, "isolated": False}


def test_a_browser_without_relaxed_simd_gets_the_variant_without_it(bare):
    page, asked = bare(), []
    page.route("**/litert/worker.js", prefixed(NO_RELAXED_SIMD))
    page.context.on("request", lambda request: asked.append(request.url))
    assert run(page, ONE_THREAD) == {"threads": 1, "passed": True, "isolated": True}
    engines = {url.rpartition("/")[2] for url in asked if "litert_wasm" in url}
    assert {name.rpartition(".")[0] for name in engines} == {"litert_wasm_compat_internal"}


def test_the_example_of_the_documentation_runs(site, web_export, browse, manifest):
    text = DIST.with_name("README.md").read_text()
    example = re.search(r"```html\n(.*?)```", text, re.S)[1].replace("<title>", f"{ICON}<title>")
    (web_export / "web" / "example.html").write_text(example)
    page = browse(f"{site(web_export).url}/example.html")
    page.wait_for_selector("input:enabled")
    assert page.inner_text("pre") == "int8 on wasm"
    picture = web_export / manifest["reference"][0]["picture"]
    page.set_input_files("input", picture)
    best = Classifier(web_export / "int8.tflite").classify(picture, top=3)
    expected = "\n".join(f"{label} {score:.3f}" for label, score in best)
    page.wait_for_function("document.querySelector('pre').innerText.includes('\\n')")
    assert page.inner_text("pre") == expected


def test_page_and_engine_without_the_model_are_under_three_and_a_half_megabytes():
    """Whatever variant of the engine a browser takes; as a host that compresses sends them."""
    page = [path for path in DIST.iterdir() if path.is_file()] + list((DIST / "icons").iterdir())
    for variant in ("internal", "compat_internal", "threaded_internal"):
        script = DIST / "litert" / f"litert_wasm_{variant}.js"
        files = [*page, script, DIST / "litert" / "worker.js"]
        packed = script.with_suffix(".wasm.gz").stat().st_size
        assert packed + sum(len(gzip.compress(path.read_bytes())) for path in files) < 3.5e6


MEMORY = {  # model -> what its worker is asked about its memory
    "tfjs-float32": "[_tfengine.memory().numTensors, _tfengine.memory().numBytes]",
    "int8": "memories.map((memory) => memory.buffer.byteLength)",
}
WATCH_MEMORY = b"""
const memories = [];
for (const name of ["instantiate", "instantiateStreaming"]) {
  const original = WebAssembly[name];
  WebAssembly[name] = async (...args) => {
    const made = await original.apply(WebAssembly, args);
    const found = Object.values((made.instance ?? made).exports);
    memories.push(...found.filter((value) => value instanceof WebAssembly.Memory));
    return made;
  };
}
self.memories = memories;
"""


@pytest.mark.parametrize("model", MEMORY)
def test_many_pictures_take_no_more_memory_than_some(bare, model):
    page = bare()
    page.route("**/litert/worker.js", prefixed(WATCH_MEMORY))
    script = """
    globalThis.kept ??= await createClassifier(".", { model: given.model, threads: 1 });
    const blob = await fetched("reference/00.jpg");
    for (let i = 0; i < given.count; i++) await kept.classify(blob);
    """
    run(page, script, model=model, count=10)
    before = page.workers[0].evaluate(MEMORY[model])
    run(page, script, model=model, count=300)
    assert before and page.workers[0].evaluate(MEMORY[model]) == before
