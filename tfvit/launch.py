"""Several workers of one command on this machine, and all of them again when one is lost."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfvit import runs
from tfvit.cluster import Cluster
from tfvit.exit_codes import INTERRUPTED, LOST_WORKER, PREEMPTED

GRACE = 25.0  # seconds in which workers end by themselves once one has ended badly
SAVING = 120.0  # seconds in which they end after a signal
BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0  # seconds; doubled from one restart to the next
POLL = 0.1  # seconds
THREADS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")


def launch(
    arguments: Sequence[str], workers: int, retries: int, run: Path, say: Callable[[str], None]
) -> int:
    """Runs `tfvit ARGUMENTS` as so many workers on loopback and returns the exit code.

    The chief's output is this process's, that of the others goes to run/workers/N.log. When a worker is
    killed, crashes in native code, or reports that it lost another, all are started again with
    --resume, `retries` times at most; any other exit code is passed through. Signals are passed on.
    """
    for attempt in range(retries + 1):
        with _signals() as received:
            processes = _start(arguments, workers, run)
            codes = _wait(processes, received)
            code = verdict(codes)
            if received:
                return INTERRUPTED if received[0] == signal.SIGINT else PREEMPTED
            if code != LOST_WORKER:
                _tell(codes, run, say)
                return code
            seconds = min(BACK_OFF * 2**attempt, LONGEST_BACK_OFF)
            if attempt == retries:
                break
            say(
                f"{_cause(codes)}; starting all again in {seconds:.0f} s ({attempt + 1} of {retries})"
            )
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not received:
                time.sleep(POLL)
            if received:
                return INTERRUPTED if received[0] == signal.SIGINT else PREEMPTED
        arguments = [*arguments, *([] if "--resume" in arguments else ["--resume"])]
    say(f"{_cause(codes)}; given up after {retries} restarts")
    return LOST_WORKER


def verdict(codes: Sequence[int]) -> int:
    """The exit code of all from those of each (negative: a signal): what a restart cannot mend first."""
    gone = [code for code in codes if code < 0 or code == LOST_WORKER]
    own = [code for code in codes if code > 0 and code != LOST_WORKER]
    return own[0] if own else LOST_WORKER if gone else 0


def _start(arguments: Sequence[str], workers: int, run: Path) -> list[subprocess.Popen]:
    logs = run / runs.WORKERS
    logs.mkdir(parents=True, exist_ok=True)
    addresses = _free_addresses(workers)
    share = str(max(1, (os.cpu_count() or 1) // workers))
    processes = []
    for i in range(workers):
        environment = Cluster(addresses, i).environment() | dict.fromkeys(THREADS, share)
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(logs / f"{i}.log", "a")) if i else None
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tfvit", *arguments],
                    env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # so that Ctrl-C reaches each once, from here
                )
            )
    return processes


def _wait(processes: list[subprocess.Popen], received: list[int]) -> list[int]:
    """The exit codes; signals are passed on, and whoever does not end in time is killed."""
    passed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes):
        if len(received) > passed:
            for process in processes:
                if process.poll() is None:
                    process.send_signal(received[passed])
            passed += 1
            deadline = time.monotonic() + SAVING
        elif deadline == float("inf") and any(process.poll() for process in processes):
            deadline = time.monotonic() + GRACE
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
        time.sleep(POLL)
    return [process.returncode for process in processes]


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that arrived within the block, in order."""
    received: list[int] = []
    kept = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _free_addresses(count: int) -> tuple[str, ...]:
    """Addresses on loopback that nobody listens at; together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return tuple(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)


def _cause(codes: Sequence[int]) -> str:
    """Which worker began it."""
    for i, code in enumerate(codes):
        if code < 0:
            return f"worker {i} ended by {signal.Signals(-code).name}"
    return f"worker {codes.index(LOST_WORKER)} lost another"


def _tell(codes: Sequence[int], run: Path, say: Callable[[str], None]) -> None:
    """What another worker than the chief ended with, where the chief did not say it."""
    for i, code in enumerate(codes):
        if code and code != LOST_WORKER and not (i and codes[0] == code) and i:
            path = run / runs.WORKERS / f"{i}.log"
            lines = path.read_text("utf-8", "replace").splitlines()
            say(f"worker {i}: {lines[-1] if lines else code} (see {path})")
            return
