"""ImageNet-C's corruptions: every row of the table on real photos, and its parts against SciPy."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib import colors
from PIL import Image
from scipy import ndimage, stats

from tfvit import UserError
from tfvit.evaluate import corruptions, textures
from tfvit.evaluate.corruptions import KINDS, LEVELS, corrupt

# Levels that change a picture less than the level before them, by ImageNet-C's own constants: glass that
# is passed fewer times, a less frosty frost, and ripples after warps.
LESS = {"glass_blur": {2, 4}, "frost": {4}, "elastic_transform": {3}}
WITHOUT_CHANCE = {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
}


@pytest.fixture(scope="module")
def pictures(sample_photos):
    """Six pieces of the two photos, uint8 [224, 224, 3]."""
    corners = ((0, 0), (208, 100), (416, 203))
    return [
        np.asarray(photo.crop((left, top, left + 224, top + 224)))
        for photo in sample_photos.values()
        for left, top in corners
    ]


def shares(kind, level):
    """A grey picture after a corruption, 0-1."""
    return corrupt(np.full((300, 300, 3), 102, np.uint8), kind, level, (7,)) / 255


def test_there_are_the_15_kinds_of_the_paper_at_5_levels():
    assert len(KINDS) == 15
    assert all(len(row.levels) == 5 == len(set(row.levels)) for row in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_photos_and_more_so_with_each_level(kind, pictures):
    changes = np.zeros(len(LEVELS))
    for number, picture in enumerate(pictures):
        before = picture.copy()
        for level in LEVELS:
            found = corrupt(picture, kind, level, (number,))
            assert (found.shape, found.dtype) == (picture.shape, np.uint8)
            changes[level - 1] += np.abs(found.astype(int) - picture).mean() / len(pictures)
        np.testing.assert_array_equal(picture, before)
    assert changes.min() > 3
    assert {level for level in LEVELS[1:] if changes[level - 1] < changes[level - 2]} == LESS.get(
        kind, set()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind, pictures):
    first, again, other = (corrupt(pictures[1], kind, 3, seed) for seed in ((0, 1), (0, 1), (0, 2)))
    np.testing.assert_array_equal(first, again)
    assert np.array_equal(first, other) == (kind in WITHOUT_CHANCE)


@pytest.mark.parametrize("size", [(84, 84), (40, 72), (301, 97)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_other_sizes(kind, size, pictures):
    picture = np.asarray(Image.fromarray(pictures[4]).resize(size[::-1]))
    for level in LEVELS:
        found = corrupt(picture, kind, level)
        assert (found.shape, found.dtype) == (picture.shape, np.uint8)
    assert np.abs(found.astype(int) - picture).mean() > 1  # at the last level
    black = corrupt(np.zeros((*size, 3), np.uint8), kind, 3)
    assert (black.max() > 2) == (
        kind in ("gaussian_noise", "impulse_noise", "snow", "frost", "brightness")
    )


@pytest.mark.parametrize("kind", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur"])
def test_lengths_are_in_proportion_to_the_picture(kind, pictures):
    """Half the size, corrupted, is nearer to the corrupted picture at half the size than to none."""

    def halved(picture):
        return np.asarray(Image.fromarray(picture).resize((112, 112), Image.Resampling.BOX), float)

    large = halved(corrupt(pictures[4], kind, 5))
    small = corrupt(halved(pictures[4]).astype(np.uint8), kind, 5).astype(float)
    assert np.abs(small - large).mean() < 0.45 * np.abs(halved(pictures[4]) - large).mean()


@pytest.mark.parametrize("kind", ["snow", "frost", "fog"])
def test_weather_is_as_smooth_on_large_pictures(kind):
    """Made for 224 pixels and enlarged, neighbours differ; squares of one grey would step every second."""
    grey = np.full((448, 448, 3), 100, np.uint8)
    steps = np.abs(np.diff(corrupt(grey, kind, 3).astype(float), axis=1)).mean(axis=(0, 2))
    assert 0.5 < steps[::2].mean() / steps[1::2].mean() < 2


@pytest.mark.parametrize("size", [(90, 240), (240, 90)], ids=str)
def test_a_picture_is_warped_about_its_middle(size):
    """There the shift is the mean of two corners', each uniform within a tenth of 244 pixels of 224."""
    height, width = size
    ramp = np.indices(size)[int(width > height)].astype(
        np.uint8
    )  # a grey level per pixel of length
    picture = np.stack(3 * [ramp], axis=-1)
    middle = (height // 2, width // 2, 0)
    moves = [corrupt(picture, "elastic_transform", 1, (i,))[middle] - 120.0 for i in range(100)]
    expected = 24.4 * 90 / 224 / np.sqrt(3) / np.sqrt(2)
    assert np.std(moves) == pytest.approx(expected, rel=0.2)


# Noise


@pytest.mark.parametrize("level", LEVELS)
def test_gaussian_noise_has_the_deviation_of_the_paper(level):
    normal = stats.norm(0.4, (0.08, 0.12, 0.18, 0.26, 0.38)[level - 1])
    _check(shares("gaussian_noise", level), *_clipped(normal.ppf(np.linspace(0, 1, 200_001)[1:-1])))


@pytest.mark.parametrize("level", LEVELS)
def test_shot_noise_is_poissons_of_so_many_photons(level):
    photons = (60, 25, 12, 5, 3)[level - 1]
    drawn = stats.poisson(0.4 * photons).ppf(np.linspace(0, 1, 200_001)[1:-1]) / photons
    _check(shares("shot_noise", level), *_clipped(drawn))


@pytest.mark.parametrize("level", LEVELS)
def test_impulse_noise_is_black_and_white_in_equal_shares(level):
    found = shares("impulse_noise", level)
    expected = (0.03, 0.06, 0.09, 0.17, 0.27)[level - 1] / 2
    for value in (0, 1):
        assert (found == value).mean() == pytest.approx(expected, rel=0.05)
    assert set(np.unique(found)) == {0, 0.4, 1}
    assert np.corrcoef((found != 0.4).reshape(-1, 3).T)[0, 1] < 0.05  # a channel on its own


def _clipped(values):
    values = np.clip(values, 0, 1)
    return values.mean(), values.std()


def _check(found, mean, deviation):
    assert found.mean() == pytest.approx(mean, abs=0.003)
    assert found.std() == pytest.approx(deviation, rel=0.01)
    if deviation < 0.1:  # else the clipping shows
        normal = stats.norm(mean, deviation).cdf
        quartiles = normal(np.quantile(found, (0.25, 0.75)))
        np.testing.assert_allclose(quartiles, (0.25, 0.75), atol=0.02)


# Blur


@pytest.mark.parametrize(("deviation", "truncate", "mode"), [(0.7, 4, 0), (2.4, 3, 1), (170, 3, 1)])
def test_the_gaussian_is_scipys(deviation, truncate, mode):
    x = np.random.default_rng(0).uniform(size=(60, 90))
    border = (corruptions.cv2.BORDER_REPLICATE, corruptions.cv2.BORDER_REFLECT)[mode]
    found = corruptions.gaussian(x, deviation, truncate, border)
    expected = ndimage.gaussian_filter(
        x, deviation, truncate=truncate, mode=("nearest", "reflect")[mode]
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("level", "radius", "deviation"), [(1, 3, 0.1), (3, 6, 0.5), (4, 8, 0.5), (5, 10, 0.5)]
)
def test_defocus_is_scipys_correlation_with_a_disk(level, radius, deviation, pictures):
    y, x = np.mgrid[-12:13, -12:13]
    disk = (np.hypot(x, y) <= radius).astype(float)
    reach = 1 if radius <= 8 else 2
    kernel = ndimage.gaussian_filter(disk / disk.sum(), deviation, radius=reach)
    expected = [
        ndimage.correlate(pictures[0][..., channel] / 255, kernel, mode="mirror")
        for channel in range(3)
    ]
    found = corrupt(pictures[0], "defocus_blur", level)
    np.testing.assert_allclose(found / 255, np.stack(expected, -1), atol=0.6 / 255)


def test_a_trail_is_half_a_gaussian_along_its_angle():
    half = stats.norm(0, 5).pdf(np.arange(31))
    along = corruptions.trail(15, 5, 0)
    np.testing.assert_allclose(along[30, 30:], half / half.sum())
    assert along.sum() == pytest.approx(1)
    np.testing.assert_allclose(corruptions.trail(15, 5, 90), along.T)
    np.testing.assert_allclose(corruptions.trail(15, 5, -90), along.T[::-1])
    slanted = corruptions.trail(15, 5, 30)
    rows, columns = (places - 30 for places in np.nonzero(slanted))
    across = rows * np.cos(np.pi / 6) - columns * np.sin(np.pi / 6)
    assert np.abs(across).max() <= np.sqrt(0.5) and columns.min() >= 0 and rows.min() >= 0


def test_zoom_is_scipys():
    x = ndimage.gaussian_filter(np.random.default_rng(0).uniform(size=(60, 90)), 2)
    centre = np.array([29.5, 44.5])
    expected = ndimage.affine_transform(x, np.eye(2) / 1.25, centre - centre / 1.25, order=1)
    np.testing.assert_allclose(corruptions.zoomed(x, 1.25), expected, atol=0.02 * np.ptp(x))


def test_glass_keeps_the_colours_near_their_place(pictures):
    """Passing it moves pixels by `distance` a turn: a step edge is spread by no more."""
    edge = np.zeros((224, 224, 3), np.uint8)
    edge[:, 112:] = 255
    found = corrupt(edge, "glass_blur", 3).astype(float)[..., 0]  # 2 pixels, 3 times, deviation 1
    reach = 3 * 2 + 2 * 4
    assert found[:, : 112 - reach].max() == 0 and found[:, 112 + reach :].min() == 255
    assert 0.02 < (np.abs(found - 127.5) < 120).mean() < 2 * reach / 224
    assert found[:, 110].std() > 10  # it is rough, not only soft


# Weather and the rest


@pytest.mark.parametrize("level", LEVELS)
def test_brightness_is_the_value_of_hsv(level, pictures):
    hsv = colors.rgb_to_hsv(pictures[5] / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + level / 10, 0, 1)
    found = corrupt(pictures[5], "brightness", level)
    np.testing.assert_allclose(found / 255, colors.hsv_to_rgb(hsv), atol=0.6 / 255)


@pytest.mark.parametrize("level", LEVELS)
def test_contrast_keeps_the_mean_and_a_share_of_the_deviation(level, pictures):
    before, after = (
        x.reshape(-1, 3) for x in (pictures[0], corrupt(pictures[0], "contrast", level))
    )
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=0.5)
    share = (0.4, 0.3, 0.2, 0.1, 0.05)[level - 1]
    np.testing.assert_allclose(after.std(axis=0), share * before.std(axis=0), rtol=0.02)


