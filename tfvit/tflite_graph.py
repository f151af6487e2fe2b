"""The graph of a .tflite: read, and what it costs to run, counted op by op. Without TensorFlow."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

from edge_demo.errors import UserError
from edge_demo.tflite import metadata
from tfvit import liveness
from tfvit.cost import Cost

OPS = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
TYPES = {code: name.lower() for name, code in vars(schema.TensorType).items() if name[0] != "_"}
BITS = {
    "float16": 16,
    "int16": 16,
    "int8": 8,
    "uint8": 8,
    "bool": 8,
    "int4": 4,
    "int64": 64,
}  # else 32
INDICES = ("int32", "int64")  # of constants: shapes and axes, but where an op adds them:
BIASED = ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D")
VIEWS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")  # whose output is their input's memory

Shapes = list[list[int]]


def _batch_matmul(op: schema.OperatorT, shapes: Shapes, made: int) -> int:
    return made * shapes[0][-2 if op.builtinOptions.adjX else -1]


# ops that multiply and add -> how often: (op, shapes of its inputs, values that it makes)
MULTIPLY_ADDS: dict[str, Callable[[schema.OperatorT, Shapes, int], int]] = {
    "FULLY_CONNECTED": lambda op, shapes, made: made * shapes[1][-1],
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": lambda op, shapes, made: made * math.prod(shapes[1][1:]),
    "DEPTHWISE_CONV_2D": lambda op, shapes, made: made * math.prod(shapes[1][1:3]),
    "TRANSPOSE_CONV": lambda op, shapes, made: math.prod(shapes[2]) * math.prod(shapes[1][:3]),
}


def read(path: Path) -> schema.ModelT:
    """A .tflite's flatbuffer; UserError if it is none or damaged."""
    if not metadata.is_foreign(path):
        metadata.read(path)  # which checks the whole file
    content = path.read_bytes()
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
        if any(buffer.offset + buffer.size > len(content) for buffer in model.buffers):
            raise ValueError("a constant beyond its end")
    except (struct.error, IndexError, ValueError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged model; copy it again") from None
    return model


def kind(model: schema.ModelT, op: schema.OperatorT) -> str:
    """The name of an operator: "FULLY_CONNECTED"."""
    return OPS[model.operatorCodes[op.opcodeIndex].builtinCode]


def constant_bytes(model: schema.ModelT, tensor: schema.TensorT) -> int:
    """The bytes of a constant, 0 for what is computed."""
    buffer = model.buffers[tensor.buffer]
    return buffer.size if buffer.data is None else len(buffer.data)  # behind the graph, or in it


def cost(path: Path) -> Cost:
    """What one image costs: multiply-adds, parameters and memory; UserError if the file is damaged.

    Parameters are the constants that are computed with. Activations: see `tfvit.cost.Cost`; the runtime keeps
    some more, since XNNPACK packs and plans for itself.
    """
    model = read(path)
    graph = model.subgraphs[0]
    shapes = [[] if t.shape is None else [int(n) for n in t.shape] for t in graph.tensors]
    types = [TYPES[t.type] for t in graph.tensors]
    counts = [math.prod(shape) for shape in shapes]
    weights = {i: constant_bytes(model, t) for i, t in enumerate(graph.tensors)}
    macs, owner, parameters = 0, list(range(len(shapes))), set()
    steps: list[tuple[list[int], list[int]]] = [([], list(graph.inputs))]
    for op in graph.operators:
        name, reads, made = kind(model, op), [int(i) for i in op.inputs if i >= 0], list(op.outputs)
        if name in MULTIPLY_ADDS:
            macs += MULTIPLY_ADDS[name](
                op, [shapes[i] for i in op.inputs if i >= 0], counts[made[0]]
            )
        if name in VIEWS:
            owner[made[0]], made = owner[reads[0]], []
        parameters |= {
            i
            for place, i in enumerate(reads)
            if weights[i] and (types[i] not in INDICES or (name in BIASED and place == 2))
        }
        steps.append(([owner[i] for i in reads if not weights[i]], made))
    steps.append(([owner[i] for i in graph.outputs], []))
    size = {i: math.ceil(n * BITS.get(types[i], 32) / 8) for i, n in enumerate(counts)}
    batch, height, width = (shapes[graph.inputs[0]] + [1, 1, 1])[:3]
    return Cost(
        model=str(path),
        image_size=(height, width),
        parameters=sum(counts[i] for i in parameters),
        macs=macs // max(batch, 1),
        weights=sum(weights[i] for i in parameters),
        activations=liveness.peak(steps, size),
    )
