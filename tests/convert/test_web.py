"""Exports for the browser: what the report says of TF.js models, and the web folder."""

import gzip
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from convert import export, tfjs, web
from convert.schemes import SCHEMES
from edge_demo.errors import GateError, UserError
from edge_demo.measure import parity
from edge_demo.scores import SOFTMAX
from edge_demo.tflite import metadata
from tfvit import checkpoint
from tfvit.data import DataOptions, open_source

ENGINE = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A folder like the built page: files, an engine that is packed, and what the build keeps for itself."""
    folder = tmp_path_factory.mktemp("dist")
    content = {
        "index.html": b"<!doctype html>",
        "sw.js": b"importScripts('build.js')",
        "icons/192.png": b"png",
        "litert/engine.wasm.gz": gzip.compress(ENGINE),
        ".built": b"",
    }
    for name, data in content.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def exported_for_web(digits_run, page, tmp_path_factory):
    """(folder, report, lines that were said) of an export in all formats, with all outputs."""
    out, said = tmp_path_factory.mktemp("exported"), []
    report = export.export(
        *(digits_run / "best", out),
        schemes=[SCHEMES["dynamic"]],
        source=open_source(DataOptions("digits")),
        extras=["features", "attention"],
        tfjs_weights=["float32", "uint8"],
        page_for_web=page,
        say=said.append,
    )
    return out, report, said


def test_the_report_says_how_right_the_tfjs_models_are(exported_for_web, digits_run):
    out, report, _ = exported_for_web
    assert json.loads((out / "report.json").read_text())["tfjs"] == report["tfjs"]
    assert set(report["files"]) == {"float32", "dynamic"}
    assert set(report["tfjs"]) == {"tfjs-float32", "tfjs-uint8"}
    top1 = checkpoint.read_config(digits_run / "best")["provenance"]["metrics"]["top1"]
    for entry in report["tfjs"].values():
        model = out / entry["file"]
        assert sum(path.stat().st_size for path in model.parent.iterdir()) == entry["bytes"]
        assert entry["outputs"] == ["logits", "features", "attention"]
        assert entry["accuracy"]["images"] == 348 and "latency_ms" not in entry
        with tfjs.runner(model.parent) as run:
            found = run(
                np.stack([np.asarray(Image.open(out / p)) for p in entry["reference_pixels"]])
            )
        assert np.abs(found - entry["reference_logits"]).max() < 1e-5 * np.ptp(found)
    float32, uint8 = report["tfjs"].values()
    assert float32["accuracy"]["top1"] == pytest.approx(top1, abs=1e-9)
    assert float32["unchanged"] == 1 and float32["parity_with_keras"]["max_difference"] < 1e-4
    assert max(e["max_difference"] for e in float32["extras"].values()) < 1e-4
    assert uint8["parity_with_keras"]["max_difference"] > 1e-4 and uint8["unchanged"] > 0.97
    assert uint8["bytes"] < 0.5 * float32["bytes"]
    html = (out / "report.html").read_text()
    assert html.count("tfjs/uint8/model.json") >= 3  # its size, its parity, its hash


def test_a_tfjs_model_says_what_a_tflite_says(exported_for_web):
    out, report, _ = exported_for_web
    inside = metadata.read(out / "float32.tflite")
    for entry in report["tfjs"].values():
        model = json.loads((out / entry["file"]).read_text())
        said = model["userDefinedMetadata"]
        assert tuple(said["labels"]) == inside.labels == tuple("0123456789")
        assert said["preprocess"] == inside.preprocess.to_json()
        assert said["scores"] == inside.scores == SOFTMAX
        assert said["provenance"] == inside.description["provenance"]
        assert said["scheme"] == entry["scheme"]
        assert said["outputs"] == list(model["signature"]["outputs"]) == list(inside.outputs)
        (shape,) = [i["tensorShape"] for i in model["signature"]["inputs"].values()]
        assert [int(d["size"]) for d in shape["dim"]] == [1, 32, 32, 3]


def test_a_device_still_checks_its_tflite_files_alone(exported_for_web):
    out, _, _ = exported_for_web
    assert set(parity.read(out)) == {"float32.tflite", "dynamic.tflite"}


def test_the_web_folder_holds_the_page_and_the_export(exported_for_web):
    out, report, _ = exported_for_web
    folder = out / "web"
    manifest = json.loads((folder / "classifier.json").read_text())
    assert manifest["format"] == 1 and manifest["name"] == report["model"]["name"]
    assert manifest["labels"] == list("0123456789") and manifest["scores"] == SOFTMAX
    assert manifest["preprocess"] == metadata.read(out / "float32.tflite").preprocess.to_json()
    assert manifest["provenance"] == report["provenance"]
    assert manifest["default"] == "dynamic"
    entries = report["files"] | report["tfjs"]
    assert [model["name"] for model in manifest["models"]] == list(entries)
    for model in manifest["models"]:
        entry, file = entries[model["name"]], folder / model["file"]
        assert model["engine"] == ("tfjs" if model["name"].startswith("tfjs") else "litert")
        assert model["outputs"] == ["logits", "features", "attention"]
        assert file.read_bytes() == (out / entry["file"]).read_bytes()
        files = file.parent.iterdir() if model["engine"] == "tfjs" else [file]
        assert model["bytes"] == sum(path.stat().st_size for path in files)
        expected = json.loads((folder / model["reference"]).read_text())
        assert expected["logits"] == entry["reference_logits"]
        assert expected["tolerance"] == entry["reference_tolerance"]
    assert len(manifest["reference"]) == 16
    for picture in manifest["reference"]:
        assert Image.open(folder / picture["pixels"]).size == (32, 32)
        assert Image.open(folder / picture["picture"]).format == "JPEG"


def test_the_page_is_there_and_its_engines_are_unpacked(exported_for_web, page):
    folder = exported_for_web[0] / "web"
    for name in ("index.html", "sw.js", "icons/192.png"):
        assert (folder / name).read_bytes() == (page / name).read_bytes()
    assert (folder / "litert/engine.wasm").read_bytes() == ENGINE
    assert not (folder / "litert/engine.wasm.gz").exists() and not (folder / ".built").exists()


def built(folder):
    """What build.js has the service worker know."""
    text = (folder / "build.js").read_text()
    assert text.startswith("self.BUILD = ") and text.endswith(";\n")
    return json.loads(text.removeprefix("self.BUILD = ").removesuffix(";\n"))


def test_the_build_names_all_files_and_changes_with_any(exported_for_web, page, tmp_path):
    out, report, _ = exported_for_web
    build = built(out / "web")
    sizes = {
        path.relative_to(out / "web").as_posix(): path.stat().st_size
        for path in (out / "web").rglob("*")
        if path.is_file() and path.name != "build.js"
    }
    assert dict(build["files"]) == sizes
    again, other = tmp_path / "again", tmp_path / "other"
    for folder in (again, other):
        shutil.copytree(out, folder, ignore=lambda _, names: {"web"} & set(names))
    web.assemble(again, report, page)
    assert (again / "web/build.js").read_bytes() == (out / "web/build.js").read_bytes()
    (other / "reference/00.jpg").write_bytes(b"another picture")
    web.assemble(other, report, page)
    assert built(other / "web")["id"] != build["id"]


def test_what_takes_bytes_is_left_out_and_said(exported_for_web, page, tmp_path):
    out, report, said = exported_for_web
    assert not any("left out" in line for line in said)
    integer = {**report["files"]["dynamic"], "scheme": "int8-full"}
    edited = {**report, "files": {**report["files"], "int8-full": integer}}
    shutil.copytree(out, tmp_path / "out", ignore=lambda _, names: {"web"} & set(names))
    web.assemble(tmp_path / "out", edited, page)
    manifest = json.loads((tmp_path / "out/web/classifier.json").read_text())
    assert "int8-full" not in {model["name"] for model in manifest["models"]}


def test_a_tfjs_model_that_fails_its_gate_is_not_left(digits_run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    (out / "tfjs/float32").mkdir(parents=True)
    (out / "tfjs/float32/model.json").write_text("from before")
    (out / "report.json").write_text('{"contents": ["tfjs"]}')
    right = tfjs.decode

    def wrong(entry, data):
        value, size = right(entry, data)
        return value * np.float32(1.01) if value.ndim == 2 else value, size

    monkeypatch.setattr(tfjs, "decode", wrong)
    with pytest.raises(GateError, match=r"^tfjs/float32/model.json: logits differ by "):
        export.export(digits_run / "best", out, tfjs_weights=["float32"], say=lambda line: None)
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "tfjs"]
    assert (out / "tfjs/float32/model.json").read_text() == "from before"


def test_bad_input_is_one_line_and_nothing_is_written(digits_run, page, tmp_path, tfvit_cli):
    out, best = tmp_path / "out", digits_run / "best"
    with pytest.raises(UserError, match="the page is not built; `make web` builds it"):
        export.export(best, out, page_for_web=tmp_path)
    with pytest.raises(UserError, match="a web folder has one resolution"):
        export.export(best, out, page_for_web=page, image_sizes=[(32, 32), (48, 48)])
    for options, message in (
        (("--format", "tfjs,onnx"), "'onnx' is not one of tflite, tfjs, web"),
        (("--format", "tfjs", "--tfjs-weights", "int8"), "'int8' is not one of float32, float16"),
        (("--tfjs-weights", "uint8"), "--tfjs-weights needs --format tfjs or --format web"),
    ):
        done = tfvit_cli("convert", digits_run, *options, "--out", out)
        assert done.code == 2 and message in done.err, done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not out.exists()
