"""What Google's `.npz` files call the weights of a ViT, a hybrid and a BiT ResNet: tables of `Row`.

Sources: google-research/vision_transformer, vit_jax/models_vit.py, models_resnet.py and checkpoint.py;
google-research/big_vision, models/vit.py (`fix_old_checkpoints`); google-research/big_transfer.
"""

from __future__ import annotations

import dataclasses

from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.interop.table import Row
from tfvit.resnet import EXPANSION, ROOT_WIDTH, stages


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one generation of the code names what all of them have.

    norm_2, attention, mlp: modules of a block; the first norm is LayerNorm_0 in all.
    position: of the learned position embeddings.
    """

    name: str
    norm_2: str
    attention: str
    mlp: str
    position: str


# Flax numbered all modules of a block together before linen, then each kind by itself.
PRE_LINEN = ("LayerNorm_2", "MultiHeadDotProductAttention_1", "MlpBlock_3")
LINEN = ("LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0")
IN_MODULE = "Transformer/posembed_input/pos_embedding"
LAYOUTS = (
    Layout("original", *PRE_LINEN, IN_MODULE),
    Layout("linen", *LINEN, IN_MODULE),
    Layout("big_vision before 2022", *LINEN, "Transformer/pos_embedding"),
    Layout("big_vision", *LINEN, "pos_embedding"),
)
BIG_TRANSFER = "big_transfer"
# Of the tree of parameters within a file that holds more: a whole training state, a text tower.
PREFIXES = ("params/img/", "params/", "opt/target/", "img/", "")
BLOCK, BLOCKS = (
    "Transformer/encoderblock_",
    "Transformer/encoderblock/",
)  # BLOCKS: stacked by a scan
MAP_HEAD = "MAPHead_0/"
PATCHES, HEAD, HIDDEN, ROOT = (
    "embedding/kernel",
    "head/kernel",
    "pre_logits/kernel",
    "conv_root/kernel",
)
BIT_ROOT, BIT_HEAD = "resnet/root_block/standardized_conv2d/kernel", "resnet/head/conv2d/kernel"


def vit_rows(arch: Architecture, layout: Layout, head: bool) -> list[Row]:
    """The tensors of a ViT or hybrid; head: whether the classifier is among them."""
    rows = _stem(arch.stem) if arch.stem is not None else []
    rows += _dense("embedding", "embedding")
    if arch.pooling == "cls":
        rows.append(Row("cls", "cls/token"))
    if arch.position == "learned":
        rows.append(Row(layout.position, "position/embedding"))
    for i in range(arch.depth):
        theirs, ours = f"{BLOCK}{i}", f"block_{i}"
        rows += _norm(f"{theirs}/LayerNorm_0", f"{ours}/norm_1")
        rows += _attention(f"{theirs}/{layout.attention}", f"{ours}/attention", arch)
        rows += _norm(f"{theirs}/{layout.norm_2}", f"{ours}/norm_2")
        rows += _mlp(f"{theirs}/{layout.mlp}", f"{ours}/mlp")
    rows += _norm("Transformer/encoder_norm", "norm")
    if arch.pooling == "map":
        rows.append(Row(f"{MAP_HEAD}probe", "map/probe"))
        rows += _attention(f"{MAP_HEAD}MultiHeadDotProductAttention_0", "map/attention", arch)
        rows += _norm(f"{MAP_HEAD}LayerNorm_0", "map/norm")
        rows += _mlp(f"{MAP_HEAD}MlpBlock_0", "map/mlp")
    if arch.representation_size:
        rows += _dense("pre_logits", "pre_logits")
    return rows + (_dense("head", "head") if head else [])


def bit_rows(arch: ResNetArchitecture, head: bool) -> list[Row]:
    """The tensors of a BiT ResNet; head: whether the classifier is among them."""
    rows, conv = [Row(BIT_ROOT, "root/conv/kernel")], "standardized_conv2d/kernel"
    for ours, _, _ in stages(arch.units, ROOT_WIDTH * arch.width_factor):
        stage, unit = _numbers(ours)
        theirs = f"resnet/block{stage}/unit{unit:02d}"
        for number, group in enumerate("abc", 1):
            rows += _group_norm(f"{theirs}/{group}/group_norm", f"{ours}/norm_{number}")
            rows.append(Row(f"{theirs}/{group}/{conv}", f"{ours}/conv_{number}/kernel"))
        if unit == 1:
            rows.append(Row(f"{theirs}/a/proj/{conv}", f"{ours}/conv_shortcut/kernel"))
    rows += _group_norm("resnet/group_norm", "norm")
    if head:
        features = EXPANSION * ROOT_WIDTH * arch.width_factor * 2 ** (len(arch.units) - 1)
        shape = (1, 1, features, arch.num_classes)
        rows.append(Row(BIT_HEAD, "head/kernel", shape=shape))
        rows.append(Row("resnet/head/conv2d/bias", "head/bias"))
    return rows


def _stem(units: tuple[int, ...]) -> list[Row]:
    rows = [Row(ROOT, "stem/root/conv/kernel")]
    rows += _stem_norm("gn_root", "stem/root/norm", ROOT_WIDTH)
    for name, inside, _ in stages(units, ROOT_WIDTH):
        stage, unit = _numbers(name)
        theirs, ours = f"block{stage}/unit{unit}", f"stem/{name}"
        parts = [("1", "1", inside), ("2", "2", inside), ("3", "3", EXPANSION * inside)]
        if unit == 1:
            parts.append(("_proj", "_shortcut", EXPANSION * inside))
        for their_part, our_part, width in parts:
            our_part = our_part.removeprefix("_")
            rows.append(Row(f"{theirs}/conv{their_part}/kernel", f"{ours}/conv_{our_part}/kernel"))
            rows += _stem_norm(f"{theirs}/gn{their_part}", f"{ours}/norm_{our_part}", width)
    return rows


def _numbers(unit: str) -> tuple[int, int]:
    """Theirs, which count from 1, of our "stage_0/unit_0"."""
    stage, unit = (int(part.rpartition("_")[2]) for part in unit.split("/"))
    return stage + 1, unit + 1


def _dense(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}/{part}", f"{ours}/{part}") for part in ("kernel", "bias")]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}/scale", f"{ours}/gamma"), Row(f"{theirs}/bias", f"{ours}/beta")]


def _group_norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}/{part}", f"{ours}/{part}") for part in ("gamma", "beta")]


def _stem_norm(theirs: str, ours: str, width: int) -> list[Row]:
    """As the published files have it; newer code expects one axis, and squeezes."""
    shape = (1, 1, 1, width)
    return [dataclasses.replace(row, shape=shape) for row in _norm(theirs, ours)]


def _attention(theirs: str, ours: str, arch: Architecture) -> list[Row]:
    d, heads = arch.width, (arch.heads, arch.head_dim)
    rows = []
    for part in ("query", "key", "value"):
        rows.append(Row(f"{theirs}/{part}/kernel", f"{ours}/{part}/kernel", shape=(d, *heads)))
        rows.append(Row(f"{theirs}/{part}/bias", f"{ours}/{part}/bias", shape=heads))
    rows.append(Row(f"{theirs}/out/kernel", f"{ours}/out/kernel", shape=(*heads, d)))
    return [*rows, Row(f"{theirs}/out/bias", f"{ours}/out/bias")]


def _mlp(theirs: str, ours: str) -> list[Row]:
    return _dense(f"{theirs}/Dense_0", f"{ours}/dense_1") + _dense(
        f"{theirs}/Dense_1", f"{ours}/dense_2"
    )
