"""Real photos, a trained run and an exported folder, each made once per session."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import browse, chromium  # noqa: F401
from click.testing import CliRunner
from helpers import BIN, SMALL
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Begun in the background of a shell, the suite ignores Ctrl-C, as would all processes that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="tfds")  # no set of the developer's own


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command did: exit code and both outputs."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tfvit_cli():
    """Runs `tfvit` in this process, where TensorFlow is imported already: tfvit_cli("info", path)."""
    from tfvit.cli import main

    return lambda *args: _invoke(main, args)


@pytest.fixture(scope="session")
def edge_cli():
    """Runs `edge-demo` in this process."""
    from edge_demo.cli import main

    return lambda *args: _invoke(main, args)


def _invoke(main, args) -> Done:
    result = CliRunner().invoke(main, [str(a) for a in args])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def process():
    """Runs an installed command as a real process: process("edge-demo", ..., cwd=folder)."""

    def run(command: str, *args, **kwargs) -> Done:
        done = subprocess.run(
            [BIN / command, *map(str, args)], capture_output=True, text=True, check=False, **kwargs
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def sample_photos() -> dict[str, Image.Image]:
    """The two real photos that scikit-learn ships, 640x427: a temple and a flower."""
    from sklearn.datasets import load_sample_images

    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    return {"china": china, "flower": flower}


@pytest.fixture(scope="session")
def photos(tmp_path_factory, sample_photos) -> Path:
    """An image folder of two classes, crops of the two photos: 24 for training, 8 for test each."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, photo in sample_photos.items():
        for split, count in (("train", 24), ("test", 8)):
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                width, height = rng.integers(60, 200, 2)
                left = rng.integers(0, photo.width - width)
                top = rng.integers(0, photo.height - height)
                crop = photo.crop((left, top, left + width, top + height))
                crop.save(folder / f"{i:02d}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def labelled_photos(tmp_path_factory, sample_photos) -> Path:
    """A folder with labels.csv: 40 pictures for training, 16 for test, each with any of three labels.

    On the left there may be a temple, on the right a flower, and it may be dark.
    """
    root = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 16)):
        (root / split).mkdir()
        rows = ["file_name,labels"]
        for i in range(count):
            picture, present = np.full((48, 64, 3), 128, np.uint8), []
            for bit, (name, left) in enumerate((("china", 0), ("flower", 32))):
                x, y = rng.integers(100, 400), rng.integers(100, 300)
                if i >> bit & 1:
                    crop = sample_photos[name].crop((x, y, x + 96, y + 144)).resize((32, 48))
                    picture[:, left : left + 32] = np.asarray(crop)
                    present.append(name)
            if i >> 2 & 1:
                picture //= 3
                present.append("dark")
            Image.fromarray(picture).save(root / split / f"{i:02d}.png")
            rows.append(f"{i:02d}.png,{';'.join(present)}")
        (root / split / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, fill): a folder that fill(folder) makes for all processes, and no test changes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                fill(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def digits_run(once, tfvit_cli) -> Path:
    """A run folder: a small ViT trained on digits for some seconds."""

    def train(out: Path) -> None:
        options = ("--epochs", "6", "--lr", "3e-3", "--crop-min-area", "1", "--no-flip")
        done = tfvit_cli("train", "--data", "digits", *SMALL, *options, "--out", out)
        assert done.code == 0, done.err

    return once("digits_run", train)


@pytest.fixture(scope="session")
def converted(once, tfvit_cli, digits_run):
    """converted(name, *options): `tfvit convert` of `digits_run`, made once."""

    def make(name: str, *options: str) -> Path:
        def convert(out: Path) -> None:
            done = tfvit_cli("convert", digits_run, "--data", "digits", *options, "--out", out)
            assert done.code == 0, done.err

        return once(name, convert)

    return make


TELLING = ("--with-features", "--with-attention")


@pytest.fixture(scope="session")
def telling(converted) -> Path:
    """Exported files of `digits_run` that tell features and attention beside their logits."""
    return converted("telling", "--scheme", "int8,int8-full", "--calibrate-only", *TELLING)


@pytest.fixture(scope="session")
def exported(converted) -> Path:
    """`tfvit convert --int8` of `digits_run`."""
    return converted("exported", "--int8", "--qat-steps", "20")


@pytest.fixture(scope="session")
def web_export(converted) -> Path:
    """`tfvit convert --format web` of `digits_run`, all that a model can tell and all engines in it."""
    options = ("--scheme", "float32,dynamic,int8", "--calibrate-only", "--format", "web")
    weights = ("--tfjs-weights", "float32,float16,uint8")
    return converted("web_export", *options, *weights, *TELLING)
