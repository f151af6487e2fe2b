"""Google's `.npz` checkpoints of ViTs, hybrids and BiT ResNets, read and written.

The names are in `tfvit.interop.google_names`, with their sources; the file itself is `tfvit.interop.npz`'s.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_demo.errors import UserError
from edge_demo.files import atomic_file, sha256
from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture
from tfvit.architecture import Architecture, ResNetArchitecture, name_of
from tfvit.interop import npz
from tfvit.interop.google_names import (
    BIG_TRANSFER,
    BIT_HEAD,
    BIT_ROOT,
    BLOCK,
    BLOCKS,
    HEAD,
    HIDDEN,
    LAYOUTS,
    MAP_HEAD,
    PATCHES,
    PREFIXES,
    ROOT,
    Layout,
    bit_rows,
    vit_rows,
)
from tfvit.interop.imported import Imported
from tfvit.interop.table import to_ours, to_theirs
from tfvit.model import Model, named_weights, weight_shapes
from tfvit.resnet import ROOT_WIDTH

FORMAT = "Google npz"
USUAL_SIZE = 224  # pixels, where a file does not tell
NUMBERED = re.compile(r"(?<=/standardized_conv2d)_\d+(?=/)")  # in some of BiT's files
GROUP_NORM = re.compile(r"(^|/)gn(_root|_proj|\d)/(scale|bias)$")
# What Google's code computes, of the fields whose values are not in a file.
HOLDS = {
    "position": ("learned", "sincos_2d"),
    "pooling": ("cls", "gap", "map"),
    "distillation_token": (False,),
    "registers": (0,),
    "qkv_bias": (True,),
    "layer_norm_epsilon": (1e-6,),
    "activation": ("gelu_tanh",),
    "layer_scale": (None,),
}

Tensors = dict[str, np.ndarray]


def read(path: Path) -> Imported:
    """The model of a Google checkpoint, whichever generation of their code wrote it.

    The architecture is what the shapes say; fixed 2-D sines where no position embedding is there; the
    input size is that of the position embedding, else 224. Without a head, one class and no weights of it.
    Other trees of the file (optimizer state, a text tower) and empty arrays are dropped.
    Raises UserError for a file that is damaged or may hold code, and for any tensor that is missing,
    unknown or does not fit.
    """
    tensors, dropped = _model_tree(path)
    if BIT_ROOT in tensors:
        has_head, layout = BIT_HEAD in tensors, BIG_TRANSFER
        arch = _resnet(tensors, path)
        rows = bit_rows(arch, has_head)
    else:
        tensors = _published_shapes(_unstacked(tensors, path))
        has_head, found = HEAD in tensors, _layout(tensors, path)
        arch = _vit(tensors, found, path)
        rows, layout = vit_rows(arch, found, has_head), found.name
    known = {row.theirs for row in rows}
    unknown = next((name for name in tensors if name not in known), None)
    if unknown:
        raise UserError(f"{path}: {unknown} is not a weight of {arch.name} of this depth")
    weights = to_ours(rows, tensors, weight_shapes(arch).__getitem__, str(path))
    labels = tuple(str(i) for i in range(arch.num_classes))
    origin = {
        "source": str(path),
        "format": FORMAT,
        "layout": layout,
        "file": path.name,
        "sha256": sha256(path),
    }
    return Imported(arch, PreprocessSpec(*arch.image_size), labels, weights, {}, dropped, origin)


def write(model: Model, path: Path) -> None:
    """A model's weights as Google's code reads them: their layout of a ViT, big_vision's or BiT's.

    big_vision's where the ViT's has no such model: map pooling, fixed sines. The ViT's has the
    numbering of the published files, from before linen: both their loaders renumber it, and timm
    knows no other. Labels, preprocessing and rates of dropout have no place there.
    Raises UserError, naming the field, for a model that their code does not compute.
    """
    arch = model.architecture
    weights = {name: variable.numpy() for name, variable in named_weights(model).items()}
    if isinstance(arch, ResNetArchitecture):
        rows, prefix = bit_rows(arch, True), ""
    else:
        layout, prefix = _layout_for(arch, path)
        rows = vit_rows(arch, layout, True)
    tensors = {prefix + name: value for name, value in to_theirs(rows, weights).items()}
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **tensors)


def _model_tree(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The model's tensors without their prefix, under the names of `google_names`; what is beside them."""
    headers = {NUMBERED.sub("", name): header for name, header in npz.headers(path).items()}
    marks = [(prefix, mark) for prefix in PREFIXES for mark in (PATCHES, BIT_ROOT)]
    prefix = next((prefix for prefix, mark in marks if prefix + mark in headers), None)
    if prefix is None:
        raise UserError(f"{path}: neither a ViT nor a BiT of Google's: no {PATCHES} inside")
    inlined = f"{prefix}probe" in headers  # of the map head, in files from before it was a module
    wanted, trees = {}, {}
    for name, header in headers.items():
        below = name.removeprefix(prefix)
        if not name.startswith(prefix):
            shared = prefix.count("/") - 1 if name.startswith(prefix.split("/")[0] + "/") else 0
            tree = "/".join(name.split("/")[: shared + 1])
            trees.setdefault(tree, []).append(header.shape)
        elif not math.prod(header.shape):
            trees[name] = [header.shape]
        elif inlined and below.startswith(("probe", "LayerNorm", "MultiHead", "MlpBlock")):
            wanted[MAP_HEAD + below] = header
        else:
            wanted[below] = header
    dropped = {
        tree: f"{shapes[0]}" if len(shapes) == 1 else f"{len(shapes)} arrays beside the model"
        for tree, shapes in trees.items()
    }
    return npz.arrays(path, wanted), dropped


