"""Our side of `train_step.py`."""

from __future__ import annotations

import sys

import tensorflow as tf
from turns import serve

from tfvit.architecture import named
from tfvit.model import build, named_weights
from tfvit.objectives.labels import Labels
from tfvit.optimizer import Optimizer
from tfvit.recipe import DTYPES, Recipe
from tfvit.step import make_train_step

CLASSES, SIZE = 1000, 224


def main(name: str, variant: str, batch: int, dtype: str) -> None:
    """Serves steps of one contestant."""
    model = build(named(variant, CLASSES, SIZE), dtype=DTYPES[dtype])
    recipe = Recipe(steps=1000, warmup_steps=0, batch_size=batch, learning_rate=1e-4, dtype=dtype)
    optimizer = Optimizer(recipe, named_weights(model), model.architecture.depth)
    one = tf.distribute.get_strategy()
    step = make_train_step(
        Labels(model, recipe), optimizer, recipe, one, xla=name.endswith("--xla")
    )
    pixels = tf.random.uniform([batch, SIZE, SIZE, 3], maxval=256, dtype=tf.int32)
    images = {
        "pixels": tf.cast(pixels, tf.uint8),
        "label": tf.random.uniform([batch], maxval=CLASSES, dtype=tf.int64),
        "mask": tf.ones(batch),
    }
    number = tf.constant(1)
    serve(lambda: step(images, number)["loss"].numpy(), {})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
