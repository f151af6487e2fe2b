"""The TF.js graph-model format: model.json and its weights in shards; written, and read back.

https://github.com/tensorflow/tfjs/tree/master/tfjs-converter#format-conversion-examples, and the types in
`dist/io/types.d.ts` of @tensorflow/tfjs-core.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf import json_format

from convert.tfjs_graph import INPUT
from convert.tfjs_weights import WEIGHTS, decode
from edge_demo.errors import GateError
from edge_demo.files import decoding, read_json
from edge_demo.tflite.metadata import LOGITS

FOLDER, MODEL, FORMAT = "tfjs", "model.json", "graph-model"
SHARD = 4 * 2**20  # bytes of a shard at most: what browsers like to keep in their cache
TYPES = {tf.float32: "float32", tf.int32: "int32", tf.bool: "bool"}  # of constants that TF.js has
# Their second input is a kernel, if it is a constant: what the types of weights are about.
MULTIPLY = ("MatMul", "BatchMatMulV2", "_FusedMatMul", "Conv2D", "_FusedConv2D")


def name(folder: Path) -> str:
    """Of a model for people and reports: "tfjs/uint8/model.json"."""
    return f"{FOLDER}/{folder.name}/{MODEL}"


def write(
    folder: Path,
    graph: tf.compat.v1.GraphDef,
    weights: str,
    outputs: Sequence[str],
    description: dict,
) -> None:
    """Writes a graph as `folder`/model.json and shards.

    graph: of `tfjs_graph.graphs`. weights: a name of WEIGHTS. outputs: its nodes that are outputs.
    description: what model.json has as `userDefinedMetadata`, JSON types.
    """
    topology = tf.compat.v1.GraphDef()
    topology.CopyFrom(graph)
    kernels = {node.input[1] for node in graph.node if node.op in MULTIPLY}
    entries, content = [], []
    for node in topology.node:
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            value = tf.make_ndarray(tensor)
            stored, how = WEIGHTS[weights if node.name in kernels else "float32"](value)
            entry = {"name": node.name, "shape": list(value.shape), "dtype": TYPES[tensor.dtype]}
            entries.append(entry | ({"quantization": how} if how else {}))
            content.append(stored.tobytes())
            for field, _ in tensor.ListFields():
                if field.name not in ("dtype", "tensor_shape"):
                    tensor.ClearField(field.name)
    data = b"".join(content)
    shards = [data[i : i + SHARD] for i in range(0, len(data), SHARD)]
    names = [f"group1-shard{i}of{len(shards)}.bin" for i in range(1, len(shards) + 1)]
    model = {
        "format": FORMAT,
        "generatedBy": f"tensorflow {tf.__version__}",
        "convertedBy": "tfvit",
        "signature": _signature(graph, outputs),
        "userDefinedMetadata": description,
        "modelTopology": _in_order(json_format.MessageToDict(topology)),
        "weightsManifest": [{"paths": names, "weights": entries}],
    }
    folder.mkdir(parents=True)
    for name, shard in zip(names, shards):
        (folder / name).write_bytes(shard)
    text = json.dumps(model, ensure_ascii=False, separators=(",", ":"))
    (folder / MODEL).write_text(text, "utf-8")


def _in_order(topology: dict) -> dict:
    """The same with the attributes of each node in the order of their names; protobuf has none."""
    for node in topology["node"]:
        node["attr"] = dict(sorted(node.get("attr", {}).items()))
    return topology


def _signature(graph: tf.compat.v1.GraphDef, outputs: Sequence[str]) -> dict:
    """Inputs and outputs by name, with type and shape; all are float32."""
    imported = tf.Graph()
    with imported.as_default():
        tf.import_graph_def(graph, name="")

    def told(node: str) -> dict:
        tensor = imported.get_tensor_by_name(f"{node}:0")
        shape = json_format.MessageToDict(tensor.shape.as_proto())
        return {"name": tensor.name, "dtype": "DT_FLOAT", "tensorShape": shape}

    return {
        "inputs": {INPUT: told(INPUT)},
        "outputs": {node: told(node) for node in outputs},
    }


def description(folder: Path) -> dict:
    """What `write` was given to say of a model; UserError if its model.json is damaged."""
    with decoding(folder / MODEL):
        return dict(_read_json(folder)["userDefinedMetadata"])


@contextlib.contextmanager
def runner(folder: Path, output: str = LOGITS) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    """Yields a function from resized pictures, uint8 [n, height, width, 3], to logits [n, classes].

    The graph is built again from what `write` wrote, and run in TensorFlow. output: another of its outputs.
    Raises GateError, naming the folder, if it is damaged or does not run.
    """
    imported = tf.Graph()
    try:
        with imported.as_default():
            tf.import_graph_def(_read(folder), name="")
        start, end = (imported.get_tensor_by_name(f"{n}:0") for n in (INPUT, output))
    except (KeyError, ValueError, tf.errors.OpError) as error:  # UserError is a ValueError, too
        text = str(error).removeprefix(f"{folder / MODEL}: ").removeprefix(f"{folder}: ")
        raise GateError(f"{name(folder)}: {text.splitlines()[0]}") from None

    def run(pixels: np.ndarray) -> np.ndarray:
        found = [np.zeros([0, *end.shape[1:]], np.float32)]
        for image in pixels:
            found.append(session.run(end, {start: image[np.newaxis]}))
        return np.concatenate(found)

    # Not entered: its graph would be the default one for whoever runs it.
    with contextlib.closing(tf.compat.v1.Session(graph=imported)) as session:
        yield run


def _read_json(folder: Path) -> dict:
    return read_json(folder / MODEL, "TF.js model")


def _read(folder: Path) -> tf.compat.v1.GraphDef:
    """The graph of a folder, its constants as TF.js decodes them. UserError if it is damaged."""
    model = _read_json(folder)
    with decoding(folder / MODEL):
        if model["format"] != FORMAT:
            raise ValueError("not a graph model")
        (group,) = model["weightsManifest"]
        data = memoryview(b"".join((folder / n).read_bytes() for n in group["paths"]))
        values, at = {}, 0
        for entry in group["weights"]:
            values[entry["name"]], size = decode(entry, data[at:])
            at += size
        if at != len(data):
            raise ValueError(f"{len(data)} bytes of weights, not {at}")
        try:
            graph = json_format.ParseDict(model["modelTopology"], tf.compat.v1.GraphDef())
        except json_format.ParseError as error:
            raise ValueError(error) from None
        for node in graph.node:
            if node.op == "Const":
                node.attr["value"].tensor.tensor_content = values[node.name].tobytes()
        return graph
