"""The table of recipes, walked whole: each is sound, and its whole step compiles under XLA."""

import dataclasses
import subprocess
import sys

import helpers
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.model import build
from tfvit.objectives.labels import Labels
from tfvit.objectives.masked_modeling import MaskedModeling
from tfvit.optimizer import Optimizer
from tfvit.recipe import Recipe
from tfvit.recipes import RECIPES
from tfvit.step import make_train_step

SIZE, CLASSES, BATCH = 16, 5, 12
TINY = {"width": 32, "depth": 1, "mlp_dim": 64, "heads": 2}
IMAGENET = 1_281_167
# What the papers print, on ImageNet: optimizer steps, warm-up steps.
PUBLISHED = {
    "paper-imagenet": (93_835, 10_000),
    "finetune-imagenet": (20_000, 500),
    "finetune-cifar10": (10_000, 500),
    "bigvision-s16": (112_603, 10_000),
    "deit": (375_342, 6_256),
    "paper-masked-patch": (1_000_000, 10_000),
    "paper-mae": (250_228, 12_511),
}


@pytest.mark.parametrize("row", RECIPES.values(), ids=RECIPES)
def test_a_row_is_whole(row):
    assert row.source and row.expected
    assert Recipe.from_json(row.recipe.to_json()) == row.recipe
    recipe = row.recipe.resolved(IMAGENET)
    assert 0 <= recipe.warmup_steps < recipe.steps and 0 < recipe.eval_every <= recipe.steps
    arch = architecture.named(row.model or "vit-b/16", 1000, row.image_size or 224, **row.changes)
    assert arch.num_classes == 1000
    how = {"repeats": recipe.repeats, "balance": recipe.balance, "unreadable": {}}
    batches = pipeline.train_batches(
        *(open_source(DataOptions("digits")).train, PreprocessSpec(8, 8), recipe.batch_size),
        augmentation=recipe.augmentation,
        seed=0,
        start_step=0,
        replicas=8,  # as on the machines that these are for
        **how,
    )
    assert batches.element_spec["label"].shape[0] in (None, recipe.batch_size // 8)


@pytest.mark.parametrize("name, steps", PUBLISHED.items(), ids=PUBLISHED)
def test_lengths_are_those_of_the_papers(name, steps):
    recipe = RECIPES[name].recipe.resolved(IMAGENET)
    assert (recipe.steps, recipe.warmup_steps) == pytest.approx(steps, abs=1)


def train(row, strategy=None, chance=True, steps=3, **changes):
    """Losses of a few steps, under XLA, of a recipe on a tiny model of its kind and random pictures.

    chance: with what a device draws for itself: dropout, stochastic depth, mixing.
    """
    strategy = strategy or tf.distribute.get_strategy()
    keras.utils.set_random_seed(0)
    kind = {**TINY, **row.changes, "representation_size": None}
    if not chance:
        kind |= {"dropout": 0.0, "stochastic_depth": 0.0}
        changes |= {"mixup": 0.0, "cutmix": 0.0}
    elif "stochastic_depth" in kind:
        kind["depth"] = 2  # the first block drops nothing
    if row.recipe.pretraining and row.recipe.pretraining.objective == "mae":
        shape = {"decoder_width": 32, "decoder_depth": 1}
        changes |= {"pretraining": dataclasses.replace(row.recipe.pretraining, **shape)}
    arch = architecture.Architecture("tiny", CLASSES, SIZE, 8, **kind)
    recipe = dataclasses.replace(
        row.recipe, steps=100, warmup_steps=0, batch_size=BATCH, learning_rate=3e-3, **changes
    )
    with strategy.scope():
        model = build(arch)
        teacher = build(arch) if recipe.distillation == "hard" else None
        learnt = (
            MaskedModeling(model, recipe) if recipe.pretraining else Labels(model, recipe, teacher)
        )
        optimizer = Optimizer(recipe, learnt.weights, arch.depth)
    optimizer.begin()
    step = make_train_step(learnt, optimizer, recipe, strategy, True)
    rng = np.random.default_rng(0)
    batch = {
        "pixels": rng.integers(0, 256, (BATCH, SIZE, SIZE, 3)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, BATCH),
        "mask": np.ones(BATCH, np.float32),
    }
    data = tf.data.Dataset.from_tensors(batch).repeat().unbatch().batch(BATCH, drop_remainder=True)
    batches = iter(strategy.experimental_distribute_dataset(data))
    return [float(step(next(batches), tf.constant(i + 1))["loss"]) for i in range(steps)]


def kind(row):
    """What decides the graph of a step: rows that differ in numbers alone are of one kind."""
    numbers = {name: None for name, value in row.recipe.to_json().items() if value not in (None, 0)}
    words = {k: v for k, v in row.recipe.to_json().items() if isinstance(v, (str, bool))}
    return str(sorted({**numbers, **words, **row.changes}.items(), key=str))


KINDS = {kind(row): name for name, row in reversed(RECIPES.items())}  # the first of each


@pytest.mark.parametrize("name", sorted(KINDS.values()))
def test_the_whole_step_compiles_under_xla(name):
    row = RECIPES[name]
    losses = train(row)
    assert np.all(np.isfinite(losses))


def test_accumulated_parts_make_the_same_step():
    row = RECIPES["scratch"]
    whole, parts = (train(row, accumulate=n) for n in (1, 3))
    assert whole == pytest.approx(parts, rel=1e-4)


def on_two_devices(names):
    """Trains recipes under XLA on one and on two virtual devices; ends the process at a difference."""
    helpers.two_devices()
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])  # TensorFlow numbers their sums
    for name in names:
        one, two = (train(RECIPES[name], found, chance=False) for found in (None, mirrored))
        assert np.allclose(one, two, rtol=1e-3), (name, one, two)
        print(name, one, two)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["deit-distilled"], id="one"),
        pytest.param(list(RECIPES), id="all", marks=pytest.mark.long),
    ],
)
def test_mirrored_under_xla_is_one_device_under_xla(names):
    done = subprocess.run(
        [sys.executable, __file__, *names],
        env=helpers.ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    on_two_devices(sys.argv[1:])
