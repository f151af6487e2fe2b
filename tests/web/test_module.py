"""What the module `createClassifier` computes in a real browser, held to Python on the same folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from module_page import ICON, edited, not_isolating, prefixed, replaced, rewritten, run
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
# What differs from the model in Python: the engine's order of additions, or a type of weights.
FLOAT, INTEGER = 1e-4, 1e-3

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
            expected = native.ranked(native.scores(picture))
            scores, known = [row["score"] for row in found["results"]], dict(expected)
            of_labels = [known[row["label"]] for row in found["results"]]
            assert len(scores) == 3 and scores == sorted(scores, reverse=True)
            for others in ([score for _, score in expected[:3]], of_labels):
                np.testing.assert_allclose(scores, others, rtol=0, atol=tolerance)
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
    page.route("**/classifier.json", edited(reference=reference, preprocess=spec.to_json()))
    zeros = [[0] * len(manifest["labels"])] * len(photos)
    page.route("**/reference/int8.json", edited(logits=zeros))
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

    page.route("**/reference/int8.json", rewritten(tamper))
    test = run(page, SELF_TEST, options={})
    assert not test["passed"]
    assert [row["agrees"] for row in test["pictures"]].index(False) == 2
    assert sum(not row["agrees"] for row in test["pictures"]) == 1
    assert test["largest"] == test["pictures"][2]["difference"] > test["tolerance"]


def first_only(name):
    """A route's handler: one reference picture, since on a processor a graphics backend is slow."""
    return rewritten(lambda found: found | {name: found[name][:1]})


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
    page.route("**/classifier.json", first_only("reference"))
    page.route("**/reference/*.json", first_only("logits"))
    told = run(page, WEBGPU, model=model)
    assert told["passed"]
    assert told["backend"] == backend
    assert (told["fallback"] or "").startswith(fallback or "")
    assert bool(told["fallback"]) == bool(fallback)


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
    page.route("**/bare.html", not_isolating)
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
    expected = Classifier(web_export / "int8.tflite").classify(picture, top=10)
    page.wait_for_function("document.querySelector('pre').innerText.includes('\\n')")
    told = re.findall(r"(?m)^(\d) (\d\.\d{3})$", page.inner_text("pre"))
    scores, known = [float(score) for _, score in told], dict(expected)
    assert scores == pytest.approx([score for _, score in expected[:3]], abs=2e-3)
    assert scores == pytest.approx([known[label] for label, _ in told], abs=2e-3)
