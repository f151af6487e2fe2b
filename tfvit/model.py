"""Architecture -> tf_keras model that knows what it is; the graphs are in `tfvit.vit` and `tfvit.resnet`."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tf_keras as keras

from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SOFTMAX, known
from tfvit import architecture as architectures
from tfvit import resnet, vit
from tfvit.architecture import Architecture, ResNetArchitecture

GRAPHS = {Architecture: vit.graph, ResNetArchitecture: resnet.graph}


@dataclasses.dataclass(frozen=True)
class Card:
    """What a model is beside its weights: all of config.json.

    scores: "softmax", or "sigmoid" where a picture may have any number of labels.
    """

    architecture: Architecture | ResNetArchitecture
    preprocess: PreprocessSpec
    labels: tuple[str, ...]
    scores: str
    provenance: dict


class Model(keras.Model):
    """A functional tf_keras model that knows what it is.

    float32 [batch, height, width, 3], normalised by `preprocess` -> float32 logits [batch, classes].
    """

    card: Card

    @property
    def architecture(self) -> Architecture | ResNetArchitecture:
        """The architecture that it was built from."""
        return self.card.architecture

    @property
    def preprocess(self) -> PreprocessSpec:
        """How a picture becomes its input."""
        return self.card.preprocess

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.card.labels

    @property
    def scores(self) -> str:
        """How logits become scores: a name of `edge_demo.scores.SCORES`."""
        return self.card.scores

    @property
    def provenance(self) -> dict:
        """Where its weights come from; JSON types."""
        return self.card.provenance


def create_model(
    name: str, num_classes: int, image_size: int | tuple[int, int] = 224, **changes
) -> Model:
    """A freshly initialised model by name: `create_model("vit-b/16", 1000, 224)`.

    name: "vit-VARIANT/PATCH" with a variant of `tfvit.architecture.VARIANTS`, or one of its HYBRIDS or
        RESNETS.
    image_size: pixels, one number or (height, width), divisible by the patch.
    changes: other fields of `Architecture`: pooling="gap", dropout=0.1, representation_size=768.
    Raises UserError for a name, size or field that no model has.
    """
    return build(architectures.named(name, num_classes, image_size, **changes))


# Autograph rewrites the source of every layer's `call`, where there is nothing for it to do: a second.
@tf.autograph.experimental.do_not_convert
def build(
    arch: Architecture | ResNetArchitecture,
    *,
    dtype: str = "float32",
    remat: bool = False,
    labels: tuple[str, ...] | None = None,
    preprocess: PreprocessSpec | None = None,
    scores: str = SOFTMAX,
    provenance: dict | None = None,
) -> Model:
    """The tf_keras model of an architecture.

    dtype: "float32", or "mixed_bfloat16" to compute in bfloat16 with float32 weights and logits.
    remat: train in less memory: a ViT's blocks keep only their inputs for the backward pass and compute
        the rest again. No effect on a ResNet, nor on the weights.
    labels: names of the classes ("0", "1", ... if None).
    preprocess: None is the reference code's: resize to the input size, pixels to [-1, 1].
    scores: "softmax", or "sigmoid" where a picture may have any number of labels.
    provenance: where the weights come from; JSON types.
    Raises UserError for other `scores`.
    """
    images = keras.Input((*arch.image_size, 3), name="image")
    logits = GRAPHS[type(arch)](arch, images, keras.mixed_precision.Policy(dtype), remat)
    model = Model(images, logits, name=arch.name.replace("/", "_").replace("+", "_"))
    model.card = Card(
        arch,
        preprocess or PreprocessSpec(*arch.image_size),
        labels or tuple(str(i) for i in range(arch.num_classes)),
        known(scores),
        provenance or {},
    )
    return model


def named_weights(model: keras.Model) -> dict[str, tf.Variable]:
    """The model's variables by name, "block_0/attention/query/kernel", in a fixed order."""
    return {w.name.removesuffix(":0"): w for w in model.weights}


def weight_shapes(arch: Architecture | ResNetArchitecture) -> dict[str, tuple[int, ...]]:
    """The shapes of an architecture's weights by name, found without giving them memory."""
    depth = getattr(arch, "depth", 1)
    one = dataclasses.replace(arch, depth=1) if depth > 1 else arch  # all blocks are alike
    with tf.Graph().as_default():
        shapes = {name: tuple(v.shape) for name, v in named_weights(build(one)).items()}
    block = {name: shape for name, shape in shapes.items() if name.startswith("block_0/")}
    for i in range(1, depth):
        shapes |= {name.replace("block_0", f"block_{i}", 1): s for name, s in block.items()}
    return shapes
