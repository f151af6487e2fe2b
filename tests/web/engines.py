"""Logits of an exported web folder in the browser, against what they are to be.

python tests/web/engines.py EXPORTED CHECKPOINT      prints the largest differences
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from edge_demo.files import read_json

# Adapters in software, as a machine without a graphics processor has them.
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
)
# engine -> options of createClassifier
OPTIONS = {
    "litert": [{"threads": 1}, {"threads": 2}, {"backend": "webgpu"}],
    "tfjs": [{"backend": "wasm"}, {"backend": "webgl"}, {"backend": "webgpu"}],
}
LOGITS = """async ({ options, pictures }) => {
  const { createClassifier } = await import(new URL("classifier.js", document.baseURI));
  const classifier = await createClassifier(".", options);
  const logits = [];
  for (const name of pictures) {
    const picture = await (await fetch(name)).blob();
    logits.push([...(await classifier.classify(picture)).logits]);
  }
  const { backend, threads, fallback = null } = classifier;
  classifier.dispose();
  return { logits, backend, threads, fallback };
}"""


def manifest(exported: Path) -> dict:
    """classifier.json of a folder of `tfvit convert --format web`."""
    return read_json(exported / "web/classifier.json", "web folder")


def expected(exported: Path, checkpoint: Path) -> dict[str, np.ndarray]:
    """Logits [n, classes] of each model of the folder, on its reference pixels [n, height, width, 3].

    Of float32 they are Keras's; of the others those of the same file in LiteRT or, as it was read back, in
    TensorFlow.
    """
    import tensorflow as tf

    import tfvit
    from convert import written
    from tfvit import preprocess

    pixels = np.stack(
        [np.asarray(Image.open(exported / "web" / name)) for name in pictures(exported)]
    )
    keras = tfvit.load(checkpoint)
    wanted = keras(preprocess.normalise(tf.cast(pixels, tf.float32), keras.preprocess)).numpy()
    found = {}
    for model in manifest(exported)["models"]:
        name = model["name"]
        if name.removeprefix("tfjs-") == "float32":
            found[name] = wanted
        else:
            kept = f"{name}.tflite" if model["engine"] == "litert" else name.replace("-", "/", 1)
            with written.running(exported / kept) as run:
                found[name] = run(pixels)
    return found


def pictures(exported: Path) -> list[str]:
    """Reference pictures of the model's size, which it takes as they are."""
    return [reference["pixels"] for reference in manifest(exported)["reference"]]


def differences(page, exported: Path, wanted: dict[str, np.ndarray], few=None) -> Iterator[tuple]:
    """(model, options, what the browser told, differences of the logits [n, classes]) of all OPTIONS.

    page: of the folder's origin. few: pictures that a graphics processor gets, if not all.
    """
    names = pictures(exported)
    for model in manifest(exported)["models"]:
        for options in OPTIONS[model["engine"]]:
            count = len(names) if options.get("backend", "wasm") == "wasm" else few
            given = {"options": {**options, "model": model["name"]}, "pictures": names[:count]}
            told = page.evaluate(LOGITS, given)
            found = np.abs(np.array(told["logits"]) - wanted[model["name"]][:count])
            yield model["name"], options, told, found


def main(exported: Path, checkpoint: Path) -> None:
    """Prints the differences of a folder, in the browser as it comes."""
    from browser import CHROMIUM
    from browser import OPTIONS as BROWSER
    from playwright.sync_api import sync_playwright
    from served import running

    wanted = expected(exported, checkpoint)
    count, spread = len(wanted["float32"]), np.ptp(wanted["float32"])
    print(f"{count} pictures, logits over a range of {spread:.1f}", flush=True)
    with running("web", exported, "--port", 0) as served, sync_playwright() as playwright:
        launch = playwright.chromium.launch
        with launch(executable_path=CHROMIUM, args=[*BROWSER]) as browser:
            page = browser.new_page()
            page.goto(f"{served.url}/classifier.json")
            for name, options, told, found in differences(page, exported, wanted):
                asked = options.get("backend", "wasm")
                used = f"{told['backend']}, {told['threads']} thread" + "s" * (told["threads"] > 1)
                why = f" (not {asked}: {told['fallback']})" if told["fallback"] else ""
                same = (np.argmax(told["logits"], 1) == wanted[name].argmax(1)).sum()
                far = f"largest {found.max():.1e}, of half of them {np.median(found.max(1)):.1e}"
                print(f"{name:13} {far}, {same} same answers: {used}{why}", flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[n]) for n in (1, 2)]
    main(*map(Path, sys.argv[1:]))
