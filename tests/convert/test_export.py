import json
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from helpers import SMALL

import tfvit
from convert import answers, export, verify
from edge_demo import Classifier
from edge_demo.preprocess import normalise
from edge_demo.tflite import metadata
from tfvit.data import DataOptions, open_source, pipeline


def graph_of(path):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    return model, model.subgraphs[0]


def held_out_pixels(count, size=32):
    spec = tfvit.PreprocessSpec(size, size)
    split = open_source(DataOptions("digits")).eval
    batch = next(iter(pipeline.eval_batches(split, spec, count, unreadable={})))
    return batch["pixels"].numpy()


def test_the_report_holds_what_was_measured(exported, digits_run):
    report = json.loads((exported / "report.json").read_text())
    assert set(report["files"]) == {"float32", "int8"}
    for name, entry in report["files"].items():
        path = exported / entry["file"]
        assert path.stat().st_size == entry["bytes"]
        assert entry["accuracy"]["images"] == 348
        assert set(entry["latency_ms"]) >= {"1"} and min(entry["latency_ms"].values()) > 0
        assert entry["parity_with_keras"]["images"] == verify.PARITY_IMAGES, name
    config = json.loads((digits_run / "best/config.json").read_text())
    assert report["provenance"]["weights_sha256"] == config["weights_sha256"]
    assert report["files"]["int8"]["quantization"]["steps"] == 20
    float32, int8 = report["files"]["float32"], report["files"]["int8"]
    assert float32["accuracy"]["top1"] == pytest.approx(
        config["provenance"]["metrics"]["top1"], abs=1e-9
    )
    assert int8["accuracy"]["top1"] >= float32["accuracy"]["top1"] - 0.01
    assert int8["parity_with_keras"]["agreement"] >= 0.98
    assert int8["parity_with_simulation"]["snr_db"] > 25


def test_the_float_file_computes_what_keras_does(exported, digits_run):
    model = tfvit.load(digits_run / "best")
    pixels = held_out_pixels(64)
    expected = model(normalise(pixels, model.preprocess)).numpy()
    found = verify.logits(exported / "float32.tflite", pixels)
    assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(expected) > 1


def test_files_carry_labels_preprocessing_and_provenance(exported):
    for name in ("float32", "int8"):
        path = exported / f"{name}.tflite"
        content = metadata.read(path)
        assert content.labels == tuple("0123456789")
        assert (content.preprocess.height, content.preprocess.mean) == (32, (0.0, 0.0, 0.0))
        assert content.description["scheme"] == name
        assert ("quantization" in content.description["provenance"]) == (name == "int8")
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    assert (exported / "labels.txt").read_text().split() == list("0123456789")
    assert sorted(p.name for p in exported.iterdir()) == [
        "float32.tflite",
        "int8.tflite",
        "labels.txt",
        "reference",
        "report.html",
        "report.json",
    ]


def test_the_float_file_is_static_and_of_rank_four_at_most(exported):
    _, graph = graph_of(exported / "float32.tflite")
    for tensor in graph.tensors:
        assert len(tensor.shape) <= 4, tensor.name
        assert tensor.shapeSignature is None or min(tensor.shapeSignature) > 0, tensor.name
    assert {t.type for t in graph.tensors} <= {schema.TensorType.FLOAT32, schema.TensorType.INT32}


def test_at_another_resolution_the_positions_are_interpolated(tmp_path, digits_run, tfvit_cli):
    out = tmp_path / "48"
    done = tfvit_cli("convert", digits_run, "--data", "digits", "--image-size", "48", "--out", out)
    assert done.code == 0, done.err
    classifier = Classifier(out / "float32.tflite")
    assert (classifier.preprocess.height, classifier.preprocess.width) == (48, 48)
    assert not (out / "int8.tflite").exists()
    from scipy.ndimage import zoom

    model = tfvit.load(digits_run / "best")
    larger = tfvit.create_model(
        "vit-ti/8", 10, 48, depth=2, width=48, heads=3, mlp_dim=96, pooling="cls"
    )
    for old, new in zip(model.weights, larger.weights):
        value = old.numpy()
        if old.shape != new.shape:
            grid = zoom(value[0, 1:].reshape(4, 4, 48), (6 / 4, 6 / 4, 1), order=1)
            value = np.concatenate([value[:, :1], grid.reshape(1, 36, 48)], axis=1)
        new.assign(value)
    pixels = held_out_pixels(4, 48)
    expected = larger(normalise(pixels, larger.preprocess)).numpy()
    assert np.abs(verify.logits(out / "float32.tflite", pixels) - expected).max() < 1e-4


