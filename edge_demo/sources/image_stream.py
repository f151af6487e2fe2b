"""Images one behind the other in one stream, as a camera program writes them to a pipe.

Each format says where it ends: JPEG and PNG in their segments, WebP and BMP in their header.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from edge_demo.errors import UserError

MAX_BYTES = 256 * 2**20  # of one image


class _Reader:
    """Reads a stream, remembering what it has read since the last `take`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._data, self._at = stream, bytearray(), 0

    def read(self, count: int) -> bytes:
        """The next bytes; EOFError where there are fewer."""
        end = self._at + count
        if count < 0 or end > MAX_BYTES:
            raise UserError(f"an image on stdin is larger than {MAX_BYTES >> 20} MiB")
        while len(self._data) < end:
            self._more()
        self._at = end
        return bytes(self._data[end - count : end])

    def skip_to(self, byte: bytes) -> None:
        """Goes on to where this byte is the next one."""
        while (found := self._data.find(byte, self._at)) < 0:
            self._at = len(self._data)
            self._more()
        self._at = found

    def take(self) -> bytes:
        """What was read, and at the end of the stream what is left of it."""
        taken = bytes(self._data[: self._at])
        del self._data[: self._at]
        self._at = 0
        return taken

    def _more(self) -> None:
        if len(self._data) > MAX_BYTES:
            raise UserError(f"an image on stdin is larger than {MAX_BYTES >> 20} MiB")
        found = self._stream.read1(1 << 16)
        if not found:
            self._at = len(self._data)
            raise EOFError
        self._data += found


def _jpeg(source: _Reader) -> None:
    in_scan = False
    while True:
        if in_scan:
            source.skip_to(b"\xff")
        if source.read(1) != b"\xff":
            raise ValueError
        marker = 0xFF
        while marker == 0xFF:
            marker = source.read(1)[0]
        if marker == 0xD9:  # the end
            return
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # stuffing, restarts
            continue
        source.read(struct.unpack(">H", source.read(2))[0] - 2)
        in_scan = marker == 0xDA


def _png(source: _Reader) -> None:
    source.read(6)
    kind = b""
    while kind != b"IEND":
        size, kind = struct.unpack(">I4s", source.read(8))
        source.read(size + 4)


def _webp(source: _Reader) -> None:
    size = struct.unpack("<2xI", source.read(6))[0]
    source.read(size + size % 2)


def _bmp(source: _Reader) -> None:
    source.read(struct.unpack("<I", source.read(4))[0] - 6)


# first two bytes -> what reads the rest
FORMATS: dict[bytes, Callable[[_Reader], None]] = {
    b"\xff\xd8": _jpeg,
    b"\x89P": _png,
    b"RI": _webp,
    b"BM": _bmp,
}


def split(stream: BinaryIO) -> Iterator[bytes]:
    """The images of a stream, each as soon as it is there; the last may be cut off.

    Raises UserError where something else begins, or nothing comes at all.
    """
    source, number = _Reader(stream), 0
    while True:
        try:
            rest = FORMATS.get(source.read(2))
            if not rest:
                raise ValueError
            rest(source)
        except EOFError:
            left = source.take()
            if left:
                yield left
            elif not number:
                raise UserError("nothing came on stdin") from None
            return
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            what = "not a JPEG, PNG, WebP or BMP image"
            raise UserError(f"stdin#{number}: {what}") from None
        yield source.take()
        number += 1
