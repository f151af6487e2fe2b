"""Frame: one picture of a source, and when it was taken."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Frame:
    """image: what `Classifier.classify` takes, or bytes of an image file; source: what it is of.

    number: which it is of its source, from 0; None for a file of its own.
    time: seconds; of a camera or stream by `time.monotonic` when it was taken, of a video since its
    beginning, None for a picture.
    """

    image: Path | bytes | np.ndarray
    source: str
    number: int | None = None
    time: float | None = None

    def __str__(self) -> str:
        return self.source if self.number is None else f"{self.source}#{self.number}"


class Pixels:
    """Turns frames of PyAV into upright RGB uint8 [height, width, 3]; an array is taken as it is.

    One for each source: what FFmpeg prepares for a size and format, at four times the cost of using it,
    is kept.
    """

    def __init__(self) -> None:
        self._reformatter = None

    def __call__(self, raw) -> np.ndarray:
        if isinstance(raw, np.ndarray):
            return raw
        if self._reformatter is None:
            from av.video.reformatter import VideoReformatter

            self._reformatter = VideoReformatter()
        array = self._reformatter.reformat(raw, format="rgb24").to_ndarray()
        turns = round(getattr(raw, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(array, turns)) if turns else array
