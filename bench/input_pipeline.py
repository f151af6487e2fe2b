"""Images per second of the input pipeline, against PyTorch's DataLoader: `python bench/input_pipeline.py`.

JPEGs of 300x200 pixels, made of scikit-learn's two photos, to random crops of 224 pixels, half of them
mirrored, with RandAugment(2, 9) and without. PyTorch's runs in its own interpreter (--torch) with
torchvision's RandomResizedCrop and RandAugment on Pillow images, and with the same steps on OpenCV where
that is installed. Rounds of all take turns, each with as many threads or processes as there are cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PICTURES, BATCH, UNCOUNTED, COUNTED = 256, 64, 8, 24
POLICIES = ("none", "randaugment")


def write_pictures(folder: Path) -> None:
    """Crops of the two photos, 300x200, quality 85, in two classes."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    for i in range(PICTURES):
        width = int(rng.integers(300, 640))
        height = width * 2 // 3
        left, top = rng.integers(640 - width + 1), rng.integers(427 - height + 1)
        piece = photos[i % 2].crop((left, top, left + width, top + height)).resize((300, 200))
        (folder / str(i % 2)).mkdir(exist_ok=True)
        piece.save(folder / str(i % 2) / f"{i:03d}.jpg", quality=85)


def ours(folder: str, policy: str) -> Iterator:
    """Endless batches of this package."""
    from edge_demo.preprocess import PreprocessSpec
    from tfvit.data import DataOptions, open_source, pipeline
    from tfvit.data.augment import Augmentation

    return iter(
        pipeline.train_batches(
            *(
                open_source(DataOptions(folder, holdout=0.1)).train,
                PreprocessSpec(224, 224),
                BATCH,
            ),
            augmentation=Augmentation(policy=policy, magnitude=9.0),
            seed=0,
            start_step=0,
            unreadable={},
        )
    )


def torch_pillow(folder: str, policy: str) -> Iterator:
    """Endless batches of a DataLoader with torchvision's transforms on Pillow images."""
    from torchvision import datasets, transforms

    steps = [transforms.RandomResizedCrop(224, (0.05, 1)), transforms.RandomHorizontalFlip()]
    steps += [transforms.RandAugment(2, 9)] if policy == "randaugment" else []
    steps += [transforms.PILToTensor()]
    return _loader(datasets.ImageFolder(folder, transforms.Compose(steps)))


def torch_opencv(folder: str, policy: str) -> Iterator:
    """Endless batches of a DataLoader that decodes, crops and flips with OpenCV, and augments with ours."""
    import cv2
    import numpy as np
    import torch
    from torchvision import datasets

    cv2.setNumThreads(0)
    operations = _operations()
    rng = np.random.default_rng()

    def view(image):
        height, width = image.shape[:2]
        area, ratio = rng.uniform(0.05, 1) * height * width, rng.uniform(3 / 4, 4 / 3)
        w, h = min(width, int((area * ratio) ** 0.5)), min(height, int((area / ratio) ** 0.5))
        left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
        image = cv2.resize(image[top : top + h, left : left + w], (224, 224))
        image = cv2.flip(image, 1) if rng.random() < 0.5 else image
        if policy == "randaugment":
            image = operations.randaugment(image, rng, 2, 9.0, 0.0)
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)

    def read(path):
        return cv2.imread(path, cv2.IMREAD_COLOR_RGB)

    return _loader(datasets.ImageFolder(folder, view, loader=read))


def _operations():
    """Our table of operations, which needs OpenCV and NumPy alone, without the package around it."""
    path = Path(__file__).parents[1] / "tfvit/data/operations.py"
    spec = importlib.util.spec_from_file_location("operations", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _loader(dataset) -> Iterator:
    import os

    import torch

    torch.set_num_threads(1)
    workers = os.cpu_count()
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    while True:
        yield from loader


SIDES = {f.__name__: f for f in (ours, torch_pillow, torch_opencv)}


def measure(side: str, folder: str, policy: str) -> float:
    """Images per second of a side, after a warm-up."""
    batches = SIDES[side](folder, policy)
    for _ in range(UNCOUNTED):
        next(batches)
    began = time.perf_counter()
    for _ in range(COUNTED):
        next(batches)
    return COUNTED * BATCH / (time.perf_counter() - began)


def one_round(python: str, side: str, folder: str, policy: str) -> float | None:
    """`measure` in a process of its own; None where a library is missing."""
    command = [python, __file__, "--side", side, "--folder", folder, "--policy", policy]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{side}: left out ({done.stderr.strip().splitlines()[-1]})", file=sys.stderr)
        return None
    return float(done.stdout.split()[-1])


def main() -> None:
    """Prints a table of images per second and of ratios to torchvision on Pillow."""
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--torch", default=sys.executable, help="an interpreter with torchvision")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--policy", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(measure(options.side, options.folder, options.policy), flush=True)
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder))
        for policy in POLICIES:
            found = {side: [] for side in SIDES}
            for _ in range(options.rounds):
                for side, speeds in found.items():
                    python = sys.executable if side == "ours" else options.torch
                    speeds.append(one_round(python, side, folder, policy))
            speeds = {s: statistics.median(v) for s, v in found.items() if None not in v}
            base = speeds.get("torch_pillow")
            for side, speed in speeds.items():
                rows.append({"policy": policy, "side": side, "images_per_second": speed})
                ratio = f"{speed / base:.2f}x" if base else "-"
                print(f"| {policy} | {side} | {speed:.0f} images/s | {ratio} |", flush=True)
    import about  # here: PyTorch's interpreter, which runs this file too, needs none of it

    print("\n" + about.lines())
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
    sys.stdout.flush()
