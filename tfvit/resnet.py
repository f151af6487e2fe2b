"""BiT ResNet v2, the paper's baseline, and the ResNet stems of its hybrids.

Sources: google-research/big_transfer, bit_pytorch/models.py (v2: pre-activation) and
google-research/vision_transformer, vit_jax/models_resnet.py (stems: post-activation).
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from tfvit.architecture import ResNetArchitecture
from tfvit.layers import head

ROOT_WIDTH, EXPANSION = 64, 4  # channels of the root; of a unit's output over its inside
GROUPS = 32  # of every GroupNorm
STEM_EPSILON, BIT_EPSILON = 1e-6, 1e-5


class StdConv(keras.layers.Conv2D):
    """Convolution without bias whose kernel is standardised per output channel (arXiv 1903.10520)."""

    def __init__(self, filters: int, size: int, stride: int, like_stem: bool, **kwargs) -> None:
        super().__init__(
            filters,
            size,
            stride,
            "same" if like_stem else "valid",
            use_bias=False,
            kernel_initializer="lecun_normal",
            **kwargs,
        )
        self.like_stem = like_stem

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return super().convolution_op(inputs, standardise(kernel, self.like_stem))


def standardise(kernel: tf.Tensor, like_stem: bool) -> tf.Tensor:
    """A kernel [h, w, in, out] with mean 0 and deviation 1 over all but its outputs."""
    mean, variance = tf.nn.moments(tf.cast(kernel, tf.float32), [0, 1, 2])
    deviation = tf.sqrt(variance) + 1e-5 if like_stem else tf.sqrt(variance + 1e-10)
    return tf.cast((tf.cast(kernel, tf.float32) - mean) / deviation, kernel.dtype)


def norm(like_stem: bool, name: str, policy, gamma: str = "ones") -> keras.layers.Layer:
    """GroupNorm."""
    epsilon = STEM_EPSILON if like_stem else BIT_EPSILON
    return keras.layers.GroupNormalization(
        GROUPS, epsilon=epsilon, gamma_initializer=gamma, name=name, dtype=policy
    )


def stem(x: tf.Tensor, units: tuple[int, ...], policy) -> tf.Tensor:
    """Features [b, h / s, w / s, c] of images [b, h, w, 3]; s is 4 and doubles with each further stage."""
    x = StdConv(ROOT_WIDTH, 7, 2, True, name="stem/root/conv", dtype=policy)(x)
    x = _relu(norm(True, "stem/root/norm", policy)(x), "stem/root/relu", policy)
    x = keras.layers.MaxPool2D(3, 2, "same", name="stem/root/pool", dtype=policy)(x)
    for name, width, stride in stages(units, ROOT_WIDTH):
        x = _unit_v1(x, width, stride, f"stem/{name}", policy)
    return x


def graph(arch: ResNetArchitecture, images: tf.Tensor, policy, remat: bool = False) -> tf.Tensor:
    """Logits [b, classes], float32, of normalised images [b, height, width, 3]."""
    width = ROOT_WIDTH * arch.width_factor
    x = _conv(images, width, 7, 2, "root/conv", policy)
    x = keras.layers.ZeroPadding2D(1, name="root/pool/pad", dtype=policy)(x)
    x = keras.layers.MaxPool2D(3, 2, name="root/pool", dtype=policy)(x)
    for name, inside, stride in stages(arch.units, width):
        x = _unit_v2(x, inside, stride, name, policy)
    x = _relu(norm(False, "norm", policy)(x), "relu", policy)
    x = keras.layers.GlobalAveragePooling2D(name="pool", dtype=policy)(x)
    return head(x, arch.num_classes, "head")


def stages(units: tuple[int, ...], width: int):
    """(name, inside width, stride) of every unit, in order: each later stage halves and doubles."""
    for i, count in enumerate(units):
        for j in range(count):
            yield f"stage_{i}/unit_{j}", width * 2**i, 2 if i and not j else 1


def _unit_v1(x: tf.Tensor, inside: int, stride: int, name: str, policy) -> tf.Tensor:
    """A bottleneck, normalised after each convolution: relu(x' + f(x))."""

    def conv_norm(y: tf.Tensor, width: int, size: int, stride: int, part: str, gamma="ones"):
        y = StdConv(width, size, stride, True, name=f"{name}/conv_{part}", dtype=policy)(y)
        return norm(True, f"{name}/norm_{part}", policy, gamma)(y)

    shortcut = x
    if x.shape[-1] != EXPANSION * inside or stride > 1:
        shortcut = conv_norm(x, EXPANSION * inside, 1, stride, "shortcut")
    y = _relu(conv_norm(x, inside, 1, 1, "1"), f"{name}/relu_1", policy)
    y = _relu(conv_norm(y, inside, 3, stride, "2"), f"{name}/relu_2", policy)
    y = conv_norm(y, EXPANSION * inside, 1, 1, "3", gamma="zeros")
    x = keras.layers.Add(name=f"{name}/add", dtype=policy)([shortcut, y])
    return _relu(x, f"{name}/relu_3", policy)


def _unit_v2(x: tf.Tensor, inside: int, stride: int, name: str, policy) -> tf.Tensor:
    """A bottleneck, normalised before each convolution: x' + f(x)."""

    def norm_relu(y: tf.Tensor, part: str) -> tf.Tensor:
        y = norm(False, f"{name}/norm_{part}", policy)(y)
        return _relu(y, f"{name}/relu_{part}", policy)

    def conv(y: tf.Tensor, width: int, size: int, stride: int, part: str) -> tf.Tensor:
        return _conv(y, width, size, stride, f"{name}/conv_{part}", policy)

    y = norm_relu(x, "1")
    shortcut = x
    if x.shape[-1] != EXPANSION * inside or stride > 1:
        shortcut = conv(y, EXPANSION * inside, 1, stride, "shortcut")
    y = conv(y, inside, 1, 1, "1")
    y = conv(norm_relu(y, "2"), inside, 3, stride, "2")
    y = conv(norm_relu(y, "3"), EXPANSION * inside, 1, 1, "3")
    return keras.layers.Add(name=f"{name}/add", dtype=policy)([shortcut, y])


def _conv(x: tf.Tensor, width: int, size: int, stride: int, name: str, policy) -> tf.Tensor:
    """With torch's padding, the same on all sides, where TensorFlow's is uneven for a stride of 2."""
    if size > 1:
        x = keras.layers.ZeroPadding2D(size // 2, name=f"{name}/pad", dtype=policy)(x)
    return StdConv(width, size, stride, False, name=name, dtype=policy)(x)


def _relu(x: tf.Tensor, name: str, policy) -> tf.Tensor:
    return keras.layers.ReLU(name=name, dtype=policy)(x)
