"""Our side of `train_step.py`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import tensorflow as tf
from turns import serve

from tfvit import fused
from tfvit.architecture import named
from tfvit.model import build

CLASSES, SIZE = 1000, 224


def main(name: str, variant: str, batch: int, dtype: str) -> None:
    """Serves steps of one contestant."""
    policy = "mixed_bfloat16" if dtype == "bfloat16" else dtype
    model = build(named(variant, CLASSES, SIZE), dtype=policy)
    images = tf.random.normal([batch, SIZE, SIZE, 3])
    labels = tf.random.uniform([batch], maxval=CLASSES, dtype=tf.int32)
    step = make_step(model, is_fused=name == "tfvit")
    serve(lambda: step(images, labels).numpy(), {})


def make_step(model, is_fused: bool) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """(images, labels) -> loss of one step: gradients, clipping, AdamW."""
    variables = model.trainable_variables
    moments = [[tf.Variable(tf.zeros_like(v)) for v in variables] for _ in range(2)]

    @tf.function
    def step(images, labels):
        with tf.GradientTape() as tape, fused.enabled(is_fused):
            logits = model(images, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, variables), 1.0)
        for variable, m, v, gradient in zip(variables, *moments, gradients):
            variable.assign_sub(1e-6 * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=0.9,
                beta2_power=0.999,
                lr=1e-4,
                beta1=0.9,
                beta2=0.999,
                epsilon=1e-8,
                grad=gradient,
            )
        return loss

    return step


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
