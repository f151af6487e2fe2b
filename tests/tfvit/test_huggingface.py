"""Hugging Face folders: a model that transformers would write, and its equations in NumPy, by its names."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import erf

import tfvit
from convert import edge_graph, tflite
from convert.schemes import SCHEMES
from edge_demo.classifier import Classifier
from edge_demo.preprocess import PreprocessSpec
from tfvit import interop, posemb
from tfvit.model import named_weights

WIDTH, DEPTH, HEADS, MLP, PATCH, SIZE, CLASSES = 48, 2, 3, 96, 8, 32, 3
LABELS = ("tench", "great white shark", "cock")
CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "hidden_act": "gelu",
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
    "qkv_bias": True,
}
CONFIGS = {
    "vit": {
        **CONFIG,
        "model_type": "vit",
        "intermediate_size": MLP,
        "layer_norm_eps": 1e-2,  # so large that another one shows
        "id2label": {str(i): label for i, label in enumerate(LABELS)},
    },
    "dinov2": {
        **CONFIG,
        "model_type": "dinov2",
        "mlp_ratio": 2,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
    },
}
NORMALISED = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS = {
    "vit": {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": SIZE, "width": SIZE},
        **NORMALISED,
    },
}
# name in a block of each kind: norm before attention, norm before the MLP, its two dense layers
PARTS = {
    "vit": ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    "dinov2": ("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
}


def tensors_of(kind, *, prefix="", head=True, tokens=1 + (SIZE // PATCH) ** 2):
    """Random weights by transformers' names, in its layouts."""
    rng = np.random.default_rng(0)
    weights = {}

    def add(name, *shape, scale=0.3, offset=0.0):
        weights[prefix + name] = (offset + scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(name, out, width):
        add(f"{name}.weight", out, width, scale=width**-0.5)
        add(f"{name}.bias", out)

    def norm(name):
        add(f"{name}.weight", WIDTH, offset=1.0)
        add(f"{name}.bias", WIDTH)

    add("embeddings.cls_token", 1, 1, WIDTH)
    add("embeddings.position_embeddings", 1, tokens, WIDTH)
    projection = "embeddings.patch_embeddings.projection"
    add(f"{projection}.weight", WIDTH, 3, PATCH, PATCH, scale=(3 * PATCH**2) ** -0.5)
    add(f"{projection}.bias", WIDTH)
    first, second, up, down = PARTS[kind]
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        norm(f"{layer}.{first}")
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.attention.{part}", WIDTH, WIDTH)
        dense(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{layer}.{second}")
        dense(f"{layer}.{up}", MLP, WIDTH)
        dense(f"{layer}.{down}", WIDTH, MLP)
        if kind == "dinov2":
            add(f"{layer}.layer_scale1.lambda1", WIDTH)
            add(f"{layer}.layer_scale2.lambda1", WIDTH)
    norm("layernorm")
    if head and kind == "vit":
        prefix = ""
        dense("classifier", CLASSES, WIDTH)
    return weights


def features(weights, kind, images, epsilon):
    """The class token after the last norm, float64 [n, width]; images: [n, 3, h, w] of the model's size.

    Follows transformers' modeling_vit.py and modeling_dinov2.py.
    """
    w = {name.removeprefix(f"{kind}."): v.astype(np.float64) for name, v in weights.items()}

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, layer):
        count = x.shape[1]
        q, k, v = (
            dense(x, f"{layer}.attention.attention.{part}")
            .reshape(len(x), count, HEADS, -1)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS))
        context = scores / scores.sum(-1, keepdims=True) @ v
        context = context.swapaxes(1, 2).reshape(len(x), count, WIDTH)
        return dense(context, f"{layer}.attention.output.dense")

    kernel = w["embeddings.patch_embeddings.projection.weight"]
    n, _, height, width = images.shape
    x = np.stack(
        [
            np.einsum("ncyx,ocyx->no", images[:, :, top : top + PATCH, left : left + PATCH], kernel)
            for top in range(0, height, PATCH)
            for left in range(0, width, PATCH)
        ],
        axis=1,
    )
    x = x + w["embeddings.patch_embeddings.projection.bias"]
    x = np.concatenate([np.repeat(w["embeddings.cls_token"], n, axis=0), x], axis=1)
    x = x + w["embeddings.position_embeddings"]
    first, second, up, down = PARTS[kind]
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        y = attention(norm(x, f"{layer}.{first}"), layer)
        x = x + y * w.get(f"{layer}.layer_scale1.lambda1", 1)
        y = dense(norm(x, f"{layer}.{second}"), f"{layer}.{up}")
        y = dense(0.5 * y * (1 + erf(y / np.sqrt(2))), f"{layer}.{down}")
        x = x + y * w.get(f"{layer}.layer_scale2.lambda1", 1)
    return norm(x, "layernorm")[:, 0]


