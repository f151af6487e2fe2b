"""Whose a file or folder is, by its content: nothing but headers is read, and nothing is run."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edge_demo.errors import UserError
from edge_demo.files import decoding, read_json
from tfvit import checkpoint

CONFIG = "config.json"
MAY_HOLD_CODE = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
PICKLE_PROTOCOLS = range(2, 6)
TIMM = {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight"}
HUGGING_FACE = "embeddings.patch_embeddings.projection.weight"


def refuse_code(path: Path) -> None:
    """UserError if a file may hold code: a pickle, by its name or its content."""
    if path.is_dir():
        return
    start = _start(path)
    pickled = start[:1] == PICKLE and start[1:2] and start[1] in PICKLE_PROTOCOLS
    if path.suffix.lower() in MAY_HOLD_CODE or pickled or _holds_pickle(path):
        raise UserError(f"{path}: may hold code and is not read; save it as .safetensors")


def is_checkpoint(path: Path) -> bool:
    """Whether it is a checkpoint folder of ours, or a run folder."""
    folder = checkpoint.find(path)
    return "weights_sha256" in _config(folder)


def is_npz(path: Path) -> bool:
    """Whether it is a NumPy archive."""
    return path.is_file() and (
        path.suffix == ".npz" or any(name.endswith(".npy") for name in _members(path))
    )


def is_huggingface(path: Path) -> bool:
    """Whether it is a folder of transformers."""
    return "model_type" in _config(path)


def is_timm(path: Path) -> bool:
    """Whether it is a folder of timm, or a .safetensors with its names."""
    if path.is_dir():
        return isinstance(_config(path).get("architecture"), str)
    return _is_safetensors(path) and checkpoint.read_shapes(path).keys() >= TIMM


def content(path: Path) -> str:
    """What is there instead of a model that is known, in words."""
    if path.is_dir():
        if not (path / CONFIG).exists():
            return f"no {CONFIG} inside"
        return f"{CONFIG} has neither model_type nor architecture"
    if _is_safetensors(path):
        names = checkpoint.read_shapes(path)
        if any(name.endswith(HUGGING_FACE) for name in names):
            return "these weights are of Hugging Face; give the folder with config.json beside them"
        return f"unknown weights ({next(iter(names), 'none')}, ...)"
    return "unknown content"


def _config(path: Path) -> dict:
    """config.json of a folder; empty where there is none."""
    return read_json(path / CONFIG, "model") if (path / CONFIG).is_file() else {}


def _is_safetensors(path: Path) -> bool:
    """Whether it is meant to be one: by its name, or because JSON follows eight bytes."""
    return path.is_file() and (path.suffix == ".safetensors" or _start(path)[8:9] == b"{")


def _start(path: Path) -> bytes:
    with decoding(path), open(path, "rb") as file:
        return file.read(9)


def _members(path: Path) -> list[str]:
    """Names inside a zip file; none if it is not one, or damaged."""
    if _start(path)[:4] != ZIP:
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []


def _holds_pickle(path: Path) -> bool:
    return any(name.endswith(".pkl") for name in _members(path))
