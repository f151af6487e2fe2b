"""MediaPipe Tasks `ImageClassifier` takes the exported files as they are.

It cannot be installed beside tensorflow-model-optimization, so it has an environment of its own,
which `make test` builds; `mediapipe_client.py` runs there.
"""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from integer_model import CLASSES, SIZE, integer_model
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.special import softmax
from sklearn.datasets import load_digits

from convert import metadata
from edge_demo import Classifier, PreprocessSpec
from edge_demo.preprocess import to_pixels
from edge_demo.tflite.metadata import describe, read

PYTHON = Path(__file__).parents[2] / ".venv-mediapipe/bin/python"
CLIENT = Path(__file__).with_name("mediapipe_client.py")
UNIT = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def mediapipe(pictures, *models):
    """Model name -> `metadata` and `results` (picture -> [index, label, score], best first)."""
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON}: `make test` builds it")
    done = subprocess.run([PYTHON, CLIENT, pictures, *models], capture_output=True, text=True)
    if "cannot open shared object file" in done.stderr:
        pytest.skip(f"{done.stderr.splitlines()[-1]} (see docs/dependencies.md)")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photos, sample_photos) -> Path:
    """Digits and photos, as edge-demo resizes them to the input of the exported files."""
    folder = tmp_path_factory.mktemp("pictures")
    spec = PreprocessSpec(32, 32)
    levels = np.round(load_digits().images[::20] * (255 / 16)).astype(np.uint8)
    found = {f"digit{i}": Image.fromarray(image) for i, image in enumerate(levels)}
    found |= {f"{p.parent.name}{p.stem}": Image.open(p) for p in photos.glob("test/*/*.jpg")}
    for name, picture in (found | sample_photos).items():
        Image.fromarray(to_pixels(picture.convert("RGB"), spec)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory, exported, telling, pictures):
    """What MediaPipe says of every exported file, of one with figures added, and of those with extras."""
    folder = tmp_path_factory.mktemp("described")
    described = folder / "described.tflite"
    shutil.copy(exported / "int8.tflite", described)
    describe(described, accuracy={"top1": 0.9})
    extra = [shutil.copy(p, folder / f"telling-{p.name}") for p in telling.glob("*.tflite")]
    return mediapipe(pictures, *sorted(exported.glob("*.tflite")), described, *sorted(extra))


def test_every_exported_file_is_taken(answers, exported):
    schemes = {path.name for path in exported.glob("*.tflite")}
    assert schemes >= {"float32.tflite", "int8.tflite"}
    telling = {"telling-float32.tflite", "telling-int8.tflite", "telling-int8-full.tflite"}
    assert set(answers) == schemes | {"described.tflite"} | telling
    assert answers["described.tflite"] == answers["int8.tflite"]


def test_scores_are_logits_and_the_best_label_is_that_of_edge_demo(answers, exported, pictures):
    for path in exported.glob("*.tflite"):
        classifier = Classifier(path)
        chosen = set()
        for name, results in answers[path.name]["results"].items():
            label, score = classifier.classify(pictures / name, top=1)[0]
            by_index = sorted(results)
            assert [(i, text) for i, text, _ in by_index] == list(enumerate(classifier.labels))
            logits = [value for _, _, value in by_index]
            assert softmax(logits) == pytest.approx(classifier.scores(pictures / name), abs=1e-4)
            assert results[0][1] == label and max(softmax(logits)) == pytest.approx(score, abs=1e-4)
            assert min(logits) < 0  # no threshold hides them
            chosen.add(label)
        assert len(answers[path.name]["results"]) == 108 and len(chosen) == 10


def test_extra_outputs_change_nothing_in_the_first_head(answers):
    plain, telling = answers["float32.tflite"], answers["telling-float32.tflite"]
    assert telling["results"] == plain["results"]
    (graph,) = telling["metadata"]["subgraphMetadata"]
    names = [output["name"] for output in graph["outputTensorMetadata"]]
    assert names == ["logits", "features", "attention"]


