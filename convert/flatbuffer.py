"""Flatbuffers written from plain values, and one put into a .tflite without repacking the model."""

from __future__ import annotations

import dataclasses

import flatbuffers
import numpy as np
from flatbuffers import encode, packer
from flatbuffers.table import Table

# Slots of the tables Model and Buffer in schema.fbs of TFLite.
VERSION, BUFFERS, METADATA, MODEL_SLOTS = 0, 4, 6, 10
BUFFER_OFFSET = 1
SCHEMA_VERSION = 3
ALIGNMENT = 16  # of constants


@dataclasses.dataclass(frozen=True)
class Behind:
    """What is in the file already, `position` bytes after what is being written."""

    position: int


# A table is {slot: field}; a field may also be a list of tables.
Field = str | bytes | np.ndarray | np.uint8 | np.uint32 | Behind | list | dict


def serialize(root: dict[int, Field], identifier: bytes) -> bytes:
    """A flatbuffer of tables, strings, scalars and vectors; a multiple of 16 bytes.

    root: slot -> str, bytes, a vector of numbers as an array, a scalar as np.uint8 or np.uint32, a
    table, or a list of tables. identifier: the four letters of the schema.
    """
    builder = flatbuffers.Builder()
    builder.Prep(ALIGNMENT, 0)
    builder.Finish(_write(builder, root), identifier)
    return bytes(builder.Output())


def with_metadata(model: bytes, name: str, content: bytes) -> bytes:
    """A .tflite with one more of the model's metadata entries.

    The model's bytes stay in one piece, aligned as they were: a new root table in front of them has
    what the old one had. Only the constants that lie behind the flatbuffer, where ai-edge-quantizer
    puts them, are found by their distance from the start of the file, and that is corrected.
    """
    old = Table(model, encode.Get(packer.uoffset, model, 0))
    buffers, entries = _tables(old, BUFFERS), _tables(old, METADATA)
    fields = {slot: old.Offset(4 + 2 * slot) for slot in range(MODEL_SLOTS)}
    root = {s: Behind(old.Indirect(old.Pos + field)) for s, field in fields.items() if field}
    root[VERSION] = np.uint32(SCHEMA_VERSION)
    root[BUFFERS] = [*(Behind(table.Pos) for table in buffers), {0: content}]
    entry = {0: name, 1: np.uint32(len(buffers))}
    root[METADATA] = [*(Behind(table.Pos) for table in entries), entry]
    front, body = serialize(root, b"TFL3"), bytearray(model)
    for table in buffers:
        field = table.Offset(4 + 2 * BUFFER_OFFSET)
        if field:
            distance = encode.Get(packer.uint64, model, table.Pos + field)
            encode.Write(packer.uint64, body, table.Pos + field, distance + len(front))
    return front + bytes(body)


def _write(builder: flatbuffers.Builder, value: Field) -> int:
    """The position of a value in the builder, which counts from its end: what is behind is negative."""
    match value:
        case str():
            return builder.CreateString(value)
        case bytes():
            builder.StartVector(1, len(value), ALIGNMENT)
            for byte in reversed(value):
                builder.PrependByte(byte)
            return builder.EndVector()
        case np.ndarray():
            return builder.CreateNumpyVector(value)
        case Behind():
            return -value.position
        case list():
            positions = [_write(builder, item) for item in value]
            builder.StartVector(4, len(positions), 4)
            for position in reversed(positions):
                builder.PrependUOffsetTRelative(position)
            return builder.EndVector()
    scalars = {np.uint8: builder.PrependUint8Slot, np.uint32: builder.PrependUint32Slot}
    slots = {s: v if type(v) in scalars else _write(builder, v) for s, v in value.items()}
    builder.StartObject(max(value, default=-1) + 1)
    for slot, item in slots.items():
        scalars.get(type(item), builder.PrependUOffsetTRelativeSlot)(slot, int(item), 0)
    return builder.EndObject()


def _tables(table: Table, slot: int) -> list[Table]:
    """The tables of a vector, which may be missing."""
    field = table.Offset(4 + 2 * slot)
    if not field:
        return []
    start, count = table.Vector(field), table.VectorLen(field)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(count)]
