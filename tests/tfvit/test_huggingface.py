"""Hugging Face folders: what transformers would write is read as the model that it computes, and back."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from huggingface_folders import (
    CLASSES,
    HEADS_OF,
    LABELS,
    QUERY,
    SIZE,
    WIDTH,
    channels_first,
    features,
    logits,
    pictures,
    sequence,
    shard,
    tensors_of,
    write_raw,
)
from safetensors.numpy import load as parse
from small_models import small

import tfvit
from convert import fold, tflite
from convert.schemes import SCHEMES
from edge_demo.classifier import Classifier
from edge_demo.preprocess import PreprocessSpec
from tfvit import interop, posemb
from tfvit.model import named_weights


def feature_model(model):
    import tf_keras as keras

    return keras.Model(model.input, model.get_layer("pool").output)


def dinov2_features(tensors, kind, images):
    """What the classifier of a DINOv2 reads: the class token, then the mean of the patches."""
    tokens = sequence(tensors, kind, channels_first(images), 1e-6)
    first = 1 + 3 * kind.endswith("registers")
    return np.concatenate([tokens[:, 0], tokens[:, first:].mean(axis=1)], axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_vit_with_a_classifier_computes_its_logits(write, prefix, dtype):
    tensors = {k: v.astype(dtype) for k, v in tensors_of("vit", prefix=prefix).items()}
    model, report = interop.load(write("vit", tensors))
    images = pictures()
    expected = features(tensors, "vit", channels_first(images), 1e-2)
    expected = expected @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(model(images).numpy(), expected, atol=2e-5)
    assert model.labels == LABELS
    assert len(report.loaded) == len(tensors) == len(named_weights(model))
    assert not (report.resized or report.reset or report.dropped)


@pytest.mark.parametrize("prefix", ["", "dinov2."])
def test_a_dinov2_computes_its_features_and_gets_a_head_of_zero(write, prefix):
    tensors = tensors_of("dinov2", prefix=prefix)
    mask = {f"{prefix}embeddings.mask_token": np.ones((1, WIDTH), np.float32)}
    model, report = interop.load(write("dinov2", {**tensors, **mask}))
    images = pictures()
    expected = dinov2_features(tensors, "dinov2", images)
    assert expected.std(axis=0).min() > 0.005  # the pictures matter, in every channel
    np.testing.assert_allclose(feature_model(model)(images).numpy(), expected, atol=2e-5)
    assert model(images).shape == (3, 1)
    assert not model(images).numpy().any()
    assert set(report.reset) == {"head/kernel", "head/bias"}
    assert set(report.dropped) == set(mask)


def test_a_vit_without_a_classifier_drops_its_pooler(write):
    tensors = tensors_of("vit", head=False)
    pooler = {"pooler.dense.weight": np.eye(WIDTH), "pooler.dense.bias": np.ones(WIDTH)}
    model, report = interop.load(write("vit", {**tensors, **pooler}))
    images = pictures()
    expected = features(tensors, "vit", channels_first(images), 1e-2)
    np.testing.assert_allclose(feature_model(model)(images).numpy(), expected, atol=2e-5)
    assert set(report.dropped) == set(pooler)
    assert model.architecture.num_classes == 1


def test_projections_without_bias_have_none(write):
    tensors = tensors_of("dinov2")
    biases = [n for n in tensors if ".attention.attention." in n and n.endswith(".bias")]
    for name in biases:
        del tensors[name]
    model, report = interop.load(write("dinov2", tensors, {"qkv_bias": False}))
    images = pictures()
    expected = dinov2_features(tensors, "dinov2", images)
    np.testing.assert_allclose(feature_model(model)(images).numpy(), expected, atol=2e-5)
    assert not model.architecture.qkv_bias
    assert set(report.reset) == {"head/kernel", "head/bias"}


def test_a_deit_with_its_teacher_is_the_mean_of_both_heads(write):
    tensors = tensors_of("deit", prefix="deit.")
    model, report = interop.load(write("deit", tensors))
    images = pictures()
    tokens = sequence(tensors, "deit", channels_first(images), 1e-2)
    parts = [logits(tokens[:, i], tensors, head) for i, head in enumerate(HEADS_OF["deit"])]
    np.testing.assert_allclose(model(images).numpy(), np.mean(parts, axis=0), atol=2e-5)
    assert model.architecture.distillation_token and model.labels == LABELS
    assert report.reset == {"preprocess": "there squashed to 40x40 before the crop"}
    assert model.preprocess.resize == "crop" and model.preprocess.crop_fraction == SIZE / 40


def test_a_deit_without_its_teacher_has_a_register(write):
    tensors = tensors_of("deit", heads=("classifier",))
    model, _ = interop.load(write("deit", tensors))
    images = pictures()
    expected = features(tensors, "deit", channels_first(images), 1e-2)
    expected = logits(expected, tensors, "classifier")
    np.testing.assert_allclose(model(images).numpy(), expected, atol=2e-5)
    assert model.architecture.registers == 1 and not model.architecture.distillation_token


def test_registers_of_a_dinov2_come_after_the_class_token(write):
    kind = "dinov2_with_registers"
    tensors = tensors_of(kind)
    model, _ = interop.load(write(kind, tensors))
    images = pictures()
    expected = dinov2_features(tensors, kind, images)
    np.testing.assert_allclose(feature_model(model)(images).numpy(), expected, atol=2e-5)
    assert model.architecture.registers == 3


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers"])
def test_a_classifier_of_a_dinov2_reads_the_class_token_and_the_mean_of_the_patches(write, kind):
    rng = np.random.default_rng(3)
    tensors = tensors_of(kind, prefix=f"{kind}.")
    tensors["classifier.weight"] = rng.standard_normal((CLASSES, 2 * WIDTH)).astype(np.float32)
    tensors["classifier.bias"] = rng.standard_normal(CLASSES).astype(np.float32)
    names = {"id2label": {str(i): label for i, label in enumerate(LABELS)}}
    model, report = interop.load(write(kind, tensors, names))
    images = pictures()
    expected = logits(dinov2_features(tensors, kind, images), tensors, "classifier")
    np.testing.assert_allclose(model(images).numpy(), expected, atol=1e-4)
    assert model.architecture.pooling == "cls+gap"
    assert not (report.dropped or report.reset)


def test_values_that_are_no_numbers_are_a_warning(write, tmp_path, tfvit_cli):
    tensors = {**tensors_of("vit"), QUERY: np.full((WIDTH, WIDTH), np.nan, np.float32)}
    done = tfvit_cli("import", write("vit", tensors), "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "warning  block_1/attention/query/kernel holds values that are no numbers" in done.out


def test_bfloat16_is_the_upper_half_of_float32(write):
    tensors = tensors_of("vit")
    folder = write("vit", tensors)
    header = {name: ("BF16", value.shape, 2 * value.size) for name, value in tensors.items()}
    halves = [(value.view("<u4") >> 16).astype("<u2").tobytes() for value in tensors.values()]
    write_raw(folder / "model.safetensors", header, b"".join(halves))
    model, _ = interop.load(folder)
    found = model.get_layer("cls").token.numpy()
    np.testing.assert_allclose(found, tensors["embeddings.cls_token"], rtol=2**-7)
    assert not np.array_equal(found, tensors["embeddings.cls_token"])


def test_weights_in_several_files_are_put_together(write):
    folder = write("vit", tensors_of("vit"))
    whole, _ = interop.load(folder)
    shard(folder)
    parts, _ = interop.load(folder)
    for one, other in zip(whole.weights, parts.weights):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_the_tanh_forms_of_gelu_are_ours(write, activation):
    config = {"hidden_act": activation}
    model, _ = interop.load(write("vit", tensors_of("vit"), config))
    assert model.architecture.activation == "gelu_tanh"


def test_another_size_interpolates_the_position_embeddings_as_torch_does(write):
    tensors = tensors_of("dinov2")
    folder = write("dinov2", tensors)
    model, report = interop.load(folder, (16, 48))
    name = "embeddings.position_embeddings"
    tensors[name] = posemb.resize(tensors[name][0], (4, 4), (2, 6), "bicubic")[np.newaxis]
    images = pictures(16, 48)
    expected = dinov2_features(tensors, "dinov2", images)
    np.testing.assert_allclose(feature_model(model)(images).numpy(), expected, atol=2e-5)
    assert "4x4 patches -> class token + 2x6 patches" in report.resized["position/embedding"]
    assert (model.preprocess.height, model.preprocess.width) == (16, 48)


@pytest.mark.parametrize("pixels, expected", [(48, (48, 48)), (36, (32, 32))])
def test_the_size_is_the_preprocessors_if_the_patch_divides_it(write, pixels, expected):
    processor = {"crop_size": {"height": pixels, "width": pixels}, "size": {"shortest_edge": 64}}
    model, _ = interop.load(write("dinov2", tensors_of("dinov2"), (), processor))
    assert model.architecture.image_size == expected
    assert (model.preprocess.height, model.preprocess.width) == expected
    assert model.preprocess.crop_fraction == pixels / 64


GREY = {"mean": (0.5 * 255,) * 3, "std": (0.5 * 255,) * 3}
IMAGENET = {
    "mean": (0.485 * 255, 0.456 * 255, 0.406 * 255),
    "std": (0.229 * 255, 0.224 * 255, 0.225 * 255),
}
EXACT = PreprocessSpec(SIZE, SIZE, "squash", **GREY)
CROP = PreprocessSpec(SIZE, SIZE, "crop", 0.8, "bicubic", **IMAGENET)
PREPROCESSING = [
    ("vit", {}, EXACT),
    ("vit", {"image_processor_type": None}, EXACT),
    ("vit", {"image_processor_type": "ViTImageProcessorFast"}, EXACT),
    ("vit", {"image_processor_type": None, "feature_extractor_type": "ViTFeatureExtractor"}, EXACT),
    ("vit", {"size": SIZE, "resample": None}, EXACT),
    ("vit", {"resample": 3}, PreprocessSpec(SIZE, SIZE, interpolation="bicubic", **GREY)),
    ("vit", {"do_center_crop": True, "crop_size": SIZE}, EXACT),
    ("vit", {"do_normalize": False}, PreprocessSpec(SIZE, SIZE, mean=(0,) * 3, std=(255,) * 3)),
    (
        "vit",
        {"do_rescale": False, "image_mean": [9, 8, 7], "image_std": [3, 2, 1]},
        PreprocessSpec(SIZE, SIZE, mean=(9, 8, 7), std=(3, 2, 1)),
    ),
    (
        "vit",
        {"rescale_factor": 1 / 127.5},
        PreprocessSpec(SIZE, SIZE, mean=(63.75,) * 3, std=(63.75,) * 3),
    ),
    ("dinov2", {}, CROP),
    ("dinov2", {"size": 40, "crop_size": SIZE}, CROP),
    ("dinov2", {"image_processor_type": None, "do_center_crop": True}, CROP),
]


@pytest.mark.parametrize("kind, changes, expected", PREPROCESSING)
def test_preprocessing_is_in_grey_levels(write, kind, changes, expected):
    model, _ = interop.load(write(kind, tensors_of(kind), (), changes))
    found = model.preprocess
    for name in ("mean", "std", "crop_fraction"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    for name in ("height", "width", "resize", "interpolation"):
        assert getattr(found, name) == getattr(expected, name)


def test_import_writes_a_checkpoint_that_trains_and_exports(write, tmp_path, tfvit_cli, photos):
    folder = write("dinov2", tensors_of("dinov2"))
    done = tfvit_cli("import", folder, "--out", tmp_path / "imported")
    assert done.code == 0, done.err
    assert "loaded   42 weights" in done.out
    assert "no classifier there: one class, zero" in done.out
    model = tfvit.load(tmp_path / "imported")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert model.provenance["imported"]["sha256"] == digest
    assert model.provenance["imported"]["source"] == str(folder)
    run = tmp_path / "run"
    done = tfvit_cli(
        *("train", "--init", tmp_path / "imported", "--data", photos, "--image-size", 48),
        *("--steps", 2, "--batch-size", 8, "--out", run),
    )
    assert done.code == 0, done.err
    tuned = tfvit.load(run / "best")
    assert tuned.labels == ("china", "flower")
    assert tuned.preprocess == model.preprocess.at(48, 48)
    for field in ("activation", "layer_scale", "position_interpolation", "layer_norm_epsilon"):
        assert getattr(tuned.architecture, field) == getattr(model.architecture, field)
    done = tfvit_cli("convert", run, "--data", photos, "--out", tmp_path / "exported")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "exported/report.json").read_text())
    parity = report["files"]["float32"]["parity_with_keras"]
    assert parity["max_difference"] < 1e-4
    assert Classifier(tmp_path / "exported/float32.tflite").preprocess.resize == "crop"


def test_the_edge_graph_of_an_import_computes_what_transformers_would(write):
    tensors = tensors_of("vit")
    model, _ = interop.load(write("vit", tensors))
    weights = {name: v.numpy() for name, v in named_weights(model).items()}
    folded = fold.fold(weights, model.architecture, model.preprocess)
    content = tflite.write(SCHEMES["float32"], folded, model.architecture)
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=content).get_signature_runner()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3)).astype(np.float32)
        images = channels_first((pixels / 255 - 0.5) / 0.5)
        expected = features(tensors, "vit", images, 1e-2)
        expected = expected @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        np.testing.assert_allclose(run(pixels=pixels)["logits"], expected, atol=1e-4)


GELU = {"activation": "gelu"}
SCALED = {**GELU, "layer_scale": 1.0}
# what it becomes -> fields of our model
EXPORTED = {
    "vit": GELU,
    "deit": {**GELU, "distillation_token": True},
    "dinov2": SCALED,
    "dinov2_with_registers": {**SCALED, "registers": 3},
}
EXPORTED = {(kind, "cls"): fields for kind, fields in EXPORTED.items()} | {
    (kind, "cls+gap"): {**EXPORTED[kind], "pooling": "cls+gap"}
    for kind in EXPORTED
    if "dino" in kind
}


@pytest.mark.parametrize("kind, pooling", EXPORTED)
def test_what_is_exported_computes_the_same_and_comes_back(tmp_path, kind, pooling):
    model = small(CLASSES, SIZE, **EXPORTED[kind, pooling])
    folder = tmp_path / "there"
    interop.save(model, "huggingface", folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == kind
    tensors = parse((folder / "model.safetensors").read_bytes())
    images = pictures()
    tokens = sequence(tensors, kind, channels_first(images), 1e-6)
    if kind.startswith("dinov2"):
        patches = tokens[:, model.architecture.prefix_tokens :].mean(axis=1)
        expected = logits(np.concatenate([tokens[:, 0], patches], 1), tensors, "classifier")
    else:
        heads = HEADS_OF[kind]
        parts = [logits(tokens[:, i], tensors, head) for i, head in enumerate(heads)]
        expected = np.mean(parts, axis=0)
    np.testing.assert_allclose(model(images).numpy(), expected, atol=2e-5)
    assert_comes_back(model, folder)


@pytest.mark.parametrize(
    "fields",
    [{"registers": 1}, {"qkv_bias": False, "image_size": (16, 40)}, {"layer_norm_epsilon": 1e-3}],
    ids=str,
)
def test_other_fields_come_back_as_well(tmp_path, fields):
    size = fields.pop("image_size", SIZE)
    model = small(CLASSES, size, **fields)
    interop.save(model, "huggingface", tmp_path / "there")
    assert_comes_back(model, tmp_path / "there")


def test_several_labels_a_picture_are_a_problem_type(tmp_path):
    model = small(CLASSES, SIZE)
    model.card = dataclasses.replace(model.card, scores="sigmoid")
    folder = tmp_path / "there"
    interop.save(model, "huggingface", folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert_comes_back(model, folder)
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "regression"}))
    with pytest.raises(
        tfvit.UserError, match="problem_type 'regression' is not one of single_label"
    ):
        interop.load(folder)


def test_a_head_of_one_class_and_zeros_is_not_exported(write, tmp_path):
    model, _ = interop.load(write("dinov2", tensors_of("dinov2")))
    interop.save(model, "huggingface", tmp_path / "back")
    names = parse((tmp_path / "back/model.safetensors").read_bytes())
    assert names.keys() - {"embeddings.mask_token"} == tensors_of("dinov2").keys()
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert config["architectures"] == ["Dinov2Model"]


def test_preprocessing_comes_back(tmp_path):
    for i, spec in enumerate((CROP, dataclasses.replace(EXACT, interpolation="bicubic"))):
        model = small(CLASSES, SIZE)
        model.card = dataclasses.replace(model.card, preprocess=spec)
        interop.save(model, "huggingface", tmp_path / str(i))
        again, _ = interop.load(tmp_path / str(i))
        found, expected = again.preprocess, spec
        for name in ("mean", "std"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)
        assert dataclasses.replace(found, mean=expected.mean, std=expected.std) == expected


def assert_comes_back(model, folder):
    again, report = interop.load(folder)
    assert not (report.resized or report.reset or report.not_finite)
    for one, other in zip(model.weights, again.weights):
        assert one.name == other.name
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert (again.labels, again.scores) == (model.labels, model.scores)
    changed = {"name": "", "position_interpolation": "bicubic"}  # these are not kept
    kept = dataclasses.replace(model.architecture, **changed)
    assert dataclasses.replace(again.architecture, **changed) == kept
