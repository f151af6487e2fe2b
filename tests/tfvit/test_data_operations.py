from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from edge_demo.preprocess import PreprocessSpec
from tfvit import UserError
from tfvit.data import operations
from tfvit.data.augment import Augmentation, augment

STRENGTHS = (-1.0, -0.4, 0.3, 1.0)
SPEC = PreprocessSpec(48, 64, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0))
WHOLE = {"crop_min_area": 1.0, "flip": False}


@pytest.fixture(scope="module")
def photo(sample_photos):
    """A dull crop of a photo, so that stretching its contrast does something."""
    flower = sample_photos["flower"].crop((150, 100, 310, 220))
    return flower.point([40 + i // 2 for i in range(256)] * 3)


def affine(a, b, c, d, e, f):
    return lambda image: image.transform(
        image.size, Image.Transform.AFFINE, (a, b, c, d, e, f), fillcolor=(128, 128, 128)
    )


# What Pillow makes of it: name -> (image, strength) -> image, and how many grey levels may lie between.
PILLOW = {
    "identity": (lambda image, s: image, 0),
    "autocontrast": (lambda image, s: ImageOps.autocontrast(image), 1),
    "equalize": (lambda image, s: ImageOps.equalize(image), 0),
    "invert": (lambda image, s: ImageOps.invert(image), 0),
    "posterize": (lambda image, s: ImageOps.posterize(image, 8 - round(4 * abs(s))), 0),
    "solarize": (lambda image, s: ImageOps.solarize(image, 256 * (1 - abs(s))), 0),
    "brightness": (lambda image, s: ImageEnhance.Brightness(image).enhance(1 + 0.9 * s), 1),
    "contrast": (lambda image, s: ImageEnhance.Contrast(image).enhance(1 + 0.9 * s), 1),
    "color": (lambda image, s: ImageEnhance.Color(image).enhance(1 + 0.9 * s), 2),
    "sharpness": (lambda image, s: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * s), 2),
    "rotate": (lambda image, s: image.rotate(30 * s, fillcolor=(128, 128, 128)), None),
    "shear_x": (lambda image, s: affine(1, 0.3 * s, 0, 0, 1, 0)(image), None),
    "shear_y": (lambda image, s: affine(1, 0, 0, 0.3 * s, 1, 0)(image), None),
    "translate_x": (lambda image, s: affine(1, 0, 0.45 * s * 160, 0, 1, 0)(image), None),
    "translate_y": (lambda image, s: affine(1, 0, 0, 0, 1, 0.45 * s * 120)(image), None),
}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", operations.OPERATIONS)
def test_every_operation_is_pillows(photo, name, strength):
    reference, levels = PILLOW[name]
    strength = strength if name in operations.SIGNED else abs(strength)
    expected = np.asarray(reference(photo, strength), int)
    found = operations.OPERATIONS[name](np.asarray(photo), strength)
    assert found.dtype == np.uint8
    away = np.abs(found - expected)[1:-1, 1:-1]  # Pillow does not smooth the rim
    if levels is None:  # the nearest pixel, where two are as near: either
        assert (away.max(axis=-1) > 0).mean() < 0.03
    else:
        assert away.max() <= levels


def test_autoaugments_policies_are_the_papers():
    assert len(operations.AUTOAUGMENT) == 25
    for policy in operations.AUTOAUGMENT:
        for name, probability, magnitude in policy:
            assert name in operations.OPERATIONS
            assert 0 <= probability <= 1
            assert 0 <= magnitude <= 9
    assert len(set(operations.RANDAUGMENT)) == 14


def views(photo, count=60, **how):
    options = Augmentation(**{**WHOLE, **how})
    return [augment(np.asarray(photo), (3, i), SPEC, options).astype(int) for i in range(count)]


def test_a_view_is_a_function_of_its_seed_for_every_policy(photo):
    for how in (
        {"policy": "randaugment", "magnitude": 9.0, "magnitude_std": 0.5},
        {"policy": "autoaugment"},
        {"policy": "three_augment", "color_jitter": 0.3, "crop": "simple"},
        {"erase": 1.0},
    ):
        first, again = views(photo, 12, **how), views(photo, 12, **how)
        np.testing.assert_array_equal(first, again)
        assert len(np.unique(np.reshape(first, (12, -1)), axis=0)) > 6
        assert np.shape(first) == (12, 48, 64, 3)


def test_randaugment_takes_any_operation_as_often_as_it_is_asked(photo):
    (whole,) = views(photo, 1)
    changed = [(v != whole).any() for v in views(photo, 200, policy="randaugment", layers=1)]
    assert 0.85 < np.mean(changed) < 0.98  # 13 of 14 do something
    assert not (views(photo, 1, policy="randaugment", layers=0)[0] != whole).any()
    mild, strong = (
        np.mean([np.abs(v - whole).mean() for v in views(photo, 100, policy="randaugment", **how)])
        for how in ({"magnitude": 1.0}, {"magnitude": 10.0})
    )
    assert mild < strong


def test_three_augment_is_grey_or_solarized_or_blurred(photo):
    (whole,) = views(photo, 1)
    solarized = np.where(whole < 128, whole, 255 - whole)
    grey = blurred = inverted = 0
    for view in views(photo, 90, policy="three_augment"):
        if (view == view[..., :1]).all():
            grey += 1
        elif (view == solarized).all():
            inverted += 1
        else:
            blurred += np.abs(np.diff(view, axis=1)).sum() <= np.abs(np.diff(whole, axis=1)).sum()
    assert min(grey, inverted, blurred) > 15
    assert grey + inverted + blurred == 90


def test_jitter_changes_the_whole_picture_within_its_range():
    grey = Image.new("RGB", (64, 48), (100, 100, 100))
    levels = {int(v[0, 0, 0]) for v in views(grey, 100, color_jitter=0.3)}
    assert min(levels) in range(69, 80) and max(levels) in range(120, 131)


def test_erasing_makes_a_rectangle_noise_of_the_models_input(photo):
    (whole,) = views(photo, 1)
    noise, areas = [], []
    for view in views(photo, 60, erase=1.0):
        rows, columns = np.nonzero((view != whole).any(axis=-1))
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        areas.append(view[box][..., 0].size / (48 * 64))
        noise.append((view[box].reshape(-1, 3) - SPEC.mean) / SPEC.std)
    assert 0.015 < min(areas) < max(areas) < 0.35
    np.testing.assert_allclose(np.concatenate(noise).mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.concatenate(noise).std(axis=0), 1, atol=0.1)
    half = [(v != whole).any() for v in views(photo, 100, erase=0.5)]
    assert 30 < sum(half) < 70


def test_a_simple_crop_keeps_the_scale_and_stays_within_four_pixels(sample_photos):
    ruler = np.mgrid[0:48, 0:96].transpose(1, 2, 0)
    ruler = np.concatenate([ruler, np.full((48, 96, 1), 9)], axis=-1).astype(np.uint8)
    lefts = set()
    for view in views(Image.fromarray(ruler), crop="simple"):  # as high as the input, wider
        middle = view[8:-8, 8:-8]
        np.testing.assert_array_equal(np.diff(middle[..., 1], axis=1), 1)
        np.testing.assert_array_equal(np.diff(middle[..., 0], axis=0), 1)
        lefts.add(middle[0, 0, 1] - 8)
        assert abs(middle[0, 0, 0] - 8) <= 4
    assert -4 <= min(lefts) < 3 and 29 < max(lefts) <= 36


@pytest.mark.parametrize(
    "field, value",
    [
        ("crop", "middle"),
        ("policy", "rand"),
        ("layers", -1),
        ("magnitude", 31.0),
        ("magnitude_std", -1.0),
        ("color_jitter", 1.5),
        ("erase", float("nan")),
    ],
)
def test_a_value_outside_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        Augmentation(**{field: value})
