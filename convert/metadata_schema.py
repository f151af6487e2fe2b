"""TFLite Metadata: what MediaPipe and other clients are told of a model's input and output.

Its tables are those of `edge_demo.tflite.schema`, which reads what is needed of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convert import flatbuffer
from edge_demo.preprocess import PreprocessSpec
from edge_demo.scores import SOFTMAX
from edge_demo.tflite.metadata import ATTENTION, FEATURES
from edge_demo.tflite.schema import FIELDS, NORMALIZATION_OPTIONS, TENSOR_AXIS_LABELS

IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"  # the first one knew all that is written here

# Of the union ContentProperties and the enum ColorSpaceType.
FEATURE_PROPERTIES, IMAGE_PROPERTIES = np.uint8(1), np.uint8(2)
RGB = np.uint8(1)
DESCRIPTIONS = {  # of the outputs beside the logits
    FEATURES: "What the head reads.",
    ATTENTION: "The share of each patch in what the head reads, in rows and columns.",
}


def image_classifier(
    name: str,
    description: str,
    version: str,
    spec: PreprocessSpec,
    scores: str,
    labels_file: str,
    extras: Sequence[str] = (),
) -> bytes:
    """The metadata of an image classifier: an RGB picture in, one logit per label out.

    spec: of the model's own input. scores: how logits become them. labels_file: its name in the zip
    behind the model. extras: names of its outputs behind the logits.
    """
    mean, std = np.float32(spec.mean), np.float32(spec.std)
    normalisation = _table("NormalizationOptions", mean=mean, std=std)
    picture = _table("ImageProperties", color_space=RGB)
    image = _table(
        "TensorMetadata",
        name="image",
        description=f"RGB picture of {spec.height}x{spec.width} pixels (height x width).",
        content=_table(
            "Content", content_properties_type=IMAGE_PROPERTIES, content_properties=picture
        ),
        process_units=[
            _table(
                "ProcessUnit", options_type=np.uint8(NORMALIZATION_OPTIONS), options=normalisation
            )
        ],
        stats=_table("Stats", max=(255 - mean) / std, min=(0 - mean) / std),
    )
    labels = _table(
        "AssociatedFile",
        name=labels_file,
        description="One label per line, in the order of the logits.",
        type=np.uint8(TENSOR_AXIS_LABELS),
    )
    features = _table(
        "Content",
        content_properties_type=FEATURE_PROPERTIES,
        content_properties=_table("FeatureProperties"),
    )
    of = "all" if scores == SOFTMAX else "each"
    logits = _table(
        "TensorMetadata",
        name="logits",
        description=f"One logit per class; probabilities are the {scores} of {of}.",
        content=features,
        associated_files=[labels],
    )
    others = [
        _table("TensorMetadata", name=name, description=DESCRIPTIONS[name], content=features)
        for name in extras
    ]
    root = _table(
        "ModelMetadata",
        name=name,
        description=description,
        version=version,
        subgraph_metadata=[
            _table(
                "SubGraphMetadata",
                input_tensor_metadata=[image],
                output_tensor_metadata=[logits, *others],
            )
        ],
        min_parser_version=MIN_PARSER_VERSION,
    )
    return flatbuffer.serialize(root, IDENTIFIER)


def _table(kind: str, **fields: flatbuffer.Field) -> dict[int, flatbuffer.Field]:
    return {FIELDS[kind].index(name): value for name, value in fields.items()}
