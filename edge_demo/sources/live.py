"""Cameras, streams and screens: always their newest frame, and again when they come back."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from edge_demo.errors import UserError
from edge_demo.sources.feeds import Feed, words
from edge_demo.sources.frames import Frame, Pixels

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before it is tried again, doubled each time
DRIFT = 1e-4  # how much faster than ours a source's clock may run, and no delay is seen in it
NONSENSE = 60.0  # seconds of delay that are a clock set anew


class Clock:
    """When frames were taken, by our clock: their own times tell how long each has been on its way.

    The frame that came fastest took no time. A delay that grows on the way shows as age, the difference
    of two clocks (`DRIFT`) does not.
    """

    def __init__(self) -> None:
        self._offset: float | None = None
        self._before = 0.0

    def taken(self, stamp: float | None, arrived: float) -> float:
        """Seconds on our clock; stamp: of the source, None where it has none."""
        if stamp is None:
            return arrived
        offset = arrived - stamp
        if self._offset is not None and offset - self._offset < NONSENSE:
            offset = min(offset, self._offset + DRIFT * (arrived - self._before))
        self._offset, self._before = offset, arrived
        return stamp + offset


class Newest:
    """The newest frames of a feed; a thread reads all of them, so that none waits.

    Iterating gives each frame at most once and skips those that nobody had time for; `close`, or leaving
    the context, ends it. A feed that stops or goes away is opened again, with growing pauses, for ever.

    say: is told when it goes away and when it is back.
    Raises UserError, from the iterator, if it cannot be opened the first time.
    """

    def __init__(self, feed: Feed, say: Callable[[str], None]) -> None:
        self._feed, self._say = feed, say
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._newest: tuple | None = None  # a frame, its number, when it was taken
        self._error: UserError | None = None
        self._count = 0  # of the frames it has given
        self._thread = threading.Thread(target=self._run, name=feed.name, daemon=True)
        self._thread.start()

    def __enter__(self) -> Newest:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Ends the iteration, and the thread unless it waits for a source that has gone silent."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout=1)

    def __iter__(self) -> Iterator[Frame]:
        seen, pixels = -1, Pixels()
        while True:
            with self._changed:
                while not self._ready(seen):
                    self._changed.wait()
                if self._error:
                    raise self._error
                if self._closed.is_set():
                    return
                raw, seen, taken = self._newest
            yield Frame(pixels(raw), self._feed.name, seen, taken)

    def _ready(self, seen: int) -> bool:
        fresh = self._newest is not None and self._newest[1] != seen
        return fresh or self._error is not None or self._closed.is_set()

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._closed.is_set():
            before = self._count
            try:
                self._read()
                reason = "ended"
            except Exception as error:  # FFmpeg's and libcamera's errors are of many kinds
                reason = words(error)
            if self._closed.is_set():
                return
            if not self._count:
                with self._changed:
                    self._error = UserError(f"{self._feed.name}: {reason}")
                    self._changed.notify_all()
                return
            wait = FIRST_WAIT if self._count > before else min(2 * wait, LONGEST_WAIT)
            self._say(f"{self._feed.name}: {reason}; trying again in {wait:g} s")
            self._closed.wait(wait)

    def _read(self) -> None:
        """Reads frames until the feed ends or is closed."""
        clock, before = Clock(), self._count
        with contextlib.closing(self._feed.read()) as frames:
            for raw, stamp in frames:
                taken = clock.taken(stamp, time.monotonic())
                with self._changed:
                    self._newest = (raw, self._count, taken)
                    self._count += 1
                    self._changed.notify_all()
                if before and self._count == before + 1:
                    self._say(f"{self._feed.name}: back")
                if self._closed.is_set():
                    return
