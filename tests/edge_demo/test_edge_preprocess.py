import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from edge_demo import PreprocessSpec, UserError
from edge_demo.preprocess import INTERPOLATIONS, RESIZE_MODES, normalise, to_pixels

NAN, INF = math.nan, math.inf
BAD_FIELDS = [
    *[("height", value) for value in (0, -1, "224", 224.5, None, NAN, [224])],
    *[("width", value) for value in (0, -224, "wide", 0.5, None, INF)],
    *[("resize", value) for value in ("stretch", "", None, 1, ["crop"])],
    *[("crop_fraction", value) for value in (0, -0.5, 1.01, NAN, INF, "0.875", None)],
    *[("interpolation", value) for value in ("nearest", "", None, 2, ["bilinear"])],
    *[("mean", value) for value in (None, 127.5, "abc", [1, 2], [1, 2, 3, 4], [1, 2, "x"])],
    *[("mean", value) for value in ([1, None, 3], [NAN, 1, 2], [1, 2, INF], [])],
    *[("std", value) for value in (None, 1.0, "abc", [1, 1], [1, 1, "x"], [1, 0, 1])],
    *[("std", value) for value in ([1, 1, -1], [1, NAN, 1], [NAN, 1, 1], [INF, 1, 1])],
]
SPECS = [
    PreprocessSpec(224, 224),
    PreprocessSpec(32, 48, "crop", 1.0, "bicubic", (0, 0, 0), (1, 1, 1)),
    PreprocessSpec(384, 288, "crop", 0.875, "bilinear", (123.675, 116.28, 103.53), (58, 57, 57.5)),
    PreprocessSpec(1, 1, "squash", 0.1, "bicubic", (-1.5, 300, 0.25), (0.1, 1e-3, 255)),
]


def seen(value) -> str:
    return repr(value).replace(" ", "")


def spec_224(**fields) -> PreprocessSpec:
    return PreprocessSpec.from_json({"height": 224, "width": 224, **fields})


@pytest.mark.parametrize(
    ("field", "value"), BAD_FIELDS, ids=[f"{field}={seen(value)}" for field, value in BAD_FIELDS]
)
def test_a_bad_field_is_named(field, value):
    named = f"{field}|size" if field in ("height", "width") else field
    with pytest.raises(UserError, match=named) as caught:
        spec_224(**{field: value})
    assert "\n" not in str(caught.value)


def test_every_field_has_a_bad_value_in_the_table():
    fields = {field.name for field in dataclasses.fields(PreprocessSpec)}
    assert {field for field, _ in BAD_FIELDS} == fields


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_a_spec_survives_json(spec):
    text = json.dumps(spec.to_json(), allow_nan=False)
    back = PreprocessSpec.from_json(json.loads(text))
    assert back == spec
    assert hash(back) == hash(spec)
    assert back.to_json() == spec.to_json()


def test_json_has_every_field_by_its_name():
    spec = SPECS[2]
    assert spec.to_json() == {
        "height": 384,
        "width": 288,
        "resize": "crop",
        "crop_fraction": 0.875,
        "interpolation": "bilinear",
        "mean": [123.675, 116.28, 103.53],
        "std": [58, 57, 57.5],
    }


def test_an_unknown_field_is_named():
    with pytest.raises(UserError, match="sharpness"):
        spec_224(sharpness=2)


@pytest.mark.parametrize("missing", ["height", "width"])
def test_a_missing_field_is_named(missing):
    values = SPECS[0].to_json()
    del values[missing]
    with pytest.raises(UserError, match=missing):
        PreprocessSpec.from_json(values)


@pytest.mark.parametrize("values", [None, [], "crop", 3, [["height", 1]]], ids=seen)
def test_json_that_is_not_an_object_is_a_user_error(values):
    with pytest.raises(UserError, match="preprocessing"):
        PreprocessSpec.from_json(values)


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPECS[0].height = 3


def test_at_changes_the_size_and_nothing_else():
    spec = SPECS[2]
    assert spec.at(64, 96).to_json() == {**spec.to_json(), "height": 64, "width": 96}
    with pytest.raises(UserError, match=r"height|size"):
        spec.at(0, 96)


