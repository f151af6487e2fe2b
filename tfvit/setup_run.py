"""From command-line options to a Run: defaults that depend on the data or on a checkpoint."""

from __future__ import annotations

import dataclasses
import math

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture, checkpoint
from tfvit.data import DataOptions, Source
from tfvit.data.augment import Augmentation
from tfvit.recipes import Recipe
from tfvit.train import Run

DEFAULT_MODEL, DEFAULT_SIZE = "vit-ti/16", (224, 224)
FEWEST_EVALUATIONS = 20  # of a run whose epochs are shorter than that


def data_of(options: dict) -> DataOptions:
    """The data options of a command."""
    names = [field.name for field in dataclasses.fields(DataOptions)]
    return DataOptions(**{name: options[name] for name in names})


def new_run(options: dict, source: Source) -> Run:
    """The Run that the options of `tfvit train` describe, every default resolved.

    Raises UserError for values that do not fit each other, the data or the checkpoint of --init.
    """
    if source.train is None:
        raise UserError(f"{source.name}: no training split; choose --train-split")
    arch, spec = _model(options, len(source.labels))
    batch = options["batch_size"]
    epoch = source.train.size / batch
    steps = options["steps"] or max(1, round(options["epochs"] * epoch))
    rate = options["lr"] or (1e-4 if options["init"] else 1e-3)
    warmup = options["warmup"] if options["warmup"] is not None else steps // 10
    every = options["eval_every"] or max(1, round(epoch), math.ceil(steps / FEWEST_EVALUATIONS))
    recipe = Recipe(
        steps=steps,
        warmup_steps=warmup,
        batch_size=batch,
        eval_every=min(every, steps),
        learning_rate=rate,
        weight_decay=options["weight_decay"],
        clip_norm=options["clip"] or None,
        label_smoothing=options["label_smoothing"],
        augmentation=Augmentation(options["crop_min_area"], options["flip"]),
        dtype=options["dtype"],
        seed=options["seed"],
    )
    init = str(checkpoint.find(options["init"])) if options["init"] else None
    return Run(arch, spec, data_of(options), recipe, init, options)


def _model(options: dict, classes: int) -> tuple[architecture.Architecture, PreprocessSpec]:
    """The architecture and its preprocessing: named, or after the checkpoint of --init."""
    changes = dict(options["settings"])
    for field in ("pooling", "dropout", "stochastic_depth"):
        if options[field]:
            changes[field] = options[field]
    size, name = options["image_size"], options["model"]
    spec = PreprocessSpec(*(size or DEFAULT_SIZE))
    if options["init"]:
        config = checkpoint.read_config(checkpoint.find(options["init"]))
        size = size or config["architecture"].image_size
        spec = config["preprocess"].at(*size)
        if name is None:
            values = config["architecture"].to_json()
            fresh = {"representation_size": None, "dropout": 0.0, "stochastic_depth": 0.0}
            values |= {field: value for field, value in fresh.items() if field in values}
            values |= {"num_classes": classes, "image_size": size}
            if "patch_size" in changes:
                values["name"] = f"{values['name'].rpartition('/')[0]}/{changes['patch_size']}"
            return architecture.from_json(values | changes), _resize(spec, options)
    arch = architecture.named(name or DEFAULT_MODEL, classes, size or DEFAULT_SIZE, **changes)
    return arch, _resize(spec, options)


def _resize(spec: PreprocessSpec, options: dict) -> PreprocessSpec:
    return dataclasses.replace(spec, resize=options["resize"]) if options["resize"] else spec
