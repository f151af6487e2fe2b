"""A .tflite in a process of its own: a bad file can abort the runtime, and the runtime its process.

The parent sends requests, the child replies; each is one line of JSON, then the bytes of an array if
the line has a `shape`. The child (`python -m edge_demo.measure.runner`) knows nothing of TensorFlow.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_demo.classifier import Classifier
from edge_demo.errors import GateError
from edge_demo.measure.bare import load as load_any
from edge_demo.tflite.metadata import LOGITS

ROOT = Path(__file__).resolve().parents[2]  # of this package
CHATTER = ("INFO:", "WARNING:", "VERBOSE:")  # of the runtime
Array = np.ndarray | None
Ask = Callable[..., tuple[dict, Array]]


@contextlib.contextmanager
def runner(
    path: Path, threads: int | None = None, output: str = LOGITS
) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Yields a function from resized pictures, uint8 [n, height, width, 3], to logits [n, classes].

    output: what it gives instead of the logits, a name of `Classifier.extras`.
    The file is loaded and run in a child process, for as long as the block lasts.
    Raises GateError, naming the file, if it does not load or run, or ends its process.
    """
    with _child(path.name) as ask:
        ask("load", file=path, threads=threads)
        yield lambda pixels: ask("run", pixels, output=output)[1]


@contextlib.contextmanager
def stopwatch(paths: list[Path], threads: int) -> Iterator[Callable[[int], list[list[float]]]]:
    """Yields a function that runs all files in turn so many times: milliseconds [round][file].

    All in one child process; every file has run once before. Raises GateError.
    """
    with _child(", ".join(path.name for path in paths)) as ask:
        for path in paths:
            ask("load", file=path, threads=threads)
        ask("time", rounds=1)  # the first run prepares the kernels
        yield lambda rounds: ask("time", rounds=rounds)[0]["milliseconds"]


def memory(path: Path) -> dict[str, float] | None:
    """Peak resident MiB of a process that loads a file and runs it once, on one thread.

    `peak`, and `baseline` before the file was loaded, with Python, NumPy and the runtime; None where
    the system does not tell. Raises GateError.
    """
    with _child(path.name) as ask:
        before = ask("peak")[0]["mib"]
        ask("load", file=path, threads=1)
        ask("time", rounds=1)
        after = ask("peak")[0]["mib"]
    return None if before is None else {"peak": after, "baseline": before}


@dataclasses.dataclass(frozen=True)
class Bare:
    """A file in a fresh process, loaded and run once on random input.

    start_up_ms: from the start of the process to the first result. load_ms, first_ms: of it, loading
    the file and the first run. peak_mib: resident; baseline_mib: before loading; None where the system
    does not tell. run_for: seconds -> milliseconds of every run in it; one before them is not counted.
    """

    start_up_ms: float
    load_ms: float
    first_ms: float
    peak_mib: float | None
    baseline_mib: float | None
    run_for: Callable[[float], list[float]]


@contextlib.contextmanager
def bare(path: Path, threads: int) -> Iterator[Bare]:
    """Any .tflite, whatever it is for, in a child process for as long as the block lasts.

    Raises GateError, as `run_for` does.
    """
    start = time.perf_counter()
    with _child(path.name) as ask:
        before = ask("peak")[0]["mib"]
        opened = ask("open", file=path, threads=threads)[0]
        start_up = 1e3 * (time.perf_counter() - start)
        after = ask("peak")[0]["mib"]

        def run_for(seconds: float) -> list[float]:
            return ask("spend", seconds=seconds)[0]["milliseconds"]

        yield Bare(start_up, opened["load_ms"], opened["first_ms"], after, before, run_for)


def profile(path: Path, threads: int, seconds: float) -> dict:
    """`edge_demo.measure.profiler.profile` of a file, in a child process. Raises GateError."""
    with _child(path.name) as ask:
        return ask("profile", file=path, threads=threads, seconds=seconds)[0]


def delegation(path: Path) -> dict:
    """`edge_demo.tflite.delegation.delegation` of a file, in a child process. Raises GateError."""
    with _child(path.name) as ask:
        return ask("delegation", file=path)[0]


