"""Recipe: everything that decides how a model is trained, but for the model and the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from edge_demo.errors import UserError
from tfvit.data.augment import Augmentation
from tfvit.objectives import OBJECTIVES, TARGETS

# name: tf_keras policy; weights are float32 with all of them
DTYPES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
OPTIMIZERS = ("sgd", "adam", "adamw", "lamb", "lion")  # their rules: tfvit.optimizer
SCHEDULES = ("cosine", "linear", "constant")
LOSSES = ("softmax", "sigmoid")
DISTILLATIONS = ("soft", "hard")
USUAL_VIEWS = Augmentation(crop_min_area=0.2)
FEWEST_EVALUATIONS = 20  # of a run whose epochs are shorter than that


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """What is learned from pictures without labels: to say what is in patches that are not shown.

    objective: "masked-patch" (arXiv 2010.11929, appendix B.1.2) or "mae" (arXiv 2111.06377).
    target: what is predicted of a patch: "mean-color", one of 512 of 3 bits a channel; "low-res", 4x4 of
        them; "full", its pixels; "normalized", its pixels with mean 0 and deviation 1.
    masked: share of the patches that is predicted.
    decoder_width, decoder_depth: of mae; None is two thirds of the encoder's width, 512 at most.
    """

    objective: str = "masked-patch"
    target: str = "mean-color"
    masked: float = 0.5
    decoder_width: int | None = None
    decoder_depth: int = 8

    def __post_init__(self) -> None:
        _check(self)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained; `resolved` for a data set, all its numbers of steps are known.

    An epoch is as many images as there are, `repeats` or not.

    epochs or steps: length; steps are the optimizer's. eval_every: steps from one evaluation to the next,
        None: an epoch, or a twentieth of the run if that is longer.
    warmup_steps or warmup_epochs: of the linear warm-up; a tenth of the run where both are None, or where
        it would take the whole run.
    schedule, learning_rate, final_learning_rate: "cosine", "linear" or "constant" from peak to end.
    batch_size: global, over all devices and machines. accumulate: in how many parts each device takes
        its share of it, one after the other.
    optimizer: "sgd", "adam", "adamw", "lamb" or "lion"; beta_1 is the momentum of SGD.
    weight_decay: times the rate, of kernels alone; for sgd and adam a term of the gradient.
    clip_norm: largest global norm of the gradient; None does not clip.
    layer_decay: rate of each block over that of the block above it. frozen: patterns of the weights that
        stay as they are, "embedding/*,block_[0-5]/*". ema: decay of the averaged weights, which are then
        what is evaluated and kept as the best; None averages nothing.
    loss: "softmax", or "sigmoid" for each class on its own. label_smoothing, mixup, cutmix: 0 for none;
        the latter two are the alpha of arXiv 1710.09412 and arXiv 1905.04899.
    repeats: views of an image in a batch (arXiv 1901.09335). balance: 0 takes images as often as they
        are, 1 every class equally often.
    teacher: checkpoint to learn from, as well as from the labels: its share of the loss is
        `distillation_weight`, "soft" with its probabilities at `temperature` (arXiv 1503.02531) or "hard"
        with its decisions (arXiv 2012.12877).
    pretraining: what is learned instead of labels; None: labels.
    dtype: of the computation. remat: compute the blocks again in the backward pass, for less memory.
    """

    epochs: float | None = 30.0
    steps: int | None = None
    eval_every: int | None = None
    warmup_steps: int | None = None
    warmup_epochs: float | None = None
    schedule: str = "cosine"
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.0
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "adamw"
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0
    layer_decay: float = 1.0
    frozen: str = ""
    ema: float | None = None
    loss: str = "softmax"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    repeats: int = 1
    balance: float = 0.0
    teacher: str | None = None
    distillation: str = "soft"
    distillation_weight: float = 0.5
    temperature: float = 1.0
    augmentation: Augmentation = USUAL_VIEWS
    pretraining: Pretraining | None = None
    dtype: str = "float32"
    remat: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self)
        if self.epochs is None and self.steps is None:
            raise UserError("a recipe needs epochs or steps")
        for name in OF_LABELS if self.pretraining else ():
            if getattr(self, name):
                raise UserError(f"{name} {getattr(self, name)} is for learning from labels")

    def resolved(self, images: int) -> Recipe:
        """The recipe for a data set of that many training images: all numbers of steps are known."""
        epoch = images / self.batch_size
        steps = self.steps or max(1, round(self.epochs * epoch))
        warmup = self.warmup_steps
        if warmup is None and self.warmup_epochs is not None:
            warmup = round(self.warmup_epochs * epoch)
        if warmup is None or warmup >= steps:
            warmup = steps // 10
        every = self.eval_every or max(1, round(epoch), math.ceil(steps / FEWEST_EVALUATIONS))
        return dataclasses.replace(
            self, steps=steps, warmup_steps=warmup, eval_every=min(every, steps)
        )

    def to_json(self) -> dict:
        """A dictionary of JSON types; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> Recipe:
        """A recipe from `to_json`'s dictionary."""
        try:
            parts = {"augmentation": Augmentation(**values["augmentation"])}
            if values["pretraining"]:
                parts["pretraining"] = Pretraining(**values["pretraining"])
            return cls(**{**values, **parts})
        except (TypeError, KeyError) as error:
            raise UserError(f"recipe: {error}") from None


