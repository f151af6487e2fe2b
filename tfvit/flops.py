"""What a graph of TensorFlow ops costs, counted op by op: multiply-adds, and memory over its course."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import tensorflow as tf

from tfvit import liveness

# ops whose output is their input's memory
VIEWS = ("Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "PreventGradient")
FREE = ("ReadVariableOp", "VarHandleOp", "Const")  # weights, counted apart, and what is small


def _matmul(op: tf.Operation) -> int:
    return _size(op.outputs[0]) * op.inputs[0].shape[0 if op.get_attr("transpose_a") else 1]


def _batch_matmul(op: tf.Operation) -> int:
    return _size(op.outputs[0]) * op.inputs[0].shape[-2 if op.get_attr("adj_x") else -1]


def _einsum(op: tf.Operation) -> int:
    terms = op.get_attr("equation").decode().split("->")[0].split(",")
    sizes = {}
    for term, x in zip(terms, op.inputs):
        sizes |= dict(zip(term, x.shape))
    return math.prod(sizes.values())


def _convolution(features: tf.Tensor, kernel: tf.Tensor) -> int:
    return _size(features) * math.prod(kernel.shape[:3])


# ops that multiply and add -> how often, for one op
MULTIPLY_ADDS: dict[str, Callable[[tf.Operation], int]] = {
    "MatMul": _matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
    "Conv2D": lambda op: _convolution(op.outputs[0], op.inputs[1]),
    "Conv2DBackpropInput": lambda op: _convolution(op.inputs[2], op.inputs[1]),
    "Conv2DBackpropFilter": lambda op: _convolution(op.inputs[2], op.outputs[0]),
}


def multiply_adds(ops: Iterable[tf.Operation]) -> int:
    """Multiply-adds (MACs) of the matrix products and convolutions among `ops`; each is two FLOPs.

    All else is left out, as in the published figures (fvcore, timm). Shapes must be static.
    """
    total = 0
    for op in ops:
        if op.type in MULTIPLY_ADDS:
            total += MULTIPLY_ADDS[op.type](op)
        elif op.type.endswith("PartitionedCall"):  # a tf.function inside, as XLA's islands are
            body = op.graph._get_function(op.get_attr("f").name).graph
            total += multiply_adds(body.get_operations())
    return total


def needed(graph: tf.Graph, results: Iterable[tf.Tensor]) -> list[tf.Operation]:
    """The ops of a graph that `results` are computed by, in an order in which they can run."""
    found, waiting = set(), [x.op for x in results]
    while waiting:
        op = waiting.pop()
        if op not in found:
            found.add(op)
            waiting += [x.op for x in op.inputs] + list(op.control_inputs)
    return [op for op in graph.get_operations() if op in found]


def peak_bytes(ops: list[tf.Operation], apart: Iterable[tf.Tensor]) -> int:
    """The most memory that tensors hold at one time when `ops` run in order, each freed after its last use.

    apart: tensors to leave out. Weights are left out, too; views cost nothing.
    """
    owner: dict = {}
    for op in ops:
        for x in op.outputs:
            owner[x.ref()] = owner[op.inputs[0].ref()] if op.type in VIEWS else x
    nothing = {owner[x.ref()].ref() for x in apart}
    steps, size = [], {}
    for op in ops:
        held = () if op.type in VIEWS + FREE else op.outputs
        made = {x.ref(): _size(x) * x.dtype.size for x in held if x.ref() not in nothing}
        steps.append(([owner[x.ref()].ref() for x in op.inputs], list(made)))
        size |= made
    return liveness.peak(steps, size)


def _size(x: tf.Tensor) -> int:
    return math.prod(x.shape)
