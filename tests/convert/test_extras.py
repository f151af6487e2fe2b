"""What files tell beside their logits: features and attention, and that the logits stay as they are."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter
from random_models import SPEC, random_model, weights_of
from test_edge_graph import MODELS

import tfvit
from convert import fold, qat, tflite
from convert.extras import outputs
from convert.schemes import SCHEMES
from edge_demo import Classifier, UserError
from edge_demo.pipeline import Pipeline
from edge_demo.preprocess import normalise
from edge_demo.sources.frames import Frame
from edge_demo.tflite.metadata import describe, read
from tfvit.inspect.attention import attentions
from tfvit.model import build

BOTH = ("features", "attention")


def rollout(model, images):
    """Attention rollout of the model's own attention, all of its matrices multiplied: [b, rows, columns]."""
    arch = model.architecture
    product = np.eye(arch.tokens)
    for heads in attentions(model, images):
        product = (0.5 * heads.mean(axis=1) + 0.5 * np.eye(arch.tokens)) @ product
    if arch.pooling == "map":
        probe, x = keras.Model(model.input, [model.get_layer(n).output for n in ("map", "norm")])(
            images
        )
        w = weights_of(model)
        q, k = (
            (y.numpy() @ w[f"map/attention/{part}/kernel"] + w[f"map/attention/{part}/bias"])
            for y, part in ((probe, "query"), (x, "key"))
        )
        q, k = (y.reshape(*y.shape[:2], arch.heads, arch.head_dim) for y in (q, k))
        scores = np.einsum("bmhd,bnhd->bhmn", q, k) / np.sqrt(arch.head_dim)
        share = np.exp(scores - scores.max(axis=-1, keepdims=True))
        rows = (share / share.sum(axis=-1, keepdims=True)).mean(axis=1) @ product
    elif arch.pooling == "gap":
        rows = product[:, arch.prefix_tokens :].mean(axis=1, keepdims=True)
    else:
        rows = product[:, : arch.class_tokens].mean(axis=1, keepdims=True)
    rows = rows[:, 0, arch.prefix_tokens :]
    return (rows / rows.sum(axis=1, keepdims=True)).reshape(-1, *arch.grid)


