"""Labels, preprocessing and provenance into a .tflite, for `edge_demo.metadata` and for MediaPipe."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

from convert import flatbuffer, metadata_schema
from edge_demo import metadata
from edge_demo.files import atomic_file
from edge_demo.metadata import CHECKSUM, DESCRIPTION_FILE, LABELS_FILE
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SOFTMAX
from edge_demo.tflite_schema import ENTRY

EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp: the same export gives the same bytes


def labels_text(labels: tuple[str, ...]) -> str:
    """The content of labels.txt: one label a line, in the order of the output."""
    return "".join(f"{label}\n" for label in labels)


def add(
    model: bytes,
    labels: tuple[str, ...],
    spec: PreprocessSpec,
    description: dict,
    *,
    scores: str = SOFTMAX,
    name: str,
    version: str,
) -> bytes:
    """A .tflite with TFLite Metadata: its flatbuffer, and a zip of `labels.txt` and `tfvit.json`.

    spec: of the file's own input. description: scheme and provenance, JSON types.
    scores: how logits become scores, a name of `edge_demo.scores.SCORES`.
    name, version: of the model, for people.
    """
    summary = f"Image classifier of {len(labels)} classes, {description['scheme']}, by tfvit."
    content = metadata_schema.image_classifier(name, summary, version, spec, scores, LABELS_FILE)
    graph = flatbuffer.with_metadata(model, ENTRY, content)
    inside = {
        CHECKSUM: zlib.crc32(graph),
        **description,
        "preprocess": spec.to_json(),
        "scores": scores,
    }
    return graph + _archive(labels_text(labels), inside)


def describe(path: Path, **found: object) -> None:
    """Adds what was measured on a .tflite to the description inside it, replacing what has that name.

    found: JSON types. The graph, all that runs, stays byte for byte what was measured, and its
    checksum proves it. Raises UserError as `edge_demo.metadata.read`, or if the disk refuses.
    """
    metadata.read(path)
    with zipfile.ZipFile(path) as archive:
        graph = path.read_bytes()[: metadata.graph_size(archive)]
        labels = archive.read(LABELS_FILE).decode()
        inside = json.loads(archive.read(DESCRIPTION_FILE))
    with atomic_file(path) as temporary:
        temporary.write_bytes(graph + _archive(labels, inside | found))


def _archive(labels: str, description: dict) -> bytes:
    """The zip, uncompressed: MediaPipe reads labels.txt where it lies."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, text in (
            (LABELS_FILE, labels),
            (DESCRIPTION_FILE, json.dumps(description, indent=2, ensure_ascii=False)),
        ):
            file.writestr(zipfile.ZipInfo(name, EPOCH), text)
    return archive.getvalue()