@pytest.fixture
def write(tmp_path):
    """write(kind, tensors, config={}, processor={}): a Hugging Face folder; a value of None leaves out."""

    def folder(kind, tensors, config=(), processor=()):
        root = tmp_path / "there"
        root.mkdir()
        for name, values in (
            ("config.json", {**CONFIGS[kind], **dict(config)}),
            ("preprocessor_config.json", {**PROCESSORS[kind], **dict(processor)}),
        ):
            values = {key: value for key, value in values.items() if value is not None}
            (root / name).write_text(json.dumps(values))
        save_file(
            {k: np.ascontiguousarray(v) for k, v in tensors.items()}, root / "model.safetensors"
        )
        return root

    return folder


def pictures(height=SIZE, width=SIZE):
    return np.random.default_rng(1).standard_normal((3, height, width, 3)).astype(np.float32)


def channels_first(images):
    return images.transpose(0, 3, 1, 2)


def feature_model(model):
    import tf_keras as keras

    return keras.Model(model.input, model.get_layer("pool").output)


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
    expected = features(tensors, "dinov2", channels_first(images), 1e-6)
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


def test_projections_without_bias_have_one_of_zero(write):
    tensors = tensors_of("dinov2")
    biases = [n for n in tensors if ".attention.attention." in n and n.endswith(".bias")]
    for name in biases:
        del tensors[name]
    model, report = interop.load(write("dinov2", tensors, {"qkv_bias": False}))
    images = pictures()
    expected = features(tensors, "dinov2", channels_first(images), 1e-6)
    np.testing.assert_allclose(feature_model(model)(images).numpy(), expected, atol=2e-5)
    assert len([n for n in report.reset if n.startswith("block_")]) == len(biases) == 3 * DEPTH


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
    expected = features(tensors, "dinov2", channels_first(images), 1e-6)
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
    folded = edge_graph.fold(weights, model.architecture, model.preprocess)
    content = tflite.write(SCHEMES["float32"], folded, model.architecture)
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_content=content).get_signature_runner()
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (1, SIZE, SIZE, 3)).astype(np.float32)
        images = channels_first((pixels / 255 - 0.5) / 0.5)
        expected = features(tensors, "vit", images, 1e-2)
        expected = expected @ tensors["classifier.weight"].T + tensors["classifier.bias"]
        np.testing.assert_allclose(run(pixels=pixels)["logits"], expected, atol=1e-4)


