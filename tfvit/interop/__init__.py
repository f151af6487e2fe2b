"""Models of other libraries: recognised by content, read as ours, and written back.

imported.py             what every reader returns, and how it becomes a model
table.py                tables of weights: their name, our name, order of the axes
recognise.py            whose a file or folder is
huggingface.py          transformers' folders of ViT, DeiT and DINOv2 (with registers)
huggingface_config.py   their config.json and preprocessor_config.json
timm.py                 timm's .safetensors and hub folders
timm_config.py          their config.json
google.py npz.py        Google's .npz; google_names.py has the tables
public.py               which public checkpoints there are
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_demo.errors import UserError
from tfvit.interop import recognise

if TYPE_CHECKING:
    from tfvit.model import Model
    from tfvit.transfer import Transfer


@dataclasses.dataclass(frozen=True)
class Format:
    """A way to keep a model.

    what: in words. without: what of a model it has no place for.
    recognises: whether a path holds one, by its content.
    module: has `read(path)` and `write(model, path)`; imported when needed, since TensorFlow comes with it.
    """

    what: str
    recognises: Callable[[Path], bool]
    module: str
    without: str


FORMATS = {
    "google-npz": Format(
        "Google's .npz", recognise.is_npz, "tfvit.interop.google", "labels, preprocessing, scores"
    ),
    "huggingface": Format(
        "a Hugging Face folder", recognise.is_huggingface, "tfvit.interop.huggingface", "dropout"
    ),
    "timm": Format(
        "timm's .safetensors or folder", recognise.is_timm, "tfvit.interop.timm", "dropout, scores"
    ),
}


def load(path: Path, image_size: tuple[int, int] | None = None) -> tuple[Model, Transfer]:
    """The model of another library in a file or folder, and what became of its weights.

    image_size: position embeddings are interpolated to it; None is the size of the preprocessing
        where the patch divides it, else the model's own.
    Raises UserError for whatever is missing, damaged or not understood, and for what may hold code.
    """
    from tfvit.interop import imported

    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    recognise.refuse_code(path)
    if recognise.is_checkpoint(path):
        raise UserError(f"{path}: is a checkpoint of tfvit already and needs no import")
    for kind in FORMATS.values():
        if kind.recognises(path):
            read = importlib.import_module(kind.module).read(path)
            return imported.finish(read, image_size, path)
    known = ", ".join(kind.what for kind in FORMATS.values())
    raise UserError(f"{path}: not a checkpoint: {recognise.content(path)}; known are {known}")


def save(model: Model, format: str, path: Path) -> None:
    """Writes a model as another library keeps it.

    format: a name of `FORMATS`. Reading it again gives the same weights, to the bit.
    Raises UserError, naming the field, for what the format cannot hold, or if there is something already.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    path = Path(path)
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name")
    importlib.import_module(FORMATS[format].module).write(model, path)