@contextlib.contextmanager
def _child(name: str) -> Iterator[Ask]:
    """Yields ask(verb, array, **arguments) -> (reply, array) of a new child process."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "edge_demo.measure.runner"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )

        def ask(verb: str, array: Array = None, **arguments) -> tuple[dict, Array]:
            if "file" in arguments:
                arguments["file"] = str(Path(arguments["file"]).resolve())
            try:
                _send(process.stdin, {"verb": verb, **arguments}, array)
                reply = _receive(process.stdout)
            except BrokenPipeError:
                reply = None
            if reply is None:
                raise GateError(f"{name}: {_cause_of_death(process, errors)}")
            if "error" in reply[0]:
                raise GateError(f"{name}: {reply[0]['error']}")
            return reply

        try:
            yield ask
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # what was not sent has nobody to go to
                process.stdin.close()
            process.stdout.close()


def _cause_of_death(process: subprocess.Popen, errors: BinaryIO) -> str:
    code = process.wait()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith(CHATTER)]
    if code < 0:
        detail = f" ({said[0]})" if said else ""
        return f"the runtime ended with {signal.Signals(-code).name}{detail}"
    return f"the runtime ended with exit code {code} ({said[-1] if said else 'no message'})"


def _send(stream: BinaryIO, message: dict, array: Array = None) -> None:
    if array is not None:
        message = {**message, "shape": array.shape, "dtype": array.dtype.name}
    stream.write(json.dumps(message).encode() + b"\n")
    if array is not None:
        stream.write(np.ascontiguousarray(array))
    stream.flush()


def _receive(stream: BinaryIO) -> tuple[dict, Array] | None:
    """The next message and its array; None at the end of the stream, or where it breaks off."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message = json.loads(line)
    if "shape" not in message:
        return message, None
    shape, dtype = message.pop("shape"), np.dtype(message.pop("dtype"))
    size = int(np.prod(shape)) * dtype.itemsize
    data = stream.read(size)
    return (message, np.frombuffer(data, dtype).reshape(shape)) if len(data) == size else None


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """The child: answers requests until there are no more."""
    classifiers: list[Classifier] = []
    others: list[Callable[[], None]] = []

    def load(_: Array, file: str, threads: int | None) -> tuple[dict, Array]:
        classifiers.append(Classifier(file, threads))
        return {}, None

    def run(pixels: Array, output: str) -> tuple[dict, Array]:
        classifier, found = classifiers[0], []
        for image in pixels:
            logits = classifier.logits(image)
            found.append(logits if output == LOGITS else classifier.extras[output])
        if not found:
            return {}, np.zeros((0, len(classifier.labels)), np.float32)
        return {}, np.array(found, np.float32)

    def measure(_: Array, rounds: int) -> tuple[dict, Array]:
        spec = classifiers[0].preprocess
        shape = (spec.height, spec.width, 3)
        image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        runs = [functools.partial(classifier.logits, image) for classifier in classifiers]
        samples = [[_milliseconds(run) for run in runs] for _ in range(rounds)]
        return {"milliseconds": samples}, None

    def open_bare(_: Array, file: str, threads: int) -> tuple[dict, Array]:
        load_ms = _milliseconds(lambda: others.append(load_any(file, threads)))
        return {"load_ms": load_ms, "first_ms": _milliseconds(others[0])}, None

    def spend(_: Array, seconds: float) -> tuple[dict, Array]:
        others[0]()  # other processes have used the caches since
        end, samples = time.perf_counter() + seconds, [_milliseconds(others[0])]
        while time.perf_counter() < end:
            samples.append(_milliseconds(others[0]))
        return {"milliseconds": samples}, None

    def look_into(_: Array, **arguments) -> tuple[dict, Array]:
        from edge_demo.measure.profiler import profile

        return profile(arguments.pop("file"), **arguments), None

    def divide(_: Array, file: str) -> tuple[dict, Array]:
        from edge_demo.tflite.delegation import delegation

        return delegation(file), None

    verbs = {
        "load": load,
        "run": run,
        "time": measure,
        "open": open_bare,
        "spend": spend,
        "profile": look_into,
        "peak": lambda _: ({"mib": _peak_mib()}, None),
        "delegation": divide,
    }
    while request := _receive(requests):
        message, array = request
        try:
            reply = verbs[message.pop("verb")](array, **message)
        except (ValueError, RuntimeError) as error:  # the runtime's; UserError is a ValueError
            text = str(error).removeprefix(f"{message.get('file')}: ")
            reply = {"error": next(iter(text.splitlines()), "") or type(error).__name__}, None
        _send(replies, *reply)


def _milliseconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - start)


def _peak_mib() -> float | None:
    """High-water mark of this process alone: `ru_maxrss` would count its parent, where that was larger."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    kib = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(kib[0]) / 1024 if kib else None


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as output:
        os.dup2(2, 1)  # whatever else is printed is no reply
        serve(sys.stdin.buffer, output)