# (input height, width, resize, crop_fraction), (picture height, width), (left, top, right, bottom)
BOXES = [
    ((224, 224, "squash", 0.875), (480, 640), (0, 0, 640, 480)),
    ((224, 224, "squash", 0.875), (640, 480), (0, 0, 480, 640)),
    ((32, 96, "squash", 0.5), (7, 5), (0, 0, 5, 7)),
    ((224, 224, "crop", 0.875), (480, 640), (110, 30, 530, 450)),  # landscape: 0.875 * 480 = 420
    ((224, 224, "crop", 0.875), (640, 480), (30, 110, 450, 530)),  # portrait
    ((224, 224, "crop", 0.875), (256, 256), (16, 16, 240, 240)),
    ((224, 224, "crop", 0.875), (256, 2560), (1168, 16, 1392, 240)),  # panorama
    ((224, 224, "crop", 1.0), (480, 640), (80, 0, 560, 480)),
    ((224, 224, "crop", 0.5), (100, 200), (75, 25, 125, 75)),
    ((200, 100, "crop", 1.0), (400, 400), (100, 0, 300, 400)),  # a tall input of a square
    ((100, 200, "crop", 1.0), (400, 400), (0, 100, 400, 300)),  # a wide one
    ((100, 200, "crop", 0.5), (400, 800), (200, 100, 600, 300)),
    ((200, 100, "crop", 0.8), (300, 900), (390, 30, 510, 270)),
    ((224, 224, "crop", 0.875), (16, 24), (5, 1, 19, 15)),  # smaller than the input
]


@pytest.mark.parametrize(("spec", "picture", "box"), BOXES)
def test_source_box_is_what_it_is_by_hand(spec, picture, box):
    assert PreprocessSpec(*spec).source_box(*picture) == pytest.approx(box, abs=1e-9)


def test_source_box_never_leaves_the_picture():
    outside = []
    for height, width in ((224, 224), (32, 224), (256, 192), (384, 288)):
        spec = PreprocessSpec(height, width, "crop", 1.0)
        for picture_h in range(1, 200):
            for picture_w in range(1, 200, 3):
                left, top, right, bottom = spec.source_box(picture_h, picture_w)
                if not (0 <= left < right <= picture_w and 0 <= top < bottom <= picture_h):
                    outside.append((height, width, picture_h, picture_w))
    assert not outside, f"{len(outside)} boxes, the first: {outside[:3]}"


@pytest.mark.parametrize("picture", [(29, 29), (36, 29), (1303, 97), (1, 1), (3, 500), (500, 1)])
@pytest.mark.parametrize("size", [(224, 224), (32, 224), (256, 192)])
def test_a_whole_picture_crop_takes_a_picture_of_any_size(size, picture):
    image = Image.new("RGB", picture, (10, 20, 30))
    pixels = to_pixels(image, PreprocessSpec(*size, "crop", 1.0))
    assert pixels.shape == (*size, 3)
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [[10, 20, 30]])


def triangle(x):
    return np.maximum(0, 1 - np.abs(x))


def cubic(x, a=-0.5):  # Keys 1981, the a that Pillow uses
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def weights(count: int, start: float, end: float, size: int, kernel) -> np.ndarray:
    """Antialiased resampling of pixels start..end of `count` to `size`, a matrix [size, count]."""
    scale = (end - start) / size
    centres = start + (np.arange(size) + 0.5) * scale
    distance = np.arange(count) + 0.5 - centres[:, np.newaxis]
    table = kernel(distance / max(scale, 1))
    return table / table.sum(1, keepdims=True)