def test_pixels_are_means_of_squares(pictures):
    squares = pictures[2].reshape(56, 4, 56, 4, 3).mean(axis=(1, 3))
    expected = squares.repeat(4, axis=0).repeat(4, axis=1)
    found = corrupt(pictures[2], "pixelate", 5)
    np.testing.assert_allclose(found, expected, atol=1)  # Pillow rounds after each axis


@pytest.mark.parametrize(("level", "quality"), zip(LEVELS, (25, 18, 15, 10, 7)))
def test_jpeg_is_of_that_quality(level, quality, pictures):
    file = io.BytesIO()
    Image.fromarray(pictures[3]).save(file, "JPEG", quality=quality)
    found = corrupt(pictures[3], "jpeg_compression", level)
    np.testing.assert_array_equal(found, np.asarray(Image.open(file)))


def test_plasma_is_a_cloud_whose_edges_fit_and_that_is_rougher_the_slower_it_decays():
    steps = []
    for decay in (1.4, 1.7, 2, 3):
        cloud = textures.plasma(256, decay, np.random.default_rng(0))
        assert (cloud.shape, cloud.min(), cloud.max()) == ((256, 256), 0, 1)
        inside = np.abs(np.diff(cloud, axis=1)).mean()
        assert np.abs(cloud[:, 0] - cloud[:, -1]).mean() < 3 * inside
        steps.append(inside)
    assert steps == sorted(steps, reverse=True)


def test_frost_is_drawn_at_any_size_and_differs():
    first, second = (textures.frost(224, 300, np.random.default_rng(seed)) for seed in (0, 1))
    for ice in (first, second):
        assert ice.shape == (224, 300, 3) and ice.min() >= 0 and ice.max() <= 1
        assert 0.3 < ice.mean() < 0.6 and ice.std() > 0.1
        assert ice[..., 2].mean() > ice[..., 0].mean()
    assert np.abs(first - second).mean() > 0.1


def test_names():
    assert corruptions.named("all") == tuple(KINDS)
    assert corruptions.named("fog, gaussian_noise,fog") == ("gaussian_noise", "fog")
    with pytest.raises(UserError) as caught:
        corruptions.named("fog,rain")
    assert "'rain'" in str(caught.value) and "snow" in str(caught.value)
