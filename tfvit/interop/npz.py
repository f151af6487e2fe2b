"""Reading an `.npz` that nobody vouches for: checked against its own headers before memory is given to it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_demo.errors import UserError

HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MOST_BYTES = 16 * 2**30  # unpacked
MOST_EXPANSION = 100  # unpacked over packed: weights hardly shrink, but a head of zeros does
CHUNK = 2**20
# What zipfile lets out of a file that is not as it should be.
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError)
WHAT_IT_IS = {  # by its first bytes, where it is no zip file
    b"PK\x03\x04": "truncated or damaged",
    b"\x80": "a pickle, which may hold code and is not read",
    b"\x93NUMPY": "a single array, not an .npz file",
}


@dataclasses.dataclass(frozen=True)
class Header:
    """What a member of the file says about its array, and where it lies."""

    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool


def headers(path: Path) -> dict[str, Header]:
    """What is in the file by name, none of it read yet.

    Raises UserError for a file that is no .npz, is damaged, may hold code or declares what it lacks.
    """
    found: dict[str, Header] = {}
    with _opened(path) as file:
        members = file.infolist()
        unpacked = sum(member.file_size for member in members)
        packed = sum(member.compress_size for member in members)
        size = path.stat().st_size
        if unpacked > min(MOST_BYTES, MOST_EXPANSION * size) or packed > size:
            raise UserError(f"{path}: declares {unpacked} bytes of arrays in a file of {size}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name in found or name == member.filename or not name.isprintable():
                what = "more than once" if name in found else "which is no array"
                raise UserError(f"{path}: holds {member.filename!r}, {what}")
            try:
                found[name] = _header(file, member)
            except UserError as error:
                raise UserError(f"{path}: {name} {error}") from None
    return found


def arrays(path: Path, wanted: dict[str, Header]) -> dict[str, np.ndarray]:
    """Float32 arrays by name; no more memory than they take, and one array more.

    Raises UserError for damaged data and for what is not a floating point number.
    """
    found = {}
    with _opened(path) as file:
        for name, header in wanted.items():
            # NumPy saves ml_dtypes' bfloat16 as two bytes without meaning.
            bfloat16 = header.dtype.kind == "V" and header.dtype.itemsize == 2
            if header.dtype.kind != "f" and not bfloat16:
                raise UserError(f"{path}: {name} holds {header.dtype}, not floating point numbers")
            found[name] = _widened(_array(file, header), bfloat16)
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip file; whatever is wrong with it or in it is a UserError."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (*DAMAGE, ValueError) as error:  # ValueError: a name that is not in its own encoding
        with path.open("rb") as file:
            start = file.read(8)
        kinds = (what for magic, what in WHAT_IT_IS.items() if start.startswith(magic))
        raise UserError(f"{path}: {next(kinds, 'not an .npz file')} ({error})") from None


def _header(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    """A member's header, checked against its size."""
    if member.compress_type not in COMPRESSIONS or member.flag_bits & 1:
        raise UserError("is encrypted or packed in a way that NumPy does not write")
    if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
        raise UserError(f"declares {member.file_size} bytes and has {member.compress_size}")
    with file.open(member) as stream:
        shape, fortran, dtype = _parsed(stream)
        start = stream.tell()
    if dtype.hasobject:
        raise UserError("holds Python objects, which may hold code and are not read")
    if dtype.fields or dtype.subdtype or not all(n >= 0 for n in shape):
        raise UserError(f"is no plain array: shape {shape} of {dtype}")
    expected, there = math.prod(shape) * dtype.itemsize, member.file_size - start
    if expected != there:
        raise UserError(f"of shape {shape} takes {expected} bytes, but {there} are there")
    return Header(member, shape, dtype, fortran)


def _parsed(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran's order, and dtype."""
    try:
        return HEADERS[np.lib.format.read_magic(stream)](stream)
    except DAMAGE:
        raise
    except Exception:  # NumPy's parser of foreign text lets out whatever Python's parsers raise
        raise UserError("has no .npy header that NumPy understands") from None


def _array(file: zipfile.ZipFile, header: Header) -> np.ndarray:
    """A member's array, in the dtype that it has there."""
    value = np.empty(math.prod(header.shape) * header.dtype.itemsize, np.uint8)
    with file.open(header.member) as stream:
        _parsed(stream)
        view, at = memoryview(value), 0
        while at < len(view):
            count = stream.readinto(view[at : at + CHUNK])
            if not count:
                raise EOFError(f"{header.member.filename} ends early")
            at += count
        stream.read(1)  # past the end, which is where the checksum is compared
    value = value.view(header.dtype)
    return value.reshape(header.shape, order="F" if header.fortran else "C")


def _widened(value: np.ndarray, bfloat16: bool) -> np.ndarray:
    """Float32 in C's order, without a copy where it is that already."""
    if bfloat16:
        import ml_dtypes

        value = value.view(ml_dtypes.bfloat16)
    return np.ascontiguousarray(value, np.float32).reshape(value.shape)
