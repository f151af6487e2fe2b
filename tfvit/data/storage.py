"""Where pictures lie: a folder of this machine, or a name with a scheme, as gs://bucket/photos."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import tensorflow as tf

from edge_demo.errors import UserError

SCHEME = "://"


@dataclasses.dataclass(frozen=True, order=True)
class Remote:
    """What data sets need of `pathlib.Path`, for every file system that TensorFlow knows."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self.text.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.text).name

    @property
    def suffix(self) -> str:
        """The end of the name from its last dot on."""
        return PurePosixPath(self.text).suffix

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return tf.io.gfile.exists(self.text)

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return tf.io.gfile.isdir(self.text)

    def is_file(self) -> bool:
        """Whether it is a file."""
        return self.exists() and not self.is_dir()

    def iterdir(self) -> Iterator[Remote]:
        """What is in the folder."""
        return (self / name.rstrip("/") for name in tf.io.gfile.listdir(self.text))


Place = Path | Remote


def place(text: str) -> Place:
    """The folder or file that a name means."""
    return Remote(text) if SCHEME in text else Path(text)


def files(folder: Place) -> list[Place]:
    """All files below a folder, in order."""
    if isinstance(folder, Path):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    walked = tf.io.gfile.walk(str(folder))  # one request a folder, none a file
    return sorted(Remote(top) / name for top, _, names in walked for name in names)


def read(path: Place, count: int = -1) -> bytes:
    """The first `count` bytes of a file, or all. Raises OSError."""
    if isinstance(path, Path):
        with open(path, "rb") as file:
            return file.read(count)
    try:
        with tf.io.gfile.GFile(str(path), "rb") as file:
            return file.read(count)
    except tf.errors.OpError as error:
        raise OSError(error.message) from None


def size(path: Place) -> int:
    """Bytes of a file."""
    return tf.io.gfile.stat(str(path)).length


@contextlib.contextmanager
def reachable(root: Place) -> Iterator[None]:
    """Turns what TensorFlow says of a file system that it cannot use into one line."""
    try:
        yield
    except tf.errors.OpError as error:
        raise UserError(f"{root}: {' '.join(error.message.split())[:300]}") from None
