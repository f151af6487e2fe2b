"""What TF.js has, and the forms of the edge graph's ops that it is fastest in."""

from __future__ import annotations

from collections.abc import Iterator

import tensorflow as tf

from convert.edge_graph import Ops

VERSION = "4.22"

# TensorFlow op -> the kernels that TF.js runs it with; none: it only gives a tensor another shape or name.
# From the npm packages: `dist/operations/op_list` and `executors` of @tensorflow/tfjs-converter, and
# `dist/register_all_kernels.js` of @tensorflow/tfjs-backend-{cpu,wasm,webgl,webgpu}, which all have these.
OPS: dict[str, tuple[str, ...]] = {
    "Placeholder": (),
    "Const": (),
    "Identity": ("Identity",),
    "Reshape": ("Reshape",),
    "Squeeze": ("Reshape",),
    "ExpandDims": ("Reshape",),
    "Transpose": ("Transpose",),
    "StridedSlice": ("StridedSlice",),
    "ConcatV2": ("Concat",),
    "Pack": ("Pack",),
    "Unpack": ("Unpack",),
    "Pad": ("PadV2",),
    "AddV2": ("Add",),
    "BiasAdd": ("Add",),
    "Sub": ("Sub",),
    "Mul": ("Multiply",),
    "RealDiv": ("RealDiv",),
    "Maximum": ("Maximum",),
    "Rsqrt": ("Rsqrt",),
    "Relu": ("Relu",),
    "Sigmoid": ("Sigmoid",),
    "Tanh": ("Tanh",),
    "Softmax": ("Softmax",),
    "Mean": ("Mean",),
    "Sum": ("Sum",),
    "MaxPool": ("MaxPool",),
    "MatMul": ("BatchMatMul",),
    "BatchMatMulV2": ("BatchMatMul",),
    "_FusedMatMul": ("_FusedMatMul",),
    "Conv2D": ("Conv2D",),
    "_FusedConv2D": ("FusedConv2D",),
}
# What may be fused behind those two. TF.js takes the first for a bias and the second for an activation,
# whatever they are, and a graph that has others there computes something else in silence.
FUSED = (("BiasAdd",), ("BiasAdd", "Relu"))

# GELU(x) = x P(x), P the normal distribution, and log(P / (1 - P)) is x times a polynomial of x^2: with
# these, the highest power first, x P(x) is off by 6.6e-8 at most.
NORMAL_LOGIT = (
    *(3.62785200e-09, -2.67566281e-07, 7.94813956e-06, -1.10546758e-04),
    *(-6.60534564e-05, 7.26682983e-02, 1.59576854e00),
)
TANH_LOGIT = (1.5957691216057308 * 0.044715, 1.5957691216057308)  # 2 sqrt(2 / pi); exact


def refusals(graph) -> Iterator[str]:
    """What TF.js cannot run of a GraphDef, a phrase for each such node."""
    for node in graph.node:
        # Asked first: protobuf adds what is not there.
        names = node.attr["fused_ops"].list.s if "fused_ops" in node.attr else ()
        fused = tuple(name.decode() for name in names)
        if node.op not in OPS:
            yield f"{node.op} ({node.name})"
        elif fused and fused not in FUSED:
            yield f"{node.op} with {' and '.join(fused)} ({node.name})"


def gelu(x: tf.Tensor, approximate: bool) -> tf.Tensor:
    """GELU by a sigmoid, which TF.js computes many values at a time; erf, tanh and pow it does one by one."""
    square = x * x
    logit, *rest = TANH_LOGIT if approximate else NORMAL_LOGIT
    for coefficient in rest:
        logit = logit * square + coefficient
    return x * tf.sigmoid(x * logit)


def matmul(a: tf.Tensor, b: tf.Tensor, transpose_b: bool = False) -> tf.Tensor:
    """[1, heads, m, k] by [1, heads, k, n], head by head.

    Two matrices, neither to be transposed on the way, are what TF.js hands to XNNPACK; all else its wasm
    backend multiplies without.
    """
    if transpose_b:
        b = tf.transpose(b, [0, 1, 3, 2])
    heads = zip(*(tf.unstack(tf.squeeze(x, 0)) for x in (a, b)))
    return tf.expand_dims(tf.stack([tf.matmul(x, y) for x, y in heads]), 0)


FASTEST = Ops(gelu=gelu, matmul=matmul)
