"""Quantization sites: every tensor of the edge graph that some scheme holds in integers, by name.

`edge_graph.forward` visits them, training rounds there, and the exported file's tensors are found
again by these names.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator

from convert.schemes import DYNAMIC, FLOAT, INTEGER, Scheme
from edge_demo.tflite.metadata import ATTENTION, FEATURES, LOGITS
from tfvit.architecture import Architecture, ResNetArchitecture

Range = tuple[float, float]
PIXELS: Range = (0.0, 255.0)
UNIT: Range = (0.0, 255 / 256)  # what TFLite fixes for an int8 softmax: scale 1/256
ROUNDED = ("attention", "attention/out", "mlp/dense_1", "mlp/dense_2")  # layers of a block
# output of the graph: the site of its tensor
OUTPUTS = {
    LOGITS: "head/output",
    FEATURES: "features/output",
    ATTENTION: "rollout/block_0/output",
}
GELU_FLOOR = -4.0  # GELU(-4) is -0.0001, and less below


@dataclasses.dataclass(frozen=True)
class Site:
    """One tensor.

    layers: the layers (`layers`) that read or write it; it is rounded if one of them is in integers.
        None: a tensor between layers, rounded only where the whole graph is in integers.
    kernel: a weight, rounded per output channel with its own range.
    rows: what a dense layer reads, rounded by the runtime with a range for each row as it comes.
    symmetric: zero point 0.
    fixed: its range is known and not calibrated. fixed_integer: so where the whole graph is integer.
    floor: its range goes no lower, because what reads it makes nothing of less.
    """

    layers: tuple[str, ...] | None
    kernel: bool = False
    rows: bool = False
    symmetric: bool = False
    fixed: Range | None = None
    fixed_integer: Range | None = None
    floor: float = -math.inf


def refusal(scheme: Scheme, arch: Architecture | ResNetArchitecture) -> str | None:
    """Why a scheme cannot hold a model; None if it can."""
    if isinstance(arch, ResNetArchitecture):
        if scheme.activations != FLOAT:
            return "a BiT ResNet is exported in float only; it is there to be compared with"
    elif arch.stem is not None and scheme.activations == INTEGER:
        return "GroupNorm, of the hybrid's stem, has no integer form here; take int8"
    elif arch.position == "relative" and scheme.calibrated:
        return "relative positions have no integer form here; take dynamic"
    return None


def layers(arch: Architecture) -> list[str]:
    """What is in integers or in float as a whole, in the order of the graph: the unit of sensitivity.

    "block_0/attention" is query, key, value and both products: an integer product needs all of them.
    The head (with a pre-logits layer) is in integers only where everything is: it is small, and its
    error is the logits' error.
    """
    found = ["embedding"]
    for i in range(arch.depth):
        found += [f"block_{i}/{part}" for part in ROUNDED]
    return found + [f"map/{part}" for part in ROUNDED if arch.pooling == "map"]


def by_row(arch: Architecture) -> frozenset[str]:
    """The layers that even a mixed file rounds row by row: those of one row that the head reads.

    One row costs nothing to round, and their error would be the logits' error.
    """
    last = {"cls": f"block_{arch.depth - 1}", "map": "map"}.get(arch.pooling)
    return frozenset(f"{last}/{part}" for part in ROUNDED[1:] if last)


def dense_layers(arch: Architecture) -> dict[str, str | None]:
    """Every dense layer and the one of `layers` that it belongs to (None: the head's), in order."""
    found: dict[str, str | None] = {"embedding": "embedding"}
    blocks = {f"block_{i}": ("query", "key", "value") for i in range(arch.depth)}
    if arch.pooling == "map":
        blocks["map"] = ("scores", "value")
    for block, parts in blocks.items():
        for part in parts:
            found[f"{block}/attention/{part}"] = f"{block}/attention"
        for part in ROUNDED[1:]:
            found[f"{block}/{part}"] = f"{block}/{part}"
    if arch.representation_size:
        found["pre_logits"] = None
    found["head"] = None
    return found


def first_residual(arch: Architecture) -> str:
    """The site that the residual stream begins with."""
    bare = arch.position in ("relative", "none") and not arch.prefix_tokens
    return "embedding/output" if bare else "tokens"


def sites(arch: Architecture, extras: Collection[str] = ()) -> dict[str, Site]:
    """All sites by name; extras: what the graph tells beside its logits (`convert.extras`)."""
    return dict(_sites(arch)) | {name: Site(None) for name in _extra_sites(arch, extras)}


def ranged(arch: Architecture, extras: Collection[str] = ()) -> dict[str, Site]:
    """The sites whose range is one for all images: known or calibrated."""
    found = sites(arch, extras).items()
    return {name: site for name, site in found if not site.kernel and not site.rows}


def _extra_sites(arch: Architecture, extras: Collection[str]) -> Iterator[str]:
    if FEATURES in extras:
        yield OUTPUTS[FEATURES]
        if not arch.representation_size and arch.pooling != "map":
            yield "features/scaled"
    if ATTENTION in extras:
        blocks = [f"rollout/block_{i}" for i in range(arch.depth)]
        for part in ("heads", "attended", "both", "output"):
            yield from (f"{block}/{part}" for block in blocks)
        if arch.pooling == "map":
            yield "rollout/map/heads"


def _sites(arch: Architecture) -> Iterator[tuple[str, Site]]:
    def dense(name: str, **output) -> Iterator[tuple[str, Site]]:
        layer = dense_layers(arch)[name]
        used = (layer,) if layer else None
        yield f"{name}/kernel", Site(used, kernel=True)
        yield f"{name}/rows", Site(used, rows=True)
        yield f"{name}/output", Site(used, **output)

    def norm(name: str) -> Iterator[tuple[str, Site]]:
        for part in ("square", "mean", "rsqrt"):
            yield f"{name}/{part}", Site(None)

    def mlp(name: str) -> Iterator[tuple[str, Site]]:
        yield f"{name}/dense_1/input", Site((f"{name}/dense_1",))
        yield from dense(f"{name}/dense_1", floor=GELU_FLOOR)
        yield f"{name}/dense_2/input", Site((f"{name}/dense_2",))
        yield from dense(f"{name}/dense_2")

    yield "embedding/input", Site(("embedding",), fixed=PIXELS if arch.stem is None else None)
    yield from dense("embedding")
    if arch.position not in ("relative", "none"):
        yield "positions", Site(None)
    if first_residual(arch) == "tokens":
        yield "tokens", Site(None)
    for i in range(arch.depth):
        block = f"block_{i}"
        attention = f"{block}/attention"
        yield from norm(f"{attention}/norm")
        yield f"{attention}/input", Site((attention,))
        yield from dense(f"{attention}/query")
        # XNNPACK multiplies int8 by int8 only where the right-hand side has zero point 0.
        yield from dense(f"{attention}/key", symmetric=True)
        yield from dense(f"{attention}/value", symmetric=True)
        yield f"{attention}/scores", Site((attention,))
        yield f"{attention}/probabilities", Site((attention,), fixed_integer=UNIT)
        yield f"{attention}/out/input", Site((attention, f"{attention}/out"))
        yield from dense(f"{attention}/out")
        yield f"{attention}/residual", Site(None)
        yield from norm(f"{block}/mlp/norm")
        yield from mlp(f"{block}/mlp")
        yield f"{block}/mlp/residual", Site(None)
    yield from norm("norm")
    if arch.pooling == "map":
        attention = "map/attention"
        yield "norm/output", Site((attention,))
        yield from dense(f"{attention}/scores")
        yield f"{attention}/probabilities", Site((attention,), fixed_integer=UNIT)
        yield from dense(f"{attention}/value", symmetric=True)
        yield f"{attention}/out/input", Site((attention, f"{attention}/out"))
        yield from dense(f"{attention}/out")
        yield from norm("map/norm")
        yield from mlp("map/mlp")
        yield "map/output", Site(None)
    else:
        yield "norm/output", Site(None)
    if arch.pooling in ("gap", "cls+gap"):
        yield "pool", Site(None)
    if arch.representation_size:
        yield from dense("pre_logits")
        yield "pre_logits/tanh", Site(None)
    yield from dense("head")


def rounded(
    arch: Architecture,
    scheme: Scheme,
    in_float: frozenset[str],
    extras: Collection[str] = (),
) -> dict[str, Site]:
    """The sites that a scheme rounds, where the layers `in_float` stay in float."""

    dynamic = scheme.activations == DYNAMIC
    left = in_float if dynamic else in_float | {None}
    rows = frozenset([*layers(arch), None]) if dynamic else by_row(arch)

    def rounds(site: Site) -> bool:
        if scheme.activations == INTEGER:
            return not site.rows
        if scheme.activations == FLOAT:
            return False
        used = frozenset(site.layers or [None])
        if site.kernel:
            return not used <= left
        return used <= rows - left if site.rows else not used <= left | rows

    found = {name: site for name, site in sites(arch, extras).items() if rounds(site)}
    if scheme.activations == INTEGER:
        for name, site in found.items():
            found[name] = dataclasses.replace(site, fixed=site.fixed_integer or site.fixed)
    return found
