"""A .tflite in, labelled scores out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from edge_demo import images, preprocess
from edge_demo.errors import UserError
from edge_demo.scores import SCORES
from edge_demo.tflite import metadata
from edge_demo.tflite.foreign import Foreign
from edge_demo.tflite.metadata import ATTENTION, FEATURES
from edge_demo.tflite.runtime import Delegate, Runtime


class Classifier:
    """A model with its labels and preprocessing, ready to run.

    path: a `.tflite`, of `tfvit convert` or from elsewhere.
    threads: CPU threads of the runtime; None lets it choose.
    foreign: what is told of a model from elsewhere.
    delegate: runs the model where it can. weight_cache: a folder for XNNPACK's packed weights,
    which later starts map instead of packing them in memory; not together. `say` is told why if
    one of these is not used.
    Raises UserError if the file is missing, damaged or no image classifier, or something must be told.

    Attributes: `labels`, `preprocess` (PreprocessSpec), `score_function` ("softmax", or "sigmoid" where
    a picture may have any number of labels), `description` (scheme, provenance), `extras` (what the
    model tells of the last picture beside its logits, by name: "features" float32 [d], what its head
    read; "attention" float32 [rows, columns], the share of each patch in it, a sum of 1).
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None = None,
        *,
        foreign: Foreign = Foreign(),
        delegate: Delegate | None = None,
        weight_cache: str | Path | None = None,
        say: Callable[[str], None] = warnings.warn,
    ) -> None:
        self._path, own = path, not metadata.is_foreign(path)
        info = metadata.read(path) if own else foreign.read(path)
        if own:
            foreign.refuse(path)
        self._prototypes = info.enrolled if own else None
        classes = info.classes if own else info.labels
        self.labels, self.score_function = foreign.labels or classes, info.scores
        self.description = info.description if own else {}
        self.extras: dict[str, np.ndarray] = {}
        self._runtime = Runtime(path, threads, delegate, weight_cache, say)
        self.preprocess = info.preprocess if own else info.preprocess_for(self._runtime.input)
        self._runtime.accept(self.preprocess)
        self._to_scores = _same if not own and info.are_scores else SCORES[self.score_function]
        self._extras = info.outputs[1:] if own else ()
        if own and len(self._runtime.outputs) != len(info.outputs):
            raise UserError(
                f"{path}: {len(self._runtime.outputs)} outputs, {len(info.outputs)} names; export it again"
            )
        found = self._runtime.input
        if (found.height, found.width) != (self.preprocess.height, self.preprocess.width):
            raise UserError(
                f"{path}: input is {found.height}x{found.width}, its preprocessing says "
                f"{self.preprocess.height}x{self.preprocess.width}; export it again"
            )
        answers = len(info.classes) if self._prototypes else self._runtime.outputs[0]
        if answers != len(self.labels):
            remedy = "export it again" if own and not foreign.labels else "it takes one for each"
            raise UserError(f"{path}: {answers} outputs, {len(self.labels)} labels; {remedy}")
        if self._prototypes:
            sizes = dict(zip(self._extras, self._runtime.outputs[1:]))
            if sizes.get(FEATURES) != self._prototypes.means.shape[1]:
                raise UserError(f"{path}: damaged prototypes; export it again")

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 [classes] of a resized picture: grey levels uint8 [height, width, 3]."""
        logits, *others = self._runtime.run(pixels)
        self.extras = {name: values[0] for name, values in zip(self._extras, others)}
        if ATTENTION in self.extras:  # an all-integer file leaves the division to its reader
            total = self.extras[ATTENTION].sum()
            self.extras[ATTENTION] /= total if total > 0 else 1
        if self._prototypes:
            return self._prototypes.logits(self.extras[FEATURES])
        return logits.reshape(-1)

    def scores_of(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities float32 [classes] of a resized picture: grey levels 0-255 [height, width, 3].

        Raises UserError if the model gives none, but NaN or infinity.
        """
        with np.errstate(invalid="ignore"):  # NumPy would say more lines of it
            scores = self._to_scores(self.logits(pixels))
        if not np.isfinite(scores).all():
            raise UserError(f"{self._path}: gives values that are not finite")
        return scores

    def scores(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """Probabilities float32 [classes] of a file, a Pillow image or RGB uint8 [height, width, 3]."""
        return self.scores_of(preprocess.to_pixels(images.open_rgb(image), self.preprocess))

    def classify(
        self, image: str | Path | Image.Image | np.ndarray, top: int = 5
    ) -> list[tuple[str, float]]:
        """The `top` most probable (label, score) of a picture, best first.

        Scores sum to 1 over all labels, or with sigmoid scores are each 0-1.
        image: a file, a Pillow image or RGB uint8 [height, width, 3] of any size.
        Raises UserError if a file is not a readable image.
        """
        return self.ranked(self.scores(image))[:top]

    def ranked(self, scores: np.ndarray) -> list[tuple[str, float]]:
        """(label, score) of all labels, best first; scores: [classes]."""
        order = np.argsort(-scores, kind="stable")
        return [(self.labels[i], score) for i, score in zip(order, scores[order].tolist())]

    def warm_up(self) -> None:
        """Runs once on grey: the first run takes longer, and a live picture would wait for it."""
        self.logits(np.full((self.preprocess.height, self.preprocess.width, 3), 128, np.uint8))


def _same(scores: np.ndarray) -> np.ndarray:
    return scores
