"""What a checkpoint folder or a .tflite holds, without TensorFlow."""

from __future__ import annotations

import collections
import math
from pathlib import Path

from edge_demo.scores import SIGMOID
from edge_demo.tflite import metadata
from tfvit import checkpoint, tflite_graph
from tfvit.tflite_graph import TYPES


def describe(path: Path) -> dict:
    """JSON types: kind, size, labels, preprocessing, provenance, and the architecture or the graph.

    Raises UserError if `path` is neither a checkpoint (or run) folder nor a .tflite.
    """
    if path.is_file():
        return _tflite(path)
    return _checkpoint(checkpoint.find(path))


def _checkpoint(folder: Path) -> dict:
    config = checkpoint.read_config(folder)
    weights = folder / checkpoint.WEIGHTS
    return {
        "kind": "checkpoint",
        "path": str(folder),
        "bytes": weights.stat().st_size if weights.exists() else 0,
        "parameters": sum(map(math.prod, checkpoint.read_shapes(weights).values())),
        "architecture": config["architecture"].to_json(),
        "preprocess": config["preprocess"].to_json(),
        "labels": list(config["labels"]),
        "scores": config["scores"],
        "provenance": config["provenance"],
    }


def _tflite(path: Path) -> dict:
    content = metadata.read(path)
    model = tflite_graph.read(path)
    graph = model.subgraphs[0]
    operators = collections.Counter(tflite_graph.kind(model, op) for op in graph.operators)
    weights = collections.Counter()
    for tensor in graph.tensors:
        if size := tflite_graph.constant_bytes(model, tensor):
            weights[TYPES[tensor.type]] += size

    def ports(indices, names) -> list[dict]:
        return [
            {
                "name": name,
                "shape": [int(n) for n in graph.tensors[i].shape],
                "dtype": TYPES[graph.tensors[i].type],
            }
            for i, name in zip(indices, names)
        ]

    return {
        "kind": "tflite",
        "path": str(path),
        "bytes": path.stat().st_size,
        "inputs": ports(graph.inputs, ["pixels"]),
        "outputs": ports(graph.outputs, content.outputs),
        "operators": dict(operators.most_common()),
        "constant_bytes": dict(weights),
        "preprocess": content.preprocess.to_json(),
        "labels": list(content.classes),
        "scores": content.scores,
        "prototypes": content.prototypes and content.prototypes.to_json(),
        **content.description,
    }


def _patches(arch: dict) -> str:
    if arch["family"] != "vit":
        return ""
    of = "" if arch["stem"] is None else " features"
    return f", patches of {arch['patch_size']}{of}"


def _body(arch: dict) -> list[str]:
    """What a model is made of, in a few lines."""
    if arch["family"] == "bit":
        units, width = "-".join(map(str, arch["units"])), arch["width_factor"]
        return [f"  stages      {units} residual units, width factor {width}"]
    position = "no" if arch["position"] == "none" else arch["position"]
    parts = [f"{position} positions", f"{arch['pooling']} pooling"]
    parts += ["a distillation token"] * arch["distillation_token"]
    parts += [f"{arch['registers']} registers"] * bool(arch["registers"])
    found = [
        f"  blocks      {arch['depth']} of width {arch['width']}, {arch['heads']} heads, "
        f"MLP {arch['mlp_dim']}",
        f"  tokens      {', '.join(parts)}",
    ]
    if arch["stem"] is not None:
        found.insert(0, f"  stem        ResNet of {sum(arch['stem'])} residual units")
    return found


def lines(description: dict) -> list[str]:
    """The description as people read it."""
    d = description
    found = [f"{d['path']}: {d['kind']}, {d['bytes'] / 1e6:.2f} MB"]
    if d["kind"] == "checkpoint":
        arch = d["architecture"]
        height, width = arch["image_size"]
        found += [f"  model       {arch['name']}, {d['parameters'] / 1e6:.2f} M parameters"]
        found += [f"  input       {height}x{width} pixels{_patches(arch)}"]
        found += _body(arch)
    else:
        found += [f"  scheme      {d['scheme']}"]
        for kind in ("input", "output"):
            for port in d[f"{kind}s"]:
                found += [f"  {kind:<10}  {port['name']}, {port['dtype']} {port['shape']}"]
        if d["prototypes"]:
            count = sum(d["prototypes"]["counts"])
            then = "they decide" if d["prototypes"]["decide"] else "edge-demo enroll adds to them"
            found += [f"  prototypes  of {count} pictures: {then}"]
        counts = ", ".join(f"{n} {name}" for name, n in d["operators"].items())
        found += [f"  operators   {counts}"]
    labels = ", ".join(d["labels"][:10]) + (", ..." if len(d["labels"]) > 10 else "")
    spec = d["preprocess"]
    mean, std = ([round(level, 4) for level in spec[name]] for name in ("mean", "std"))
    several = ", any number a picture" if d["scores"] == SIGMOID else ""
    found += [
        f"  labels      {len(d['labels'])}{several}: {labels}",
        f"  preprocess  {spec['resize']} to {spec['height']}x{spec['width']}, "
        f"{spec['interpolation']}, mean {mean}, std {std}",
    ]
    origin = d["provenance"].get("checkpoint", d["provenance"])
    if "imported" in origin:
        of = origin["imported"]
        kind = f" ({of['model_type']})" if "model_type" in of else ""
        found += [f"  imported    from {of['format']}, {of['source']}{kind}"]
    if "step" in origin:
        scores = ", ".join(f"{k} {v:.4f}" for k, v in origin["metrics"].items())
        found += [f"  trained     {origin['step']} steps on {origin['data']['data']}; {scores}"]
    return found
