"""Calibration and quantization-aware fine-tuning, against NumPy, TensorFlow and one device."""

import json
import subprocess

import numpy as np
import pytest
import tensorflow as tf
from helpers import ENVIRONMENT, MIRRORED
from random_models import SPEC, random_model, randomised, weights_of

import tfvit
from convert import edge_graph, fold, qat, sites
from convert.schemes import CALIBRATIONS, SCHEMES
from tfvit.architecture import Architecture
from tfvit.model import build


@pytest.mark.parametrize("method", CALIBRATIONS)
def test_calibration_by_hand(graph, digits, method):
    arch, folded, _ = graph
    batches = [digits(48)[:24], digits(48)[24:]]
    seen = {}

    def note(site, x):
        seen.setdefault(site, []).append(np.array(x).ravel())
        return x

    for batch in batches:
        edge_graph.forward(folded, tf.constant(batch, tf.float32), arch, note)
    ranges = qat.calibrate(folded, arch, batches, method, lambda: None)
    known = {n: s for n, s in sites.sites(arch).items() if not s.kernel and not s.rows}
    assert set(ranges) == set(known)
    for name, site in known.items():
        if site.fixed:
            assert ranges[name] == site.fixed
            continue
        combine = (np.min, np.max) if method == "minmax" else (np.mean, np.mean)
        beyond = {
            x.size: round(x.size / 10_000) or 1 if method == "percentile" else 1 for x in seen[name]
        }
        ends = [np.sort(x)[[beyond[x.size] - 1, -beyond[x.size]]] for x in seen[name]]
        low, high = (f(values) for f, values in zip(combine, zip(*ends)))
        low, high = min(max(low, site.floor), 0), max(high, 0)
        if site.symmetric:
            step = max(-low, high) / 127
            low, high = -128 * step, 127 * step
        sampled = method == "percentile" and seen[name][0].size > qat.SAMPLE
        wide = (0.05 if sampled else 1e-4) * (high - low) + 1e-5
        assert ranges[name] == pytest.approx((low, high), abs=float(wide)), name


@pytest.mark.parametrize("ends", [(-1.0, 3.0), (-128 / 127, 1.0), (0.0, 2.5)])
def test_steps_round_as_tensorflow_does_and_learn_as_lsq_does(ends):
    x = np.random.default_rng(0).normal(0, 2, 1000).astype(np.float32)
    factor = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch([factor, variable := tf.constant(x)])
        quantizer = qat.StepQuantizer(ends[0] * factor, ends[1] * factor)
        y = quantizer(variable, training=True, weights={})
    expected = tf.quantization.fake_quant_with_min_max_vars(x, *ends).numpy()
    assert np.allclose(y, expected, atol=1e-6)
    dx, dfactor = tape.gradient(y, [variable, factor])
    step = (ends[1] - ends[0]) / 255
    low, high = np.round(ends[0] / step) * step, np.round(ends[1] / step) * step
    inside = (x > low) & (x < high)
    assert np.array_equal(dx.numpy() == 1, inside)
    assert float(dfactor) == pytest.approx(
        float(np.where(inside, expected - x, expected).sum()), 1e-3
    )


@pytest.mark.parametrize("name", ["int8", "int8-full", "int4-dynamic"])
def test_fine_tuning_brings_a_coarse_graph_back_to_its_teacher(graph, digits, name):
    arch, folded, ranges = graph
    pixels, scheme = tf.constant(digits(64)), SCHEMES[name]
    if scheme.calibrated:  # far too wide: what training has to find out
        ranges = {n: (8 * low, 8 * high) for n, (low, high) in ranges.items()}
    else:
        ranges = {}
    weights, trained, losses = qat.finetune(
        *(folded, arch, scheme, ranges, [pixels] * 40),
        **{"steps": 40, "learning_rate": 1e-3, "advance": lambda loss: None, "xla": name == "int8"},
        scores="sigmoid" if name == "int4-dynamic" else "softmax",
        strategy=tf.distribute.get_strategy(),
    )
    assert np.mean(losses[-5:]) < 0.5 * losses[0]
    assert set(weights) == set(folded) and set(trained) == set(ranges)
    if scheme.calibrated:
        low, high = ranges["block_0/attention/input"]
        found = trained["block_0/attention/input"]
        assert found[1] != high and found[0] / found[1] == pytest.approx(low / high, 1e-5)


def test_a_hybrid_is_tuned_but_for_what_normalises_its_pictures():
    model = random_model(stem=(1,), patch_size=1)
    arch = model.architecture
    folded = fold.fold(weights_of(model), arch, SPEC)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3)).astype(np.uint8)
    ranges = qat.calibrate(folded, arch, [pixels], "minmax", lambda: None)
    weights, _, losses = qat.finetune(
        *(folded, arch, SCHEMES["int8"], ranges, [pixels] * 12),
        **{"steps": 12, "learning_rate": 1e-4, "advance": lambda loss: None, "xla": False},
        strategy=tf.distribute.get_strategy(),
    )
    assert len(losses) == 12
    still = {name for name in folded if np.array_equal(weights[name], folded[name])}
    features = {"features/gamma", "features/beta"}  # no loss depends on them
    assert still == {"input/scale", "input/shift"} | features


def test_fine_tuning_on_two_devices_is_that_on_one(tmp_path, tfvit_cli):
    shape = {"patch_size": 8, "width": 32, "depth": 1, "mlp_dim": 64, "heads": 2}
    tfvit.save(randomised(build(Architecture("small", 10, 16, **shape))), tmp_path / "model")
    common = ("convert", tmp_path / "model", "--data", "digits", "--int8", "--max-drop", "100")
    common += ("--qat-steps", "6", "--calibration-images", "64", "--out")
    assert tfvit_cli(*common, tmp_path / "one", "--strategy", "one").code == 0
    arguments = [*common, tmp_path / "mirrored", "--strategy", "mirrored"]
    subprocess.run([*MIRRORED, *map(str, arguments)], check=True, env=ENVIRONMENT)
    found = {}
    for strategy in ("one", "mirrored"):
        report = json.loads((tmp_path / strategy / "report.json").read_text())
        found[strategy] = report["files"]["int8"]
    distance = [found[strategy]["quantization"]["distance"] for strategy in found]
    assert distance[1] == pytest.approx(distance[0], 0.02)
    assert found["one"]["accuracy"]["loss"] == pytest.approx(
        found["mirrored"]["accuracy"]["loss"], abs=2e-3
    )