RESAMPLED = [
    ("squash", (640, 427), (224, 224)),
    ("squash", (640, 427), (96, 160)),
    ("squash", (50, 40), (224, 224)),
    ("crop", (640, 427), (224, 224)),
    ("crop", (427, 640), (224, 160)),
    ("crop", (333, 427), (48, 64)),
    ("crop", (100, 60), (224, 224)),
]
KERNELS = {"bilinear": triangle, "bicubic": cubic}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("resize", "picture", "size"), RESAMPLED)
def test_to_pixels_is_antialiased_resampling_by_hand(
    sample_photos, resize, picture, size, interpolation
):
    spec = PreprocessSpec(*size, resize, 0.875, interpolation)
    image = sample_photos["china"].rotate(90 * (picture[0] < picture[1]), expand=True)
    image = image.crop((0, 0, *picture))
    width, height = picture
    box_w, box_h = picture
    if resize == "crop":
        scale = 0.875 * min(height / size[0], width / size[1])
        box_w, box_h = size[1] * scale, size[0] * scale
    left, top = (width - box_w) / 2, (height - box_h) / 2
    kernel = KERNELS[interpolation]
    rows = weights(height, top, top + box_h, size[0], kernel)
    columns = weights(width, left, left + box_w, size[1], kernel)
    values = np.asarray(image, np.float64)
    expected = np.einsum("yh,hwc,xw->yxc", rows, values, columns, optimize=True).clip(0, 255)
    pixels = to_pixels(image, spec)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)
    difference = np.abs(pixels - expected)
    assert difference.mean() < 0.5
    # Pillow rounds and clips between its two passes, which a sharp edge under "bicubic" shows
    assert np.percentile(difference, 99.9) < (1.5 if interpolation == "bilinear" else 6)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(("edge", "size"), [(256, 224), (320, 224), (64, 56)])
@pytest.mark.parametrize(
    ("picture", "limit"), [((600, 400), 0.5), ((400, 600), 0.5), ((640, 427), 10), ((427, 640), 10)]
)
def test_crop_is_the_classical_resize_of_the_shorter_edge_and_central_crop(
    sample_photos, picture, limit, edge, size, interpolation
):
    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for name, photo in sample_photos.items():
        image = photo.rotate(90 * (picture[0] < picture[1]), expand=True).crop((0, 0, *picture))
        scale = edge / min(picture)
        scaled = tuple(int(side * scale + 1e-6) for side in picture)
        classical = image.resize(scaled, resampling[interpolation])
        left, top = (round((side - size) / 2) for side in scaled)
        classical = classical.crop((left, top, left + size, top + size))
        pixels = to_pixels(image, PreprocessSpec(size, size, "crop", size / edge, interpolation))
        difference = np.abs(pixels.astype(float) - np.asarray(classical, float)).mean()
        assert difference < limit, name  # 10: its long edge and its crop are rounded to pixels


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(224, 224), (32, 32), (100, 700), (1, 1)])
def test_squash_is_a_plain_resize_columns_first(sample_photos, size, interpolation):
    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    image = sample_photos["flower"]
    columns = image.resize((size[1], image.height), resampling[interpolation])
    expected = columns.resize((size[1], size[0]), resampling[interpolation])
    pixels = to_pixels(image, PreprocessSpec(*size, "squash", interpolation=interpolation))
    assert np.array_equal(pixels, np.asarray(expected))
    # Pillow takes the rows first where that is faster, since version 13; bilinear hardly minds.
    plain = np.asarray(image.resize((size[1], size[0]), resampling[interpolation]), int)
    assert np.abs(pixels - plain).max() <= {"bilinear": 1, "bicubic": 10}[interpolation]


@pytest.mark.parametrize("resize", RESIZE_MODES)
def test_a_picture_of_the_input_size_is_left_as_it_is(sample_photos, resize):
    image = sample_photos["china"].crop((0, 0, 64, 48))
    pixels = to_pixels(image, PreprocessSpec(48, 64, resize, 1.0))
    assert np.array_equal(pixels, np.asarray(image))


# mean, std, pixel, the input by hand
NORMALISED = [
    ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), (0, 255, 51), (-1.0, 1.0, -0.6)),
    ((0, 0, 0), (1, 1, 1), (0, 128, 255), (0.0, 128.0, 255.0)),
    ((0, 0, 0), (255, 255, 255), (0, 51, 255), (0.0, 0.2, 1.0)),
    (
        (123.675, 116.28, 103.53),
        (58.395, 57.12, 57.375),
        (0, 0, 0),
        (-2.117904, -2.035714, -1.80444),
    ),
    ((10, 20, 30), (1, 2, 4), (11, 22, 34), (1.0, 1.0, 1.0)),
]


@pytest.mark.parametrize(("mean", "std", "pixel", "expected"), NORMALISED)
def test_normalise_is_pixel_less_mean_over_std(mean, std, pixel, expected):
    spec = PreprocessSpec(2, 5, mean=mean, std=std)
    pixels = np.broadcast_to(np.uint8(pixel), (2, 5, 3))
    values = normalise(pixels, spec)
    assert values.dtype == np.float32
    assert values.shape == (2, 5, 3)
    assert np.allclose(values, expected, atol=1e-5)
