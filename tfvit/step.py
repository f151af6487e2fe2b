"""One optimizer step as a compiled function: loss, gradients over all replicas, update."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from tfvit import fused
from tfvit.data.mix import mix
from tfvit.layers import HEADS, dropout_seed
from tfvit.model import Model
from tfvit.optimizer import Optimizer
from tfvit.preprocess import normalise
from tfvit.recipe import Recipe

MIX = 1 << 20  # folded into the step's seed for mixup and cutmix; above any number of replicas


def make_train_step(
    model: Model,
    optimizer: Optimizer,
    recipe: Recipe,
    strategy: tf.distribute.Strategy,
    xla: bool | None = None,
    teacher: Model | None = None,
) -> Callable[[dict, tf.Tensor], dict]:
    """The compiled function (batch, step number from 1) -> sums and figures of one optimizer step.

    batch: of `pipeline.train_batches`, distributed by `strategy`. xla: compile the whole step with XLA, or
    on several devices all of it but what passes between them; None does so where there is a GPU.
    The loss is the mean over the global batch; images with mask 0 count as without gradient.
    """
    if xla is None:
        xla = bool(tf.config.list_logical_devices("GPU"))
    images = recipe.batch_size // (strategy.num_replicas_in_sync * recipe.accumulate)
    islands = not xla and fused.worthwhile(model.architecture, images)
    gradients_of = forward_backward(model, optimizer.variables, recipe, teacher, islands)
    alone = strategy.num_replicas_in_sync == 1
    if xla and not alone:
        gradients_of = tf.function(gradients_of, jit_compile=True, autograph=False)

    def replica_step(batch: dict, step: tf.Tensor) -> dict:
        replica = tf.distribute.get_replica_context()
        seed = tf.stack([tf.constant(recipe.seed), step])
        seed = tf.random.experimental.stateless_fold_in(seed, replica.replica_id_in_sync_group)
        sums, gradients = gradients_of(batch, seed, optimizer.scale.value())
        gradients = replica.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        figures = optimizer.apply(gradients, step - 1)
        return {"sums": sums, "figures": figures}

    if xla and alone:
        replica_step = tf.function(replica_step, jit_compile=True, autograph=False)

    @tf.function(autograph=False)
    def train_step(batch: dict, step: tf.Tensor) -> dict:
        found = strategy.run(replica_step, args=(batch, step))
        reduce = tf.distribute.ReduceOp.SUM
        sums = {name: strategy.reduce(reduce, x, None) for name, x in found["sums"].items()}
        figures = {
            n: strategy.experimental_local_results(x)[0] for n, x in found["figures"].items()
        }
        return sums | figures

    return train_step


def forward_backward(
    model: Model,
    variables: list[tf.Variable],
    recipe: Recipe,
    teacher: Model | None = None,
    islands: bool = False,
) -> Callable[[dict, tf.Tensor, tf.Tensor], tuple[dict, list[tf.Tensor]]]:
    """The function (batch, seed, scale) -> sums over the images, gradients of loss times scale.

    Pure but for reading the model's weights, with static shapes. seed: int32 [2]. islands: see
    `tfvit.fused`, for a CPU.
    """
    outputs = _outputs(model)
    loss_of = LOSSES[recipe.loss]
    classes = model.architecture.num_classes

    def part(batch: dict, seed: tf.Tensor, scale: tf.Tensor) -> tuple[dict, list[tf.Tensor]]:
        with (
            fused.enabled(islands),
            tf.GradientTape(watch_accessed_variables=False) as tape,
            dropout_seed(seed),
        ):
            tape.watch(variables)
            images = normalise(batch["pixels"], model.preprocess)
            logits = [tf.cast(x, tf.float32) for x in outputs(images, training=True)]
            answering = logits if teacher is None else logits[:1]
            losses = tf.add_n([loss_of(batch["targets"], x) for x in answering]) / len(answering)
            if teacher is not None:
                taught = _distillation(teacher, batch["pixels"], logits[-1], recipe)
                weight = recipe.distillation_weight
                losses = (1 - weight) * losses + weight * taught
            loss = tf.reduce_sum(losses * batch["mask"])
            scaled = loss * (scale / recipe.batch_size)
        answer = tf.one_hot(tf.argmax(tf.add_n(logits), axis=-1), classes)
        right = tf.cast(tf.reduce_sum(answer * batch["truth"], axis=-1) > 0, tf.float32)
        sums = {
            "loss": loss,
            "right": tf.reduce_sum(right * batch["mask"]),
            "images": tf.reduce_sum(batch["mask"]),
        }
        gradients = tape.gradient(scaled, variables, unconnected_gradients="zero")
        return sums, [tf.convert_to_tensor(g) for g in gradients]

    def forward_backward(batch: dict, seed: tf.Tensor, scale: tf.Tensor):
        batch = prepared(batch, seed, recipe, classes)
        if recipe.accumulate == 1:
            return part(batch, seed, scale)
        size = batch["mask"].shape[0] // recipe.accumulate
        parts = {
            k: tf.reshape(x, [recipe.accumulate, size, *x.shape[1:]]) for k, x in batch.items()
        }

        def body(i: tf.Tensor, sums: dict, gradients: list) -> tuple:
            one = {name: x[i] for name, x in parts.items()}
            more, also = part(one, tf.random.experimental.stateless_fold_in(seed, i), scale)
            sums = {name: x + more[name] for name, x in sums.items()}
            return i + 1, sums, [a + b for a, b in zip(gradients, also)]

        start = (
            tf.constant(0),
            {name: tf.zeros([]) for name in ("loss", "right", "images")},
            [tf.zeros(v.shape) for v in variables],
        )
        _, sums, gradients = tf.while_loop(
            lambda i, *_: i < recipe.accumulate,
            body,
            start,
            parallel_iterations=1,
            maximum_iterations=recipe.accumulate,
        )
        return sums, gradients

    return forward_backward


def prepared(batch: dict, seed: tf.Tensor, recipe: Recipe, classes: int) -> dict:
    """A batch of the pipeline as it is trained on: mixed, with what is to be answered.

    truth: [b, classes], 1 for each class that a picture has. targets: the same, smoothed and mixed.
    """
    label = batch["label"]
    truth = tf.one_hot(label, classes) if label.shape.rank == 1 else tf.cast(label, tf.float32)
    targets = truth
    if recipe.label_smoothing:
        smoothing = recipe.label_smoothing
        targets = truth * (1 - smoothing) + smoothing / (classes if recipe.loss == "softmax" else 2)
    pixels, mask = batch["pixels"], batch["mask"]
    if recipe.mixup or recipe.cutmix:
        mask *= tf.reverse(mask, [0])  # whoever is mixed with an unreadable one counts as little
        seed = tf.random.experimental.stateless_fold_in(seed, MIX)
        pixels = tf.cast(pixels, tf.float32)
        pixels, targets = mix(pixels, targets, seed, mixup=recipe.mixup, cutmix=recipe.cutmix)
    return {"pixels": pixels, "mask": mask, "truth": truth, "targets": targets}


def _softmax(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def _sigmoid(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=-1)


# (targets [b, classes], logits [b, classes]) -> loss of each image [b]
LOSSES: dict[str, Callable] = {"softmax": _softmax, "sigmoid": _sigmoid}


def _distillation(
    teacher: Model, pixels: tf.Tensor, logits: tf.Tensor, recipe: Recipe
) -> tf.Tensor:
    """How far logits are from the teacher's answer: [b]; the teacher sees the same pixels."""
    height, width = teacher.preprocess.height, teacher.preprocess.width
    if pixels.shape[1:3] != (height, width):
        pixels = tf.image.resize(tf.cast(pixels, tf.float32), (height, width))
    answer = tf.cast(teacher(normalise(pixels, teacher.preprocess), training=False), tf.float32)
    answer = tf.stop_gradient(answer)
    if recipe.distillation == "hard":
        return _softmax(tf.one_hot(tf.argmax(answer, axis=-1), answer.shape[-1]), logits)
    t = recipe.temperature
    if recipe.loss == "sigmoid":
        return t**2 * _sigmoid(tf.sigmoid(answer / t), logits / t)
    return t**2 * _softmax(tf.nn.softmax(answer / t), logits / t)


def _outputs(model: Model) -> keras.Model:
    """The model with a list of logits: of its heads where it has two (DeiT), else of its one."""
    heads = [model.output]
    if getattr(model.architecture, "distillation_token", False):
        heads = [model.get_layer(name).output for name in HEADS]
    return keras.Model(model.input, heads) if len(heads) > 1 else _listed(model)


def _listed(model: Model) -> Callable:
    return lambda images, training: [model(images, training=training)]
