"""From command-line options to a Run: defaults that depend on the data or on a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import click

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture, checkpoint, interop
from tfvit.data import DataOptions, Source
from tfvit.data.augment import Augmentation
from tfvit.interop import recognise
from tfvit.recipes import Recipe
from tfvit.train import Run

DEFAULT_MODEL, DEFAULT_SIZE = "vit-ti/16", (224, 224)
INIT = "init"  # in the folder of a run: what it started from, if that was another library's
FEWEST_EVALUATIONS = 20  # of a run whose epochs are shorter than that


def data_of(options: dict) -> DataOptions:
    """The data options of a command."""
    names = [field.name for field in dataclasses.fields(DataOptions)]
    return DataOptions(**{name: options[name] for name in names})


def new_run(options: dict, source: Source, out: Path) -> Run:
    """The Run that the options of `tfvit train` describe, every default resolved.

    out: folder of the run. A model of another library to start from is kept there as a checkpoint.
    Raises UserError for values that do not fit each other, the data or the checkpoint of --init.
    """
    if source.train is None:
        raise UserError(f"{source.name}: no training split; choose --train-split")
    init = str(_checkpoint(Path(options["init"]), out)) if options["init"] else None
    arch, spec = _model(options, init, len(source.labels))
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
    return Run(arch, spec, data_of(options), recipe, init, options)


def _checkpoint(path: Path, out: Path) -> Path:
    """The checkpoint folder that --init means; what is none is imported into the run's folder."""
    found = checkpoint.find(path)
    ours = recognise.is_checkpoint(found) or (found / checkpoint.WEIGHTS).exists()
    if ours or not path.exists():
        return found
    model, what_became = interop.load(path)
    click.echo(f"from {path}:")
    click.echo("\n".join(what_became.lines()))
    checkpoint.save(model, out / INIT)
    return out / INIT


def _model(
    options: dict, init: str | None, classes: int
) -> tuple[architecture.Architecture, PreprocessSpec]:
    """The architecture and its preprocessing: named, or after the checkpoint of --init."""
    changes = dict(options["settings"])
    for field in ("pooling", "dropout", "stochastic_depth"):
        if options[field]:
            changes[field] = options[field]
    size, name = options["image_size"], options["model"]
    spec = PreprocessSpec(*(size or DEFAULT_SIZE))
    if init:
        config = checkpoint.read_config(init)
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
