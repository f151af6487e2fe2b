"""Models from elsewhere: what a .tflite that `tfvit convert` did not write does not say, somebody must."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import NONE, SCORES, SOFTMAX
from edge_demo.tflite import schema
from edge_demo.tflite.runtime import Input

PREPROCESSING = ("resize", "crop_fraction", "interpolation", "mean", "std")


@dataclasses.dataclass(frozen=True)
class Foreign:
    """What is told of a model from elsewhere; None: what it says itself, or the usual.

    labels: in output order. They may be told of a file of `tfvit convert` too, all else is inside it.
    mean, std: in grey levels, one number or one per channel: input = (pixel - mean) / std.
    resize, crop_fraction, interpolation: as PreprocessSpec has them.
    scores: what its outputs become, "softmax" or "sigmoid", or "none" where they are scores already.
    """

    labels: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: str | None = None
    crop_fraction: float | None = None
    interpolation: str | None = None
    scores: str | None = None

    def refuse(self, path: str | Path) -> None:
        """UserError if anything but labels is told of a file that knows it."""
        for name in (*PREPROCESSING, "scores"):
            if getattr(self, name) is not None:
                what = name.replace("_", "-")
                raise UserError(f"{path}: has its preprocessing inside; leave out --{what}")

    def read(self, path: str | Path) -> Model:
        """What is known of a file; UserError if it is damaged or nobody tells its labels."""
        inside = schema.read(path)
        return Model(
            Path(path),
            self.labels or _labels_inside(path, inside.labels_file),
            self.scores if self.scores in SCORES else inside.activation or SOFTMAX,
            self.scores == NONE or inside.activation is not None,
            self,
            inside,
        )


@dataclasses.dataclass(frozen=True)
class Model:
    """A model from elsewhere before it is loaded.

    scores: a name of `edge_demo.scores.SCORES`; are_scores: whether the outputs are such already.
    foreign: what was told of it. inside: what it tells itself.
    """

    path: Path
    labels: tuple[str, ...]
    scores: str
    are_scores: bool
    foreign: Foreign
    inside: schema.Told

    def preprocess_for(self, tensor: Input) -> PreprocessSpec:
        """The preprocessing for its input; UserError if a mean or std is missing or a value is bad.

        A uint8 input takes the pixels themselves unless a mean or std is told, as MediaPipe has it.
        """
        found = {name: getattr(self.foreign, name) for name in PREPROCESSING}
        known = {"mean": self.inside.mean, "std": self.inside.std}
        if tensor.dtype == np.uint8 and found["mean"] is found["std"] is None:
            known = {"mean": (tensor.zero_point,), "std": (1 / tensor.scale,)}
        for name in known:
            values = found[name] or known[name]
            if values is None:
                raise UserError(
                    f"{self.path}: no {name} inside; give --mean and --std, in grey levels 0-255, "
                    "as it was trained with"
                )
            found[name] = values * 3 if len(values) == 1 else values
            if tensor.channels == 1 and len(set(found[name])) > 1:
                raise UserError(f"{self.path}: input is grey; give one number as {name}")
        given = {name: value for name, value in found.items() if value is not None}
        try:
            return PreprocessSpec(tensor.height, tensor.width, **given)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None


def read_labels(path: str | Path) -> tuple[str, ...]:
    """The labels of a text file, one a line; UserError if it has none."""
    try:
        return _lines(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _labels_inside(path: str | Path, name: str | None) -> tuple[str, ...]:
    """Of the zip behind the model: the file that its metadata names, else the only .txt there."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [each for each in archive.namelist() if each.lower().endswith(".txt")]
            name = name or (texts[0] if len(texts) == 1 else None)
            if name in archive.namelist():
                return _lines(archive.read(name))
    except ValueError as error:
        raise UserError(f"{path}: {name}: {error}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # damaged, unknown, encrypted
        pass
    what = f"{name} is cut off; copy it again or" if name else "no labels inside;"
    raise UserError(f"{path}: {what} give --labels FILE, one label a line")


def _lines(data: bytes) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("labels must be UTF-8 text") from None
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines == [""]:
        raise ValueError("no labels in it")
    return tuple(lines)
