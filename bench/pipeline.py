"""What edge-demo costs around the model: `python bench/pipeline.py`.

A 640x480 video (H.264) to lines of JSON, by a ViT-Ti/16 int8 on one thread: time per frame, and how much
of it is not inference, which is the model alone on pixels that lie ready. Against the loop that people
write with OpenCV around the same file: read, cvtColor, resize, invoke. All take turns, round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import about
import numpy as np

FRAMES, SIZE = 120, (640, 480)


def write_video(path: Path) -> None:
    """A camera that pans over one of scikit-learn's photos."""
    import av
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photo = Image.fromarray(load_sample_images().images[0]).resize((1280, 854))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(FRAMES):
            left = round(640 * number / FRAMES)
            view = photo.crop((left, 100, left + SIZE[0], 100 + SIZE[1]))
            container.mux(stream.encode(av.VideoFrame.from_image(view)))
        container.mux(stream.encode())


def write_model(path: Path) -> None:
    """A ViT-Ti/16 of random weights as int8."""
    import random_vit
    from ours import ours

    from convert import fold, metadata

    model = random_vit.create("vit-ti/16")
    graph = ours(model, random_vit.images(16, seed=1))["int8"]
    spec = model.preprocess.__class__(224, 224, **fold.UNIT_SCALE)
    labels = tuple(map(str, range(random_vit.CLASSES)))
    described = {"scheme": "int8", "provenance": {}}
    path.write_bytes(metadata.add(graph, labels, spec, described, name="random", version="0"))


def sides(model: Path, video: Path, sink: TextIO) -> dict[str, Callable[[], None]]:
    """What takes turns: each goes through all frames once."""
    import cv2

    from edge_demo import Classifier
    from edge_demo.outputs import render
    from edge_demo.pipeline import Pipeline
    from edge_demo.sources.source import open_source

    classifier = Classifier(model, threads=1)
    pipeline = Pipeline(classifier)
    spec = classifier.preprocess
    pixels = np.random.default_rng(0).integers(0, 256, (spec.height, spec.width, 3), np.uint8)

    def alone() -> None:
        for _ in range(FRAMES):
            classifier.logits(pixels)

    def edge_demo() -> None:
        with open_source(str(video)) as source:
            for result in pipeline.results(source):
                print(render.json_line(result, 5), file=sink)

    def opencv() -> None:
        capture = cv2.VideoCapture(str(video))
        while True:
            there, image = capture.read()
            if not there:
                break
            image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (spec.width, spec.height))
            logits = classifier.logits(image)
            scores = np.exp(logits - logits.max())
            scores /= scores.sum()
            best = np.argsort(-scores)[:5]
            found = [{"label": classifier.labels[i], "score": float(scores[i])} for i in best]
            print(json.dumps(found), file=sink)

    return {"the model alone": alone, "edge-demo": edge_demo, "an OpenCV loop": opencv}


def main() -> None:
    """Prints a table of milliseconds per frame, and of what is not inference."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        video, model = Path(folder) / "pan.mp4", Path(folder) / "int8.tflite"
        write_video(video)
        write_model(model)
        sink = stack.enter_context(open(os.devnull, "w"))
        runs = sides(model, video, sink)
        for run in runs.values():
            run()
        took = {name: [] for name in runs}
        for number in range(options.rounds):
            names = list(runs)
            for name in names[number % 3 :] + names[: number % 3]:
                began = time.perf_counter()
                runs[name]()
                took[name].append(1e3 * (time.perf_counter() - began) / FRAMES)
    base = took["the model alone"]
    rows = []
    print("| | per frame | around the model |\n|---|---|---|")
    for name, times in took.items():
        more = statistics.median(time / alone for time, alone in zip(times, base)) - 1
        rows.append({"side": name, "milliseconds": statistics.median(times), "overhead": more})
        print(f"| {name} | {statistics.median(times):.2f} ms | {100 * more:.0f} % |")
    print("\n" + about.lines())
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, **about.facts()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
