"""The usual end of what would run for ever."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import NoReturn

NAP = 0.5  # seconds


@contextlib.contextmanager
def until_stopped() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block, quietly."""

    def stop(*_) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def idle() -> NoReturn:
    """Nothing, until a signal ends it.

    In naps: Python may come to a signal only after the sleep that it was about to begin.
    """
    while True:
        time.sleep(NAP)
