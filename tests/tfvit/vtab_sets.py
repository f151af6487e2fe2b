"""Small sets with the names, features and file formats of VTAB's, written by TFDS's own code.

Every picture tells its own number, so that a test knows which example it looks at.
"""

from __future__ import annotations

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SIDE = 8  # pixels
TRAIN, OTHER = 2000, 220  # examples of a split

# Set of TFDS -> examples of its splits.
SETS = {
    "caltech101": {"train": TRAIN, "test": OTHER},
    "cifar100": {"train": TRAIN, "test": OTHER},
    "dtd": {"train": TRAIN, "validation": OTHER, "test": OTHER},
    "oxford_flowers102": {"train": TRAIN, "validation": OTHER, "test": OTHER},
    "oxford_iiit_pet": {"train": TRAIN, "test": OTHER},
    "sun397/tfds": {"train": TRAIN, "validation": OTHER, "test": OTHER},
    "svhn_cropped": {"train": TRAIN, "test": OTHER, "extra": 10},
    "patch_camelyon": {"train": TRAIN, "validation": OTHER, "test": OTHER},
    "eurosat/rgb": {"train": TRAIN},
    "resisc45": {"train": TRAIN},
    "diabetic_retinopathy_detection/btgraham-300": {
        "train": TRAIN,
        "validation": OTHER,
        "test": OTHER,
    },
    "clevr": {"train": TRAIN, "validation": OTHER, "test": 10},
    "dmlab": {"train": TRAIN, "validation": OTHER, "test": OTHER},
    "dsprites": {"train": TRAIN},
    "kitti": {"train": TRAIN, "validation": OTHER, "test": OTHER},
    "smallnorb": {"train": TRAIN, "test": 2 * OTHER},
}
ARRAY_RECORD = ("dsprites", "kitti")  # the others are written as TFRecord, TFDS's own choice


def write(name, root):
    """Writes a set of SETS below a folder; returns the features of its examples, by their number."""
    file_format = "array_record" if name in ARRAY_RECORD else "tfrecord"
    builder = tfds.builder(name, data_dir=root, file_format=file_format)
    random = np.random.default_rng(0)
    written = []

    def examples(count):
        for _ in range(count):
            number = len(written)
            written.append(_values(builder.info.features, random))
            pictures = {
                key: io.BytesIO(_png(number, feature.shape[-1], 1 if name == "dsprites" else 255))
                for key, feature in builder.info.features.items()
                if isinstance(feature, tfds.features.Image)
            }
            yield number, written[-1] | pictures

    builder._split_generators = lambda *_: {s: examples(n) for s, n in SETS[name].items()}
    builder.download_and_prepare()
    return written


def _values(features, random):
    """Random values of all features but the pictures."""
    kinds, values = tfds.features, {}
    for key, feature in features.items():
        if isinstance(feature, kinds.ClassLabel):
            values[key] = int(random.integers(feature.num_classes))
        elif isinstance(feature, kinds.Text):
            values[key] = f"{random.integers(10**9)}"
        elif isinstance(feature, kinds.BBoxFeature):
            values[key] = kinds.BBox(0.0, 0.0, 1.0, 1.0)
        elif isinstance(feature, kinds.Sequence):
            inside, count = feature.feature, random.integers(3, 11)
            values[key] = [_values(inside, random) for _ in range(count)]
        elif isinstance(feature, kinds.Tensor):
            values[key] = random.uniform(0, 40, feature.shape).astype(np.float32)
    return values


def _png(number, channels, white):
    """A picture whose first pixels are the bits of a number, 0 or `white`."""
    levels = np.zeros(SIDE * SIDE, np.uint8)
    levels[:16] = number >> np.arange(16) & 1
    picture = np.repeat(white * levels.reshape(SIDE, SIDE, 1), channels, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(encoded, white=255):
    """The number that a picture tells; its levels must be 0 and `white`."""
    levels = np.asarray(Image.open(io.BytesIO(encoded)).convert("L")).reshape(-1)
    assert set(levels) <= {0, white}
    return int((levels[:16] // white) @ (1 << np.arange(16)))
