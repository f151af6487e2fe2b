"""What the module `createClassifier` does when something is wrong, is stopped, and in the long run."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import pytest
from module_page import edited, ended, prefixed, replaced, run

import edge_demo
from edge_demo.preprocess import PreprocessSpec

DIST = Path(edge_demo.__file__).parent / "web" / "dist"
NOT_LOADED = "Failed to load resource"  # what the console says of a 404, or of no answer


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