CHOICES = {
    "dtype": DTYPES,
    "loss": LOSSES,
    "distillation": DISTILLATIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "objective": OBJECTIVES,
    "target": TARGETS,
}
OF_LABELS = ("label_smoothing", "mixup", "cutmix", "balance", "teacher")
ABOVE_0 = (lambda v: v > 0), "must be more than 0"
FROM_0 = (lambda v: v >= 0), "cannot be negative"
SHARE = (lambda v: 0 <= v <= 1), "is not in [0, 1]"
BELOW_1 = (lambda v: 0 <= v < 1), "is not in [0, 1)"
BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(("epochs", "steps", "eval_every", "batch_size", "accumulate"), ABOVE_0),
    **dict.fromkeys(("learning_rate", "epsilon", "clip_norm", "repeats", "temperature"), ABOVE_0),
    **dict.fromkeys(("warmup_steps", "warmup_epochs", "final_learning_rate"), FROM_0),
    **dict.fromkeys(("weight_decay", "mixup", "cutmix"), FROM_0),
    "seed": ((lambda v: 0 <= v < 2**31), "is not in [0, 2^31)"),
    **dict.fromkeys(("label_smoothing", "ema", "beta_1", "beta_2"), BELOW_1),
    **dict.fromkeys(("balance", "distillation_weight"), SHARE),
    "decoder_width": ((lambda v: v > 0 and v % 32 == 0), "is not a multiple of 32"),
    "decoder_depth": ABOVE_0,
    "layer_decay": ((lambda v: 0 < v <= 1), "is not in (0, 1]"),
    "masked": ((lambda v: 0 < v < 1), "is not in (0, 1)"),
}


def _check(values: Recipe | Pretraining) -> None:
    """Gives fields the kind their annotation says; UserError for a value that one cannot have."""
    for field in dataclasses.fields(values):
        name = field.name
        value = _checked(name, field.type, getattr(values, name))
        object.__setattr__(values, name, value)
        if name in CHOICES and value not in CHOICES[name]:
            raise UserError(f"{name} {value!r} is not one of {', '.join(CHOICES[name])}")
        holds, words = BOUNDS.get(name, (None, None))
        if holds and value is not None and not (math.isfinite(value) and holds(value)):
            raise UserError(f"{name} {value} {words}")


def _checked(name: str, kind: str, value: object) -> object:
    """A field's value as its annotation has it; UserError if it is another kind of thing."""
    kind, _, optional = kind.partition(" | ")
    if optional and value is None:
        return None
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != kind:
        raise UserError(f"{name} {value!r} is not {WORDS[kind]}")
    return value


WORDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
WORDS |= {"Augmentation": "an augmentation", "Pretraining": "a kind of pre-training"}
