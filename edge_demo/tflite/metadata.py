"""What a .tflite carries besides the graph: a zip appended to the file, as TFLite Metadata does it.

`labels.txt` has one label per line in the order of the output; `tfvit.json` has the preprocessing,
how logits become scores, and the provenance; `prototypes.npy` has the classes as features, where there
are such. Any zip tool lists and extracts them. First written by `convert.metadata`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

from edge_demo.errors import UserError
from edge_demo.files import atomic_file, crc32
from edge_demo.preprocess import PreprocessSpec
from edge_demo.prototypes import Prototypes
from edge_demo.scores import SOFTMAX, known

LABELS_FILE = "labels.txt"
DESCRIPTION_FILE = "tfvit.json"
PROTOTYPES_FILE = "prototypes.npy"
EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp: the same content gives the same bytes
CHECKSUM = "graph_crc32"  # of the bytes before the zip: a damaged graph can crash the runtime
TFLITE_MAGIC = b"TFL3"  # at byte 4 of every .tflite
LOGITS, FEATURES, ATTENTION = "logits", "features", "attention"  # what an output can be


@dataclasses.dataclass(frozen=True)
class Metadata:
    """labels: in output order. preprocess: the model's input. scores: a name of `edge_demo.scores.SCORES`.

    outputs: names of the model's outputs in their order, the logits first. prototypes: the classes as
    features, if the file has them. description: scheme and provenance.
    """

    labels: tuple[str, ...]
    preprocess: PreprocessSpec
    scores: str
    outputs: tuple[str, ...]
    prototypes: Prototypes | None
    description: dict

    @property
    def enrolled(self) -> Prototypes | None:
        """The prototypes, where they decide: after `edge-demo enroll`."""
        return self.prototypes if self.prototypes and self.prototypes.decide else None

    @property
    def classes(self) -> tuple[str, ...]:
        """What a picture is taken for: the labels, or those of the prototypes where they decide."""
        return self.enrolled.labels if self.enrolled else self.labels


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
            means = description.get("prototypes") and archive.read(PROTOTYPES_FILE)
            size = graph_size(archive)
        if description.pop(CHECKSUM) != crc32(path, size):
            raise UserError("damaged model (its checksum differs); copy or export it again")
        spec = PreprocessSpec.from_json(description.pop("preprocess"))
        scores = known(description.pop("scores", SOFTMAX))
        outputs = tuple(map(str, description.pop("outputs", [LOGITS])))
        prototypes = description.pop("prototypes", None)
        if prototypes is not None:
            prototypes = Prototypes.read(prototypes, means)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: no labels and preprocessing inside; export it with `tfvit convert`"
        ) from None
    return Metadata(tuple(labels), spec, scores, outputs, prototypes, description)


def read_with_features(path: str | Path) -> Metadata:
    """As `read`; UserError if the file does not tell its features."""
    found = read(path)
    if FEATURES not in found.outputs:
        raise UserError(
            f"{path}: tells no features; export it with `tfvit convert --with-features`"
        )
    return found


def identity(path: str | Path) -> str:
    """Checksum and size of a .tflite's graph, which tell it from others: "0a1b2c3d-6980080".

    Of a file that has a checksum inside it is that, for `read` to compare. OSError if it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            checksum = json.loads(archive.read(DESCRIPTION_FILE))[CHECKSUM]
            return f"{checksum:08x}-{graph_size(archive)}"
    except (zipfile.BadZipFile, KeyError):
        return f"{crc32(path):08x}-{Path(path).stat().st_size}"


def describe(
    path: Path, out: Path | None = None, *, prototypes: Prototypes | None = None, **found: object
) -> None:
    """Writes a .tflite anew with more in its description, replacing what has that name.

    out: where to, in place of `path`. prototypes: in place of those inside, if any. found: JSON types;
    None takes out what has that name. The graph, all that runs, stays byte for byte what was measured, and
    its checksum proves it. Raises UserError as `read`, or if the disk refuses.
    """
    read(path)
    with zipfile.ZipFile(path) as opened:
        graph = path.read_bytes()[: graph_size(opened)]
        files = {name: opened.read(name) for name in opened.namelist()}
    inside = json.loads(files[DESCRIPTION_FILE]) | found
    if prototypes:
        inside["prototypes"] = prototypes.to_json()
        files[PROTOTYPES_FILE] = prototypes.to_bytes()
    files[DESCRIPTION_FILE] = as_text({k: v for k, v in inside.items() if v is not None})
    with atomic_file(out or path) as temporary:
        temporary.write_bytes(graph + archive(files))


def as_text(description: dict) -> str:
    """The content of `tfvit.json`."""
    return json.dumps(description, indent=2, ensure_ascii=False)


def archive(files: dict[str, str | bytes]) -> bytes:
    """A zip of files by name, uncompressed: MediaPipe reads labels.txt where it lies."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for name, data in files.items():
            file.writestr(zipfile.ZipInfo(name, EPOCH), data)
    return content.getvalue()
