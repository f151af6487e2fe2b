"""`make demo`: handwritten digits from nothing to an int8 file that classifies PNG files.

Runs the three commands that a user would run, and leaves everything in runs/demo.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from edge_demo.files import write_json
from edge_demo.tables import percent, table
from tfvit.options import need

OUT = Path("runs/demo")
TRAIN = [
    *("--data", "digits", "--model", "vit-ti/4", "--image-size", "16", "--epochs", "60"),
    *("--set", "depth=4", "--set", "width=96", "--set", "mlp_dim=192", "--set", "heads=3"),
    *("--lr", "2e-3", "--crop-min-area", "0.6", "--no-flip"),
]


def run(*command: str) -> str:
    """Runs a command of this environment, shows what it is, and returns its standard output."""
    print(f"\n$ {' '.join(command)}", flush=True)
    program = Path(sys.executable).with_name(command[0])
    capture = subprocess.PIPE if command[0] == "edge-demo" else None
    done = subprocess.run([program, *command[1:]], stdout=capture, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed with exit code {done.returncode}")
    return done.stdout or ""


def main() -> None:
    """Train, convert, save held-out digits as PNG files, classify them, and say how it went."""
    began = time.perf_counter()
    need("train")
    shutil.rmtree(OUT, ignore_errors=True)
    run("tfvit", "train", *TRAIN, "--out", f"{OUT}/training")
    run(
        *("tfvit", "convert", f"{OUT}/training", "--data", "digits", "--int8"),
        *("--out", f"{OUT}/exported"),
    )
    labels = save_held_out(OUT / "images")
    lines = run("edge-demo", f"{OUT}/exported/int8.tflite", "--source", f"{OUT}/images", "--json")
    results = [json.loads(line) for line in lines.splitlines()]
    edge_accuracy = float(np.mean([r["label"] == labels[r["source"]] for r in results]))
    milliseconds = float(np.median([sum(r["milliseconds"].values()) for r in results]))
    report = json.loads((OUT / "exported/report.json").read_text())
    float32, int8 = report["files"]["float32"], report["files"]["int8"]
    summary = {
        "float_accuracy": float32["accuracy"]["top1"],
        "int8_accuracy": int8["accuracy"]["top1"],
        "edge_demo_accuracy": edge_accuracy,
        "float_tflite": str(OUT / "exported" / float32["file"]),
        "int8_tflite": str(OUT / "exported" / int8["file"]),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(OUT / "summary.json", summary)
    rows = [
        [name, percent(e["accuracy"]["top1"]), f"{e['bytes'] / 1e3:.0f} kB",
         f"{e['latency_ms']['1']:.3f} ms", str(OUT / "exported" / e["file"])]
        for name, e in (("float32", float32), ("int8", int8))
    ]  # fmt: skip
    held_out = f"{OUT}/images ({len(results)} PNG files)"
    rows.append(["edge-demo int8", percent(edge_accuracy), "", f"{milliseconds:.3f} ms", held_out])
    picture(results, labels, OUT / "digits.png")
    print()
    print(table(rows, ["digits, held out", "accuracy", "size", "per image", "where"]))
    pictures = f"{OUT}/digits.png, {OUT}/training/curves.png"
    print(f"\n{OUT}/summary.json, {pictures} ({summary['seconds']:.0f} s)")


def save_held_out(folder: Path) -> dict[str, str]:
    """Writes the held-out digits as PNG files; returns the label of each path."""
    from tfvit.data import DataOptions, open_source

    folder.mkdir(parents=True)
    labels = {}
    for i, example in enumerate(open_source(DataOptions("digits")).eval.in_order()):
        path = folder / f"{i:03d}.png"
        path.write_bytes(example["data"].numpy())
        labels[str(path)] = str(int(example["label"]))
    return labels


def picture(results: list[dict], labels: dict[str, str], path: Path) -> None:
    """Draws what edge-demo said of some digits: the wrong ones first, in red."""
    from matplotlib.figure import Figure
    from PIL import Image

    shown = sorted(results, key=lambda r: r["label"] == labels[r["source"]])[:40]
    figure = Figure(figsize=(10, 5.4), layout="constrained")
    for axis, result in zip(figure.subplots(4, 10).flat, shown):
        right = result["label"] == labels[result["source"]]
        axis.imshow(Image.open(result["source"]), cmap="gray")
        title = f"{result['label']}  {100 * result['score']:.0f} %"
        axis.set_title(title, fontsize=10, color="black" if right else "crimson")
        axis.axis("off")
    figure.suptitle("edge-demo with int8.tflite on held-out digits; mistakes in red, first")
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