def _unstacked(tensors: Tensors, path: Path) -> Tensors:
    """Blocks that a scan has stacked along the first axis, each by itself."""
    stacked = {name: value for name, value in tensors.items() if name.startswith(BLOCKS)}
    if not stacked:
        return tensors
    depths = {name: value.shape[:1] for name, value in stacked.items()}
    first = next(iter(depths))
    for name, depth in depths.items():
        if not depth or depth != depths[first]:
            raise UserError(
                f"{path}: {name} is {stacked[name].shape}, "
                f"{first} {stacked[first].shape}: not as many blocks"
            )
    found = {name: value for name, value in tensors.items() if name not in stacked}
    for name, value in stacked.items():
        for i, one in enumerate(value):
            found[f"{BLOCK}{i}/{name.removeprefix(BLOCKS)}"] = one
    return found


def _published_shapes(tensors: Tensors) -> Tensors:
    """A hybrid's GroupNorm has one axis in newer files, four in the published ones."""
    return {
        name: value.reshape(1, 1, 1, -1) if value.ndim == 1 and GROUP_NORM.search(name) else value
        for name, value in tensors.items()
    }


def _layout(tensors: Tensors, path: Path) -> Layout:
    """The layout whose names are there; without position embeddings the newest."""
    fitting = [a for a in LAYOUTS if f"{BLOCK}0/{a.mlp}/Dense_0/kernel" in tensors]
    if not fitting:
        raise UserError(f"{path}: weight {BLOCK}0/{LAYOUTS[0].mlp}/Dense_0/kernel is missing")
    return next((a for a in fitting if a.position in tensors), fitting[-1])