QUERY = "encoder.layer.1.attention.attention.query.weight"
# what is wrong -> (kind, weights, config, processor, part of the message)
BAD = {
    "other model": ("vit", {}, {"model_type": "swin"}, {}, "model_type 'swin' is not one of vit"),
    "no model type": ("vit", {}, {"model_type": None}, {}, "model_type None is not one of"),
    "registers": ("dinov2", {}, {"model_type": "dinov2_with_registers"}, {}, "is not one of"),
    "SwiGLU": ("dinov2", {}, {"use_swiglu_ffn": True}, {}, "use_swiglu_ffn"),
    "activation": ("vit", {}, {"hidden_act": "quick_gelu"}, {}, "hidden_act 'quick_gelu'"),
    "channels": ("vit", {}, {"num_channels": 1}, {}, "num_channels 1 is not 3"),
    "no width": ("vit", {}, {"hidden_size": None}, {}, "'hidden_size' is missing"),
    "width of letters": ("vit", {}, {"hidden_size": "48"}, {}, "config.json: "),
    "another depth": ("vit", {}, {"num_hidden_layers": 3}, {}, "encoder.layer.2"),
    "less depth": ("vit", {}, {"num_hidden_layers": 1}, {}, "encoder.layer.1"),
    "another width": ("vit", {}, {"hidden_size": 60}, {}, "(1, 17, 48) do not fit"),
    "another patch": ("vit", {}, {"patch_size": 16}, {}, "(1, 17, 48) do not fit"),
    "another MLP": ("vit", {}, {"intermediate_size": 90}, {}, "mlp/dense_1/kernel is (48, 96)"),
    "labels missing": ("vit", {}, {"id2label": {"0": "a", "1": "b"}}, {}, "head/kernel is (48, 3)"),
    "labels uncounted": ("vit", {}, {"id2label": {"1": "a", "2": "b"}}, {}, "'0' is missing"),
    "missing weight": ("vit", {QUERY: None}, {}, {}, f"{QUERY} is missing"),
    "leftover": ("vit", {"decoder.0.weight": np.ones(3)}, {}, {}, "decoder.0.weight is not a"),
    "classifier of dinov2": (
        *("dinov2", {"classifier.weight": np.ones((3, 2 * WIDTH))}, {}, {}),
        "classifier.weight is not a",
    ),
    "axes": ("vit", {QUERY: np.ones(3)}, {}, {}, f"{QUERY} of shape (3,)"),
    "not finite": ("vit", {QUERY: np.full((WIDTH, WIDTH), np.nan)}, {}, {}, "is not finite"),
    "processor": (
        *("vit", {}, {}, {"image_processor_type": "CLIPImageProcessor"}),
        "CLIPImageProcessor is not one of",
    ),
    "unknown step": ("vit", {}, {}, {"do_pad": True}, "do_pad True is not understood"),
    "no resize": ("vit", {}, {}, {"do_resize": False}, "do_resize is false"),
    "filter": ("vit", {}, {}, {"resample": 1}, "resample 1 is neither"),
    "no mean": ("vit", {}, {}, {"image_mean": None}, "'image_mean' is missing"),
    "mean of two": ("vit", {}, {}, {"image_mean": [1, 2]}, "mean must be three numbers"),
    "no crop": ("dinov2", {}, {}, {"do_center_crop": False}, "not cropped"),
    "oblong crop": ("dinov2", {}, {}, {"crop_size": {"height": 32, "width": 40}}, "neither an"),
    "crop of a square": ("vit", {}, {}, {"do_center_crop": True, "crop_size": 24}, "neither an"),
    "crop too large": ("dinov2", {}, {}, {"crop_size": 48}, "crop_fraction 1.2"),
    "factor 0": ("vit", {}, {}, {"rescale_factor": 0}, "preprocessor_config.json: damaged"),
}


@pytest.mark.parametrize("kind, tensors, config, processor, message", BAD.values(), ids=BAD)
def test_what_is_not_understood_is_one_line(
    write, tmp_path, tfvit_cli, kind, tensors, config, processor, message
):
    tensors = {**tensors_of(kind), **tensors}
    tensors = {name: value for name, value in tensors.items() if value is not None}
    folder = write(kind, tensors, config, processor)
    assert_refused(tfvit_cli, folder, tmp_path / "out", message)


def break_json(folder):
    (folder / "config.json").write_text("{")


def shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json inside"),
    "config of text": (break_json, "config.json: damaged"),
    "config of a list": (lambda f: (f / "config.json").write_text("[]"), "config.json: damaged"),
    "no processor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "no preprocessor_config.json inside",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors inside"),
    "sharded": (shard, "weights in several files"),
    "pickle": (pickled, "pytorch_model.bin may hold code and is not read"),
    "half the weights": (cut, "model.safetensors: damaged"),
}


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_one_line(write, tmp_path, tfvit_cli, damage, message):
    folder = write("vit", tensors_of("vit"))
    damage(folder)
    assert_refused(tfvit_cli, folder, tmp_path / "out", message)


def test_a_folder_that_is_not_there_is_one_line(tmp_path, tfvit_cli):
    assert_refused(tfvit_cli, tmp_path / "nowhere", tmp_path / "out", "nowhere: no such folder")


def test_a_size_that_the_patch_does_not_divide_is_one_line(write, tmp_path, tfvit_cli):
    folder = write("vit", tensors_of("vit"))
    message = "image size 30x30 is not divisible by the patch size 8"
    assert_refused(tfvit_cli, folder, tmp_path / "out", message, "--image-size", "30")


def test_nothing_is_overwritten(write, tmp_path, tfvit_cli):
    folder = write("vit", tensors_of("vit"))
    (tmp_path / "out").mkdir()
    done = tfvit_cli("import", folder, "--out", tmp_path / "out")
    assert done.code == 2
    assert "exists already" in done.err
    assert not list((tmp_path / "out").iterdir())


def assert_refused(tfvit_cli, folder, out, message, *options):
    done = tfvit_cli("import", folder, "--out", out, *options)
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not out.exists()
