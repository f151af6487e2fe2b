"""Optimizers as pure functions of tensors, compiled by XLA on any device, and their state by name.

Every rule is checked against tf_keras's optimizer of that name. They are written here because none of
those knows a rate per layer, averaged weights or float16's scale, tf_keras has no LAMB, and one compiled
update of all weights is faster on a CPU than a loop over variables.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import re
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from edge_demo.errors import UserError
from tfvit.recipe import Recipe

NO_DECAY = ("*/bias", "*/gamma", "*/beta", "*/token", "*/probe", "position/*", "*/relative")
EMA = "ema"
FIRST_SCALE, GROW_AFTER = 2.0**15, 2000  # of float16's gradients; steps without overflow


def learning_rate(recipe: Recipe, step: tf.Tensor) -> tf.Tensor:
    """The rate of optimizer step `step`, from 0: linear warm-up, then the recipe's schedule to its end."""
    step, warmup, total = tf.cast(step, tf.float32), recipe.warmup_steps, recipe.steps
    rising = tf.minimum((step + 1) / max(warmup, 1), 1.0)
    done = tf.clip_by_value((step - warmup) / max(total - warmup, 1), 0.0, 1.0)
    falling = SCHEDULES[recipe.schedule](done)
    peak, end = recipe.learning_rate, recipe.final_learning_rate
    return tf.where(step < warmup, peak * rising, end + (peak - end) * falling)


SCHEDULES: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "cosine": lambda done: 0.5 * (1 + tf.cos(math.pi * done)),
    "linear": lambda done: 1 - done,
    "constant": tf.ones_like,
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What a rule is told beside a weight and its gradient: rate, number from 0, decay of the weight."""

    recipe: Recipe
    rate: tf.Tensor
    number: tf.Tensor
    decay: float


def _sgd(value, gradient, slots, s: Step):
    (trace,) = slots
    trace = s.recipe.beta_1 * trace + gradient + s.decay * value
    return value - s.rate * trace, [trace]


def _adam_direction(gradient, slots, s: Step):
    """Adam's step without its rate (arXiv 1412.6980, algorithm 1), and the new moments."""
    (m, v), (b1, b2) = slots, (s.recipe.beta_1, s.recipe.beta_2)
    m, v = m + (1 - b1) * (gradient - m), v + (1 - b2) * (gradient**2 - v)
    t = tf.cast(s.number + 1, tf.float32)
    return m / (1 - b1**t) / (tf.sqrt(v / (1 - b2**t)) + s.recipe.epsilon), [m, v]


def _adam(value, gradient, slots, s: Step):
    direction, slots = _adam_direction(gradient + s.decay * value, slots, s)
    return value - s.rate * direction, slots


def _adamw(value, gradient, slots, s: Step):
    direction, slots = _adam_direction(gradient, slots, s)
    return value - s.rate * (direction + s.decay * value), slots


def _lamb(value, gradient, slots, s: Step):
    direction, slots = _adam_direction(gradient, slots, s)
    direction += s.decay * value
    norm, length = tf.norm(value), tf.norm(direction)
    trust = tf.where((norm > 0) & (length > 0), norm / tf.maximum(length, 1e-30), 1.0)
    trust = trust if s.decay else 1.0  # biases and norms take Adam's step, as apex and timm have it
    return value - s.rate * trust * direction, slots


def _lion(value, gradient, slots, s: Step):
    (m,), (b1, b2) = slots, (s.recipe.beta_1, s.recipe.beta_2)
    direction = tf.sign(m + (1 - b1) * (gradient - m))
    return value - s.rate * (direction + s.decay * value), [m + (1 - b2) * (gradient - m)]


# name: (slots, the rule: (value, gradient, slots, Step) -> value, slots). SGD with momentum beta_1; Adam
# with L2; AdamW arXiv 1711.05101; LAMB arXiv 1904.00962; Lion arXiv 2302.06675.
RULES: dict[str, tuple[tuple[str, ...], Callable]] = {
    "sgd": (("momentum",), _sgd),
    "adam": (("m", "v"), _adam),
    "adamw": (("m", "v"), _adamw),
    "lamb": (("m", "v"), _lamb),
    "lion": (("m",), _lion),
}


def decays(name: str) -> bool:
    """Whether weight decay applies to a weight: kernels, but no bias, norm, token or embedding."""
    return not any(fnmatch.fnmatchcase(name, pattern) for pattern in NO_DECAY)


def trained(weights: dict[str, tf.Variable], frozen: str = "") -> dict[str, tf.Variable]:
    """The weights that learn.

    frozen: patterns of names that do not, separated by commas: "embedding/*,block_[0-5]/*".
    Raises UserError if one fits no weight, or nothing is left.
    """
    found = {n: v for n, v in weights.items() if v.trainable}
    learn = dict(found)
    for pattern in filter(None, map(str.strip, frozen.split(","))):
        fits = [name for name in found if fnmatch.fnmatchcase(name, pattern)]
        if not fits:
            raise UserError(f"frozen {pattern!r} fits no weight; they are as {next(iter(found))}")
        learn = {n: v for n, v in learn.items() if n not in fits}
    if not learn:
        raise UserError(f"frozen {frozen!r} leaves nothing to train")
    return learn


def layer_scale(name: str, depth: int, decay: float) -> float:
    """The share of the rate that a weight gets under layer-wise decay (arXiv 2106.08254, appendix).

    depth: number of blocks (Transformer) or residual units (ResNet). The head and the last norm get 1,
    each block below `decay` times that of the one above, the embeddings least.
    """
    block = re.match(r"block_(\d+)/", name)
    if block:
        place = int(block[1]) + 1
    else:
        place = depth + 1 if re.match(r"(norm|head|map|pre_logits|pretraining)", name) else 0
    return decay ** (depth + 1 - place)


