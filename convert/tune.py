"""What each scheme's file is written from: calibrated ranges, and weights fine-tuned for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from convert import equalise, fold, qat, tflite
from convert.fold import Weights
from convert.model import Model
from convert.schemes import Scheme
from convert.sites import Range
from tfvit.data import Source, pipeline
from tfvit.data.augment import Augmentation
from tfvit.progress import progress

MILD = Augmentation(crop_min_area=0.5, flip=False)  # for a checkpoint that does not tell its own
WHOLE = Augmentation(crop_min_area=1.0, flip=False)  # as the device will see them


@dataclasses.dataclass(frozen=True)
class Options:
    """Calibration, then fine-tuning; None: as the scheme's row in the table has it.

    calibration: how ranges are taken (`schemes.CALIBRATIONS`), over calibration_images.
    steps: 0 only calibrates (post-training quantization). learning_rate: peak, relative to the weights.
    """

    steps: int | None = None
    learning_rate: float | None = None
    batch_size: int = 32
    calibration: str = "minmax"
    calibration_images: int = 256
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A scheme with what its file is written from.

    ranges: of the activations; empty where nothing needs them. in_float: layers that stay in float.
    extras: what the file tells beside its logits (`convert.extras`).
    training: what is worth reporting; empty where nothing was calibrated or trained.
    """

    scheme: Scheme
    weights: Weights
    ranges: dict[str, Range] = dataclasses.field(default_factory=dict)
    in_float: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    training: dict = dataclasses.field(default_factory=dict)

    def write(self, model: Model) -> bytes:
        """The .tflite."""
        return tflite.write(
            *(self.scheme, self.weights, model.architecture, self.ranges),
            in_float=frozenset(self.in_float),
            extras=self.extras,
        )

    def simulate(self, model: Model) -> Callable[[np.ndarray], np.ndarray]:
        """Logits as training simulates them."""
        arch, in_float = model.architecture, frozenset(self.in_float)
        quantize = qat.rounding(arch, self.scheme, self.ranges, in_float)
        return qat.simulate(self.weights, arch, quantize)


def quantize(
    model: Model,
    schemes: Sequence[Scheme],
    source: Source | None,
    options: Options,
    strategy: tf.distribute.Strategy,
    say: Callable[[str], None],
    extras: tuple[str, ...] = (),
) -> list[Quantized]:
    """Calibrates and fine-tunes the edge graph for each scheme, each from the float weights.

    extras: what the files will tell beside their logits; it is calibrated, and not trained for.
    """
    tf.keras.utils.set_random_seed(options.seed)
    folded = fold.fold(model.weights, model.architecture, model.preprocess)
    equal, ranges = folded, {}
    if any(scheme.calibrated for scheme in schemes):
        arch, batch = model.architecture, min(options.batch_size, source.train.size)
        rounds = -(-options.calibration_images // batch)
        batches = _batches(model, source, batch, WHOLE, options.seed).take(rounds)
        with progress(2 * rounds, "calibrating", "batch") as bar:
            beyond = equalise.outliers(folded, arch, batches, bar.update)
            equal = equalise.equalise(folded, arch, beyond)
            ranges = qat.calibrate(equal, arch, batches, options.calibration, bar.update, extras)
    return [
        dataclasses.replace(
            _quantize_one(
                *(model, scheme, *((equal, ranges) if scheme.calibrated else (folded, {}))),
                *(source, options, strategy, say),
            ),
            extras=extras,
        )
        for scheme in schemes
    ]


def _quantize_one(
    model: Model,
    scheme: Scheme,
    weights: Weights,
    ranges: dict[str, Range],
    source: Source | None,
    options: Options,
    strategy: tf.distribute.Strategy,
    say: Callable[[str], None],
) -> Quantized:
    steps = scheme.steps if options.steps is None else options.steps
    rate = scheme.learning_rate if options.learning_rate is None else options.learning_rate
    training: dict = {}
    if scheme.calibrated:
        training = {"calibration": options.calibration, "images": options.calibration_images}
    if scheme.steps and steps:
        batch = min(options.batch_size, source.train.size)
        recipe = model.provenance.get("recipe", {})
        views = Augmentation(**recipe["augmentation"]) if recipe else MILD
        batches = _batches(model, source, batch, views, options.seed)
        with progress(steps, f"fine-tuning for {scheme.name}", "step") as bar:

            def advance(loss: float) -> None:
                bar.set_postfix(error=f"{loss:.1e}", refresh=False)
                bar.update()

            weights, ranges, losses = qat.finetune(
                *(weights, model.architecture, scheme, ranges),
                strategy.experimental_distribute_dataset(batches),
                steps=steps,
                learning_rate=rate,
                strategy=strategy,
                scores=model.scores,
                advance=advance,
            )
        ends = [float(np.mean(part)) for part in (losses[:10], losses[-10:])]
        say(f"{scheme.name}: distance from float {ends[0]:.1e} -> {ends[1]:.1e} in {steps} steps")
        training |= {"steps": steps, "learning_rate": rate, "batch_size": batch, "distance": ends}
    return Quantized(scheme, weights, ranges, training=training)


def _batches(
    model: Model, source: Source, batch: int, views: Augmentation, seed: int
) -> tf.data.Dataset:
    """Endless training images as grey levels, uint8 [b, h, w, 3]."""
    batches = pipeline.train_batches(
        *(source.train, model.preprocess, batch),
        augmentation=views,
        seed=seed,
        start_step=0,
        unreadable={},
    )
    return batches.map(lambda b: b["pixels"])
