"""What is inside a model: against the published definitions in NumPy, scikit-learn's and SciPy's own."""

from __future__ import annotations

import json
import shutil

import google_reference
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import ndimage
from small_models import HEIGHT, PATCH, WIDTH, inputs, randomise, small

import tfvit
from edge_demo import Classifier, preprocess
from edge_demo.errors import UserError
from tfvit import checkpoint, inspect, interop
from tfvit.inspect import figures, report
from tfvit.preprocess import normalise

GRID = (HEIGHT // PATCH, WIDTH // PATCH)
KINDS = {
    "cls": {},
    "gap, relative": {"pooling": "gap", "position": "relative"},
    "cls+gap, registers": {"pooling": "cls+gap", "registers": 2},
    "map, 2-D positions": {"pooling": "map", "position": "learned_2d"},
    "two class tokens, none": {"distillation_token": True, "position": "none"},
    "gap, fixed": {"pooling": "gap", "position": "sincos_2d"},
}
PREFIX = dict(zip(KINDS, (0 + 1, 0, 3, 0, 2, 0)))  # tokens before the patches
READ = {
    "cls": [0],
    "cls+gap, registers": [0],
    "two class tokens, none": [0, 1],
}  # rest: the patches


def published_distance(maps, prefix, grid, patch):
    """arXiv 2010.11929, figure 7: [b, heads] of attention [b, heads, n, n], a query and a key at a time."""
    found = np.zeros(maps.shape[:2])
    places = [(patch * row, patch * column) for row in range(grid[0]) for column in range(grid[1])]
    for query, (y, x) in enumerate(places):
        for key, (v, u) in enumerate(places):
            far = ((y - v) ** 2 + (x - u) ** 2) ** 0.5
            found += maps[:, :, prefix + query, prefix + key].astype(np.float64) * far
    return found / len(places)


def published_rollout(maps):
    """arXiv 2005.00928, section 3: [b, n, n]; attention and identity, rows a sum of 1, then the product."""
    total = np.eye(maps[0].shape[-1])
    for heads in maps:
        a = heads.astype(np.float64).mean(axis=1) + np.eye(heads.shape[-1])
        total = (a / a.sum(axis=-1, keepdims=True)) @ total
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_and_distance_are_the_published_ones(kind):
    model, images = small(depth=3, **KINDS[kind]), inputs(2)
    maps, prefix = list(inspect.attentions(model, images)), PREFIX[kind]
    seen = inspect.look(model, images)
    assert seen.distance.shape == (2, 3, 3) and seen.heads.shape == (2, 3, 3, *GRID)
    for i, heads in enumerate(maps):
        expected = published_distance(heads, prefix, GRID, PATCH)
        np.testing.assert_allclose(seen.distance[:, i], expected, rtol=1e-6)
    tokens = published_rollout(maps)
    if not kind.startswith("map"):  # whose weights the test below has
        read = READ.get(kind, list(range(prefix, tokens.shape[-1])))
        expected = tokens[:, read, prefix:].mean(axis=1).reshape(2, *GRID)
        np.testing.assert_allclose(seen.rollout, expected, atol=1e-6)
        for i, heads in enumerate(maps):
            expected = heads[:, :, read, prefix:].mean(axis=2).reshape(2, 3, *GRID)
            np.testing.assert_allclose(seen.heads[:, i], expected, atol=1e-6)
    asked = inspect.look(model, images, query=(1, 3))
    at = prefix + GRID[1] + 3
    for i, heads in enumerate(maps):
        expected = heads[:, :, at, prefix:].reshape(2, 3, *GRID)
        np.testing.assert_allclose(asked.heads[:, i], expected, atol=1e-7)
    np.testing.assert_array_equal(asked.rollout, seen.rollout)


@pytest.mark.parametrize("pooling", ["cls", "gap", "map"])
def test_from_the_pixels_on_in_double_precision(pooling, tmp_path, monkeypatch):
    model, images = small(image_size=24, pooling=pooling, depth=3), inputs(2, 24, 24)
    interop.save(model, "google-npz", tmp_path / "model.npz")
    maps, attend = [], google_reference.probabilities

    def noted(*args):
        maps.append(attend(*args))
        return maps[-1]

    monkeypatch.setattr(google_reference, "probabilities", noted)
    tensors = np.load(tmp_path / "model.npz").items()
    google_reference.logits({k.removeprefix("params/"): v for k, v in tensors}, images)
    blocks, prefix = maps[:3], int(pooling == "cls")
    tokens, seen = published_rollout(blocks), inspect.look(model, images)
    if pooling == "map":
        weights = maps[3].mean(axis=1)  # of the probe, [b, 1, n]
    else:
        weights = np.eye(tokens.shape[-1])[:1] if prefix else np.full((1, 9), 1 / 9)
    expected = (weights @ tokens).reshape(2, -1)[:, prefix:].reshape(2, 3, 3)
    np.testing.assert_allclose(seen.rollout, expected, atol=1e-6)
    for i, heads in enumerate(blocks):
        expected = published_distance(heads, prefix, (3, 3), PATCH)
        np.testing.assert_allclose(seen.distance[:, i], expected, rtol=1e-5)


def test_distances_by_hand():
    model = small(pooling="gap")
    n = GRID[0] * GRID[1]
    nowhere = np.eye(n)[np.newaxis, np.newaxis]
    right = np.roll(
        nowhere, 1, axis=-1
    )  # to the next patch, from a row's last to the next one's first
    far = inspect.mean_distance(np.concatenate([nowhere, right], axis=1), model.architecture)
    ends = [8.0] * 12 + [np.hypot(32, 8)] * 2 + [np.hypot(32, 16)]
    np.testing.assert_allclose(far, [[0, np.mean(ends)]])


FILTERED = {
    "patches": ("vit-ti/8", (HEIGHT, WIDTH), "embedding/kernel", None),
    "hybrid": ("r+vit-ti/16", 64, "stem/root/conv/kernel", 1e-5),
    "BiT": ("bit-r50x1", 32, "root/conv/kernel", 0.0),
}


@pytest.mark.parametrize("name, size, weight, epsilon", FILTERED.values(), ids=FILTERED)
def test_filters_are_the_eigenvectors_of_their_covariance(name, size, weight, epsilon):
    changes = {"units": (1,)} if name.startswith("bit") else {"depth": 1}
    model = randomise(tfvit.create_model(name, 2, size, **changes))
    kernel = {w.name.removesuffix(":0"): w.numpy() for w in model.weights}[weight]
    if epsilon is not None:  # of a convolution whose weights are standardised
        kernel = (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + epsilon)
    found, variance = inspect.filters(model)
    assert found.shape == (28, *kernel.shape[:3])
    values, vectors = np.linalg.eigh(
        np.cov(kernel.reshape(-1, kernel.shape[-1]).astype(np.float64))
    )
    np.testing.assert_allclose(variance, values[::-1][:28] / values.sum(), rtol=1e-4)
    cosines = np.abs((found.reshape(28, -1) * vectors.T[::-1][:28]).sum(axis=1))
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    assert len(inspect.filters(model, 3)[0]) == 3


def test_there_are_no_more_components_than_filters():
    assert len(inspect.filters(small(width=12, heads=3))[0]) == 12


@pytest.mark.parametrize("position", ["learned", "learned_2d", "sincos_2d"])
def test_similarity_is_the_cosine_of_what_is_added(position):
    model = small(position=position, pooling="gap")
    added = inspect.positions(model)
    layer = model.get_layer("position")
    nothing = tf.zeros([1, *layer.input.shape[1:]])
    np.testing.assert_allclose(added.reshape(-1), layer(nothing).numpy().reshape(-1))
    found = inspect.position_similarity(added)
    assert found.shape == (*GRID, *GRID)
    for row, column, down, across in [(0, 0, 2, 4), (1, 3, 1, 3), (2, 4, 0, 1)]:
        a, b = added[row, column].astype(float), added[down, across].astype(float)
        cosine = a @ b / np.sqrt(a @ a * (b @ b))
        assert found[row, column, down, across] == pytest.approx(cosine, abs=1e-6)
    some = inspect.position_similarity(added, np.array([0, 2]), np.array([1]))
    np.testing.assert_allclose(some, found[::2, 1:2], atol=1e-6)


@pytest.mark.parametrize("changes", [{"position": "none"}, {"position": "relative"}])
def test_no_place_no_embedding(changes):
    assert inspect.positions(small(**changes)) is None


def test_positions_are_interpolated_to_the_resolution_asked_for(tmp_path):
    model = small(registers=2)
    tfvit.save(model, tmp_path / "model")
    larger = checkpoint.load(tmp_path / "model", image_size=(40, 56))
    assert larger.preprocess == model.preprocess.at(40, 56)
    expected = ndimage.zoom(inspect.positions(model), (5 / 3, 7 / 5, 1), order=1)
    np.testing.assert_allclose(inspect.positions(larger), expected, atol=1e-5)
    assert inspect.look(larger, inputs(1, 40, 56)).rollout.shape == (1, 5, 7)
    assert checkpoint.load(tmp_path / "model").architecture == model.architecture


def test_the_spotlight_is_where_the_attention_is():
    heat = np.zeros((4, 6), np.float32)
    heat[2, 1] = 1
    lit = np.asarray(figures.spotlight(Image.new("RGB", (96, 64), (200, 100, 50)), heat))
    place = np.unravel_index(lit.sum(axis=-1).argmax(), lit.shape[:2])
    assert place[0] // 16 == 2 and place[1] // 16 == 1
    assert lit.max() == 200 and lit[:16, 64:].max() < 10


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, sample_photos):
    folder = tmp_path_factory.mktemp("pictures")
    for name, photo in sample_photos.items():
        photo.resize((80, 60)).save(folder / f"{name}.png")
    return folder


