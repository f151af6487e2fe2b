"""Labels, preprocessing and provenance into a .tflite; `edge_demo.metadata` reads them."""

from __future__ import annotations

import io
import json
import zipfile
import zlib

from edge_demo.metadata import CHECKSUM, DESCRIPTION_FILE, LABELS_FILE
from edge_demo.preprocess import PreprocessSpec

EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed time stamp: the same export gives the same bytes


def labels_text(labels: tuple[str, ...]) -> str:
    """The content of labels.txt: one label a line, in the order of the output."""
    return "".join(f"{label}\n" for label in labels)


def add(model: bytes, labels: tuple[str, ...], spec: PreprocessSpec, description: dict) -> bytes:
    """A .tflite with a zip of `labels.txt` and `tfvit.json` appended, as TFLite Metadata has it.

    spec: of the file's own input. description: scheme and provenance, JSON types.
    """
    content = {CHECKSUM: zlib.crc32(model), **description, "preprocess": spec.to_json()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, text in (
            (LABELS_FILE, labels_text(labels)),
            (DESCRIPTION_FILE, json.dumps(content, indent=2, ensure_ascii=False)),
        ):
            file.writestr(zipfile.ZipInfo(name, EPOCH), text)
    return model + archive.getvalue()