def test_the_metadata_says_what_the_schema_asks(answers, exported):
    for path in exported.glob("*.tflite"):
        found = answers[path.name]["metadata"]
        assert found["name"] == "vit-ti/8" and path.stem in found["description"]
        assert read(path).description["provenance"]["weights_sha256"].startswith(found["version"])
        assert found["minParserVersion"] == "1.0.0"
        (graph,) = found["subgraphMetadata"]
        (image,), (logits,) = graph["inputTensorMetadata"], graph["outputTensorMetadata"]
        assert image["content"] == {
            "contentPropertiesType": 2,  # ImageProperties
            "contentProperties": {"colorSpace": 1},  # RGB
        }
        assert image["processUnits"] == [
            {"optionsType": 1, "options": {"mean": [0.0] * 3, "std": [1.0] * 3}}
        ]
        assert image["stats"] == {"max": [255.0] * 3, "min": [0.0] * 3}
        assert logits["content"]["contentPropertiesType"] == 1  # FeatureProperties
        (labels,) = logits["associatedFiles"]
        assert (labels["name"], labels["type"]) == ("labels.txt", 2)  # TENSOR_AXIS_LABELS


def test_integers_in_and_out(tmp_path):
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"pictures/{i}.png")
    graph = integer_model(tmp_path / "saved")
    labels = tuple(f"class {i}" for i in range(CLASSES))
    path = tmp_path / "uint8.tflite"
    spec = PreprocessSpec(SIZE, SIZE, **UNIT)
    path.write_bytes(metadata.add(graph, labels, spec, {"scheme": "x"}, name="x", version="x"))
    interpreter = Interpreter(model_content=graph)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert (source["dtype"], target["dtype"]) == (np.uint8, np.uint8)
    scale, zero_point = target["quantization"]
    results = mediapipe(tmp_path / "pictures", path)["uint8.tflite"]["results"]
    for i, image in enumerate(pixels):
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        output = interpreter.get_tensor(target["index"])[0].astype(float)
        logits = [score for _, _, score in sorted(results[f"{i}.png"])]
        assert logits == pytest.approx((output - zero_point) * scale, rel=1e-5)
        assert np.ptp(logits) > 0


def test_other_sizes_are_resized_without_antialiasing(tmp_path, photos, sample_photos):
    """A graph that returns its input shows the pixels that MediaPipe feeds it."""
    source = [tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32)]
    graph = tf.function(lambda x: {"logits": tf.reshape(x, [1, -1])}, source)
    owner = tf.Module()
    owner.graph = graph
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [graph.get_concrete_function()], owner
    )
    labels = tuple(map(str, range(SIZE * SIZE * 3)))
    spec = PreprocessSpec(SIZE, SIZE, **UNIT)
    path, folder = tmp_path / "mirror.tflite", tmp_path / "pictures"
    path.write_bytes(
        metadata.add(converter.convert(), labels, spec, {"scheme": "x"}, name="x", version="x")
    )
    folder.mkdir()
    for name, photo in sample_photos.items():
        photo.save(folder / f"{name}.png")
        photo.resize((SIZE, SIZE)).save(folder / f"{name}-same.png")
    for photo in (photos / "test/china").iterdir():
        shutil.copy(photo, folder)
    for name, results in mediapipe(folder, path)["mirror.tflite"]["results"].items():
        found = np.array([score for _, _, score in sorted(results)]).reshape(SIZE, SIZE, 3)
        image = Image.open(folder / name)
        at = np.meshgrid(*(np.arange(SIZE) * n / SIZE for n in image.size[::-1]), indexing="ij")
        planes = np.moveaxis(np.asarray(image, float), -1, 0)
        expected = np.stack([map_coordinates(p, at, order=1, mode="nearest") for p in planes], -1)
        assert np.abs(found - expected).max() <= 0.51  # grey levels, of rounding
        from_edge_demo = np.abs(found - to_pixels(image, spec)).mean()
        if name.endswith("-same.png"):
            assert from_edge_demo == 0
        elif name.endswith(".png"):  # 640x427
            assert from_edge_demo > 10
