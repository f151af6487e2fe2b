"""A .tflite in, labelled scores out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from edge_demo import images, metadata, preprocess
from edge_demo.errors import UserError
from edge_demo.metadata import ATTENTION, FEATURES
from edge_demo.quiet import quiet
from edge_demo.scores import SCORES


class Classifier:
    """An exported model with its labels and preprocessing, ready to run.

    path: a `.tflite` written by `tfvit convert`.
    threads: CPU threads of the runtime; None lets it choose.
    Raises UserError if the file is missing, damaged, or not written by `tfvit convert`.

    Attributes: `labels`, `preprocess` (PreprocessSpec), `score_function` ("softmax", or "sigmoid" where
    a picture may have any number of labels), `description` (scheme, provenance), `extras` (what the
    model tells of the last picture beside its logits, by name: "features" float32 [d], what its head
    read; "attention" float32 [rows, columns], the share of each patch in it, a sum of 1).
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        info = metadata.read(path)
        self.labels, self.preprocess = info.classes, info.preprocess
        self.score_function, self.description = info.scores, info.description
        self.extras: dict[str, np.ndarray] = {}
        try:
            with quiet():
                self._interpreter = Interpreter(str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: damaged model ({str(error).splitlines()[0]})") from None
        self._input = self._interpreter.get_input_details()[0]
        outputs = self._interpreter.get_output_details()
        if len(outputs) != len(info.outputs):
            raise UserError(
                f"{path}: {len(outputs)} outputs, {len(info.outputs)} names; export it again"
            )
        self._output, self._extras = outputs[0], dict(zip(info.outputs[1:], outputs[1:]))
        expected = (1, self.preprocess.height, self.preprocess.width, 3)
        found = tuple(int(n) for n in self._input["shape"])
        if found != expected:
            raise UserError(
                f"{path}: input is {found}, its preprocessing says {expected}; export it again"
            )
        scale, zero_point = self._input["quantization"]
        if self._input["dtype"] != np.float32 and (
            self._input["dtype"] != np.uint8 or (scale, zero_point) != (1.0, 0)
        ):
            raise UserError(
                f"{path}: input is neither float32 nor grey levels uint8; export it again"
            )
        if int(self._output["shape"][-1]) != len(info.labels):
            raise UserError(
                f"{path}: {int(self._output['shape'][-1])} outputs, {len(info.labels)} labels; "
                "export it again"
            )
        self._prototypes = info.enrolled
        if self._prototypes:
            size = self._extras[FEATURES]["shape"][-1] if FEATURES in self._extras else 0
            if size != self._prototypes.means.shape[1]:
                raise UserError(f"{path}: damaged prototypes; export it again")

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits float32 [classes] of a resized picture: grey levels 0-255 [height, width, 3]."""
        if self._input["dtype"] == np.float32:
            pixels = preprocess.normalise(pixels, self.preprocess)
        self._interpreter.set_tensor(self._input["index"], pixels[np.newaxis])
        self._interpreter.invoke()
        self.extras = {name: self._read(output) for name, output in self._extras.items()}
        if ATTENTION in self.extras:  # an all-integer file leaves the division to its reader
            total = self.extras[ATTENTION].sum()
            self.extras[ATTENTION] /= total if total > 0 else 1
        if self._prototypes:
            return self._prototypes.logits(self.extras[FEATURES])
        return self._read(self._output)

    def _read(self, output: dict) -> np.ndarray:
        """An output's values of the one picture, float32."""
        values = self._interpreter.get_tensor(output["index"])[0]
        if values.dtype == np.float32:
            return values
        scale, zero_point = output["quantization"]
        return (values.astype(np.float32) - zero_point) * np.float32(scale)

    def scores_of(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities float32 [classes] of a resized picture: grey levels 0-255 [height, width, 3]."""
        return SCORES[self.score_function](self.logits(pixels))

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
        return [(self.labels[i], float(scores[i])) for i in order]
