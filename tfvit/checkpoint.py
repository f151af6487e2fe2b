"""The checkpoint folder: `config.json` and `weights.safetensors`, nothing that can run code.

config.json holds the architecture, the preprocessing, the labels, how logits become scores, the
provenance (recipe, data, metrics, versions) and the SHA-256 of the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.files import decoding, read_json
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import known
from tfvit import architecture, posemb
from tfvit.files import atomic_folder, recover

CONFIG, WEIGHTS, OPTIMIZER = "config.json", "weights.safetensors", "optimizer.safetensors"
FORMAT = 1
MAX_HEADER = 100_000_000  # bytes; what safetensors itself allows
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
DTYPES |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "I8": "i1", "BOOL": "?"}
VERSIONED = ("tfvit", "tensorflow", "tf-keras", "numpy")


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A copy of all that a checkpoint folder holds, to be written while the model is trained on.

    config: config.json without the hashes. state: what resuming needs beside the weights, by name.
    """

    config: dict
    weights: dict[str, np.ndarray]
    state: dict[str, np.ndarray] | None


def save(model, folder: str | Path, state: dict[str, np.ndarray] | None = None) -> None:
    """Writes a model's checkpoint folder, replacing a complete one only by a complete one.

    model: a `Model`; its `provenance` is stored with the versions of the libraries.
    state: what resuming needs beside the weights, by name.
    Raises UserError if the disk refuses or something else is in its place, which is then untouched.
    """
    write(snapshot(model, state), folder)


def snapshot(model, state: dict[str, np.ndarray] | None = None) -> Snapshot:
    """A copy of a `Model` and of `state` as they are now; `write` makes a folder of it."""
    from tfvit.model import named_weights

    config = {
        "format": FORMAT,
        "architecture": model.architecture.to_json(),
        "preprocess": model.preprocess.to_json(),
        "labels": list(model.labels),
        "scores": model.scores,
        "provenance": {**model.provenance, "versions": _versions()},
    }
    weights = {name: np.array(w.numpy()) for name, w in named_weights(model).items()}
    copied = None if state is None else {name: np.array(x) for name, x in state.items()}
    return Snapshot(config, weights, copied)


def write(snapshot: Snapshot, folder: str | Path, previous: Path | None = None) -> None:
    """Writes a checkpoint folder; see `save`.

    previous: folder to keep the one in that is replaced.
    """
    from safetensors.numpy import save as serialise

    folder = Path(folder).resolve()
    ours = any((folder / name).exists() for name in (CONFIG, WEIGHTS))  # the other: a damaged one
    if folder.exists() and not (folder.is_dir() and (ours or _empty(folder))):
        raise UserError(f"{folder}: is not a checkpoint folder; choose another name")
    config, parts = dict(snapshot.config), {"weights_sha256": (WEIGHTS, snapshot.weights)}
    if snapshot.state is not None:
        parts["state_sha256"] = (OPTIMIZER, snapshot.state)
    with atomic_folder(folder, previous) as temporary:
        for key, (name, tensors) in parts.items():
            content = serialise(tensors)  # its own writer of files hides what the disk says
            config[key] = hashlib.sha256(content).hexdigest()
            (temporary / name).write_bytes(content)
        (temporary / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False), "utf-8")


def find(path: str | Path) -> Path:
    """The checkpoint folder that a path means: itself, or the best one of a run folder."""
    path = Path(path)
    best = path / "best"
    recover(best)
    return best if not (path / CONFIG).exists() and best.is_dir() else path


def read_config(folder: str | Path) -> dict:
    """config.json as it lies, checked for its fields; `architecture` and `preprocess` decoded.

    Raises UserError if the folder or the file is missing, damaged or of a newer format.
    """
    folder = Path(folder)
    recover(folder)
    if not folder.is_dir():
        reason = "not a checkpoint folder" if folder.exists() else "no such checkpoint folder"
        raise UserError(f"{folder}: {reason}")
    path = folder / CONFIG
    config = read_json(path, "checkpoint folder")
    with decoding(path):
        if config["format"] > FORMAT:
            raise UserError(f"written by a newer tfvit (format {config['format']})")
        config["architecture"] = architecture.from_json(config["architecture"])
        config["preprocess"] = PreprocessSpec.from_json(config["preprocess"])
        config["labels"] = tuple(config["labels"])
        config["scores"] = known(config["scores"])
        if len(config["labels"]) != config["architecture"].num_classes:
            raise UserError(f"{len(config['labels'])} labels for another number of classes")
        if len(config["weights_sha256"]) != 64 or not isinstance(config["provenance"], dict):
            raise TypeError("weights_sha256 or provenance is not one")
    return config


