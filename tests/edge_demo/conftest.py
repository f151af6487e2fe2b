"""The digits as pictures, and the two exported files, for the tests of `edge_demo`."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import until
from network_camera import Camera, jpeg
from PIL import Image
from served import served as process_of

from edge_demo import Classifier
from edge_demo.pipeline import Pipeline


@pytest.fixture(scope="session")
def digits() -> tuple[list[Image.Image], np.ndarray]:
    """Every sixth of scikit-learn's digits as an RGB picture of 8x8, and what each one is."""
    from sklearn.datasets import load_digits

    data = load_digits()
    levels = np.round(data.images * (255 / 16)).astype(np.uint8)[::6]
    return [Image.fromarray(image).convert("RGB") for image in levels], data.target[::6]


@pytest.fixture(scope="session")
def int8(exported) -> Path:
    return exported / "int8.tflite"


@pytest.fixture(scope="session")
def float32(exported) -> Path:
    return exported / "float32.tflite"


@pytest.fixture(scope="session")
def split_model():
    """Takes a .tflite apart: the graph's bytes, the labels' text, the description's text."""

    def split(path: Path) -> tuple[bytes, str, str]:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            start = min(entry.header_offset for entry in archive.infolist())
            texts = (archive.read(name).decode() for name in ("labels.txt", "tfvit.json"))
            return data[:start], *texts

    return split


@pytest.fixture(scope="session")
def join_model():
    """Puts a .tflite together: any bytes, and a zip of these files appended."""

    def join(graph: bytes, files: dict[str, str | bytes], compression=zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return graph + buffer.getvalue()

    return join


@pytest.fixture(scope="module")
def live(int8):
    """A camera that is watched, with --json on stdout."""
    camera = Camera(picture=lambda number: jpeg(number, (64, 160)))
    with process_of(int8, "--source", camera.address, "--json") as found:
        until(lambda: found.ask("/snapshot.jpg").code == 200)
        yield found
    camera.stop()


@pytest.fixture(scope="module")
def pipeline(int8):
    return Pipeline(Classifier(int8))
