"""Define, train, evaluate and look inside Vision Transformers with TensorFlow.

    import tfvit
    model = tfvit.create_model("vit-ti/16", num_classes=10, image_size=224)
    tfvit.save(model, "checkpoint")
    model = tfvit.load("checkpoint")          # model.architecture, model.preprocess, model.labels

architecture.py  the dataclass and the table of named variants
model.py         an architecture as a tf_keras model: vit.py with layers.py, resnet.py
posemb.py        position embeddings, fixed ones and at another resolution
checkpoint.py    the checkpoint folder
preprocess.py    PreprocessSpec as TensorFlow ops
data/            image folders, TFDS, digits; augmentation; the input pipeline
train.py         the training loop, with optimizer.py, strategies.py, runs.py
objectives/      what it learns: labels, or without any what hidden patches hold
interop/         models of other libraries
evaluate/        accuracy of a checkpoint or a .tflite; few shots, probes, VTAB, corruptions
dry_run.py       what a run will cost, counted by flops.py; cost.py, what a model does
scaling.py       models on fractions of the data, each a run that is measured
watch.py         pictures and traces of a run; compare.py, several runs; drawn by plots.py
inspect/         what a model sees with, where it looks
page.py          what HTML pages are made of
cli.py           the `tfvit` command, with commands/

Nothing of TensorFlow is imported before it is used.
"""

import importlib

from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec

__all__ = ["PreprocessSpec", "UserError", "create_model", "load", "save"]

_HOME = {"create_model": "tfvit.model", "load": "tfvit.checkpoint", "save": "tfvit.checkpoint"}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'tfvit' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
