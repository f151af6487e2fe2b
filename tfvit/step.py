"""One optimizer step as a compiled function: loss, gradients over all replicas, update."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tfvit import fused
from tfvit.layers import dropout_seed
from tfvit.objectives.objective import Objective
from tfvit.optimizer import Optimizer
from tfvit.recipe import Recipe


def make_train_step(
    objective: Objective,
    optimizer: Optimizer,
    recipe: Recipe,
    strategy: tf.distribute.Strategy,
    xla: bool | None = None,
) -> Callable[[dict, tf.Tensor], dict]:
    """The compiled function (batch, step number from 1) -> sums and figures of one optimizer step.

    batch: of `pipeline.train_batches`, distributed by `strategy`. xla: compile the whole step with XLA, or
    on several devices all of it but what passes between them; None does so where there is a GPU.
    The loss is the mean over the global batch; images with mask 0 count as without gradient.
    """
    if xla is None:
        xla = bool(tf.config.list_logical_devices("GPU"))
    images = recipe.batch_size // (strategy.num_replicas_in_sync * recipe.accumulate)
    islands = not xla and fused.worthwhile(objective.model.architecture, images)
    gradients_of = forward_backward(objective, optimizer.variables, recipe, islands)
    alone = strategy.num_replicas_in_sync == 1
    if xla and not alone:
        gradients_of = tf.function(gradients_of, jit_compile=True, autograph=False)

    def replica_step(batch: dict, step: tf.Tensor) -> dict:
        replica = tf.distribute.get_replica_context()
        number = tf.convert_to_tensor(replica.replica_id_in_sync_group)
        seed = tf.stack([tf.constant(recipe.seed), step])
        sums, gradients = gradients_of(batch, seed, number, optimizer.scale.value())
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
    objective: Objective, variables: list[tf.Variable], recipe: Recipe, islands: bool = False
) -> Callable[[dict, tf.Tensor, tf.Tensor, tf.Tensor], tuple[dict, list[tf.Tensor]]]:
    """The function (batch, seed, replica, scale) -> sums over the images, gradients of loss times scale.

    Pure but for reading the weights, with static shapes. seed: int32 [2] of the step. replica: its number.
    islands: see `tfvit.fused`, for a CPU.
    """

    def part(batch: dict, seed: tf.Tensor, scale: tf.Tensor) -> tuple[dict, list[tf.Tensor]]:
        with (
            fused.enabled(islands),
            tf.GradientTape(watch_accessed_variables=False) as tape,
            dropout_seed(seed),
        ):
            tape.watch(variables)
            sums = {
                name: tf.reduce_sum(of_each * batch["mask"])
                for name, of_each in objective.losses(batch).items()
            }
            scaled = sums["loss"] * (scale / recipe.batch_size)
        sums["images"] = tf.reduce_sum(batch["mask"])
        gradients = tape.gradient(scaled, variables, unconnected_gradients="zero")
        return sums, [tf.convert_to_tensor(g) for g in gradients]

    def of_batch(batch: dict, seed: tf.Tensor, replica: tf.Tensor, scale: tf.Tensor):
        batch = objective.prepared(batch, seed, replica)
        seed = tf.random.experimental.stateless_fold_in(seed, replica)
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
            {name: tf.zeros([]) for name in ("loss", *objective.figures, "images")},
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

    return of_batch
