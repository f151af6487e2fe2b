"""The convolutional part of the edge graph: stems of hybrids, and the BiT ResNets. Float only.

w: folded weights (`convert.fold`): kernels are standardised already, images are grey levels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.resnet import BIT_EPSILON, GROUPS, ROOT_WIDTH, STEM_EPSILON, stages


def stem(w: dict, pixels: tf.Tensor, arch: Architecture) -> tuple[Callable, tf.Tensor]:
    """The stem's last op and what it is to be applied to: features [b, h, w, c] of grey levels."""

    def conv_norm(x: tf.Tensor, conv: str, norm: str, stride: int = 1) -> tf.Tensor:
        x = tf.nn.conv2d(x, w[f"{conv}/kernel"], stride, "SAME")
        return _norm(w, x, norm, STEM_EPSILON)

    x = pixels * w["input/scale"] + w["input/shift"]
    x = tf.nn.relu(conv_norm(x, "stem/root/conv", "stem/root/norm", 2))
    last = functools.partial(tf.nn.max_pool2d, ksize=3, strides=2, padding="SAME")
    for unit, _, stride in stages(arch.stem, ROOT_WIDTH):
        x, name = last(x), f"stem/{unit}"
        shortcut = x
        if f"{name}/conv_shortcut/kernel" in w:
            shortcut = conv_norm(x, f"{name}/conv_shortcut", f"{name}/norm_shortcut", stride)
        y = tf.nn.relu(conv_norm(x, f"{name}/conv_1", f"{name}/norm_1"))
        y = tf.nn.relu(conv_norm(y, f"{name}/conv_2", f"{name}/norm_2", stride))
        x, last = shortcut + conv_norm(y, f"{name}/conv_3", f"{name}/norm_3"), tf.nn.relu
    return last, x


def logits(
    w: dict,
    pixels: tf.Tensor,
    arch: ResNetArchitecture,
    note: Callable[[str, tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Logits [b, classes] of a BiT ResNet of grey levels [b, h, w, 3]; note: sees what the head reads."""

    def conv(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        kernel = w[f"{name}/kernel"]
        return tf.nn.conv2d(_pad(x, kernel.shape[0] // 2), kernel, stride, "VALID")

    def norm_relu(x: tf.Tensor, name: str) -> tf.Tensor:
        return tf.nn.relu(_norm(w, x, name, BIT_EPSILON))

    x = conv(pixels * w["input/scale"] + w["input/shift"], "root/conv", 2)
    x = tf.nn.max_pool2d(_pad(x, 1), 3, 2, "VALID")
    for name, _, stride in stages(arch.units, ROOT_WIDTH * arch.width_factor):
        y, shortcut = norm_relu(x, f"{name}/norm_1"), x
        if f"{name}/conv_shortcut/kernel" in w:
            shortcut = conv(y, f"{name}/conv_shortcut", stride)
        y = norm_relu(conv(y, f"{name}/conv_1"), f"{name}/norm_2")
        y = norm_relu(conv(y, f"{name}/conv_2", stride), f"{name}/norm_3")
        x = shortcut + conv(y, f"{name}/conv_3")
    x = note("head/rows", tf.reduce_mean(norm_relu(x, "norm"), axis=[1, 2]))
    return tf.nn.bias_add(tf.matmul(x, w["head/kernel"]), w["head/bias"])


def _pad(x: tf.Tensor, width: int) -> tf.Tensor:
    """Zeros on all sides of a picture."""
    return tf.pad(x, [[0, 0], [width, width], [width, width], [0, 0]]) if width else x


def _norm(w: dict, x: tf.Tensor, name: str, epsilon: float) -> tf.Tensor:
    """GroupNorm in tensors of rank 4: [b, h, w, c]."""
    b, h, width, c = x.shape
    y = tf.reshape(x, [b, h * width, GROUPS, c // GROUPS])
    y = y - tf.reduce_mean(y, axis=[1, 3], keepdims=True)
    y = y * tf.math.rsqrt(tf.reduce_mean(y * y, axis=[1, 3], keepdims=True) + epsilon)
    return tf.reshape(y, [b, h, width, c]) * w[f"{name}/gamma"] + w[f"{name}/beta"]