def test_without_data_the_float_file_is_checked_on_noise(tmp_path, tfvit_cli):
    created = tfvit_cli(
        "create", "vit-mu/8", "--classes", "7", "--image-size", "16x24", "--out", tmp_path / "c"
    )
    assert created.code == 0, created.err
    done = tfvit_cli("convert", tmp_path / "c", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert "accuracy" not in report["files"]["float32"]


def test_held_out_images_that_nobody_can_read_are_refused(tmp_path, digits_run, tfvit_cli):
    data, out = tmp_path / "data", tmp_path / "out"
    for label in "01":
        (data / "test" / label).mkdir(parents=True)
        (data / "test" / label / "0.jpg").write_text("these are not pixels")
    done = tfvit_cli("convert", digits_run, "--data", data, "--out", out)
    assert (done.code, done.err) == (2, f"error: {data}: no readable held-out image\n")
    assert list(out.iterdir()) == []


def test_a_file_that_fails_its_gate_is_not_left(tmp_path, digits_run, tfvit_cli, monkeypatch):
    monkeypatch.setattr(verify, "TOLERANCE", 0.0)
    out = tmp_path / "out"
    out.mkdir()
    (out / "float32.tflite").write_text("from before")
    done = tfvit_cli("convert", digits_run, "--out", out)
    assert done.code == 3
    assert "float32.tflite: logits differ" in done.err and len(done.err.splitlines()) == 1
    assert [p.name for p in out.iterdir()] == ["float32.tflite"]
    assert (out / "float32.tflite").read_text() == "from before"


def test_an_export_replaces_the_earlier_one_and_nothing_else(
    tmp_path, digits_run, tfvit_cli, monkeypatch
):
    monkeypatch.setattr(verify, "LATENCY_SECONDS", 0.1)
    own = {"notes.txt", "int8.enrolled.tflite", "photos"}
    (tmp_path / "photos").mkdir()
    for name in ("notes.txt", "int8.enrolled.tflite", "failed.json"):
        (tmp_path / name).write_text("from before")
    written = {"float32.tflite", "labels.txt", "reference", "report.html", "report.json"}
    more = ("--scheme", "dynamic", "--format", "web"), {"dynamic.tflite", "tfjs", "web"}
    for (options, others), kept in ((more, set()), (((), set()), {"dynamic.tflite"})):
        done = tfvit_cli("convert", digits_run, *options, "--out", tmp_path)
        assert done.code == 0, done.err
        assert {path.name for path in tmp_path.iterdir()} == own | written | others | kept
        report = json.loads((tmp_path / "report.json").read_text())
        assert set(report["contents"]) == written | others


@pytest.mark.parametrize(
    "name, options",
    {
        "reference": (),
        "tfjs": ("--format", "tfjs"),
        "web": ("--format", "web"),
        "failed.json": (),
        "report.json": (),
    }.items(),
)
def test_a_folder_of_ones_own_is_not_replaced(name, options, tmp_path, digits_run, tfvit_cli):
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    done = tfvit_cli("convert", digits_run, *options, "--out", tmp_path)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: {tmp_path / name}: ")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / name / "notes.txt"]


def test_difference_by_hand():
    reference = np.array([[3.0, 1.0], [0.0, 4.0]])
    found = reference + np.array([[0.5, 0.0], [0.0, -0.5]])
    parity = answers.difference(found, reference)
    assert parity["max_difference"] == 0.5 and parity["largest"] == 4.0
    assert parity["agreement"] == 1.0
    # signal: deviations 1, -1, -2, 2 have mean square 2.5; error: mean square 0.125
    assert parity["snr_db"] == pytest.approx(10 * np.log10(2.5 / 0.125))


def test_edge_demo_scores_exactly_what_eval_scores(tmp_path, exported, tfvit_cli, edge_cli):
    for i, example in enumerate(open_source(DataOptions("digits")).eval.in_order()):
        folder = tmp_path / "test" / str(int(example["label"]))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(example["data"].numpy())
    figures = tmp_path / "eval.json"
    done = tfvit_cli(
        *("eval", exported / "int8.tflite", "--data", tmp_path, "--json", figures),
        *("--confusion", tmp_path / "confusion.png"),
    )
    assert done.code == 0, done.err
    lines = edge_cli(exported / "int8.tflite", "--source", tmp_path / "test", "--json")
    results = [json.loads(line) for line in lines.out.splitlines()]
    right = sum(r["label"] == r["source"].split("/")[-2] for r in results)
    scores = json.loads(figures.read_text())
    assert scores["images"] == len(results) == 348
    assert scores["top1"] == right / 348
    assert (tmp_path / "confusion.png").stat().st_size > 5000


def test_export_in_python(tmp_path, digits_run):
    report = export.export(digits_run / "best", tmp_path / "out", say=lambda line: None)
    assert set(report["files"]) == {"float32"}
    assert SMALL[1] == report["model"]["name"]
