"""A Vision Transformer as an ONNX graph, the way exporters write one, from our named weights.

LayerNormalization and Gelu are single ops (opset 20), attention is MatMul, Div, Softmax, MatMul on
separate q, k, v as Hugging Face's exports have it; the last block computes the class token's row alone.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfvit.architecture import Architecture

OPSET = 20
INPUT, OUTPUT = "image", "logits"


def model(weights: dict[str, np.ndarray], arch: Architecture) -> onnx.ModelProto:
    """float32 `image` [1, 3, height, width], normalised -> float32 `logits` [1, classes].

    weights: by name, as `tfvit.model.named_weights` has them; with a class token.
    """
    nodes, constants = [], {}

    def const(name: str, value) -> str:
        constants[name] = np.ascontiguousarray(value)
        return name

    def op(kind: str, *inputs: str, output: str | None = None, **attributes) -> str:
        output = output or f"{kind}_{len(nodes)}"
        name = f"{kind}_{len(nodes)}"
        nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        return output

    def weight(name: str) -> str:
        return const(name, weights[name])

    def dense(name: str, x: str) -> str:
        return op("Add", op("MatMul", x, weight(f"{name}/kernel")), weight(f"{name}/bias"))

    def norm(name: str, x: str) -> str:
        affine = weight(f"{name}/gamma"), weight(f"{name}/beta")
        return op("LayerNormalization", x, *affine, axis=-1, epsilon=arch.layer_norm_epsilon)

    def split(x: str, perm: tuple) -> str:  # [1, n, d] -> [1, heads, n, head_dim] for (0, 2, 1, 3)
        return op("Transpose", op("Reshape", x, heads_shape), perm=perm)

    def class_row(x: str) -> str:  # [1, n, d] -> [1, 1, d]
        return op("Slice", x, *(const(f"slice/{i}", np.int64([i])) for i in (0, 1, 1)))

    heads_shape = const("heads", np.int64([1, -1, arch.heads, arch.head_dim]))
    merged_shape = const("merged", np.int64([1, -1, arch.width]))
    root = const("root_head_dim", np.float32(arch.head_dim**0.5))

    kernel = const("embedding/kernel", weights["embedding/kernel"].transpose(3, 2, 0, 1))  # OIHW
    patch = [arch.patch_size] * 2
    x = op("Conv", INPUT, kernel, weight("embedding/bias"), strides=patch, kernel_shape=patch)
    x = op("Reshape", x, const("patches", np.int64([1, arch.width, -1])))
    x = op("Concat", weight("cls/token"), op("Transpose", x, perm=(0, 2, 1)), axis=1)
    x = op("Add", x, weight("position/embedding"))

    for i in range(arch.depth):
        block = f"block_{i}"
        y = norm(f"{block}/norm_1", x)
        k = split(dense(f"{block}/attention/key", y), (0, 2, 3, 1))
        v = split(dense(f"{block}/attention/value", y), (0, 2, 1, 3))
        if i == arch.depth - 1:
            x, y = class_row(x), class_row(y)
        q = split(dense(f"{block}/attention/query", y), (0, 2, 1, 3))
        y = op("Softmax", op("Div", op("MatMul", q, k), root), axis=-1)
        y = op("Transpose", op("MatMul", y, v), perm=(0, 2, 1, 3))
        x = op("Add", dense(f"{block}/attention/out", op("Reshape", y, merged_shape)), x)
        y = dense(f"{block}/mlp/dense_1", norm(f"{block}/norm_2", x))
        x = op("Add", dense(f"{block}/mlp/dense_2", op("Gelu", y, approximate="tanh")), x)

    x = op("Reshape", norm("norm", x), const("pooled", np.int64([1, arch.width])))
    op("Gemm", x, weight("head/kernel"), weight("head/bias"), output=OUTPUT)

    graph = helper.make_graph(
        nodes,
        arch.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 3, *arch.image_size])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, arch.num_classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(result, full_check=True)
    return result
