"""XNNPACK's packed weights in a file: the next start need not pack, and processes share the pages.

XNNPACK takes any file that looks like its own, so whether one is right is found out here. Its name says
what it was made of and where; a line beside it what must be inside. One that is not so is made anew, in
a process of its own under another name: a full disk ends the process that writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import ai_edge_litert
import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.options import CpuOptions, Options
from ai_edge_litert.tensor_buffer import TensorBuffer

from edge_demo import files, machine
from edge_demo.quiet import quiet
from edge_demo.tflite import metadata

NAME = r"([0-9a-f]{8}-\d+)-([0-9a-f]{8})-([\w.+]+)\.xnnpack"  # model, processor, version of LiteRT
PARTIAL = rf"\.{NAME}\.[0-9a-f]{{8}}\.partial"
CHECKSUM = ".crc32"  # what the name of the line beside a cache ends with
KEPT = 8  # caches in a folder, the newest
STALE = 60  # seconds after which nobody goes on to write a partial file
READABLE = {np.float32, np.int32, np.int8, np.uint8}  # types of outputs
DISK_FULL = "it cannot be written; is the disk full?"
REFUSED = "LiteRT refuses the model"
ROOT = Path(__file__).resolve().parents[2]  # of this package


class Unfit(Exception):
    """A cache that cannot be made or a model that does not run with one; the message says why."""


class CachedEngine:
    """A model that runs with its packed weights in a file: a `runtime.Engine`.

    path: a .tflite. threads: None lets LiteRT choose. cache: a whole one, or None to do without.
    Raises Unfit for what `CompiledModel` cannot do, ValueError or RuntimeError where it refuses the model.
    """

    def __init__(self, path: str | Path, threads: int | None, cache: Path | None) -> None:
        # It tells the scales, which the other does not, and is given no memory.
        told = Interpreter(str(path))
        inputs, outputs = told.get_input_details(), told.get_output_details()
        model = _compiled(path, threads, cache)
        if len(inputs) != 1 or model.get_num_signatures() != 1:
            raise Unfit("the model has several inputs or signatures")
        shape = [1, *map(int, inputs[0]["shape"][1:])]
        if inputs[0]["shape"].tolist() != shape:
            model.resize_input_tensor(0, shape, strict=False)
        ((key, names),) = model.get_signature_list().items()
        found = [model.get_output_tensor_details(key)[name] for name in names["outputs"]]
        places = {tensor["index"]: place for place, tensor in enumerate(found)}
        self._places = [places.get(output["index"]) for output in outputs]
        if None in self._places or not {output["dtype"] for output in outputs} <= READABLE:
            raise Unfit("the model has outputs that cannot be read")
        self.inputs = [{**inputs[0], "shape": shape}]
        self.outputs = [
            {**output, "shape": found[place]["shape"]}
            for output, place in zip(outputs, self._places)
        ]
        self._input = np.zeros(shape, inputs[0]["dtype"])
        self._parts = [model, model.create_input_buffers(0), model.create_output_buffers(0)]
        self._has_run = False
        weakref.finalize(self, _close, self._parts)

    def input(self) -> np.ndarray:
        return self._input

    def run(self) -> list[np.ndarray]:
        model, inputs, outputs = self._parts
        with contextlib.nullcontext() if self._has_run else _first_run():
            inputs[0].write(self._input)
            model.run_by_index(0, inputs, outputs)
            found = [_read(outputs[place], told) for place, told in zip(self._places, self.outputs)]
        self._has_run = True
        return found


def opened(
    path: str | Path, threads: int | None, folder: Path, say: Callable[[str], None]
) -> CachedEngine | None:
    """A model with its cache of a folder, made if need be; None, told why, where that cannot be.

    path: of a file that `metadata.read` has checked, or from elsewhere.
    """
    with quiet():  # until an engine that came to nothing is gone, too
        try:
            cache = folder / _name(path)
            if not _is_whole(cache):
                _make(path, cache)
            return CachedEngine(path, threads, cache)
        except OSError as error:
            reason = error.strerror or str(error)
        except Unfit as error:
            reason = str(error)
        except (ValueError, RuntimeError):  # why, the Interpreter tells better
            reason = REFUSED
    say(f"weight cache {folder}: {reason}; running without it")
    return None


def _name(path: str | Path) -> str:
    version = ai_edge_litert.__version__
    return f"{metadata.identity(path)}-{machine.instructions()}-{version}.xnnpack"


def _line(cache: Path) -> bytes:
    """What the file beside a cache says: checksum, size, name."""
    return f"{files.crc32(cache):08x} {cache.stat().st_size} {cache.name}\n".encode()


def _checksum(cache: Path) -> Path:
    return cache.with_name(cache.name + CHECKSUM)


def _is_whole(cache: Path) -> bool:
    try:
        return _checksum(cache).read_bytes() == _line(cache)
    except OSError:
        return False


def _make(path: str | Path, cache: Path) -> None:
    """Writes a cache and the line beside it; the last process of several that do so at once wins.

    Raises Unfit, or OSError if the disk refuses.
    """
    import subprocess  # of no use where the cache is there

    cache.parent.mkdir(parents=True, exist_ok=True)
    temporary = cache.with_name(f".{cache.name}.{os.urandom(4).hex()}.partial")
    try:
        temporary.touch()
        command = [sys.executable, "-m", "edge_demo.tflite.weight_cache", Path(path).resolve()]
        command.append(temporary.resolve())
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False, **streams
        )
        if done.returncode:
            raise Unfit(done.stdout.strip() or DISK_FULL)
        # Not synced, which takes seconds on a memory card: what a power cut leaves is no whole cache.
        _checksum(cache).unlink(missing_ok=True)
        os.replace(temporary, cache)
        line = _line(cache)
        temporary.write_bytes(line)
        os.replace(temporary, _checksum(cache))
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        _tidy(cache)


def _tidy(cache: Path) -> None:
    """Takes out what a new cache replaces, more than are kept, and what killed processes left."""
    of_cache = re.fullmatch(NAME, cache.name).groups()[:2]
    found = {}
    for path in cache.parent.iterdir():
        if match := re.fullmatch(NAME, path.name):
            found[path] = match.groups()[:2]
        elif re.fullmatch(PARTIAL, path.name) and time.time() - path.stat().st_mtime > STALE:
            path.unlink(missing_ok=True)
    newest = sorted(found, key=lambda path: (path != cache, -path.stat().st_mtime))[:KEPT]
    for path, made_for in found.items():
        if path != cache and (made_for == of_cache or path not in newest):
            _checksum(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _compiled(path: str | Path, threads: int | None, cache: Path | None) -> CompiledModel:
    cpu = CpuOptions(num_threads=threads or 0, xnnpack_weight_cache_path=str(cache or ""))
    options = Options(hardware_accelerators=HardwareAccelerator.CPU, cpu_options=cpu)
    return CompiledModel.from_file(str(path), options=options)


def _read(buffer: TensorBuffer, details: dict) -> np.ndarray:
    shape = details["shape"]
    return buffer.read(int(np.prod(shape)), details["dtype"]).reshape(shape)


def _close(parts: list) -> None:
    with quiet():  # LiteRT tells of all that it destroys
        parts.clear()


@contextlib.contextmanager
def _first_run() -> Iterator[None]:
    """In it LiteRT makes something that it keeps, and tells of it."""
    with quiet():
        try:
            yield
        finally:
            _end_quietly()


@functools.cache
def _end_quietly() -> None:
    """What LiteRT keeps until the process ends is told of again when it is destroyed, after Python.

    What was registered last runs first, so stderr is closed before that, and after all that Python writes.
    """
    if os.name == "posix":
        libc = ctypes.CDLL(None)
        libc.__cxa_atexit(libc.close, ctypes.c_void_p(2), None)


def write(path: str, cache: Path) -> None:
    """Has LiteRT write a cache, and tries it; the file is there already, and empty.

    Raises Unfit where the model must do without; ends the process where the disk is full.
    """
    right = _answers(CachedEngine(path, 1, None))
    try:
        CachedEngine(path, 1, cache)
        if not cache.stat().st_size:
            raise Unfit("the model has no weights for XNNPACK")
        found = _answers(CachedEngine(path, 1, cache))
    except RuntimeError:
        raise Unfit(DISK_FULL) from None
    # XNNPACK takes layers that share weights for the same, whatever their scales and zero points.
    if not all(map(np.array_equal, right, found)):
        raise Unfit("with XNNPACK's cache the model's answers are others")


def _answers(engine: CachedEngine) -> list[np.ndarray]:
    """All outputs for two noises, between them whatever a model takes for a picture."""
    rng, found = np.random.default_rng(0), []
    picture = engine.input()
    for low, high in ((-1, 1), (0, 255)):
        np.copyto(picture, rng.uniform(low, high, picture.shape), casting="unsafe")
        found += engine.run()
    return found


def main(path: str, cache: str) -> None:
    """The process that writes: what is in the way is its output, and exit code 1."""
    reason = None
    with quiet():
        try:
            write(path, Path(cache))
        except Unfit as error:
            reason = str(error)
        except (ValueError, RuntimeError):
            reason = REFUSED
    if reason:
        print(reason)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
