"""How a command ended: every exit code and its meaning, one table.

Codes above 64 are those of BSD's sysexits.h, which schedulers know.
"""

from __future__ import annotations

from edge_demo.errors import GateError, UserError

DIVERGED, LOST_WORKER, PREEMPTED, INTERRUPTED = 4, 69, 75, 130

# code: what it means, and what to do
MEANINGS = {
    0: "done",
    UserError.exit_code: "bad input: the one line says what to put right",
    GateError.exit_code: "a file does not do what it must; `convert` left nothing of it under its final name",
    DIVERGED: "the loss stopped being a number or ran away; the last good checkpoint is kept",
    LOST_WORKER: "another worker is gone; start all again with --resume",
    PREEMPTED: "SIGTERM: all is saved; start again with --resume",
    INTERRUPTED: "Ctrl-C: all is saved; go on with --resume",
}


class Diverged(UserError):
    """A loss that is no number, or far above what it was."""

    exit_code = DIVERGED


class LostWorker(UserError):
    """A peer that does not answer any more."""

    exit_code = LOST_WORKER


class Stopped(Exception):
    """A run that was asked to stop and has saved itself; the message says how to go on."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
