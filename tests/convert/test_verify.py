"""What `verify` says about files, and what becomes of files that end the runtime."""

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from broken_models import edited, without_operands

import tfvit
from convert import edge_graph, fold, metadata, tflite, verify
from convert import model as models
from convert.schemes import SCHEMES
from edge_demo import Classifier, PreprocessSpec
from edge_demo.errors import GateError
from edge_demo.images import decode
from edge_demo.measure import runner
from edge_demo.preprocess import to_pixels
from edge_demo.tflite.metadata import read
from tfvit.data import DataOptions, open_source

LABELS = tuple("0123456789")
SPEC = PreprocessSpec(32, 32, mean=(0, 0, 0), std=(1, 1, 1))


def with_metadata(model, scheme="broken", labels=LABELS, spec=SPEC):
    return metadata.add(model, labels, spec, {"scheme": scheme}, name="vit", version="1")


def of_a_tensor_that_is_not(model):
    def point(op, name):
        op.inputs = [10**6, *op.inputs[1:]]

    return edited(model, point)


def squared_difference_in_16_bits(model):
    """Converts without complaint; the runtime has no such kernel."""

    @tf.function(input_signature=[tf.TensorSpec([1, 32, 32, 3], tf.float32, name="pixels")])
    def graph(pixels):
        rows = pixels[:, :10, 0, :]
        squares = tf.math.squared_difference(rows, tf.reduce_mean(rows, -1, keepdims=True))
        return {"logits": tf.reduce_mean(squares, axis=-1)}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    samples = np.random.default_rng(0).uniform(0, 255, (4, 1, 32, 32, 3)).astype(np.float32)
    converter.representative_dataset = lambda: ([x] for x in samples)
    sixteen = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    converter.target_spec.supported_ops = [sixteen, tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter.convert()


def once(path):
    with runner.runner(path) as run:
        return run(np.zeros((1, 32, 32, 3), np.uint8))


def timed(path):
    with runner.stopwatch([path], 1) as run:
        return run(1)


USES = {"run": once, "time": timed, "memory": runner.memory, "delegation": runner.delegation}
DEADLY = "the runtime ended with SIGSEGV"
ABSENT = "Invalid tensor index 1000000"
# what is wrong -> (what breaks a model, part of the message of each use that finds it)
BROKEN = {
    "missing operands": (without_operands, dict.fromkeys(USES, DEADLY)),
    "missing tensor": (of_a_tensor_that_is_not, dict.fromkeys(USES, ABSENT)),
    "half a file": (
        lambda model: model,
        {**dict.fromkeys(USES, "its checksum differs"), "delegation": "not a valid Flatbuffer"},
    ),
    "16 bits": (
        squared_difference_in_16_bits,
        dict.fromkeys(("run", "time", "memory"), "SquaredDifference only supports FLOAT32"),
    ),
}
CASES = [(name, use) for name, (_, messages) in BROKEN.items() for use in messages]


@pytest.fixture(scope="module")
def broken(tmp_path_factory, exported):
    """Files that no process survives, or that do not load or run, their metadata in order."""
    root = tmp_path_factory.mktemp("broken")
    whole = (exported / "float32.tflite").read_bytes()
    for name, (breaks, _) in BROKEN.items():
        content = with_metadata(breaks(whole))
        if name == "half a file":
            end = content.index(b"PK\x03\x04", len(whole))  # its metadata begins there
            content = content[: end // 2] + content[end:]
        (root / f"{name}.tflite").write_bytes(content)
    return root


@pytest.mark.parametrize("name, use", CASES)
def test_a_bad_file_is_a_gate_error_that_names_it(name, use, broken):
    with pytest.raises(GateError) as caught:
        USES[use](broken / f"{name}.tflite")
    message = str(caught.value)
    assert message.startswith(f"{name}.tflite: ") and BROKEN[name][1][use] in message
    assert len(message.splitlines()) == 1 and str(broken) not in message


def children():
    """Process ids of this process's runners."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if (
                int(parent) == os.getpid()
                and b"edge_demo.measure.runner" in (folder / "cmdline").read_bytes()
            ):
                yield int(folder.name)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds its children in /proc")
def test_a_killed_child_is_a_gate_error_and_none_is_left_behind(exported):
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    with (
        pytest.raises(GateError, match=r"int8.tflite: the runtime ended with SIGKILL"),
        runner.runner(exported / "int8.tflite") as run,
    ):
        assert run(pixels).shape == (1, 10)
        (child,) = children()
        os.kill(child, signal.SIGKILL)
        run(pixels)
    assert list(children()) == []


def test_a_child_answers_as_the_classifier_does(exported):
    path, rng = exported / "int8.tflite", np.random.default_rng(0)
    classifier = Classifier(path)
    with runner.runner(path, threads=2) as run:
        for count in (1, 5, 0):
            pixels = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
            found = run(pixels)
            assert found.shape == (count, 10) and found.dtype == np.float32
            assert all((a == classifier.logits(p)).all() for a, p in zip(found, pixels))


def break_in_export(monkeypatch, scheme, breaks):
    """Lets `export` write the files of one scheme broken."""
    add = metadata.add

    def broken(model, labels, spec, description, **named):
        model = breaks(model) if description["scheme"] == scheme else model
        return add(model, labels, spec, description, **named)

    monkeypatch.setattr(metadata, "add", broken)


@pytest.mark.parametrize("scheme, arguments", [("float32", ()), ("int8", ("--int8",))])
def test_nothing_is_left_of_an_export_that_ends_the_runtime(
    scheme, arguments, tmp_path, digits_run, tfvit_cli, monkeypatch
):
    break_in_export(monkeypatch, scheme, without_operands)
    options = ("--data", "digits", "--qat-steps", "0", "--calibration-images", "32")
    done = tfvit_cli("convert", digits_run, *arguments, *options, "--out", tmp_path / "out")
    assert done.code == 3
    assert done.err.splitlines()[-1] == f"error: {scheme}.tflite: {DEADLY}"
    assert list((tmp_path / "out").iterdir()) == []


def test_logits_that_are_no_numbers_fail_the_gate(tmp_path, digits_run, tfvit_cli, monkeypatch):
    forward = edge_graph.forward
    monkeypatch.setattr(
        edge_graph, "forward", lambda *args, **kwargs: forward(*args, **kwargs) * np.nan
    )
    done = tfvit_cli("convert", digits_run, "--out", tmp_path / "out")
    assert (done.code, done.err) == (3, "error: float32.tflite: logits are not finite\n")


def test_memory_is_that_of_the_child_and_of_the_file(tmp_path):
    model = tfvit.create_model("vit-ti/16", 10, 32)
    weights = {v.name.removesuffix(":0"): v.numpy() for v in model.weights}
    folded = fold.fold(weights, model.architecture, model.preprocess)
    path = tmp_path / "large.tflite"
    path.write_bytes(with_metadata(tflite.write(SCHEMES["float32"], folded, model.architecture)))
    found, size = runner.memory(path), path.stat().st_size / 2**20
    assert size > 20
    assert size < found["peak"] - found["baseline"] < 5 * size
    assert found["baseline"] < 150  # this process, with TensorFlow, has far more


def test_speed_is_the_median_ratio_of_each_round(monkeypatch, exported):
    rounds = [[8.0, 2.0], [10.0, 5.0], [30.0, 6.0]] * 4  # ratios 4, 2, 5; of the medians: 2

    @contextlib.contextmanager
    def stopwatch(paths, threads):
        left = iter([[1e5, 1e5], *rounds])
        yield lambda count: [next(left) for _ in range(count)]

    monkeypatch.setattr(runner, "stopwatch", stopwatch)
    monkeypatch.setattr(verify, "ROUNDS", (12, 300))
    reference, other = verify.latency([exported / "float32.tflite", exported / "int8.tflite"])
    assert set(other["latency_ms"]) == {str(n) for n in {1, os.cpu_count()}}
    assert (reference["latency_ms"]["1"], other["latency_ms"]["1"]) == (10.0, 5.0)
    assert (reference["speedup"]["1"], other["speedup"]["1"]) == (1.0, 4.0)


def test_the_files_run_in_turn(exported):
    paths = [exported / "float32.tflite", exported / "int8.tflite"]
    with runner.stopwatch(paths, 1) as run:
        times = np.array(run(5))
    assert times.shape == (5, 2) and times.min() > 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory, digits_run, exported):
    """The exported float file and one with a disturbed head, as `measure` sees them."""
    root = tmp_path_factory.mktemp("measured")
    model = models.read(digits_run / "best")
    folded = fold.fold(model.weights, model.architecture, model.preprocess)
    kernel = folded["head/kernel"]
    noise = np.random.default_rng(0).normal(0, 0.8 * kernel.std(), kernel.shape)
    folded["head/kernel"] = (kernel + noise).astype(np.float32)
    other = root / "noisy.tflite"
    content = tflite.write(SCHEMES["float32"], folded, model.architecture)
    other.write_bytes(with_metadata(content, "noisy", model.labels, model.pixel_spec))
    paths = {"float32": exported / "float32.tflite", "noisy": other}
    examples, source = {}, open_source(DataOptions("digits"))
    simulate = {"noisy": lambda pixels: np.zeros((len(pixels), 10), np.float32)}
    files = verify.measure(model, paths, source, simulate, examples=examples)
    return files, paths, examples, source


def test_what_is_measured_is_what_the_files_answer(measured):
    files, paths, _, source = measured
    truth, answers = [], {stem: [] for stem in paths}
    classifiers = {stem: Classifier(path) for stem, path in paths.items()}
    for example in source.eval.in_order().as_numpy_iterator():
        truth.append(example["label"])
        image = decode(example["data"])
        for stem, classifier in classifiers.items():
            answers[stem].append(classifier.logits(to_pixels(image, classifier.preprocess)))
    top1 = {stem: np.argmax(a, axis=1) for stem, a in answers.items()}
    for stem, entry in files.items():
        assert entry["accuracy"]["images"] == len(truth) == 348
        assert entry["accuracy"]["top1"] == np.mean(top1[stem] == truth)
        assert (entry["scheme"], entry["reference"]) == (stem, "float32")
        assert entry["delegation"]["partitions"] >= 1
        assert entry["memory_mib"]["peak"] > entry["memory_mib"]["baseline"]
    assert "unchanged" not in files["float32"] and "disagreements" not in files["float32"]
    unchanged = files["noisy"]["unchanged"]
    assert unchanged == np.mean(top1["noisy"] == top1["float32"])
    assert unchanged < 1 - verify.WORST / 348  # else the test of the disagreements says little
    zeros = files["noisy"]["parity_with_simulation"]
    assert zeros["largest"] == 0 and zeros["max_difference"] > 1


def test_disagreements_are_those_where_float_was_surest(measured):
    files, paths, examples, source = measured
    classifiers = [Classifier(paths[stem]) for stem in ("float32", "noisy")]
    expected, pixels = [], {}
    for example in source.eval.in_order().as_numpy_iterator():
        name, image = example["name"].decode(), decode(example["data"])
        (sure, score), (other, other_score) = (c.classify(image, top=1)[0] for c in classifiers)
        pixels[name] = to_pixels(image, classifiers[0].preprocess)
        if sure != other:
            label = source.labels[example["label"]]
            expected.append((score, name, label, sure, other, other_score))
    expected.sort(reverse=True)
    found = files["noisy"]["disagreements"]
    assert len(found) == verify.WORST < len(expected)
    for item, (score, name, label, sure, other, other_score) in zip(found, expected):
        assert (item["name"], item["label"]) == (name, label)
        assert (item["reference"]["label"], item["found"]["label"]) == (sure, other)
        assert item["reference"]["score"] == pytest.approx(score, abs=1e-5)
        assert item["found"]["score"] == pytest.approx(other_score, abs=1e-5)
        assert (examples["noisy", name] == pixels[name]).all()
    assert len(examples) == verify.WORST


def test_the_scheme_is_what_the_file_says(exported):
    report = (exported / "report.json").read_text()
    for name in ("float32", "int8"):
        scheme = read(exported / f"{name}.tflite").description["scheme"]
        assert f'"scheme": "{scheme}"' in report
