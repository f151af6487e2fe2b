"""From command-line options to a Run: defaults that depend on the data or on a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit import architecture, checkpoint, interop, recipes
from tfvit.data import DataOptions, Source
from tfvit.interop import recognise
from tfvit.recipe import Recipe
from tfvit.run import Run

DEFAULT_MODEL, DEFAULT_SIZE = "vit-ti/16", (224, 224)
INIT = "init"  # in the folder of a run: what it started from, if that was another library's
# options of the command line that a field of the recipe has another name for
OPTIONS = {"lr": "learning_rate", "warmup": "warmup_steps", "clip": "clip_norm"}
# fields of an architecture that are words, of which "none" may be one
TEXTS = {
    f.name
    for kind in architecture.FAMILIES.values()
    for f in dataclasses.fields(kind)
    if f.type == "str"
}


def data_of(options: dict) -> DataOptions:
    """The data options of a command."""
    names = [field.name for field in dataclasses.fields(DataOptions)]
    return DataOptions(**{name: options[name] for name in names if name in options})


def new_run(options: dict, source: Source, out: Path) -> Run:
    """The Run that the options of `tfvit train` or `pretrain` describe, or those of them that are given.

    out: folder of the run. A model of another library to start from is kept there as a checkpoint.
    Raises UserError for values that do not fit each other, the data or the checkpoint of --init.
    """
    if source.train is None:
        raise UserError(f"{source.name}: no training split; choose --train-split")
    _, row = row_of(options)
    recipe, changes = recipe_of(options, row)
    if source.multi_label and recipe.loss == "softmax":
        if "loss" in dict(options.get("settings", ())):
            raise UserError(f"{source.name}: has several labels a picture; --set loss=sigmoid")
        recipe = dataclasses.replace(recipe, loss="sigmoid")
    init = str(_checkpoint(Path(options["init"]), out)) if options.get("init") else None
    arch, spec = model_of(options, row, changes, init, len(source.labels))
    return Run(arch, spec, data_of(options), recipe.resolved(source.train.size), init, options)


def row_of(options: dict) -> tuple[str, recipes.Named]:
    """The name and the row of the table of recipes that a command starts from: asked for, or its default.

    Raises UserError for a name that is not there, and one of the other command.
    """
    if "objective" not in options:  # tfvit train
        name = options.get("recipe") or (
            recipes.FINETUNE if options.get("init") else recipes.SCRATCH
        )
        row = recipes.named(name)
        if row.recipe.pretraining:
            raise UserError(f"recipe {name}: is for learning without labels, tfvit pretrain")
        return name, row
    name = options.get("recipe") or options["objective"] or recipes.PRETRAIN
    row = recipes.named(name)
    if not row.recipe.pretraining:
        raise UserError(f"recipe {name}: is for learning from labels, tfvit train")
    if options["objective"] not in (None, row.recipe.pretraining.objective):
        raise UserError(f"recipe {name}: its objective is {row.recipe.pretraining.objective}")
    return name, row


def recipe_of(options: dict, row: recipes.Named) -> tuple[Recipe, dict]:
    """A row's recipe with what the command line changes of it, and the changes to the architecture.

    Raises UserError for a value that no recipe can have.
    """
    parts = {"augmentation": row.recipe.augmentation, "pretraining": row.recipe.pretraining}
    parts = {name: value for name, value in parts.items() if value}
    own, *nested = (
        {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        for value in (row.recipe, *parts.values())
    )
    known = {key: value for fields in (own, *nested) for key, value in fields.items()}
    texts = TEXTS | {key for key, value in known.items() if isinstance(value, str)}
    settings = {
        key: None if value == "none" and key not in texts else value
        for key, value in options.get("settings", ())
    }
    for name, fields in zip(parts, nested):
        if name in settings:
            raise UserError(f"{name} has fields of its own: --set {next(iter(fields))}=...")
    given = {OPTIONS.get(k, k): v for k, v in options.items() if v is not None} | settings
    of_recipe = {k: v for k, v in given.items() if k in own} | _length(given)
    if of_recipe.get("clip_norm") == 0:
        of_recipe["clip_norm"] = None
    for (name, value), fields in zip(parts.items(), nested):
        changed = {k: v for k, v in given.items() if k in fields}
        of_recipe[name] = dataclasses.replace(value, **changed)
    changes = {key: value for key, value in settings.items() if key not in known}
    for field in ("pooling", "dropout", "stochastic_depth"):
        if options.get(field) is not None:
            changes[field] = options[field]
    return dataclasses.replace(row.recipe, **of_recipe), changes


def _length(given: dict) -> dict:
    """--steps instead of the recipe's epochs, or the other way round."""
    if "steps" in given:
        return {"steps": given["steps"], "epochs": None}
    return {"epochs": float(given["epochs"]), "steps": None} if "epochs" in given else {}


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


def model_of(
    options: dict, row: recipes.Named, changes: dict, init: str | None, classes: int
) -> tuple[architecture.Architecture, PreprocessSpec]:
    """The architecture and its preprocessing: named, or after the checkpoint of --init."""
    name = options.get("model")
    size = options.get("image_size") or (row.image_size and (row.image_size, row.image_size))
    spec = PreprocessSpec(*(size or DEFAULT_SIZE))
    if init:
        config = checkpoint.read_config(init)
        size = size or config["architecture"].image_size
        spec = config["preprocess"].at(*size)
        if name is None:
            values = config["architecture"].to_json()
            fresh = {"representation_size": None, "dropout": 0.0, "stochastic_depth": 0.0}
            values |= {field: value for field, value in fresh.items() if field in values}
            architecture.check_changes(changes)
            values |= {"num_classes": classes, "image_size": size}
            if "patch_size" in changes:
                values["name"] = f"{values['name'].rpartition('/')[0]}/{changes['patch_size']}"
            return architecture.from_json(values | _known(row.changes, values) | changes), _resize(
                spec, options
            )
    name = name or row.model or DEFAULT_MODEL
    if name.lower() not in architecture.RESNETS:
        changes = row.changes | changes
    arch = architecture.named(name, classes, size or DEFAULT_SIZE, **changes)
    return arch, _resize(spec, options)


def _known(changes: dict, values: dict) -> dict:
    """The changes that this family of models has fields for."""
    return {field: value for field, value in changes.items() if field in values}


def _resize(spec: PreprocessSpec, options: dict) -> PreprocessSpec:
    return dataclasses.replace(spec, resize=options["resize"]) if options.get("resize") else spec
