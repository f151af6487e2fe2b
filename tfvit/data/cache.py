"""Decoded pictures, kept in memory or in a folder for the next pass.

They are found by what the file holds, so a file that changes is decoded anew, and a view of a kept
picture is the view of a decoded one to the last bit.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError

MEMORY = "memory"
_pictures: dict[str, np.ndarray] = {}


def cached(
    where: str | None, data: bytes, at_least: tuple[int, int], decode: Callable[[], np.ndarray]
) -> np.ndarray:
    """The RGB picture, uint8 [height, width, 3], that `decode` gives, from the cache if it is there.

    where: None, "memory" (until the process ends) or a folder; 3 bytes a pixel either way.
    data, at_least: the encoded picture and the smallest size it may be decoded at: the key.
    """
    if where is None:
        return decode()
    digest = hashlib.blake2b(data, digest_size=16, person=b"%d,%d" % at_least).hexdigest()
    if where != MEMORY:
        return _from_folder(Path(where) / digest[:2] / f"{digest}.rgb", decode)
    if digest not in _pictures:
        _pictures[digest] = decode()
    return _pictures[digest]


def _from_folder(path: Path, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """A file is height and width, 4 bytes each, little-endian, then the pixels."""
    with contextlib.suppress(OSError, ValueError):  # not there, or cut off
        data = path.read_bytes()
        return np.frombuffer(data, np.uint8, offset=8).reshape(*np.frombuffer(data, "<u4", 2), 3)
    image = decode()
    mine = path.with_name(
        f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    )  # of this thread alone
    with contextlib.suppress(OSError):  # a full disk: the picture is decoded again next time
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine.write_bytes(np.array(image.shape[:2], "<u4").tobytes() + image.tobytes())
            os.replace(mine, path)
        finally:
            mine.unlink(missing_ok=True)
    return image


def check(where: str | None) -> None:
    """Makes the folder of a cache; UserError if nothing can be written there."""
    if where in (None, MEMORY):
        return
    try:
        Path(where).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where):
            pass
    except OSError as error:
        raise UserError(f"--cache {where}: {error.strerror or error}") from None