def _vit(tensors: Tensors, layout: Layout, path: Path) -> Architecture:
    """The architecture that the shapes tell; gives position embeddings their class token's row."""
    patch, across, _, width = _shape(tensors, PATCHES, 4, path)
    if patch != across:
        raise UserError(f"{path}: {PATCHES} has patches of {patch}x{across}; only square ones are")
    depth = len({name.split("/")[1] for name in tensors if name.startswith(BLOCK)})
    block = f"{BLOCK}0/"
    mlp_dim = _shape(tensors, f"{block}{layout.mlp}/Dense_0/kernel", 2, path)[1]
    heads = _shape(tensors, f"{block}{layout.attention}/query/kernel", 3, path)[1]
    stem = _units(tensors, "block{}/unit{}/conv1/kernel") if ROOT in tensors else None
    pooling = "cls" if "cls" in tensors else "map" if f"{MAP_HEAD}probe" in tensors else "gap"
    stride = architecture.stride(stem, patch)
    side, position = max(USUAL_SIZE // stride, 1), "sincos_2d"
    if layout.position in tensors:
        _, rows, _ = _shape(tensors, layout.position, 3, path)
        prefix, side = _rows(rows, pooling, layout, path)
        missing = (pooling == "cls") - prefix
        if missing:  # big_vision adds the class token behind the positions, so it has none: zero
            value = tensors[layout.position]
            tensors[layout.position] = np.pad(value, [(0, 0), (missing, 0), (0, 0)])
        position = "learned"
    try:
        return Architecture(
            name=name_of((width, depth, mlp_dim, heads), patch, stem),
            num_classes=_shape(tensors, HEAD, 2, path)[1] if HEAD in tensors else 1,
            image_size=side * stride,
            patch_size=patch,
            width=width,
            depth=depth,
            mlp_dim=mlp_dim,
            heads=heads,
            stem=stem,
            position=position,
            pooling=pooling,
            representation_size=(
                _shape(tensors, HIDDEN, 2, path)[1] if HIDDEN in tensors else None
            ),
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _resnet(tensors: Tensors, path: Path) -> ResNetArchitecture:
    width = _shape(tensors, BIT_ROOT, 4, path)[3]
    units = _units(tensors, "resnet/block{}/unit{:02d}/a/standardized_conv2d/kernel")
    if width % ROOT_WIDTH or not units:
        raise UserError(f"{path}: no BiT ResNet has {width} channels and {sum(units)} units")
    factor = width // ROOT_WIDTH
    classes = _shape(tensors, BIT_HEAD, 4, path)[3] if BIT_HEAD in tensors else 1
    name = f"bit-r{3 * sum(units) + 2}x{factor}"  # named for its layers
    return ResNetArchitecture(name, classes, (USUAL_SIZE, USUAL_SIZE), units, factor)


def _units(tensors: Mapping, name: str) -> tuple[int, ...]:
    """Residual units of each stage; name: of a tensor that every unit has, for (stage, unit) from 1."""
    units = []
    while name.format(len(units) + 1, 1) in tensors:
        stage = len(units) + 1
        units.append(
            next(j for j in itertools.count(1) if name.format(stage, j + 1) not in tensors)
        )
    return tuple(units)


def _rows(rows: int, pooling: str, layout: Layout, path: Path) -> tuple[int, int]:
    """Of position embeddings: rows of a class token, and the side of the square of the rest."""
    for prefix in (1, 0) if pooling == "cls" and rows > 1 else (0,):
        side = math.isqrt(rows - prefix)
        if side and side**2 == rows - prefix:
            return prefix, side
    token = " and a class token" if pooling == "cls" else ""
    raise UserError(f"{path}: {layout.position} has {rows} rows, which are no square{token}")


def _shape(tensors: Tensors, name: str, axes: int, path: Path) -> tuple[int, ...]:
    """The shape of a tensor that must be there, with so many axes."""
    if name not in tensors:
        raise UserError(f"{path}: weight {name} is missing")
    if tensors[name].ndim != axes:
        raise UserError(
            f"{path}: weight {name} is {tensors[name].shape}, which are not {axes} axes"
        )
    return tensors[name].shape


def _layout_for(arch: Architecture, path: Path) -> tuple[Layout, str]:
    """The layout that holds a model, and the prefix of its names."""
    for field, held in HOLDS.items():
        if getattr(arch, field) not in held:
            only = " or ".join(map(str, held))
            raise UserError(
                f"{path}: Google's code has no {field} {getattr(arch, field)}, only {only}"
            )
    if arch.position == "learned" and arch.grid[0] != arch.grid[1]:
        raise UserError(
            f"{path}: image_size {'x'.join(map(str, arch.image_size))}: Google's code takes "
            "the position embeddings for those of a square"
        )
    if arch.pooling != "map" and arch.position == "learned":
        return LAYOUTS[0], ""
    if arch.stem is not None:
        raise UserError(
            f"{path}: Google's code has no stem with pooling {arch.pooling} "
            f"and position {arch.position}"
        )
    return LAYOUTS[-1], "params/"
