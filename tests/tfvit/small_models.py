"""A small ViT with every part of a large one, and weights that hide nothing by being zero or one."""

from __future__ import annotations

import numpy as np
import tf_keras as keras

import tfvit
from tfvit.data.pipeline import eval_batches
from tfvit.model import build, named_weights
from tfvit.preprocess import normalise

HEIGHT, WIDTH, PATCH, HEADS = 24, 40, 8, 3
SMALL = {"width": 48, "depth": 2, "heads": HEADS, "mlp_dim": 96}


def small(num_classes=5, image_size=(HEIGHT, WIDTH), *, seed=0, name="vit-ti/8", **changes):
    """A small model with random weights."""
    return randomise(
        tfvit.create_model(name, num_classes, image_size, **{**SMALL, **changes}), seed
    )


def labelled(labels, image_size=(HEIGHT, WIDTH), *, seed=0, **changes):
    """A small model with random weights and named classes."""
    arch = tfvit.create_model("vit-ti/8", len(labels), image_size, **{**SMALL, **changes})
    return randomise(build(arch.architecture, labels=tuple(labels)), seed)


def randomise(model, seed=0):
    """Gives every variable random values of the size that training gives them."""
    rng = np.random.default_rng(seed)
    for name, variable in named_weights(model).items():
        values = rng.standard_normal(variable.shape)
        if name.endswith("kernel"):
            values /= np.sqrt(np.prod(variable.shape[:-1]))
        elif name.endswith("gamma"):
            values = 1 + 0.3 * values
        else:
            values *= 0.3
        variable.assign(values)
    return model


def inputs(count, height=HEIGHT, width=WIDTH, seed=1):
    """Random normalised pictures, float32 [count, height, width, 3]."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, height, width, 3)).astype(np.float32)


def computed(model, split, layer="pool"):
    """What a layer makes of a split's images, float64 [n, d], and their labels."""
    part = keras.Model(model.input, model.get_layer(layer).output)
    found, labels = [], []
    for batch in eval_batches(split, model.preprocess, 50, unreadable={}):
        real = batch["mask"].numpy() > 0
        values = part(normalise(batch["pixels"], model.preprocess)).numpy()
        found.append(values[real].astype(np.float64))
        labels.append(batch["label"].numpy()[real])
    return np.concatenate(found), np.concatenate(labels)