def heads_read(model, images):
    """What the heads of a model read, one behind the other."""
    names = ("head", "head_distillation")[: 1 + model.architecture.distillation_token]
    inputs = keras.Model(model.input, [model.get_layer(name).input for name in names])(images)
    return np.concatenate(tf.nest.flatten(inputs), axis=1)


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_the_graph_tells_what_the_model_does(changes):
    model = random_model(**changes)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3)).astype(np.float32)
    images = tf.constant(normalise(pixels, SPEC))
    folded = fold.fold(weights_of(model), model.architecture, SPEC)
    found = outputs(folded, tf.constant(pixels), model.architecture, extras=BOTH)
    assert list(found) == ["logits", "features", "attention"]
    expected = heads_read(model, images)
    assert np.abs(found["features"] - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    expected = rollout(model, images)
    assert np.abs(found["attention"] - expected).max() < 1e-4
    assert np.ptp(expected) > 1e-3


def run(content, pixels):
    """Outputs of one picture as the file has them, integers included."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], pixels[np.newaxis].astype(source["dtype"]))
    interpreter.invoke()
    return [interpreter.get_tensor(o["index"])[0] for o in interpreter.get_output_details()]


@pytest.mark.parametrize("name", SCHEMES)
def test_no_bit_of_the_logits_changes(trained, name, digits):
    arch, folded, _ = trained
    ranges = qat.calibrate(folded, arch, [digits(64)], "minmax", lambda: None, BOTH)
    plain = tflite.write(SCHEMES[name], folded, arch, ranges)
    telling = tflite.write(SCHEMES[name], folded, arch, ranges, extras=BOTH)
    for pixels in digits(8):
        (alone,), (logits, features, attention) = run(plain, pixels), run(telling, pixels)
        assert np.array_equal(alone, logits) and np.ptp(logits) > 0
        assert features.shape == (48,) and attention.shape == (4, 4)


@pytest.mark.parametrize("extra", BOTH)
def test_each_alone_changes_no_bit_of_a_model_with_a_probe_either(extra):
    """Whose head reads what the file tells as it is, and whose file must hold it twice."""
    model = random_model(pooling="map", depth=1)
    arch, scheme = model.architecture, SCHEMES["int8-full"]
    pixels = np.random.default_rng(1).integers(0, 256, (4, 16, 24, 3)).astype(np.uint8)
    folded = fold.fold(weights_of(model), arch, SPEC)
    ranges = qat.calibrate(folded, arch, [pixels], "minmax", lambda: None, [extra])
    plain = tflite.write(scheme, folded, arch, ranges)
    telling = tflite.write(scheme, folded, arch, ranges, extras=[extra])
    for one in pixels:
        (alone,), (logits, told) = run(plain, one), run(telling, one)
        assert np.array_equal(alone, logits) and np.ptp(logits) > 0 and np.ptp(told) > 0


def test_files_name_their_outputs_and_report_and_info_tell_them(telling, tfvit_cli, tmp_path):
    report = json.loads((telling / "report.json").read_text())
    for name, entry in report["files"].items():
        path = telling / entry["file"]
        assert entry["outputs"] == ["logits", *BOTH]
        assert set(entry["extras"]) == set(BOTH)
        assert min(e["cosine"] for e in entry["extras"].values()) > 0.98, name
        assert tfvit_cli("info", path, "--json", tmp_path / "info.json").code == 0
        found = json.loads((tmp_path / "info.json").read_text())["outputs"]
        shapes = {port["name"]: port["shape"] for port in found}
        assert list(shapes.items()) == [
            *(("logits", [1, 10]), ("features", [1, 48]), ("attention", [1, 4, 4]))
        ]
    float32 = report["files"]["float32"]
    assert max(e["max_difference"] for e in float32["extras"].values()) < 1e-4
    for name in ("float32", "int8"):
        assert report["files"][name]["delegation"]["partitions"] == 1
        assert report["files"][name]["delegation"]["rest"] == []
    page = (telling / "report.html").read_text()
    assert "attention</td>" in page and "of 1000 training photos" in page


def test_a_result_of_the_pipeline_has_the_attention(telling, exported, digits):
    for path, shape in ((telling / "int8.tflite", (4, 4)), (exported / "int8.tflite", None)):
        found = Pipeline(Classifier(path)).result(Frame(digits(1)[0], "x")).attention
        assert getattr(found, "shape", None) == shape


@pytest.mark.parametrize("changes", ["cls", "map", "representation layer"])
def test_features_alone_do_not_change_an_integer_file(changes):
    model = random_model(**MODELS[changes])
    arch, folded = model.architecture, fold.fold(weights_of(model), model.architecture, SPEC)
    pixels = np.random.default_rng(1).integers(0, 256, (8, 16, 24, 3), np.uint8)
    ranges = qat.calibrate(folded, arch, [pixels], "minmax", lambda: None, BOTH[:1])
    plain = tflite.write(SCHEMES["int8-full"], folded, arch, ranges)
    telling = tflite.write(SCHEMES["int8-full"], folded, arch, ranges, extras=BOTH[:1])
    found = [[*run(plain, one), *run(telling, one)] for one in pixels]
    alone, logits, features = map(np.array, zip(*found))
    assert np.array_equal(alone, logits) and np.ptp(logits) > 0
    expected = heads_read(model, tf.constant(normalise(pixels, SPEC)))
    assert np.corrcoef(features.ravel(), expected.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("scheme", ["float32", "int8", "int8-full"])
def test_a_classifier_tells_what_the_model_does(telling, digits_run, digits, scheme):
    classifier, model = Classifier(telling / f"{scheme}.tflite"), tfvit.load(digits_run / "best")
    assert classifier.extras == {}
    close = {"float32": 0.999999, "int8": 0.998, "int8-full": 0.96}[scheme]
    for pixels in digits(6):
        images = tf.constant(normalise(pixels[np.newaxis], model.preprocess))
        classifier.logits(pixels)
        expected = {
            "features": heads_read(model, images)[0],
            "attention": rollout(model, images)[0],
        }
        for name, values in classifier.extras.items():
            others = expected.pop(name)
            assert values.dtype == np.float32 and values.shape == others.shape
            lengths = np.linalg.norm(values) * np.linalg.norm(others)
            assert (values * others).sum() / lengths > close
        assert not expected
        assert classifier.extras["attention"].sum() == pytest.approx(1, abs=1e-5)


def test_a_plain_file_tells_nothing_more(exported, digits):
    classifier = Classifier(exported / "int8.tflite")
    classifier.logits(digits(1)[0])
    assert classifier.extras == {}
    assert read(exported / "int8.tflite").outputs == ("logits",)


def test_a_file_whose_outputs_are_not_its_names_is_refused(telling, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes((telling / "int8.tflite").read_bytes())
    describe(path, outputs=["logits"])
    with pytest.raises(UserError, match=r"model\.tflite: 3 outputs, 1 names; export it again"):
        Classifier(path)


def test_a_resnet_tells_features_and_has_no_attention(tmp_path, tfvit_cli):
    arch = tfvit.architecture.ResNetArchitecture("bit", 5, (32, 32), (1, 1), 1)
    tfvit.save(build(arch), tmp_path / "bit")
    done = tfvit_cli("convert", tmp_path / "bit", "--with-attention", "--out", tmp_path / "out")
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "a BiT ResNet has no attention" in done.err and not (tmp_path / "out").exists()
    done = tfvit_cli("convert", tmp_path / "bit", "--with-features", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["files"]["float32"]["extras"]["features"]["max_difference"] < 1e-4
