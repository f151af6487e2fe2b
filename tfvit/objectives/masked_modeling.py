"""Masked image modelling: what `tfvit pretrain` does, whichever the masking and the target."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit import fused, watch
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.data import Source
from tfvit.data.pipeline import Unreadable, eval_batches
from tfvit.data.source import evenly_spaced
from tfvit.evaluate import classification
from tfvit.model import Model, named_weights
from tfvit.objectives import targets
from tfvit.objectives.masking import MASKINGS, Plan, to_predict
from tfvit.objectives.objective import Evaluation
from tfvit.preprocess import normalise
from tfvit.recipe import Pretraining, Recipe

NOISE = 1 << 21  # folded into the step's seed for what is masked
HELD_OUT = (-1, 0)  # seed of what is masked in evaluations: the same in all runs
SHOWN = 8  # pictures whose reconstructions are shown
GREY = 128.0  # of what is masked
ALGORITHM = "philox"  # of random numbers, wherever they are drawn


class MaskedModeling:
    """Telling what masked patches hold: see `objective.Objective`.

    To be made within the scope of the strategy. Raises UserError for a ResNet, which has no patches, and as
    the masking does.
    """

    kept = ("reconstructions",)

    def __init__(self, model: Model, recipe: Recipe) -> None:
        how, arch = recipe.pretraining, model.architecture
        if isinstance(arch, ResNetArchitecture):
            raise UserError(
                f"{arch.name}: has no patches to mask; pretrain takes a vit or a hybrid"
            )
        self.model, self._recipe = model, recipe
        self._target = targets.TARGETS[how.target]
        outputs = self._target.outputs(arch.stride)
        self._prediction = MASKINGS[how.objective].prediction(model, how, outputs)
        self.weights = self._prediction.weights
        own = named_weights(model)
        self._added = {name: v for name, v in self.weights.items() if name not in own}
        self.figures, self.guess = self._target.figures, self._target.guess
        self._compiled, self._pixels = None, None

    def prepared(self, batch: dict, seed: tf.Tensor, replica: tf.Tensor | int) -> dict:
        """The pictures, and what is masked in each: a function of the seed and the row of the whole batch."""
        rows, first = batch["mask"].shape[0], replica * batch["mask"].shape[0]
        plan = _step_plan(self.model.architecture, self._recipe, seed, first, rows)
        return {"pixels": batch["pixels"], "mask": batch["mask"], **plan}

    def losses(self, batch: dict, training: bool = True) -> dict[str, tf.Tensor]:
        """The mean over the patches that are to be predicted."""
        parts, prediction = self._predicted(batch, training)
        found = self._target.losses(prediction, parts, self.model.preprocess)
        return {name: tf.reduce_mean(x, axis=1) for name, x in found.items()}

    def evaluate(self, source: Source, strategy: tf.distribute.Strategy) -> Evaluation:
        """The loss and the figures over the held-out split, the same patches masked each time."""
        self._compiled = self._compiled or self._evaluation_step(strategy)
        unreadable: Unreadable = {}
        batches = classification.batches(
            *(source.eval, self.model.preprocess, self._recipe.batch_size), strategy, unreadable
        )
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches):
            for name, x in self._compiled(batch, tf.constant(number)).items():
                sums[name] = sums.get(name, 0.0) + float(x)
        images = sums.pop("images", 0)
        if not images:
            raise UserError(f"split {source.eval.name!r}: no readable image")
        return Evaluation({name: x / images for name, x in sums.items()}, unreadable)

    def line(self, row: dict, figures: dict, held_out: str) -> str:
        """How it stands, in words."""
        shares = {"": row, f"{held_out} ": figures}
        colors = "".join(
            f", {who}{100 * found['colors']:.1f} %" for who, found in shares.items() if self.figures
        )
        return f"{held_out} {figures['loss']:.4f}" + f"  right colours{colors[1:]}" * bool(colors)

    def pictures(
        self, source: Source, batch: dict, step: int, found: Evaluation
    ) -> dict[str, np.ndarray]:
        """A batch, and held-out pictures: whole, masked and predicted."""
        pixels = batch["pixels"].numpy()
        return {
            "batch": watch.augmented_batch(pixels, [""] * len(pixels)),
            "reconstructions": watch.rows(self.reconstructions(self._held_out(source))),
        }

    def reconstructions(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures as they are, as the model gets them and as it completes them.

        pixels: uint8 [b, height, width, 3]; each value of the result is of that kind.
        """
        count, arch = len(pixels), self.model.architecture
        plan = _plan(arch, self._recipe.pretraining, tf.constant(HELD_OUT), count, 0, count)
        batch = {"pixels": tf.constant(pixels), **plan}
        parts, prediction = self._predicted(batch, False)
        shown = self._target.shown(prediction, parts, self.model.preprocess)
        return _masked(arch, batch) | {"predicted": _filled(arch, batch, shown)}

    def state(self) -> dict[str, np.ndarray]:
        """The weights that the model has not."""
        return {name: v.numpy() for name, v in self._added.items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes on what `state` returned."""
        for name, variable in self._added.items():
            if name not in state or state[name].shape != tuple(variable.shape):
                raise UserError(f"the state to go on from does not fit: {name}")
            variable.assign(state[name])

    def _predicted(self, batch: dict, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """The patches to be predicted, uint8 [b, m, size, size, 3], and the prediction."""
        pixels, places = batch["pixels"], batch["places"]
        parts = targets.patches(pixels, self.model.architecture.stride)
        images = normalise(pixels, self.model.preprocess)
        prediction = self._prediction.predict(images, batch, training)
        return tf.gather(parts, places, batch_dims=1), tf.cast(prediction, tf.float32)

    def _evaluation_step(self, strategy: tf.distribute.Strategy):
        """The compiled function (batch, its number) -> sums over its images."""

        def of_replica(batch: dict, number: tf.Tensor) -> dict[str, tf.Tensor]:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            seed = _folded(tf.constant(HELD_OUT), number)
            batch = self.prepared(batch, seed, replica)
            with fused.enabled(fused.worthwhile(self.model.architecture, batch["mask"].shape[0])):
                found = self.losses(batch, training=False)
            sums = {name: tf.reduce_sum(x * batch["mask"]) for name, x in found.items()}
            return sums | {"images": tf.reduce_sum(batch["mask"])}

        @tf.function(autograph=False)
        def compiled(batch: dict, number: tf.Tensor) -> dict[str, tf.Tensor]:
            found = strategy.run(of_replica, args=(batch, number))
            return {name: strategy.reduce("SUM", x, axis=None) for name, x in found.items()}

        return compiled

    def _held_out(self, source: Source) -> np.ndarray:
        """Some pictures of the held-out split, the same each time."""
        if self._pixels is None:
            count = min(SHOWN, source.eval.size)
            some = evenly_spaced(source.eval, count)
            batch = next(iter(eval_batches(some, self.model.preprocess, count, unreadable={})))
            self._pixels = batch["pixels"].numpy()
        return self._pixels


def as_trained_on(
    batch: dict, arch: Architecture, recipe: Recipe, step: int
) -> dict[str, np.ndarray]:
    """The first pictures of a batch of the pipeline, and what the model gets of them at that step.

    Each value of the result is uint8 [b, height, width, 3].
    """
    pixels = batch["pixels"][:SHOWN]
    plan = _step_plan(arch, recipe, tf.constant([recipe.seed, step]), 0, len(pixels))
    return _masked(arch, {"pixels": pixels, **plan})


def _step_plan(
    arch: Architecture, recipe: Recipe, seed: tf.Tensor, first: tf.Tensor | int, rows: int
) -> Plan:
    """What is masked in `rows` pictures of a step's batch, from row `first` on; seed: of the step."""
    seed = _folded(seed, NOISE)
    return _plan(arch, recipe.pretraining, seed, recipe.batch_size, first, rows)


def _plan(
    arch: Architecture,
    how: Pretraining,
    seed: tf.Tensor,
    count: int,
    first: tf.Tensor | int,
    rows: int,
) -> Plan:
    """What is masked in `rows` pictures of `count`, from row `first` on."""
    masking, n = MASKINGS[how.objective], arch.grid[0] * arch.grid[1]
    noise = _uniform([masking.draws, count, n], seed)
    own = tf.slice(noise, [0, first, 0], [-1, rows, n])
    return masking.plan(own, to_predict(arch, how.masked))


def _masked(arch: Architecture, batch: dict) -> dict[str, np.ndarray]:
    """Pictures as they are, and grey where a plan hides them."""
    size = (*batch["places"].shape, arch.stride, arch.stride, 3)
    return {
        "picture": batch["pixels"].numpy(),
        "masked": _filled(arch, batch, tf.fill(size, GREY)),
    }


def _filled(arch: Architecture, batch: dict, filling: tf.Tensor) -> np.ndarray:
    """Pictures with something else, float32 [b, m, size, size, 3], in the hidden places."""
    whole = tf.cast(targets.patches(batch["pixels"], arch.stride), tf.float32)
    rows = tf.broadcast_to(tf.range(len(whole))[:, tf.newaxis], batch["places"].shape)
    at = tf.stack([rows, batch["places"]], axis=-1)
    filled = targets.picture(tf.tensor_scatter_nd_update(whole, at, filling), arch.grid)
    return np.clip(np.round(filled.numpy()), 0, 255).astype(np.uint8)


def _uniform(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1), float32, of whole ones: XLA makes other floats of the same bits."""
    whole = {"minval": None, "maxval": None, "dtype": tf.uint32}
    bits = tf.random.stateless_uniform(shape, seed, **whole, alg=ALGORITHM)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) / 2**24


def _folded(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number, alg=ALGORITHM)
