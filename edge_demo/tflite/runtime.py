"""A .tflite in LiteRT: pictures into its input, its outputs in float, whatever their types and layouts."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from ai_edge_litert.interpreter import Interpreter, load_delegate
from PIL import Image

from edge_demo import preprocess
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from edge_demo.quiet import quiet

DTYPES = (np.float32, np.uint8, np.int8)  # of an input
CHANNELS = (3, 1)
CREATE = "tflite_plugin_create_delegate"  # what every external delegate has
PARTS = "DELEGATE"  # what LiteRT calls the operations that a delegate took


@dataclasses.dataclass(frozen=True)
class Delegate:
    """A library that runs a model, or parts of it, on something else than the CPU.

    library: a file name or path. options: for the delegate itself. strict: whether it is an error
    where it cannot run a model; else the CPU does.
    """

    library: str
    options: tuple[tuple[str, str], ...] = ()
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class Input:
    """A model's input of one picture.

    value = (quantized - zero_point) * scale; 1 and 0 for float.
    channels_first: whether it is [1, channels, height, width].
    """

    height: int
    width: int
    channels: int
    dtype: type
    scale: float
    zero_point: int
    channels_first: bool


class Engine(Protocol):
    """What runs a model: LiteRT's Interpreter, or `weight_cache.CachedEngine`.

    inputs, outputs: what LiteRT says of them, in the model's order.
    """

    inputs: list[dict]
    outputs: list[dict]

    def input(self) -> np.ndarray:
        """Memory to write the only input to; no view of it may outlive the next run."""

    def run(self) -> list[np.ndarray]:
        """Its outputs as they are; RuntimeError if it fails."""


class Runtime:
    """A loaded model.

    path: a .tflite. threads: of the CPU; None lets it choose. delegate: runs what it can.
    weight_cache: a folder for packed weights. say: is told why one of these is not used.
    Raises UserError if the file is damaged, its input is not one picture, a strict delegate fails, or
    both a delegate and a weight cache are asked for.

    Attributes: `input` (Input), `outputs` (their numbers of values).
    """

    def __init__(
        self,
        path: str | Path,
        threads: int | None,
        delegate: Delegate | None,
        weight_cache: str | Path | None,
        say: Callable[[str], None],
    ) -> None:
        if delegate and weight_cache:
            raise UserError("--weight-cache and --delegate exclude each other")
        try:
            self._engine = _engine(path, threads, delegate, weight_cache, say)
            self.input = _picture(self._engine.inputs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{path}: damaged model ({_words(error)})") from None
        self.outputs = [int(np.prod(output["shape"])) for output in self._engine.outputs]
        self._levels: np.ndarray | None = None

    def accept(self, spec: PreprocessSpec) -> None:
        """Sets how grey levels become its input; the first mean and std are those of a grey picture."""
        self._levels = _levels(self.input, spec)

    def run(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Its outputs float32, batch included, of a picture: grey levels uint8 [height, width, 3]."""
        if self.input.channels == 1:
            pixels = np.asarray(Image.fromarray(pixels).convert("L"))[..., np.newaxis]
        self._fill(pixels)  # in a function of its own: no view of LiteRT's memory may outlive it
        try:
            outputs = self._engine.run()
        except RuntimeError as error:
            raise UserError(f"the model failed to run ({_words(error)})") from None
        return [
            _in_float(values, *details["quantization"])
            for values, details in zip(outputs, self._engine.outputs)
        ]

    def _fill(self, pixels: np.ndarray) -> None:
        """Writes a picture [height, width, channels] right into the input."""
        target = self._engine.input()[0]
        if self.input.channels_first:
            target = target.transpose(1, 2, 0)
        if self._levels is None:
            np.copyto(target, pixels)
            return
        for channel, levels in enumerate(self._levels):
            np.take(levels, pixels[..., channel], out=target[..., channel], mode="clip")


def _levels(tensor: Input, spec: PreprocessSpec) -> np.ndarray | None:
    """What each grey level is in the input, [channels, 256] of its type; None: itself."""
    grey = np.arange(256)
    values = preprocess.normalise(np.stack([grey] * 3, axis=-1), spec, np.float64).T
    if tensor.dtype != np.float32:
        # Half up: with the usual ranges all values lie in the middle, where rounding to even would
        # make one of two.
        values = np.floor(values / tensor.scale + tensor.zero_point + 0.5)
        limits = np.iinfo(tensor.dtype)
        values = np.clip(values, limits.min, limits.max)
    values = values.astype(tensor.dtype)[: tensor.channels]
    return None if (values == grey).all() else values


