"""Labels, preprocessing and provenance into a .tflite, for `edge_demo.tflite.metadata` and for MediaPipe."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from convert import flatbuffer, metadata_schema
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SOFTMAX
from edge_demo.tflite.metadata import (
    CHECKSUM,
    DESCRIPTION_FILE,
    LABELS_FILE,
    LOGITS,
    archive,
    as_text,
)
from edge_demo.tflite.schema import ENTRY


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
    outputs: Sequence[str] = (LOGITS,),
    name: str,
    version: str,
) -> bytes:
    """A .tflite with TFLite Metadata: its flatbuffer, and a zip of `labels.txt` and `tfvit.json`.

    spec: of the file's own input. description: scheme and provenance, JSON types.
    scores: how logits become scores, a name of `edge_demo.scores.SCORES`. outputs: their names.
    name, version: of the model, for people.
    """
    summary = f"Image classifier of {len(labels)} classes, {description['scheme']}, by tfvit."
    content = metadata_schema.image_classifier(
        *(name, summary, version, spec, scores, LABELS_FILE, outputs[1:])
    )
    graph = flatbuffer.with_metadata(model, ENTRY, content)
    told = {CHECKSUM: zlib.crc32(graph), **inside(description, spec, scores, outputs)}
    files = {LABELS_FILE: labels_text(labels), DESCRIPTION_FILE: as_text(told)}
    return graph + archive(files)


def inside(
    description: dict,
    spec: PreprocessSpec,
    scores: str = SOFTMAX,
    outputs: Sequence[str] = (LOGITS,),
) -> dict:
    """What a model of any format says of itself beside its labels; the arguments are those of `add`."""
    return {
        **description,
        "preprocess": spec.to_json(),
        "scores": scores,
        "outputs": list(outputs),
    }
