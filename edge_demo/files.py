"""Files that are either complete under their final name or not there at all; what is in them, checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from edge_demo.errors import UserError

CHUNK = 2**20  # bytes read at a time


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to; renamed to `path` at the end, removed if anything fails.

    Raises UserError, naming `path`, when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # of a path that leads through a file
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: dict | list) -> None:
    """A JSON file, indented, written atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path, of: str) -> dict:
    """The JSON object of a file.

    of: what its folder is with it, for the message where it is missing.
    Raises UserError if it is missing, unreadable or no JSON object.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: no {path.name} inside, not a {of}")
    with decoding(path):
        try:
            values = json.loads(path.read_text("utf-8"))
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(values, dict):
            raise TypeError("not a JSON object")
    return values


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with a file's content into one UserError that begins with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except KeyError as error:
        raise UserError(f"{path}: damaged, {error} is missing") from None
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise UserError(f"{path}: damaged ({error})") from None


def sha256(*paths: Path) -> str:
    """The hash of files behind each other, in hexadecimal; UserError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        with decoding(path), open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def crc32(path: str | Path, size: int | None = None) -> int:
    """The CRC-32 of a file's first bytes, of all if no size is given; OSError if they cannot be read.

    Read in pieces: faster than mapped, and it takes no memory.
    """
    checksum, piece = 0, memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size if size is None else size
        while left > 0 and (count := file.readinto(piece[:left])):
            checksum = zlib.crc32(piece[:count], checksum)
            left -= count
    return checksum


def sync(path: Path) -> None:
    """Has a file, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, for folders
            raise
    finally:
        os.close(descriptor)


def not_written(path: Path, error: OSError) -> UserError:
    """The disk's refusal in one line."""
    return UserError(f"{path}: not written ({error.strerror or error}); nothing else was changed")
