"""SIGTERM and Ctrl-C, kept until a step is done, and the step after which all workers stop."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import tensorflow as tf

from tfvit.exit_codes import INTERRUPTED, PREEMPTED
from tfvit.strategies import everyones, is_multiworker

AGREE_EVERY = 10  # steps; of several workers
EXIT_CODES = {signal.SIGTERM: PREEMPTED, signal.SIGINT: INTERRUPTED}
SAVING = b"\nsaving after this step; Ctrl-C again stops at once\n"


class Preemption:
    """Keeps SIGTERM and Ctrl-C within the block, for the training loop to ask; a second Ctrl-C stops.

    requested: the signal, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0

    def __enter__(self) -> Preemption:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._keep) for number in EXIT_CODES}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def after(self, step: int, strategy: tf.distribute.Strategy) -> int:
        """The exit code to stop with after this step, or 0: the same on all workers.

        To be asked after every step, on every worker.
        """
        requested = self.requested
        if is_multiworker(strategy):
            if step % AGREE_EVERY:
                return 0
            requested = int(np.max(everyones(strategy, requested)))
        return EXIT_CODES.get(requested, 0)

    def _keep(self, number: int, frame) -> None:
        if number == signal.SIGINT:
            if self.requested == signal.SIGINT:
                raise KeyboardInterrupt
            os.write(2, SAVING)  # a print might interrupt another
        self.requested = number
