from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from helpers import TESTS
from PIL import Image

from edge_demo import preprocess as device
from edge_demo.preprocess import PreprocessSpec
from tfvit import preprocess as training

SIZES = [(16, 16), (32, 48), (96, 96), (224, 224), (224, 160), (384, 384), (600, 700)]
MODES = [("squash", 0.875), ("crop", 0.875), ("crop", 1.0)]
SPECS = [
    PreprocessSpec(*size, *mode, interpolation)
    for interpolation in device.INTERPOLATIONS
    for size in SIZES
    for mode in MODES
]


@pytest.fixture(scope="module")
def pictures(sample_photos):
    """The photos, upright, and small and odd pieces of them: enlarged as well as reduced."""
    china, flower = sample_photos["china"], sample_photos["flower"]
    return {
        "china": china,
        "flower": flower,
        "portrait": flower.transpose(Image.Transpose.ROTATE_90),
        "tall": china.crop((200, 10, 263, 409)),
        "tiny": flower.crop((300, 200, 309, 207)),
        "pixel": china.crop((50, 50, 51, 51)),
    }


@pytest.fixture(scope="module")
def in_browser(pictures, tmp_path_factory):
    """(spec, name of a picture) -> its grey levels in JavaScript, all made in one process."""
    folder = tmp_path_factory.mktemp("preprocess")
    sizes = {name: {"width": p.width, "height": p.height} for name, p in pictures.items()}
    cases = {"specs": [spec.to_json() for spec in SPECS], "pictures": sizes}
    (folder / "cases.json").write_text(json.dumps(cases))
    for name, picture in pictures.items():
        (folder / f"{name}.rgba").write_bytes(picture.convert("RGBA").tobytes())
    subprocess.run(["node", TESTS / "preprocess.mjs", folder], check=True)

    def grey_levels(spec, name):
        found = np.fromfile(folder / f"{SPECS.index(spec)}-{name}.bin", np.uint8)
        return found.reshape(spec.height, spec.width, 3)

    return grey_levels


def named(spec) -> str:
    return f"{spec.interpolation}-{spec.height}x{spec.width}-{spec.resize}-{spec.crop_fraction}"


@pytest.mark.parametrize("spec", SPECS, ids=named)
def test_training_device_and_browser_see_the_same_grey_levels(pictures, in_browser, spec):
    for name, picture in pictures.items():
        on_device = device.to_pixels(picture, spec)
        assert np.array_equal(in_browser(spec, name), on_device), name
        in_training = training.to_pixels(tf.constant(np.asarray(picture)), spec)
        assert in_training.dtype == tf.uint8
        assert in_training.shape == on_device.shape == (spec.height, spec.width, 3)
        difference = np.abs(on_device.astype(int) - in_training.numpy().astype(int))
        assert difference.max() <= (1 if spec.interpolation == "bilinear" else 2), name
        assert (difference <= 1).mean() >= 0.9999, name


@pytest.mark.parametrize("resize", device.RESIZE_MODES)
def test_a_compiled_pipeline_for_any_picture_size_sees_them_too(pictures, resize):
    spec = PreprocessSpec(48, 64, resize)
    signature = [tf.TensorSpec([None, None, 3], tf.uint8)]
    compiled = tf.function(lambda image: training.to_pixels(image, spec), input_signature=signature)
    for name, picture in pictures.items():
        in_training = compiled(tf.constant(np.asarray(picture))).numpy().astype(int)
        assert np.abs(device.to_pixels(picture, spec).astype(int) - in_training).max() <= 1, name


@pytest.mark.parametrize(
    "mean, std",
    [
        ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ((0, 0, 0), (255, 255, 255)),
    ],
)
def test_normalisation_is_the_formula_for_every_grey_level(mean, std):
    spec = PreprocessSpec(4, 4, mean=mean, std=std)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)[None]
    expected = (levels.astype(np.float64) - np.array(mean)) / np.array(std)
    for normalised in (
        device.normalise(levels, spec),
        training.normalise(tf.constant(levels), spec).numpy(),
    ):
        assert normalised.dtype == np.float32
        np.testing.assert_allclose(normalised, expected, rtol=0, atol=1e-6)


def test_normalisation_of_photos_is_the_same_in_training_and_on_the_device(pictures):
    spec = PreprocessSpec(64, 64, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
    pixels = np.stack([device.to_pixels(picture, spec) for picture in pictures.values()])
    in_training = training.normalise(tf.constant(pixels), spec).numpy()
    np.testing.assert_allclose(device.normalise(pixels, spec), in_training, rtol=0, atol=1e-6)
