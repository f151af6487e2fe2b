"""Result: what was seen in a frame, for whatever shows it."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
from PIL import Image

from edge_demo.sources.frames import Frame

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


@dataclasses.dataclass(frozen=True)
class Result:
    """What was seen in a frame.

    picture: upright RGB. region: the part of it that was looked at; None, all of it.
    ranked: (label, score) of all labels, the best first. label: what it is taken for.
    milliseconds: of each stage. age: milliseconds since a live frame was taken, else None.
    several: whether a picture may have any number of labels.
    attention: float32 [rows, columns], where in the region the model looked; None if it does not tell.
    """

    frame: Frame
    picture: Image.Image
    region: Box | None
    ranked: list[tuple[str, float]]
    label: str
    milliseconds: dict[str, float]
    age: float | None = None
    several: bool = False
    attention: np.ndarray | None = None

    @property
    def score(self) -> float:
        """Of the label; of the best one where it is unknown."""
        return next((s for label, s in self.ranked if label == self.label), self.ranked[0][1])

    @property
    def time(self) -> float | None:
        """Seconds since 1970 when a live frame was taken, or since the beginning of a video."""
        if self.age is None:
            return self.frame.time
        return time.time() - (time.monotonic() - self.frame.time)
