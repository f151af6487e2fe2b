"""What a .tflite's own flatbuffers tell: TFLite Metadata, and how the graph ends.

Source: schema.fbs of LiteRT; metadata_schema.fbs 1.5.0 of TFLite Support and MediaPipe
(mediapipe/tasks/metadata), which `convert.metadata_schema` writes.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from pathlib import Path

from flatbuffers import encode, packer
from flatbuffers.table import Table

from edge_demo.errors import UserError
from edge_demo.scores import SIGMOID, SOFTMAX

ENTRY = "TFLITE_METADATA"  # its name among the model's metadata entries
# The tables used, their fields in the schema's order as far as they are needed.
FIELDS = {
    "ModelMetadata": (
        *("name", "description", "version", "subgraph_metadata", "author", "license"),
        *("associated_files", "min_parser_version"),
    ),
    "SubGraphMetadata": ("name", "description", "input_tensor_metadata", "output_tensor_metadata"),
    "TensorMetadata": (
        *("name", "description", "dimension_names", "content", "process_units", "stats"),
        "associated_files",
    ),
    "Content": ("content_properties_type", "content_properties"),
    "FeatureProperties": (),
    "ImageProperties": ("color_space",),
    "ProcessUnit": ("options_type", "options"),
    "NormalizationOptions": ("mean", "std"),
    "Stats": ("max", "min"),
    "AssociatedFile": ("name", "description", "type"),
    # of the model itself
    "Model": ("version", "operator_codes", "subgraphs", "description", "buffers", "_", "metadata"),
    "SubGraph": ("tensors", "inputs", "outputs", "operators"),
    "Operator": ("opcode_index", "inputs", "outputs"),
    "OperatorCode": ("deprecated_builtin_code", "custom_code", "version", "builtin_code"),
    "Metadata": ("name", "buffer"),
    "Buffer": ("data",),
}
NORMALIZATION_OPTIONS = 1  # of the union ProcessUnitOptions
TENSOR_AXIS_LABELS = 2  # of the enum AssociatedFileType
# Of the enum BuiltinOperator: what makes scores of logits, and what changes nothing but their form:
ACTIVATIONS = {25: SOFTMAX, 14: SIGMOID}
UNCHANGING = {6, 22, 43, 114}  # DEQUANTIZE, RESHAPE, SQUEEZE, QUANTIZE


@dataclasses.dataclass(frozen=True)
class Told:
    """What a file tells of itself; None where it does not.

    mean, std: in grey levels, one or one per channel. labels_file: a name in the zip behind the model.
    activation: what the graph makes of its logits at its end, a name of `edge_demo.scores.SCORES`.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels_file: str | None = None
    activation: str | None = None


def read(path: str | Path) -> Told:
    """What a .tflite tells of itself; UserError if it is damaged where it would."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            model = _root(data)
            return dataclasses.replace(_described(model), activation=_activation(model))
    except (struct.error, IndexError, OverflowError, ValueError):
        raise UserError(f"{path}: damaged model; copy it again") from None


def _activation(model: Table) -> str | None:
    graph = _tables(model, "Model", "subgraphs")[0]
    codes = _tables(model, "Model", "operator_codes")
    wanted = _numbers(graph, "SubGraph", "outputs", packer.int32)[0]
    for operator in reversed(_tables(graph, "SubGraph", "operators")):
        if wanted not in _numbers(operator, "Operator", "outputs", packer.int32):
            continue
        kind = codes[_number(operator, "Operator", "opcode_index", packer.uint32)]
        code = max(  # the field for codes above 127 came later
            _number(kind, "OperatorCode", "deprecated_builtin_code", packer.int8),
            _number(kind, "OperatorCode", "builtin_code", packer.int32),
        )
        if code not in UNCHANGING:
            return ACTIVATIONS.get(code)
        wanted = _numbers(operator, "Operator", "inputs", packer.int32)[0]
    return None


def _described(model: Table) -> Told:
    entries = _tables(model, "Model", "metadata")
    found = [entry for entry in entries if _text(entry, "Metadata", "name") == ENTRY]
    if not found:
        return Told()
    number = _number(found[0], "Metadata", "buffer", packer.uint32)
    content = _root(_bytes(_tables(model, "Model", "buffers")[number], "Buffer", "data"))
    graph = _tables(content, "ModelMetadata", "subgraph_metadata")[0]
    told = {}
    for tensor in _tables(graph, "SubGraphMetadata", "input_tensor_metadata")[:1]:
        for unit in _tables(tensor, "TensorMetadata", "process_units"):
            kind = _number(unit, "ProcessUnit", "options_type", packer.uint8)
            if kind == NORMALIZATION_OPTIONS:
                options = _table(unit, "ProcessUnit", "options")
                for name in ("mean", "std"):
                    values = _numbers(options, "NormalizationOptions", name, packer.float32)
                    told[name] = tuple(values) or None
    for tensor in _tables(graph, "SubGraphMetadata", "output_tensor_metadata")[:1]:
        for file in _tables(tensor, "TensorMetadata", "associated_files"):
            if _number(file, "AssociatedFile", "type", packer.uint8) == TENSOR_AXIS_LABELS:
                told.setdefault("labels_file", _text(file, "AssociatedFile", "name"))
    return Told(**told)


def _root(data: bytes | mmap.mmap) -> Table:
    return Table(data, encode.Get(packer.uoffset, data, 0))


def _at(table: Table, kind: str, field: str) -> int:
    """Where a field is, from the start of its table; 0 if it is missing."""
    return table.Offset(4 + 2 * FIELDS[kind].index(field))


def _number(table: Table, kind: str, field: str, packed: struct.Struct) -> int:
    at = _at(table, kind, field)
    return encode.Get(packed, table.Bytes, table.Pos + at) if at else 0


def _numbers(table: Table, kind: str, field: str, packed: struct.Struct) -> list:
    at = _at(table, kind, field)
    start, count = (table.Vector(at), table.VectorLen(at)) if at else (0, 0)
    return [encode.Get(packed, table.Bytes, start + i * packed.size) for i in range(count)]


def _bytes(table: Table, kind: str, field: str) -> bytes:
    at = _at(table, kind, field)
    start = table.Vector(at) if at else 0
    return table.Bytes[start : start + table.VectorLen(at)] if at else b""


def _text(table: Table, kind: str, field: str) -> str:
    return _bytes(table, kind, field).decode()


def _table(table: Table, kind: str, field: str) -> Table:
    return Table(table.Bytes, table.Indirect(table.Pos + _at(table, kind, field)))


def _tables(table: Table, kind: str, field: str) -> list[Table]:
    at = _at(table, kind, field)
    start, count = (table.Vector(at), table.VectorLen(at)) if at else (0, 0)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(count)]