def _picture(inputs: list[dict]) -> Input:
    """What LiteRT says of a model's inputs, if it is one picture; UserError if not."""
    if len(inputs) != 1:
        raise UserError(f"has {len(inputs)} inputs, not one picture")
    dtype, shape = inputs[0]["dtype"], [int(n) for n in inputs[0]["shape_signature"]]
    if len(shape) != 4 or not {shape[1], shape[3]} & set(CHANNELS):
        raise UserError(f"input is {shape}, not a picture [1, height, width, 3]")
    channels_first = shape[3] not in CHANNELS
    channels, height, width = shape[1:] if channels_first else (shape[3], *shape[1:3])
    if min(height, width) < 1:
        raise UserError(f"input is {shape}, of no fixed size; export it with one")
    if dtype not in DTYPES:
        known = ", ".join(np.dtype(each).name for each in DTYPES)
        raise UserError(f"input is {np.dtype(dtype).name}, not one of {known}")
    scale, zero_point = inputs[0]["quantization"]
    return Input(height, width, channels, dtype, scale or 1.0, zero_point, channels_first)


class _Interpreted:
    """LiteRT's Interpreter as an Engine."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self.inputs, self.outputs = (
            interpreter.get_input_details(),
            interpreter.get_output_details(),
        )

    def input(self) -> np.ndarray:
        return self._interpreter.tensor(self.inputs[0]["index"])()

    def run(self) -> list[np.ndarray]:
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"]) for output in self.outputs]


def _engine(
    path: str | Path,
    threads: int | None,
    delegate: Delegate | None,
    weight_cache: str | Path | None,
    say: Callable[[str], None],
) -> Engine:
    """What runs a model as it is asked for, or the CPU's Interpreter where that cannot be."""
    if weight_cache:
        from edge_demo.tflite import weight_cache as packed

        if engine := packed.opened(path, threads, Path(weight_cache), say):
            return engine
    interpreter = delegate and _delegated(path, threads, delegate, say)
    if not interpreter:
        with quiet():
            interpreter = _opened(path, threads)
            _allocate(interpreter)
    return _Interpreted(interpreter)


def _opened(path: str | Path, threads: int | None, delegates: tuple = ()) -> Interpreter:
    return Interpreter(str(path), num_threads=threads, experimental_delegates=list(delegates))


def _allocate(interpreter: Interpreter) -> None:
    """Gives a model its memory, for a batch of one; UserError if it only runs another."""
    inputs = interpreter.get_input_details()
    batched = [tensor for tensor in inputs if len(tensor["shape"]) and tensor["shape"][0] != 1]
    for tensor in batched:
        interpreter.resize_tensor_input(tensor["index"], [1, *tensor["shape"][1:]])
    try:
        interpreter.allocate_tensors()
    except RuntimeError:
        if not batched:
            raise
        raise UserError(f"made for a batch of {batched[0]['shape'][0]}, not of 1") from None


def _delegated(
    path: str | Path, threads: int | None, delegate: Delegate, say: Callable[[str], None]
) -> Interpreter | None:
    """A model that has run once by a delegate; None, told why, if it cannot. UserError if it must."""
    reason = "it takes none of the model's operations"
    with quiet():
        try:
            interpreter = _opened(path, threads, (_loaded(delegate),))
            if any(op["op_name"] == PARTS for op in interpreter._get_ops_details()):
                _allocate(interpreter)
                interpreter.invoke()
                return interpreter
        except (OSError, ValueError, RuntimeError) as error:
            reason = _words(error).removeprefix(f"{delegate.library}: ")
    if delegate.strict:
        raise UserError(f"delegate {delegate.library}: {reason}")
    say(f"delegate {delegate.library}: {reason}; running on the CPU")
    return None


def _loaded(delegate: Delegate):
    library = delegate.library
    if Path(library).is_file():  # else it is looked for where the system has its libraries
        library = str(Path(library).absolute())
    if not hasattr(ctypes.CDLL(library), CREATE):
        raise ValueError("it is a library, but no delegate of LiteRT")
    return load_delegate(library, dict(delegate.options))


def _words(error: Exception) -> str:
    """The first line of what an error says, beyond LiteRT's own that a delegate was not loaded."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Failed to load delegate")]
    return (said or lines or [type(error).__name__])[0]


def _in_float(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    if values.dtype == np.float32:
        return values
    return (values.astype(np.float32) - zero_point) * np.float32(scale or 1)