SHOWN = {"filters", "positions", "distance", "rollout", "heads-1", "heads-2"}
MODELS = {  # kind -> model, what of SHOWN it has not, what is said of it
    "cls": (KINDS["cls"], set(), ""),
    "map": (KINDS["map, 2-D positions"], set(), "weighted as the pooling weights them"),
    "relative": (KINDS["gap, relative"], {"positions"}, "Its positions are relative"),
    "none": (KINDS["two class tokens, none"], {"positions"}, "It has no position embeddings."),
    "hybrid": ({"stem": (), "patch_size": 2}, set(), "filters are those of that ResNet"),
    "BiT": (None, SHOWN - {"filters"}, "A BiT ResNet has neither patches"),
}


@pytest.mark.parametrize("changes, without, said", MODELS.values(), ids=MODELS)
def test_the_command_draws_what_a_model_has(changes, without, said, pictures, tmp_path, tfvit_cli):
    if changes is None:
        model = tfvit.create_model("bit-r50x1", 2, 32, units=(1,))
    elif "stem" in changes:
        model = randomise(tfvit.create_model("r+vit-ti/16", 2, (32, 64), depth=1))
    else:
        model = small(**changes)
    tfvit.save(model, tmp_path / "model")
    out, numbers = tmp_path / "out", tmp_path / "numbers.json"
    done = tfvit_cli(
        "inspect", tmp_path / "model", "--image", pictures, "--out", out, "--json", numbers
    )
    assert done.code == 0, done.err
    drawn = {path.stem for path in out.glob("inspect/*.png")}
    assert drawn == SHOWN - without
    page = (out / "inspect.html").read_text()
    assert {name for name in SHOWN if f'id="{name}"' in page} == drawn
    assert said in page and "http" not in page.replace("http://www.w3.org", "")
    for name in drawn:
        assert np.asarray(Image.open(out / f"inspect/{name}.png").convert("L")).std() > 5
    found = json.loads(numbers.read_text())
    assert found["filters"]["variance"] == pytest.approx(inspect.filters(model)[1].tolist())
    if "distance" in without:
        assert found["images"] == [] and "distance" not in found
        return
    photo = preprocess.to_pixels(Image.open(pictures / "flower.png"), model.preprocess)
    seen = inspect.look(model, normalise(tf.constant(photo[np.newaxis]), model.preprocess))
    entry = found["images"][1]
    assert entry["path"].endswith("flower.png")
    np.testing.assert_allclose(entry["rollout"], seen.rollout[0], rtol=1e-5)
    both = np.mean([image["distance"] for image in found["images"]], axis=0)
    np.testing.assert_allclose(found["distance"], both)
    assert f"{both[0].mean():.1f}" in done.out