def read_weights(folder: str | Path, config: dict) -> dict[str, np.ndarray]:
    """The weights by name, checked against the hash in `config`.

    Raises UserError if the file is missing or damaged.
    """
    path = Path(folder) / WEIGHTS
    tensors = read_tensors(path, config["weights_sha256"])
    bad = [name for name, value in tensors.items() if value.dtype != np.float32]
    if bad:
        raise UserError(f"{path}: {bad[0]} is {tensors[bad[0]].dtype}, not float32")
    return tensors


def read_state(folder: str | Path, config: dict) -> dict[str, np.ndarray]:
    """What resuming needs beside the weights, by name, checked against the hash in `config`.

    Raises UserError if the file is missing or damaged.
    """
    with decoding(Path(folder) / CONFIG):
        expected = config["state_sha256"]
    return read_tensors(Path(folder) / OPTIMIZER, expected)


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """A safetensors file, checked against a hash where one is given; bfloat16 comes as float32.

    Raises UserError if it is missing, damaged or of a type that NumPy does not know.
    """
    import safetensors

    with decoding(path):
        if sha256 and files.sha256(path) != sha256:
            raise UserError(f"damaged, its content does not match the hash in {CONFIG}")
        try:
            with safetensors.safe_open(path, "numpy"):  # which compares its header with its size
                start, header = _header(path)
        except safetensors.SafetensorError as error:
            raise ValueError(error) from None
        with open(path, "rb") as file:  # one after the other: a large file is held only once
            return {name: _tensor(file, start, name, entry) for name, entry in header.items()}


def _tensor(file: BinaryIO, start: int, name: str, entry: dict) -> np.ndarray:
    """The array of an entry of the header, whose data begin at `start`."""
    kind, half = entry["dtype"], entry["dtype"] == "BF16"  # the upper half of a float32
    if kind not in DTYPES and not half:
        raise UserError(f"{name} is of type {kind}, which is not supported")
    file.seek(start + entry["data_offsets"][0])
    count = math.prod(entry["shape"])
    values = np.fromfile(file, "<u2" if half else DTYPES[kind], count)
    values = (values.astype("<u4") << 16).view("<f4") if half else values
    return values.reshape(entry["shape"])


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file, by its header alone: 8 bytes of length, then JSON.

    Raises UserError if it is missing or damaged.
    """
    with decoding(path):
        _, header = _header(path)
        return {name: tuple(map(int, tensor["shape"])) for name, tensor in header.items()}


def _header(path: Path) -> tuple[int, dict]:
    """Where the data of a safetensors file begin, and what its header says of each tensor."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER, path.stat().st_size - 8):
            raise ValueError(f"header of {length} bytes")
        try:
            header = json.loads(file.read(length))
        except RecursionError:
            raise ValueError("nested too deeply") from None
    header.pop("__metadata__", None)
    return 8 + length, header


def load(folder: str | Path, dtype: str = "float32", image_size: tuple[int, int] | None = None):
    """The model of a checkpoint folder: a `Model` with its labels and preprocessing.

    dtype: "float32", or "mixed_bfloat16" to compute in bfloat16.
    image_size: (height, width) to have it for, None for its own; position embeddings are interpolated.
    Raises UserError if anything is missing, damaged or does not fit together.
    """
    from tfvit.model import build

    config = read_config(folder)
    weights = read_weights(folder, config)
    arch, spec = config["architecture"], config["preprocess"]
    if image_size:
        weights, arch = posemb.at_resolution(weights, arch, image_size)
        spec = spec.at(*image_size)
    model = build(
        arch,
        dtype=dtype,
        labels=config["labels"],
        preprocess=spec,
        scores=config["scores"],
        provenance=config["provenance"],
    )
    assign(model, weights, str(folder))
    return model


def assign(model, weights: dict[str, np.ndarray], where: str) -> None:
    """Gives a model all its weights, which leave `weights`: a large model is not held twice.

    Raises UserError that names the first that is missing or does not fit.
    """
    from tfvit.model import named_weights

    for name, variable in named_weights(model).items():
        if name not in weights:
            raise UserError(f"{where}: weight {name} is missing")
        if weights[name].shape != tuple(variable.shape):
            raise UserError(
                f"{where}: weight {name} is {weights[name].shape}, "
                f"the model's is {tuple(variable.shape)}"
            )
        variable.assign(weights.pop(name))


def _empty(folder: Path) -> bool:
    return next(folder.iterdir(), None) is None


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
