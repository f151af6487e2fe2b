"""What --weight-cache saves: `python bench/weight_cache.py`.

Of ViTs with random weights: the time of a whole `edge-demo` command for one photo, and the memory of a
process after its first result; without a cache, with one that has to be made, and with one that is there.
All in fresh processes that take turns, files in the page cache. One thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import about

MODELS = {"vit-ti/16": ("int8", "float32"), "vit-b/16": ("int8", "float32")}
SIDES = ("without", "first start", "later starts")
# Of /proc/self/smaps_rollup: anonymous pages are the process's own; those of files are shared by all that
# map them, and Pss counts a share.
CHILD = """
import json, sys, time
from edge_demo import Classifier
began = time.perf_counter()
classifier = Classifier(sys.argv[1], 1, weight_cache=sys.argv[3] or None)
loaded = time.perf_counter()
classifier.classify(sys.argv[2])
first = time.perf_counter()
lines = open("/proc/self/smaps_rollup").read().splitlines()[1:]
mib = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
print(json.dumps({"load": 1e3 * (loaded - began), "first": 1e3 * (first - loaded), **mib}))
"""


def paths(folder: Path) -> dict[str, Path]:
    """The files of a folder, by their names in the table."""
    return {
        f"{name} {scheme}": folder / f"{name.replace('/', '-')}-{scheme}.tflite"
        for name, schemes in MODELS.items()
        for scheme in schemes
    }


def write_models(found: dict[str, Path]) -> None:
    """Writes all of `paths`, in some minutes."""
    import random_vit
    from ours import ours

    from convert import fold, metadata

    for name, schemes in MODELS.items():
        model = random_vit.create(name)
        graphs = ours(model, random_vit.images(16, seed=1))
        spec = model.preprocess.__class__(224, 224, **fold.UNIT_SCALE)
        labels = tuple(map(str, range(random_vit.CLASSES)))
        for scheme in schemes:
            described = {"scheme": scheme, "provenance": {}}
            about_it = {"name": "random", "version": "0"}
            file = metadata.add(graphs[scheme], labels, spec, described, **about_it)
            found[f"{name} {scheme}"].write_bytes(file)


def measure(path: Path, photo: Path, side: str, cache: Path) -> dict[str, float]:
    """command, load and first in milliseconds; what the system tells of memory, in MiB."""

    def emptied() -> Path:
        for file in cache.glob("*") if side == "first start" else ():
            file.unlink()
        return cache

    command = [Path(sys.executable).with_name("edge-demo"), path, "--source", photo]
    options = [] if side == "without" else ["--weight-cache", emptied()]
    began = time.perf_counter()
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    took = 1e3 * (time.perf_counter() - began)
    child = [sys.executable, "-c", CHILD, path, photo, "" if side == "without" else emptied()]
    done = subprocess.run(child, check=True, capture_output=True, text=True)
    return {"command": took, **json.loads(done.stdout)}


def main() -> None:
    """Prints a table, of the best round: whatever else the machine does only adds."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=Path, help="A folder that keeps them for the next time.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("| | | command | load | first run | own memory | with files (Pss) |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        folder, photo = Path(temporary), Path(temporary) / "photo.jpg"
        from PIL import Image
        from sklearn.datasets import load_sample_images

        Image.fromarray(load_sample_images().images[0]).save(photo)
        models = paths(options.models or folder)
        if not all(path.exists() for path in models.values()):
            write_models(models)
        for name, path in models.items():
            cache = folder / f"{path.stem}.cache"
            found = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side in SIDES:
                    found[side].append(measure(path, photo, side, cache))
            for side, samples in found.items():
                row = {key: min(sample[key] for sample in samples) for key in samples[0]}
                rows.append({"model": name, "side": side, **row})
                times = (f"{row[key]:.0f} ms" for key in ("command", "load", "first"))
                mib = (f"{row[key]:.0f} MiB" for key in ("Anonymous", "Pss"))
                print(f"| {name} | {side} | {' | '.join((*times, *mib))} |", flush=True)
    print("\n" + about.lines())
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, **about.facts()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
