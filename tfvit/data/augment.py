"""Training augmentation, each a function of a seed: Inception crop and horizontal flip."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit.preprocess import resize_box, to_pixels


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a picture goes through before it is trained on.

    crop_min_area: smallest part of it that the Inception crop keeps (arXiv 1409.4842; 0.05 in the ViT
        reference code); 1 takes the picture as the spec has it.
    flip: mirror every other picture; wrong for digits and text.
    """

    crop_min_area: float = 0.05
    flip: bool = True
    crop: str = "inception"
    policy: str = "none"
    layers: int = 2
    magnitude: float = 10.0
    magnitude_std: float = 0.0
    color_jitter: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.crop_min_area <= 1:
            raise UserError(f"crop_min_area {self.crop_min_area} is not in (0, 1]")

    def decoded_size(self, spec: PreprocessSpec) -> tuple[int, int]:
        """(width, height) a picture must have so that the smallest crop is not enlarged."""
        side = 1 / math.sqrt(self.crop_min_area)
        return math.ceil(spec.width * side), math.ceil(spec.height * side)


def augment(
    image: tf.Tensor, seed: tf.Tensor, spec: PreprocessSpec, options: Augmentation
) -> tf.Tensor:
    """A random view of an RGB image uint8 [h, w, 3] at the input size: uint8 [height, width, 3].

    seed: int32 [2]; the same seed gives the same view.
    """
    if options.crop_min_area < 1:
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros([1, 0, 4]),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(options.crop_min_area, 1.0),
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        corners = tf.cast(tf.stack([begin[:2], begin[:2] + size[:2]]), tf.float32)
        box = tf.stack([corners[0, 1], corners[0, 0], corners[1, 1], corners[1, 0]])
        view = resize_box(image, box, spec)
    else:
        view = to_pixels(image, spec)
    if options.flip:
        view = tf.image.stateless_random_flip_left_right(
            view, tf.random.experimental.stateless_fold_in(seed, 1)
        )
    return view
