"""Labels that do not flicker: scores averaged over time, and a change only where it is clear."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """seconds: over which scores fade, 0 for none. margin: by how much another label must lead.

    threshold: score below which a picture is unknown; to be known again it takes `margin` more, at most
    half of what there is to 1.
    """

    seconds: float = 0.0
    margin: float = 0.1
    threshold: float = 0.0


class Smoother:
    """The averaged scores and the label of a series of pictures, one call for each."""

    def __init__(self, smoothing: Smoothing) -> None:
        self._smoothing = smoothing
        self._scores: np.ndarray | None = None
        self._time = 0.0
        self._chosen: int | None = None  # None: unknown

    def __call__(self, scores: np.ndarray, time: float | None) -> tuple[np.ndarray, int | None]:
        """(averaged scores [classes], the class it is or None for unknown).

        scores: of a picture [classes]. time: seconds, of whatever clock; a picture that has none, or
        comes before the last, stands for itself.
        """
        seconds, margin, least = dataclasses.astuple(self._smoothing)
        alone = time is None or not seconds or self._scores is None or time < self._time
        if alone:
            self._scores = scores
        else:
            kept = math.exp((self._time - time) / seconds)
            self._scores = kept * self._scores + (1 - kept) * scores
        best = int(np.argmax(self._scores))
        if not alone and self._chosen is None:  # it was unknown
            least += min(margin, (1 - least) / 2)
        elif not alone and self._scores[best] < self._scores[self._chosen] + margin:
            best = self._chosen
        self._chosen = best if self._scores[best] >= least else None
        self._time = 0.0 if time is None else time
        return self._scores, self._chosen