def test_of_pictures_drawn_before_only_those_drawn_again_are_left(pictures, tmp_path, tfvit_cli):
    tfvit.save(small(), tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.png").write_text("mine")
    command = ("inspect", tmp_path / "model", "--out", tmp_path / "out")
    for options, expected in (
        (("--image", pictures), SHOWN),
        (("--image", pictures / "china.png"), SHOWN - {"heads-2"}),
        (("--image-size", "40x56"), {"filters", "positions"}),  # without a picture, the weights
    ):
        done = tfvit_cli(*command, *options)
        assert done.code == 0, done.err
        assert {path.stem for path in (tmp_path / "out/inspect").iterdir()} == expected
        left = {path.name for path in (tmp_path / "out").iterdir()}
        assert left == {"inspect.html", "inspect", "mine.png"}


def test_a_query_is_counted_from_1_as_all_that_people_read(pictures, tmp_path, tfvit_cli):
    tfvit.save(small(image_size=(HEIGHT, WIDTH)), tmp_path / "model")
    photo = pictures / "china.png"
    command = ("inspect", tmp_path / "model", "--image", photo, "--out", tmp_path / "out")
    for place, number in {(0, 0): "1,1", (2, 4): "3,5"}.items():
        done = tfvit_cli(*command, "--query", number)
        assert done.code == 0, done.err
        row, column = number.split(",")
        page = (tmp_path / "out/inspect.html").read_text()
        assert f"Attention of the patch in row {row}, column {column}." in page
        found, drawn = report.gather(tfvit.load(tmp_path / "model"), [photo], query=place)
        report.write(found, drawn, tmp_path / "expected", "model")
        one, other = (
            np.asarray(Image.open(tmp_path / folder / "inspect/heads-1.png"))
            for folder in ("out", "expected")
        )
        np.testing.assert_array_equal(one, other)


def test_int8_beside_float(telling, digits_run, pictures, tmp_path, tfvit_cli):
    files = [
        option
        for name in ("float32", "int8")
        for option in ("--tflite", telling / f"{name}.tflite")
    ]
    photo, numbers = pictures / "flower.png", tmp_path / "numbers.json"
    done = tfvit_cli(
        *(
            "inspect",
            digits_run,
            "--image",
            photo,
            *files,
            "--out",
            tmp_path / "out",
            "--json",
            numbers,
        )
    )
    assert done.code == 0, done.err
    found = json.loads(numbers.read_text())["images"][0]
    told = Classifier(telling / "int8.tflite")
    told.classify(photo)
    expected = np.corrcoef(told.extras["attention"].ravel(), np.ravel(found["rollout"]))[0, 1]
    correlation = found["files"]["int8"]["correlation"]
    assert correlation == pytest.approx(expected, abs=1e-5)
    assert found["files"]["float32"]["correlation"] == pytest.approx(1, abs=1e-4)
    assert f"rollout of int8, correlation {correlation:.4f}" in done.out
    assert f"<td>{correlation:.4f}</td>" in (tmp_path / "out/inspect.html").read_text()


def test_a_file_called_as_the_checkpoints_own_map_is_told_apart(telling, digits_run, tmp_path):
    file, photo = tmp_path / "rollout.tflite", tmp_path / "photo.png"
    shutil.copy(telling / "int8.tflite", file)
    Image.effect_mandelbrot((40, 40), (-2, -1, 1, 1), 50).convert("RGB").save(photo)
    found, _ = report.gather(tfvit.load(digits_run / "best"), [photo], [file])
    (entry,) = found["images"]
    assert list(entry["files"]) == [str(file)]
    assert entry["files"][str(file)]["rollout"] != entry["rollout"]


BAD = {
    "row": (("--query", "4,1"), "no such patch: vit-ti/8 has 3 rows and 5 columns"),
    "column": (("--query", "1,6"), "no such patch: vit-ti/8 has 3 rows and 5 columns"),
    "row 0": (("--query", "0,3"), "'0,3' is not ROW,COLUMN, counted from 1"),
    "no place": (("--query", "middle"), "'middle' is not ROW,COLUMN"),
    "picture": (("--image", "nowhere.jpg"), "nowhere.jpg: no such file or folder"),
    "no picture": (("--image", __file__), "test_inspect.py: not a JPEG"),
    "size": (("--image-size", "30"), "take 24 or 32"),
    "no attention": (("--tflite", "{exported}/int8.tflite"), "does not tell where it looks"),
    "other size": (("--tflite", "{telling}/int8.tflite"), "is for 32x32 pixels; give that as"),
    "other patches": (
        ("--image-size", "32", "--tflite", "{telling}/int8.tflite"),
        "has 4x4 patches, another model than vit-ti/16",
    ),
}


def test_a_query_needs_a_picture(tmp_path, tfvit_cli):
    done = tfvit_cli("inspect", tmp_path, "--query", "1,1", "--out", tmp_path / "out")
    assert (done.code, done.err) == (2, "error: --tflite and --query need a picture: --image\n")


@pytest.mark.parametrize("options, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(options, message, pictures, exported, telling, tmp_path, tfvit_cli):
    model = tmp_path / "model"
    name = "vit-ti/16" if "vit-ti/16" in message else "vit-ti/8"
    tfvit.save(small(name=name, image_size=(32, 32) if "16" in name else (HEIGHT, WIDTH)), model)
    options = [option.format(exported=exported, telling=telling) for option in options]
    image = () if "--image" in options else ("--image", pictures / "china.png")
    done = tfvit_cli("inspect", model, *image, *options, "--out", tmp_path / "out")
    assert done.code == 2 and message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_resnet_has_no_attention_to_look_at(pictures, telling, tmp_path, tfvit_cli):
    model = tfvit.create_model("bit-r50x1", 2, 32, units=(1,))
    message = "bit-r50x1 is a ResNet, which has no attention"
    with pytest.raises(UserError, match=message):
        inspect.look(model, inputs(1, 32, 32))
    tfvit.save(model, tmp_path / "model")
    command = ("inspect", tmp_path / "model", "--image", pictures, "--out", tmp_path / "out")
    for options in (("--query", "1,1"), ("--tflite", telling / "int8.tflite")):
        done = tfvit_cli(*command, *options)
        assert (done.code, done.err) == (2, f"error: {message}\n")
    assert not (tmp_path / "out").exists()