class Optimizer:
    """A recipe's optimizer over the weights that it trains, with their averages where it asks for them.

    To be made within the scope of the strategy whose replicas will call `apply`.
    """

    def __init__(self, recipe: Recipe, weights: dict[str, tf.Variable], depth: int = 0) -> None:
        self.weights = trained(weights, recipe.frozen)
        self.recipe = recipe
        self.scales = [layer_scale(n, depth, recipe.layer_decay) for n in self.weights]
        names = (*RULES[recipe.optimizer][0], *([EMA] if recipe.ema else []))
        self.slots = {
            name: [_variable(tf.zeros_like(v), f"{name}/{n}") for n, v in self.weights.items()]
            for name in names
        }
        # float16 alone: by what the loss is multiplied, and steps since that changed
        self.scale = _variable(FIRST_SCALE if recipe.dtype == "float16" else 1.0, "loss_scale")
        self.steady = _variable(0.0, "steady_steps")

    @property
    def variables(self) -> list[tf.Variable]:
        """The weights that are trained, in the order in which `apply` takes their gradients."""
        return list(self.weights.values())

    def begin(self) -> None:
        """Sets the averages to the weights: to be called when the first weights are in."""
        for average, weight in zip(self.slots.get(EMA, []), self.variables):
            average.assign(weight)

    def apply(self, gradients: Sequence[tf.Tensor], step: tf.Tensor) -> dict[str, tf.Tensor]:
        """One optimizer step, in a replica: gradients of the whole batch's loss times `scale`.

        step: int, its number from 0. Returns "gradient_norm" (0 where float16 overflowed and nothing
        was changed) and "learning_rate".
        """
        slots = [list(of_weight) for of_weight in zip(*self.slots.values())]
        state = [self.scale, self.steady]
        old = tf.nest.map_structure(tf.convert_to_tensor, (self.variables, slots, state))
        new, figures = self._updated(*old, list(gradients), step)

        def assign(strategy: tf.distribute.Strategy, *values: tf.Tensor) -> None:
            for variable, value in zip(tf.nest.flatten((self.variables, slots, state)), values):
                strategy.extended.update(variable, _assign, args=(value,), group=False)

        tf.distribute.get_replica_context().merge_call(assign, args=tf.nest.flatten(new))
        return figures

    @tf.function(jit_compile=True, autograph=False)
    def _updated(self, values, slots, state, gradients, step):
        """(new values, slots and state), figures."""
        recipe, (scale, steady) = self.recipe, state
        rate = learning_rate(recipe, step)
        gradients = [g / scale for g in gradients]
        norm = tf.sqrt(tf.add_n([tf.reduce_sum(g**2) for g in gradients]))
        finite = tf.math.is_finite(norm)
        if recipe.clip_norm:
            factor = recipe.clip_norm / tf.maximum(norm, recipe.clip_norm)
            gradients = [g * factor for g in gradients]
        rule = RULES[recipe.optimizer][1]
        new_values, new_slots = [], []
        for i, name in enumerate(self.weights):
            decay = recipe.weight_decay if decays(name) else 0.0
            of_rule = slots[i][:-1] if recipe.ema else slots[i]
            now = Step(recipe, rate * self.scales[i], step, decay)
            value, of_rule = rule(values[i], gradients[i], of_rule, now)
            if recipe.ema:
                of_rule = [*of_rule, _average(slots[i][-1], value, recipe.ema, step)]
            new_values.append(value)
            new_slots.append(of_rule)
        if recipe.dtype == "float16":
            old, new = (values, slots), (new_values, new_slots)
            new_values, new_slots = tf.nest.map_structure(
                lambda a, b: tf.where(finite, b, a), old, new
            )
            steady = tf.where(finite, steady + 1, 0.0)
            grown = tf.where(steady >= GROW_AFTER, 2 * scale, scale)
            scale = tf.where(finite, grown, tf.maximum(scale / 2, 1.0))
            steady = tf.where(steady >= GROW_AFTER, 0.0, steady)
            norm = tf.where(finite, norm, 0.0)
        figures = {"gradient_norm": norm, "learning_rate": rate}
        return (new_values, new_slots, [scale, steady]), figures

    def averages(self) -> dict[str, np.ndarray]:
        """The averaged weights by name; empty where the recipe has none."""
        return {n: v.numpy() for n, v in zip(self.weights, self.slots.get(EMA, []))}

    def state(self) -> dict[str, np.ndarray]:
        """Everything that resuming needs beside the weights, by name, for `restore`."""
        return {name: np.asarray(v.numpy()) for name, v in self._state_variables().items()}

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Takes on the state that `state` returned; UserError if it is another optimizer's."""
        for name, variable in self._state_variables().items():
            value = saved.get(name)
            if value is None or value.shape != tuple(variable.shape):
                raise UserError(f"optimizer state does not fit: {name}")
            variable.assign(value)

    def _state_variables(self) -> dict[str, tf.Variable]:
        found = {"loss_scale": self.scale, "steady_steps": self.steady}
        for slot, variables in self.slots.items():
            found |= {f"{slot}/{name}": v for name, v in zip(self.weights, variables)}
        return found


def _average(average: tf.Tensor, value: tf.Tensor, decay: float, step: tf.Tensor) -> tf.Tensor:
    """The moving average, which early in a run forgets faster: (1 + t) / (10 + t) until `decay`."""
    t = tf.cast(step, tf.float32)
    return average + (1 - tf.minimum(decay, (1 + t) / (10 + t))) * (value - average)


def _assign(variable: tf.Variable, value: tf.Tensor) -> None:
    variable.assign(value)


def _variable(initial, name: str) -> tf.Variable:
    return tf.Variable(initial, trainable=False, name=name.replace("/", "_"))
