"""The model as a TensorFlow user has it, through TensorFlow's own converter the way its guide says.

Source: https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quantization
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from random_vit import RandomViT

from edge_demo.quiet import quiet
from tfvit.architecture import Architecture


def forward(w: dict[str, np.ndarray], images: tf.Tensor, arch: Architecture) -> tf.Tensor:
    """Logits [1, classes] of a normalised image [1, height, width, 3].

    LayerNorm, attention and GELU as Keras writes them; in the last block the class token's row alone.
    """
    heads, head_dim, width = arch.heads, arch.head_dim, arch.width

    def norm(name: str, x: tf.Tensor) -> tf.Tensor:
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        affine = w[f"{name}/beta"], w[f"{name}/gamma"]
        return tf.nn.batch_normalization(x, mean, variance, *affine, arch.layer_norm_epsilon)

    def dense(name: str, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x, w[f"{name}/kernel"]) + w[f"{name}/bias"]

    def split(y: tf.Tensor) -> tf.Tensor:  # [1, n, d] -> [1, heads, n, head_dim]
        return tf.transpose(tf.reshape(y, [1, -1, heads, head_dim]), [0, 2, 1, 3])

    x = tf.nn.conv2d(images, w["embedding/kernel"], arch.patch_size, "VALID")
    x = tf.reshape(x + w["embedding/bias"], [1, -1, width])
    x = tf.concat([w["cls/token"], x], axis=1) + w["position/embedding"]
    for i in range(arch.depth):
        block = f"block_{i}"
        y = norm(f"{block}/norm_1", x)
        k, v = (split(dense(f"{block}/attention/{name}", y)) for name in ("key", "value"))
        if i == arch.depth - 1:
            x, y = x[:, :1], y[:, :1]
        q = split(dense(f"{block}/attention/query", y)) * head_dim**-0.5
        y = tf.matmul(tf.nn.softmax(tf.matmul(q, k, transpose_b=True)), v)
        y = tf.reshape(tf.transpose(y, [0, 2, 1, 3]), [1, -1, width])
        x = x + dense(f"{block}/attention/out", y)
        y = dense(f"{block}/mlp/dense_1", norm(f"{block}/norm_2", x))
        x = x + dense(f"{block}/mlp/dense_2", tf.nn.gelu(y, approximate=True))
    return dense("head", tf.reshape(norm("norm", x), [1, width]))


def files(model: RandomViT, images: np.ndarray) -> dict[str, bytes]:
    """What is quantized -> .tflite that takes normalised images; int8 calibrated on [n, h, w, 3] of them."""
    arch = model.architecture
    signature = tf.TensorSpec([1, *arch.image_size, 3], tf.float32, name="image")
    constants = {name: tf.constant(value) for name, value in model.weights.items()}
    owner = tf.Module()
    owner.graph = tf.function(lambda image: forward(constants, image, arch), [signature])

    def convert(**options) -> bytes:
        concrete = owner.graph.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
        for name, value in options.items():
            setattr(converter, name, value)
        with quiet():
            return converter.convert()

    optimize = {"optimizations": [tf.lite.Optimize.DEFAULT]}
    integer_ops = tf.lite.TargetSpec(supported_ops=[tf.lite.OpsSet.TFLITE_BUILTINS_INT8])
    return {
        "float32": convert(),
        "dynamic int8": convert(**optimize),
        "full int8": convert(
            **optimize,
            representative_dataset=lambda: ([image[np.newaxis]] for image in images),
            target_spec=integer_ops,
        ),
    }
