"""Public checkpoints that `tfvit import` reads, for people to choose from; nothing here downloads.

Names are those under which their owners publish them: a path below https://storage.googleapis.com/ for
Google's files, a repository of https://huggingface.co for the others.
"""

from __future__ import annotations

import dataclasses
import itertools

APACHE = "Apache-2.0"
IN1K, IN21K = "ImageNet-1k", "ImageNet-21k"
BOTH = f"{IN21K}, then {IN1K}"
DINO, DINO_REGISTERS = "142 M images, no labels", "142 M images, no labels; registers"


@dataclasses.dataclass(frozen=True)
class Public:
    """format: of `tfvit.interop`. model: our name. pixels: it was trained at. trained: on what."""

    format: str
    name: str
    model: str
    pixels: int
    trained: str
    licence: str = APACHE


def _google() -> list[Public]:
    rows = []
    for file, model in (
        ("ViT-B_16", "vit-b/16"),
        ("ViT-B_32", "vit-b/32"),
        ("ViT-L_16", "vit-l/16"),
        ("ViT-L_32", "vit-l/32"),
        ("ViT-H_14", "vit-h/14"),
        ("R50+ViT-B_16", "r50+vit-b/16"),
    ):
        rows.append(("vit_models/imagenet21k/" + file, model, 224, IN21K))
        if file != "ViT-H_14":
            rows.append(("vit_models/imagenet21k+imagenet2012/" + file, model, 384, BOTH))
    for file, model in (
        ("Ti_16", "vit-ti/16"),
        ("S_32", "vit-s/32"),
        ("S_16", "vit-s/16"),
        ("B_32", "vit-b/32"),
        ("B_16", "vit-b/16"),
        ("L_16", "vit-l/16"),
        ("R_Ti_16", "r+vit-ti/16"),
        ("R26_S_32", "r26+vit-s/32"),
        ("R50_L_32", "r50+vit-l/32"),
    ):
        rows.append((f"vit_models/augreg/{file}-*", model, 224, f"{IN21K} or {BOTH}"))
    rows += [
        (f"vit_models/sam/ViT-B_{patch}", f"vit-b/{patch}", 224, f"{IN1K}, sharpness-aware")
        for patch in (16, 32)
    ]
    rows += [
        (f"big_vision/vit_s16_i1k_{epochs}ep", "vit-s/16", 224, f"{IN1K}, {epochs} epochs")
        for epochs in (90, 150, 300)
    ]
    for kind, trained in (("M", IN21K), ("S", IN1K)):
        for size in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"):
            rows.append((f"bit_models/BiT-{kind}-{size}", f"bit-{size.lower()}", 224, trained))
    return [Public("google-npz", f"{name}.npz", *rest) for name, *rest in rows]


def _huggingface() -> list[Public]:
    rows = [
        ("google/vit-base-patch16-224", "vit-b/16", 224, BOTH),
        ("google/vit-base-patch16-224-in21k", "vit-b/16", 224, IN21K),
        ("google/vit-base-patch16-384", "vit-b/16", 384, BOTH),
        ("google/vit-base-patch32-384", "vit-b/32", 384, BOTH),
        ("google/vit-large-patch16-224", "vit-l/16", 224, BOTH),
        ("google/vit-large-patch16-384", "vit-l/16", 384, BOTH),
        ("google/vit-large-patch32-384", "vit-l/32", 384, BOTH),
        ("google/vit-huge-patch14-224-in21k", "vit-h/14", 224, IN21K),
    ]
    for size, letter in (("tiny", "ti"), ("small", "s"), ("base", "b")):
        model, name = f"vit-{letter}/16", f"facebook/deit-{size}"
        rows.append((f"{name}-patch16-224", model, 224, IN1K))
        rows.append((f"{name}-distilled-patch16-224", model, 224, f"{IN1K}, distilled"))
    for size, letter in (("small", "s"), ("base", "b"), ("large", "l")):
        rows.append((f"facebook/dinov2-{size}", f"vit-{letter}/14", 518, DINO))
        name = f"facebook/dinov2-with-registers-{size}"
        rows.append((name, f"vit-{letter}/14", 518, DINO_REGISTERS))
    return [Public("huggingface", *row) for row in rows]


def _timm() -> list[Public]:
    rows = []
    for size, letter in (("tiny", "ti"), ("small", "s"), ("base", "b"), ("large", "l")):
        name = f"timm/vit_{size}_patch16_224.augreg_in21k"
        rows.append((name, f"vit-{letter}/16", 224, IN21K))
        rows.append((f"{name}_ft_in1k", f"vit-{letter}/16", 224, BOTH))
    for size, letter in (("small", "s"), ("base", "b"), ("large", "l")):
        for data, trained in (("fb_in1k", IN1K), ("fb_in22k_ft_in1k", BOTH)):
            name = f"timm/deit3_{size}_patch16_224.{data}"
            rows.append((name, f"vit-{letter}/16", 224, f"{trained}, DeiT III"))
        name = f"timm/vit_{size}_patch14"
        rows.append((f"{name}_dinov2.lvd142m", f"vit-{letter}/14", 518, DINO))
        rows.append((f"{name}_reg4_dinov2.lvd142m", f"vit-{letter}/14", 518, DINO_REGISTERS))
    return [Public("timm", *row) for row in rows]


PUBLIC = tuple(itertools.chain(_google(), _huggingface(), _timm()))
