"""From frames to results: decode, cut, resize, infer, smooth."""

from __future__ import annotations

import dataclasses
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from edge_demo import images, preprocess
from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.results import Box, Result
from edge_demo.scores import SIGMOID
from edge_demo.smoothing import UNKNOWN, Smoother, Smoothing
from edge_demo.sources.frames import Frame
from edge_demo.sources.source import Source

Region = tuple[float, float, float, float]  # left, top, right, bottom: pixels, or shares up to 1


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A frame as the model takes it: `pixels` uint8 [height, width, 3]; `milliseconds` of each stage."""

    frame: Frame
    picture: Image.Image
    region: Box | None
    pixels: np.ndarray
    milliseconds: dict[str, float]


class Pipeline:
    """What is done to each frame of a source, and to pictures that come by another way.

    region: the part of each picture to look at. smoothing: over the frames of a source.
    """

    def __init__(
        self,
        classifier: Classifier,
        smoothing: Smoothing = Smoothing(),
        region: Region | None = None,
    ) -> None:
        self.classifier = classifier
        self._smoothing, self._region = smoothing, region
        self._smoother = Smoother(smoothing)
        self._one_at_a_time = threading.Lock()

    def results(
        self,
        source: Source,
        every: int = 1,
        limit: int | None = None,
        skip: Callable[[UserError], None] | None = None,
    ) -> Iterator[Result]:
        """The results of a source's frames in order.

        Where they are at hand, the next one is prepared while this one is inferred.
        every: takes one frame of so many. limit: ends after so many that were taken.
        skip: is told of frames that cannot be read; without it they raise their UserError.
        """
        chosen = itertools.islice(source.frames, 0, limit and (limit - 1) * every + 1, every)
        prepared = (ahead if source.at_hand else map)(self._attempt, chosen)
        for found in prepared:
            if isinstance(found, Prepared):
                yield self._look(found, self._smoother, source.is_live)
            elif skip:
                skip(found)
            else:
                raise found

    def result(self, frame: Frame) -> Result:
        """The result of a picture on its own, from any thread; UserError if it cannot be read."""
        return self._look(self._prepare(frame), Smoother(self._smoothing), False)

    def _attempt(self, frame: Frame) -> Prepared | UserError:
        try:
            return self._prepare(frame)
        except UserError as error:
            return error

    def _prepare(self, frame: Frame) -> Prepared:
        start = time.perf_counter()
        picture = images.open_rgb(frame.image, str(frame))
        decoded = time.perf_counter()
        box = box_of(self._region, picture.size, str(frame)) if self._region else None
        pixels = preprocess.to_pixels(
            picture.crop(box) if box else picture, self.classifier.preprocess
        )
        resized = time.perf_counter()
        took = {"decode": 1e3 * (decoded - start), "resize": 1e3 * (resized - decoded)}
        return Prepared(frame, picture, box, pixels, took)

    def _look(self, prepared: Prepared, smoother: Smoother, live: bool) -> Result:
        classifier, frame = self.classifier, prepared.frame
        with self._one_at_a_time:
            start = time.perf_counter()
            scores = classifier.scores_of(prepared.pixels)
            took = {"inference": 1e3 * (time.perf_counter() - start)}
            attention = classifier.extras.get("attention")
        scores, chosen = smoother(scores, frame.time)
        return Result(
            frame,
            prepared.picture,
            prepared.region,
            classifier.ranked(scores),
            UNKNOWN if chosen is None else classifier.labels[chosen],
            prepared.milliseconds | took,
            1e3 * (time.monotonic() - frame.time) if live else None,
            classifier.score_function == SIGMOID,
            attention,
        )


def box_of(region: Region, size: tuple[int, int], name: str) -> Box:
    """A region of a picture of `size` (width, height) in whole pixels; UserError if it is outside."""
    scale = (*size, *size) if max(region) <= 1 else (1, 1, 1, 1)
    left, top, right, bottom = (round(end * length) for end, length in zip(region, scale))
    box = left, top, min(right, size[0]), min(bottom, size[1])
    if box[0] >= box[2] or box[1] >= box[3]:
        raise UserError(f"{name}: the region is outside of its {size[0]}x{size[1]} pixels")
    return box


def ahead(function: Callable, items: Iterable) -> Iterator:
    """`map`, with the next item taken and its result made in a thread of its own meanwhile.

    Whoever leaves it half-way, the garbage collector even, waits for nothing: SimpleQueue's `put` may be
    called anywhere, while an executor's end takes locks that its caller may hold.
    """
    iterator, end = iter(items), object()
    wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
    made: queue.SimpleQueue[tuple] = queue.SimpleQueue()

    def work() -> None:
        while wanted.get():
            try:
                item = next(iterator, end)
                made.put((end if item is end else function(item), None))
            except BaseException as error:  # it is the caller's, whatever it is
                made.put((end, error))

    threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        wanted.put(True)
        while True:
            found, error = made.get()
            if error:
                raise error
            if found is end:
                return
            wanted.put(True)
            yield found
    finally:
        wanted.put(False)
