"""Pictures for TensorBoard, attention maps against the model's own layers, the profiler's trace."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import HEADS, inputs, small
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfvit
from tfvit import runs, watch
from tfvit.inspect import attention
from tfvit.model import named_weights

RED, BLUE = (255, 0, 0), (0, 0, 255)
KINDS = {
    "cls": {},
    "gap": {"pooling": "gap", "position": "relative", "qkv_bias": False},
    "map": {"pooling": "map"},
    "two class tokens": {"distillation_token": True, "registers": 2},
}


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_the_attention_is_what_the_blocks_do(changes):
    model, images = small(**changes), inputs(2)
    weights = named_weights(model)
    for i in range(
        model.architecture.depth
    ):  # without their MLPs, blocks add attention and no more
        for part in ("kernel", "bias"):
            variable = weights[f"block_{i}/mlp/dense_2/{part}"]
            variable.assign(tf.zeros_like(variable))
    weights = {name: w.numpy() for name, w in weights.items()}
    streams = [x.numpy() for x in attention.streams(model, images)]
    maps = list(attention.attentions(model, images))
    assert len(maps) == model.architecture.depth
    for i, (found, x, after) in enumerate(zip(maps, streams, streams[1:])):
        np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
        name = f"block_{i}/attention"
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        y = y * weights[f"block_{i}/norm_1/gamma"] + weights[f"block_{i}/norm_1/beta"]
        value = y @ weights[f"{name}/value/kernel"] + weights.get(f"{name}/value/bias", 0)
        value = value.reshape(*value.shape[:2], HEADS, -1)
        context = np.einsum("bhmn,bnhd->bmhd", found, value).reshape(x.shape)
        out = context @ weights[f"{name}/out/kernel"] + weights[f"{name}/out/bias"]
        np.testing.assert_allclose(x + out, after, atol=2e-5)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_heat_maps_have_the_shape_of_the_patches(changes):
    model, images = small(**changes), inputs(2)
    found = attention.heat_maps(model, images)
    assert found.keys() == {"last block", "rollout"}
    for heat in found.values():
        assert heat.shape == (2, *model.architecture.grid)
        assert heat.min() >= 0 and np.all(heat.sum((1, 2)) <= 1 + 1e-5)
    if not model.architecture.prefix_tokens:
        np.testing.assert_allclose(found["rollout"].sum((1, 2)), 1, rtol=1e-5)


def test_the_class_token_reads_its_own_row():
    model, images = small(), inputs(2)
    last = list(attention.attentions(model, images))[-1].mean(axis=1)
    expected = last[:, 0, 1:].reshape(2, *model.architecture.grid)
    np.testing.assert_allclose(
        attention.heat_maps(model, images)["last block"], expected, rtol=1e-5
    )


def test_rollout_by_hand():
    first, second = np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([[1.0, 0.0], [1.0, 0.0]])
    a, b = 0.5 * (first + np.eye(2)), 0.5 * (second + np.eye(2))
    maps = [np.stack([m, m])[np.newaxis] for m in (first, second)]  # two heads, the same
    np.testing.assert_allclose(attention.rollout(maps)[0], b @ a, rtol=1e-6)


def test_a_batch_is_shown_picture_by_picture():
    pixels = np.zeros((3, 24, 40, 3), np.uint8)
    pixels[:2], pixels[2] = RED, BLUE
    shown = watch.augmented_batch(pixels, ["a", "$b$ _", "c " * 99])
    assert shown.dtype == np.uint8 and shown.ndim == 3
    red, blue = ((shown == colour).all(axis=-1).sum() for colour in (RED, BLUE))
    assert red == pytest.approx(2 * blue, rel=0.05) and blue > 1000


def test_captions_name_what_a_label_holds():
    labels = ("rose", "tulip", "daisy")
    assert watch.captions(np.array([2, 0]), labels) == ["daisy", "rose"]
    shares = np.array([[0.25, 0.75, 0], [0, 1, 0], [0, 0, 0]])
    assert watch.captions(shares, labels) == ["tulip 0.75, rose 0.25", "tulip", ""]


def test_pictures_of_a_model_and_of_its_errors():
    pixels = np.random.default_rng(0).integers(0, 255, (6, 24, 40, 3), np.uint8)
    shown = watch.attention_maps(small(), pixels)
    assert shown.dtype == np.uint8 and shown.shape[0] > shown.shape[1] / 2
    resnet = tfvit.create_model("bit-r50x1", 2, 32, units=(1,))
    assert watch.attention_maps(resnet, pixels) is None
    assert watch.confusion([[5, 1], [0, 7]], ("a", "b")).shape[2] == 3


def test_tensorboard_gets_pictures_and_the_time_goes_on(tmp_path):
    log = runs.MetricsLog(tmp_path, 0)
    log.add({"step": 1, "phase": "train", "loss": 1.0})
    log.add({"step": 2, "phase": "train", "loss": 0.5})
    image = np.full((8, 9, 3), BLUE, np.uint8)
    log.add_image(2, "batch", image)
    first, second = (row["seconds"] for row in runs.read_metrics(tmp_path))
    assert 0 <= first <= second
    events = EventAccumulator(str(tmp_path / runs.TENSORBOARD), {"tensors": 0}).Reload()
    assert set(events.Tags()["tensors"]) == {"train/loss", "batch"}
    stored = events.Tensors("batch")[0].tensor_proto.string_val
    assert np.array_equal(tf.image.decode_png(stored[2]).numpy(), image)
    path = tmp_path / runs.METRICS
    path.write_text('{"step": 2, "phase": "train", "seconds": 100.0}\n')
    runs.MetricsLog(tmp_path, 2).add({"step": 3, "phase": "train", "loss": 0.25})
    assert 100 <= runs.read_metrics(tmp_path)[-1]["seconds"] < 130


def test_a_trace_of_some_steps(tmp_path, capsys):
    step = tf.function(lambda x: tf.linalg.matmul(x, x))
    with watch.profile(tmp_path, 101) as traced:
        for number in range(101, 121):
            with traced(number):
                step(tf.eye(8))
            files = list(tmp_path.rglob("plugins/profile/*/*.xplane.pb"))
            assert bool(files) == (number >= 115)
    assert len(files) == 1 and b"MatMul" in files[0].read_bytes()
    assert "tensorboard --logdir" in capsys.readouterr().out


def test_a_run_that_is_too_short_for_a_trace_says_so(tmp_path, capsys):
    with watch.profile(tmp_path, 1) as traced, traced(1):
        pass
    assert "no profile" in capsys.readouterr().out and not list(tmp_path.iterdir())
    with watch.profile(None, 1) as traced, traced(1):
        pass
    assert not capsys.readouterr().out
