"""The edge graph as TF.js gets it: constants and all, optimised.

Made in a process of its own (`python -m convert.tfjs_graph FOLDER...`), for TensorFlow's oneDNN kernels bring
ops that no browser has, and can only be left out before TensorFlow is imported.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf
from safetensors.numpy import load_file, save_file

from convert import tfjs_ops
from convert.extras import outputs
from convert.fold import Weights
from edge_demo.errors import GateError
from edge_demo.tflite.metadata import LOGITS
from tfvit import architecture
from tfvit.architecture import Architecture, ResNetArchitecture

INPUT = "pixels"
ROOT = Path(__file__).resolve().parents[1]
WEIGHTS, REQUEST, GRAPH = "weights.safetensors", "request.json", "graph.pb"
# Of grappler. "remap" fuses biases into products. Not "arithmetic": it moves transposes into them, which
# TF.js then multiplies without XNNPACK.
PASSES = ("pruning", "constfold", "remap", "dependency", "common_subgraph_elimination")


# Folded weights, what they are of, and what is told beside the logits.
Request = tuple[Weights, Architecture | ResNetArchitecture, Sequence[str]]


def graphs(requests: Sequence[Request]) -> list[tf.compat.v1.GraphDef]:
    """A graph for each: grey levels [1, h, w, 3] -> logits [1, classes], and what else is asked for.

    Its placeholder is INPUT; its outputs are nodes of the names logits, features, attention.
    Raises GateError where TF.js has no such op.
    """
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(i) for i in range(len(requests))]
        for folder, (weights, arch, extras) in zip(folders, requests):
            folder.mkdir()
            save_file(weights, folder / WEIGHTS)
            request = {"architecture": arch.to_json(), "extras": list(extras)}
            (folder / REQUEST).write_text(json.dumps(request))
        done = subprocess.run(
            [sys.executable, "-m", "convert.tfjs_graph", *folders],
            cwd=ROOT,
            env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            last = next(iter(done.stderr.strip().splitlines()[-1:]), "no message")
            raise GateError(f"tfjs: the graph was not made ({last})")
        read = tf.compat.v1.GraphDef.FromString
        found = [read((folder / GRAPH).read_bytes()) for folder in folders]
    for missing in itertools.chain(*map(tfjs_ops.refusals, found)):
        raise GateError(f"tfjs: TF.js {tfjs_ops.VERSION} has no {missing}")
    return found


def _make(folder: Path) -> None:
    """The child: makes what was asked for."""
    request = json.loads((folder / REQUEST).read_text())
    arch = architecture.from_json(request["architecture"])
    weights, extras = load_file(folder / WEIGHTS), tuple(request["extras"])
    graph = tf.Graph()
    with graph.as_default(), tf.device("/device:CPU:0"):  # elsewhere nothing is fused
        shape = [1, *arch.image_size, 3]
        pixels = tf.compat.v1.placeholder(tf.float32, shape, INPUT)
        told = outputs(weights, pixels, arch, extras=extras, ops=tfjs_ops.FASTEST)
        for name in (LOGITS, *extras):
            tf.identity(told[name], f"{name}/")  # the name as it is, whatever scopes there are
    found = optimised(graph, PASSES, [INPUT, LOGITS, *extras])
    (folder / GRAPH).write_bytes(found.SerializeToString(deterministic=True))


def optimised(graph: tf.Graph, passes: Sequence[str], kept: list[str]) -> tf.compat.v1.GraphDef:
    """A graph after passes of grappler, which TensorFlow offers under a private name only; `kept`: nodes.

    No node is bound to a device any more.
    """
    from tensorflow.python.grappler import tf_optimizer

    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.optimizers[:] = passes
    config.graph_options.rewrite_options.min_graph_nodes = -1  # small graphs, too
    with graph.as_default():
        meta = tf.compat.v1.train.export_meta_graph(graph=graph)
    meta.collection_def["train_op"].node_list.value[:] = kept
    found = tf_optimizer.OptimizeGraph(config, meta)
    for node in found.node:
        node.ClearField("device")
    return found


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        _make(Path(argument))
