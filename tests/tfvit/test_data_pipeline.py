from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from edge_demo import images, preprocess
from edge_demo.preprocess import PreprocessSpec
from tfvit import UserError
from tfvit.data import DataOptions, open_source, pipeline
from tfvit.data.augment import Augmentation, augment

PLAIN = Augmentation(crop_min_area=1, flip=False)
LEVELS = 23  # pictures of `numbered`


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Training pictures of one grey level each, 10 x their number; two classes; `train` and `test`."""
    root = tmp_path_factory.mktemp("numbered")
    for i in range(LEVELS):
        for split in ("train", "test"):
            folder = root / split / ("even", "odd")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9 + i, 20), (10 * i,) * 3).save(folder / f"{i:02d}.png")
    return open_source(DataOptions(str(root)))


@pytest.fixture
def damaged(sample_photos, tmp_path):
    """A folder of photos with four files among them that cannot be read; returns (root, names)."""
    for split, label in itertools.product(("train", "test"), sample_photos):
        (tmp_path / split / label).mkdir(parents=True)
        for i in range(3):
            crop = sample_photos[label].crop((50 * i, 0, 50 * i + 60, 70))
            crop.save(tmp_path / split / label / f"{i}.jpg")
    bad = []
    for split in ("train", "test"):
        folder = tmp_path / split / "china"
        whole = (folder / "1.jpg").read_bytes()
        (folder / "1.jpg").write_bytes(whole[: len(whole) // 2])
        (folder / "text.jpg").write_text("This is no picture.")
        (folder / "empty.png").touch()
        (folder / "animation.gif.jpg").write_bytes(b"GIF89a" + bytes(30))
        names = ("1.jpg", "text.jpg", "empty.png", "animation.gif.jpg")
        bad.append({str(folder / name) for name in names})
    return tmp_path, *bad


def train_batches(split, spec, batch_size, count, *, seed=0, start_step=0, how=PLAIN, bad=None):
    dataset = pipeline.train_batches(
        split,
        spec,
        batch_size,
        augmentation=how,
        seed=seed,
        start_step=start_step,
        unreadable={} if bad is None else bad,
    )
    return list(dataset.take(count).as_numpy_iterator())


def eval_batches(split, spec, batch_size, bad=None):
    unreadable = {} if bad is None else bad
    dataset = pipeline.eval_batches(split, spec, batch_size, unreadable=unreadable)
    return list(dataset.as_numpy_iterator())


def joined(batches, key="pixels"):
    return np.concatenate([batch[key] for batch in batches])


def numbers(batches):
    return (joined(batches)[:, 0, 0, 0] // 10).tolist()


# Batches for training


def test_batches_have_the_shape_and_the_types_they_promise(numbered):
    spec = PreprocessSpec(8, 16)
    batches = train_batches(numbered.train, spec, 5, 2) + eval_batches(numbered.eval, spec, 5)
    for batch in batches:
        assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
            "pixels": ((5, 8, 16, 3), np.uint8),
            "label": ((5,), np.int64),
            "mask": ((5,), np.float32),
        }


def test_a_batch_is_a_function_of_seed_and_step(photos):
    split, spec = open_source(DataOptions(str(photos))).train, PreprocessSpec(16, 16)
    how = Augmentation(crop_min_area=0.2)
    whole = train_batches(split, spec, 7, 9, seed=4, how=how)
    resumed = train_batches(split, spec, 7, 6, seed=4, how=how, start_step=3)
    for expected, batch in zip(whole[3:], resumed, strict=True):
        for key in expected:
            np.testing.assert_array_equal(batch[key], expected[key])
    other = train_batches(split, spec, 7, 1, seed=5, how=how)
    assert (other[0]["pixels"] != whole[0]["pixels"]).mean() > 0.5


def test_every_epoch_visits_every_picture_once_in_an_order_of_its_own(numbered):
    epochs = 3
    seen = numbers(train_batches(numbered.train, PreprocessSpec(4, 4), 3, LEVELS))
    passes = [seen[i * LEVELS : (i + 1) * LEVELS] for i in range(epochs)]
    for one in passes:
        assert sorted(one) == list(range(LEVELS))
    assert len({tuple(one) for one in [*passes, range(LEVELS)]}) == epochs + 1


def test_another_seed_is_another_order(numbered):
    first, second = (
        numbers(train_batches(numbered.train, PreprocessSpec(4, 4), LEVELS, 1, seed=seed))
        for seed in (0, 1)
    )
    assert first != second
    assert sorted(first) == sorted(second)


def test_labels_stay_with_their_pictures(numbered):
    for batches in (
        train_batches(numbered.train, PreprocessSpec(4, 4), 5, 9),
        eval_batches(numbered.eval, PreprocessSpec(4, 4), 4),
    ):
        mask = joined(batches, "mask") > 0
        parity = np.array(numbers(batches))[mask] % 2
        np.testing.assert_array_equal(joined(batches, "label")[mask], parity)


def test_a_picture_is_seen_otherwise_in_every_epoch(photos):
    split, spec = open_source(DataOptions(str(photos))).train, PreprocessSpec(16, 16)
    seen = joined(train_batches(split, spec, 48, 2, how=Augmentation(crop_min_area=0.2)))
    assert len(np.unique(seen.reshape(96, -1), axis=0)) == 96


def test_without_augmentation_training_sees_what_the_device_sees(numbered, photos):
    split, spec = open_source(DataOptions(str(photos))).train, PreprocessSpec(300, 200)
    batch = train_batches(split, spec, 48, 1)[0]  # larger than any: JPEG is decoded whole
    expected = [
        preprocess.to_pixels(images.read_rgb(e["name"].decode()), spec)
        for e in split.shuffled(0, 0).take(48).as_numpy_iterator()
    ]
    assert np.abs(batch["pixels"].astype(int) - np.array(expected, int)).max() <= 1


def test_a_large_jpeg_that_is_decoded_smaller_shows_the_same_picture(sample_photos, tmp_path):
    for folder, photo in zip(("train/a", "train/b"), sample_photos.values()):
        (tmp_path / folder).mkdir(parents=True)
        photo.save(tmp_path / folder / "photo.jpg", quality=95)
    spec = PreprocessSpec(32, 48)
    split = open_source(DataOptions(str(tmp_path), eval_split="train")).train
    batch = train_batches(split, spec, 2, 1)[0]
    for pixels, label in zip(batch["pixels"], batch["label"]):
        expected = preprocess.to_pixels([*sample_photos.values()][label], spec).astype(int)
        mean = [np.abs(pixels - seen).mean() for seen in (expected, expected[:, ::-1])]
        assert mean[0] < 6 < 4 * mean[0] < mean[1]  # not mirrored, shifted or another


# Batches for measuring


@pytest.mark.parametrize("batch_size", [1, 5, 16, 64])
@pytest.mark.parametrize("resize, interpolation", [("squash", "bilinear"), ("crop", "bicubic")])
def test_measuring_covers_every_picture_once_with_the_devices_pixels(
    photos, batch_size, resize, interpolation
):
    split = open_source(DataOptions(str(photos))).eval
    spec = PreprocessSpec(24, 40, resize, interpolation=interpolation)
    batches = eval_batches(split, spec, batch_size)
    mask = joined(batches, "mask")
    assert len(batches) == -(-16 // batch_size)
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < 16)
    paths = sorted((photos / "test").rglob("*.jpg"))
    expected = [preprocess.to_pixels(images.read_rgb(path), spec) for path in paths]
    np.testing.assert_array_equal(joined(batches)[:16], expected)
    np.testing.assert_array_equal(joined(batches, "label")[:16], [0] * 8 + [1] * 8)
    assert not joined(batches)[16:].any()


# Files that cannot be read


def test_an_unreadable_file_counts_nowhere_and_is_named(damaged):
    root, bad_train, bad_test = damaged
    source, spec = open_source(DataOptions(str(root))), PreprocessSpec(8, 8)
    assert source.eval.counts == (6, 3)
    found = {}
    batches = eval_batches(source.eval, spec, 4, found)
    names = [e["name"].decode() for e in source.eval.in_order().as_numpy_iterator()]
    readable = [float(name not in bad_test) for name in names]
    np.testing.assert_array_equal(joined(batches, "mask"), [*readable, 0, 0, 0])
    assert set(found) == bad_test
    for name, reason in found.items():
        assert name in reason
        assert "\n" not in reason

    found = {}
    batches = train_batches(source.train, spec, 9, 3, bad=found)
    assert set(found) == bad_train
    for batch in batches:  # an epoch each
        assert batch["mask"].sum() == 5
        assert (batch["label"][batch["mask"] > 0] == 0).sum() == 2


def test_reading_all_first_names_the_first_bad_file_and_counts_the_rest(damaged):
    root, _, bad = damaged
    with pytest.raises(UserError) as caught:
        pipeline.check_all(open_source(DataOptions(str(root))).eval)
    message = str(caught.value)
    assert message.startswith(sorted(bad)[0])
    assert "3 more" in message
    assert "\n" not in message


def test_reading_all_of_a_good_folder_is_silent(photos):
    assert pipeline.check_all(open_source(DataOptions(str(photos))).eval) is None


# Augmentation


@pytest.fixture(scope="module")
def flower(sample_photos):
    return np.asarray(sample_photos["flower"].crop((100, 50, 420, 290)))


@pytest.fixture(scope="module")
def ruler():
    """A picture that says where each of its pixels is: red is x, green is y; 240 x 200."""
    y, x = np.mgrid[0:200, 0:240]
    return np.stack([x, y, np.full_like(x, 77)], axis=-1).astype(np.uint8)


def views(picture, spec, how, seeds):
    return [augment(picture, (seed, 9), spec, how) for seed in seeds]


def test_without_crop_and_flip_the_view_is_the_whole_picture(flower):
    spec = PreprocessSpec(48, 64)
    (view,) = views(flower, spec, PLAIN, [0])
    expected = preprocess.to_pixels(Image.fromarray(flower), spec)
    assert np.abs(view.astype(int) - expected.astype(int)).max() <= 1


def test_flipping_mirrors_about_half(flower):
    spec = PreprocessSpec(48, 64)
    whole = preprocess.to_pixels(Image.fromarray(flower), spec).astype(int)
    mirrored = 0
    for view in views(flower, spec, Augmentation(crop_min_area=1, flip=True), range(200)):
        distance = [np.abs(view - seen).max() for seen in (whole, whole[:, ::-1])]
        assert min(distance) <= 1 < max(distance)
        mirrored += distance[1] <= 1
    assert 70 < mirrored < 130


@pytest.mark.parametrize("smallest", [0.05, 0.3, 0.9])
def test_a_crop_is_a_piece_of_the_picture_of_the_promised_size_and_shape(ruler, smallest):
    spec, areas, centres = PreprocessSpec(64, 64), [], []
    for view in views(ruler, spec, Augmentation(smallest, flip=False), range(100)):
        x, y = view[..., 0].astype(int), view[..., 1].astype(int)
        assert (np.diff(x, axis=1) >= 0).all() and (np.diff(y, axis=0) >= 0).all()
        assert (
            np.ptp(x, axis=0).max() <= 1 and np.ptp(y, axis=1).max() <= 1
        )  # not rotated or sheared
        assert np.abs(view[..., 2].astype(int) - 77).max() <= 1  # nothing from outside
        # the outermost samples lie half a step inside the crop
        width, height = ((axis.max() - axis.min()) * 64 / 63 for axis in (x, y))
        areas.append(width * height / (200 * 240))
        centres.append((x.mean() / 240, y.mean() / 200))
        assert smallest * 0.9 < areas[-1] <= 1.03
        assert 0.7 < width / height < 1.4
    assert min(areas) < smallest + 0.3 * (1 - smallest)  # all sizes occur
    assert max(areas) > 1 - 0.3 * (1 - smallest)
    assert np.ptp(centres, axis=0).min() > 0.1 * (1 - smallest)  # and all places


def test_the_same_seed_is_the_same_view_and_another_another(flower):
    spec, how = PreprocessSpec(32, 32), Augmentation(0.2)
    first, again, other = views(flower, spec, how, [1, 1, 2])
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


@pytest.mark.parametrize("area", [0, -0.1, 1.1, float("nan")])
def test_a_crop_share_that_is_none_is_refused(area):
    with pytest.raises(UserError, match="crop_min_area"):
        Augmentation(crop_min_area=area)
