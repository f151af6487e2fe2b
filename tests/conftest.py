"""Real photos, a trained run and an exported folder, each made once per session."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
from browser import browse, chromium  # noqa: F401
from click.testing import CliRunner
from helpers import BIN, SMALL
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
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
def digits_run(tmp_path_factory, tfvit_cli) -> Path:
    """A run folder: a small ViT trained on digits for some seconds."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    options = ("--epochs", "6", "--lr", "3e-3", "--crop-min-area", "1", "--no-flip")
    done = tfvit_cli("train", "--data", "digits", *SMALL, *options, "--out", out)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def telling(tmp_path_factory, tfvit_cli, digits_run) -> Path:
    """Exported files of `digits_run` that tell features and attention beside their logits."""
    out = tmp_path_factory.mktemp("telling")
    options = ("--scheme", "int8,int8-full", "--calibrate-only", "--with-features")
    done = tfvit_cli(
        *("convert", digits_run, "--data", "digits", *options, "--with-attention", "--out", out)
    )
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def exported(tmp_path_factory, tfvit_cli, digits_run) -> Path:
    """`tfvit convert --int8` of `digits_run`."""
    out = tmp_path_factory.mktemp("exported")
    done = tfvit_cli(
        *("convert", digits_run, "--data", "digits", "--int8", "--qat-steps", "20", "--out", out)
    )
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="session")
def web_export(tmp_path_factory, tfvit_cli, digits_run) -> Path:
    """`tfvit convert --format web` of `digits_run`, all that a model can tell and all engines in it."""
    out = tmp_path_factory.mktemp("web_export")
    options = ("--scheme", "float32,dynamic,int8", "--calibrate-only", "--format", "web")
    weights = ("--tfjs-weights", "float32,float16,uint8", "--with-features", "--with-attention")
    done = tfvit_cli("convert", digits_run, "--data", "digits", *options, *weights, "--out", out)
    assert done.code == 0, done.err
    return out
