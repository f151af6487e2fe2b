"""What a .tflite carries besides the graph: a zip appended to the file, as TFLite Metadata does it.

`labels.txt` has one label per line in the order of the output; `tfvit.json` has the preprocessing,
how logits become scores, and the provenance. Any zip tool lists and extracts them. Written by
`convert.metadata`.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import zipfile
import zlib
from pathlib import Path

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SOFTMAX, known

LABELS_FILE = "labels.txt"
DESCRIPTION_FILE = "tfvit.json"
CHECKSUM = "graph_crc32"  # of the bytes before the zip: a damaged graph can crash the runtime
TFLITE_MAGIC = b"TFL3"  # at byte 4 of every .tflite
LOGITS, FEATURES, ATTENTION = "logits", "features", "attention"  # what an output can be


@dataclasses.dataclass(frozen=True)
class Metadata:
    """labels: in output order. preprocess: the model's input. scores: a name of `edge_demo.scores.SCORES`.

    outputs: names of the model's outputs in their order, the logits first. description: scheme and
    provenance.
    """

    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    scores: str
    outputs: tuple[str, ...]
    description: dict


def is_tflite(path: str | Path) -> bool:
    """Whether a file starts like a .tflite."""
    with open(path, "rb") as file:
        return file.read(8)[4:] == TFLITE_MAGIC


def graph_size(archive: zipfile.ZipFile) -> int:
    """Bytes of a .tflite before its zip: the graph, and the flatbuffer that MediaPipe reads."""
    return min(entry.header_offset for entry in archive.infolist())


def is_foreign(path: str | Path) -> bool:
    """Whether a file is a whole .tflite that others wrote; UserError if it is no .tflite."""
    try:
        if not is_tflite(path):
            raise UserError(f"{path}: not a .tflite file")
        with zipfile.ZipFile(path) as archive:
            return DESCRIPTION_FILE not in archive.namelist()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except zipfile.BadZipFile:
        return True


def read(path: str | Path) -> Metadata:
    """The metadata inside a .tflite.

    Raises UserError if the file is missing, is not a .tflite, or has no such metadata.
    """
    try:
        if not is_tflite(path):
            raise UserError("not a .tflite file")
        with zipfile.ZipFile(path) as archive:
            labels = archive.read(LABELS_FILE).decode().split("\n")[:-1]
            description = dict(json.loads(archive.read(DESCRIPTION_FILE)))
            size = graph_size(archive)
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as graph,
        ):
            checksum = zlib.crc32(graph)
        if description.pop(CHECKSUM) != checksum:
            raise UserError("damaged model (its checksum differs); copy or export it again")
        spec = PreprocessSpec.from_json(description.pop("preprocess"))
        scores = known(description.pop("scores", SOFTMAX))
        outputs = tuple(map(str, description.pop("outputs", [LOGITS])))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: no labels and preprocessing inside; export it with `tfvit convert`"
        ) from None
    return Metadata(tuple(labels), spec, scores, outputs, description)
