"""PreprocessSpec as TensorFlow ops: the training and evaluation pipeline's resize and normalisation.

Held to within one grey level of `edge_demo.preprocess` (what the device does) by one test.
"""

from __future__ import annotations

import tensorflow as tf

from edge_demo.preprocess import PreprocessSpec

_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}


def resize_box(image: tf.Tensor, box: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """A part of an image at the input size of `spec`, antialiased.

    image: uint8 [h, w, 3]; box: float32 [4], left, top, right, bottom in pixels.
    Returns grey levels, uint8 [height, width, 3].
    """
    if spec.interpolation == "bilinear":
        image = _resample(image, box, (spec.height, spec.width), spec)
    else:  # a cubic overshoots: Pillow clips after each axis, columns first, and so must this
        image = _resample(image, box, (None, spec.width), spec)
        image = _resample(image, box, (spec.height, None), spec)
    return tf.ensure_shape(image, [spec.height, spec.width, 3])


def _resample(
    image: tf.Tensor, box: tf.Tensor, size: tuple[int | None, int | None], spec: PreprocessSpec
) -> tf.Tensor:
    """Resizes the rows and columns of `box` to `size`; None leaves that axis as it is."""
    shape = tf.shape(image)
    sides = ((size[0], box[1], box[3], shape[0]), (size[1], box[0], box[2], shape[1]))
    scales = [tf.ones([]) if n is None else n / (end - start) for n, start, end, _ in sides]
    shifts = [tf.zeros([]) if n is None else -k * s for k, (n, s, _, _) in zip(scales, sides)]
    levels = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=tf.stack([whole if n is None else n for n, _, _, whole in sides]),
        scale=tf.stack(scales),
        translation=tf.stack(shifts),
        kernel_type=_KERNELS[spec.interpolation],
        antialias=True,
    )[0]
    return tf.cast(tf.clip_by_value(levels + 0.5, 0, 255), tf.uint8)  # as Pillow, halves go up


def to_pixels(image: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """An RGB image uint8 [h, w, 3] resized as `spec` says: uint8 [height, width, 3]."""
    shape = tf.cast(tf.shape(image), tf.float32)
    height, width = shape[0], shape[1]
    if spec.resize == "squash":
        box = tf.stack([0.0, 0.0, width, height])
    else:
        scale = spec.crop_fraction * tf.minimum(height / spec.height, width / spec.width)
        half_h, half_w = spec.height * scale / 2, spec.width * scale / 2
        box = tf.stack(
            [width / 2 - half_w, height / 2 - half_h, width / 2 + half_w, height / 2 + half_h]
        )
    return resize_box(image, box, spec)


def normalise(pixels: tf.Tensor, spec: PreprocessSpec) -> tf.Tensor:
    """Grey levels 0-255 [..., 3] to the float32 input of a model: (pixels - mean) / std."""
    return (tf.cast(pixels, tf.float32) - spec.mean) / spec.std
