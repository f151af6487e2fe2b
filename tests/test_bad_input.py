"""Every bad input ends as one line and exit code 2, and nothing on disk is touched."""

import json
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from helpers import BIN, SMALL

import tfvit

TRAIN = ("train", *SMALL, "--epochs", "1", "--batch-size", "8")


def png_header(width, height):
    """A PNG that declares a size and has no pixels."""

    def chunk(kind, data):
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def bad(tmp_path_factory, photos, digits_run, exported) -> Path:
    """A folder with one of everything that people get wrong."""
    root = tmp_path_factory.mktemp("bad")
    shutil.copytree(photos, root / "empty_class")
    (root / "empty_class/train/tulip").mkdir()
    shutil.copytree(photos / "train", root / "classes")
    shutil.copytree(photos / "train/china", root / "one_class/train/china")
    shutil.copytree(photos / "test/china", root / "one_class/test/china")
    shutil.copytree(digits_run / "best", root / "good")
    for name in ("truncated", "text", "bomb"):
        shutil.copytree(photos, root / name)
    photo = (photos / "train/china/00.jpg").read_bytes()
    (root / "truncated/train/china/cut.jpg").write_bytes(photo[: len(photo) // 2])
    (root / "text/train/china/text.jpg").write_text("these are not pixels")
    (root / "bomb/train/china/bomb.png").write_bytes(png_header(60_000, 60_000))
    (root / "text.jpg").write_text("these are not pixels")
    (root / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (root / "cut.jpg").write_bytes(photo[: len(photo) // 2])
    (root / "text.tflite").write_text("this is not a model")
    model = (exported / "int8.tflite").read_bytes()
    (root / "cut.tflite").write_bytes(model[: len(model) // 3])
    for name in ("no_weights", "cut_weights", "flipped", "no_config", "text_config"):
        shutil.copytree(digits_run / "best", root / name)
    weights = (root / "flipped/weights.safetensors").read_bytes()
    (root / "no_weights/weights.safetensors").unlink()
    (root / "cut_weights/weights.safetensors").write_bytes(weights[: len(weights) // 2])
    flipped = bytearray(weights)
    flipped[-1] ^= 1
    (root / "flipped/weights.safetensors").write_bytes(flipped)
    (root / "no_config/config.json").unlink()
    (root / "text_config/config.json").write_text("{")
    return root


# what is wrong -> (arguments of tfvit, {} standing for the fixture's folder; part of the message)
TFVIT = {
    "missing folder": ((*TRAIN, "--data", "{}/nowhere"), "nowhere: no such folder"),
    "empty class": ((*TRAIN, "--data", "{}/empty_class"), "train/tulip: no images"),
    "one class": ((*TRAIN, "--data", "{}/one_class"), "one class folder inside"),
    "nothing held out": ((*TRAIN, "--data", "{}/classes"), "add --split 0.1"),
    "truncated image": ((*TRAIN, "--data", "{}/truncated", "--strict"), "cut.jpg: damaged image"),
    "text as image": ((*TRAIN, "--data", "{}/text", "--strict"), "text.jpg: not a JPEG"),
    "image bomb": ((*TRAIN, "--data", "{}/bomb", "--strict"), "bomb.png: larger than 100 mega"),
    "size and patch": (
        ("train", "--data", "digits", "--model", "vit-ti/16", "--image-size", "100"),
        "image size 100x100 is not divisible by the patch size 16 of vit-ti/16; take 96 or 112",
    ),
    "unknown model": (
        ("train", "--data", "digits", "--model", "vit-m/16"),
        "unknown model 'vit-m/16'",
    ),
    "unknown field": (
        ("train", "--data", "digits", "--set", "depht=3"),
        "depht",
    ),
    "value of a field": (("train", "--data", "digits", "--set", "depth=two"), "depth must be"),
    "unknown TFDS set": ((*TRAIN, "--data", "tfds:no_such_set"), "tfds:no_such_set: no such TFDS"),
    "no data": (TRAIN, "needs --data"),
    "unknown option": ((*TRAIN, "--dta", "digits"), "No such option"),
    "size of letters": ((*TRAIN, "--data", "digits", "--image-size", "big"), "'big' is neither"),
    "unknown command": (("trian",), "No such command 'trian'"),
    "init is no checkpoint": (
        (*TRAIN, "--data", "digits", "--init", "{}/text"),
        "not a checkpoint",
    ),
    "init of another width": (
        (*TRAIN, "--data", "digits", "--set", "width=24", "--init", "{}/good"),
        "good: is vit-ti/8 with width 48, which does not fit vit-ti/8 with width 24",
    ),
    "a share of nan": ((*TRAIN, "--data", "{}/classes", "--split", "nan"), "not a finite number"),
    "no fraction": ((*TRAIN, "--data", "digits", "--fraction", "0"), "not in the range 0<x<=1"),
    "eval of nothing": (("eval", "{}/nowhere", "--data", "digits"), "no such checkpoint folder"),
    "eval of text": (("eval", "{}/text.tflite", "--data", "digits"), "not a .tflite file"),
    "eval of half a model": (("eval", "{}/cut.tflite", "--data", "digits"), "cut.tflite: "),
    "eval of other classes": (
        ("eval", "{}/good", "--data", "{}/text"),
        "the model does not know the class 'china'; it knows 0, 1, 2",
    ),
    "info of text": (("info", "{}/text.tflite"), "not a .tflite file"),
    "no weights": (("eval", "{}/no_weights", "--data", "digits"), "weights.safetensors: No such"),
    "half the weights": (("eval", "{}/cut_weights", "--data", "digits"), "does not match the hash"),
    "a flipped bit": (("eval", "{}/flipped", "--data", "digits"), "does not match the hash"),
    "no config": (("eval", "{}/no_config", "--data", "digits"), "no config.json inside"),
    "config of text": (("info", "{}/text_config"), "config.json: damaged"),
    "int8 without data": (("convert", "{}/good", "--int8"), "--int8 needs --data"),
    "convert of nothing": (("convert", "{}/nowhere"), "no such checkpoint folder"),
    "convert of a damaged one": (("convert", "{}/cut_weights"), "does not match the hash"),
    "create of unknown": (("create", "resnet50"), "unknown model 'resnet50'"),
}


@pytest.mark.parametrize("arguments, message", TFVIT.values(), ids=TFVIT)
def test_tfvit_ends_with_one_line(arguments, message, bad, tmp_path, tfvit_cli):
    arguments = [a.replace("{}", str(bad)) for a in arguments]
    out = tmp_path / "out"
    if arguments[0] not in ("eval", "info"):
        arguments += ["--out", str(out)]
    done = tfvit_cli(*arguments)
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not out.exists()


EDGE = {
    "missing image": (("{model}", "--source", "{}/nowhere.jpg"), "no such file or folder"),
    "text as image": (("{model}", "--source", "{}/text.jpg"), "text.jpg: not a JPEG"),
    "truncated image": (("{model}", "--source", "{}/cut.jpg"), "cut.jpg: damaged image"),
    "image bomb": (("{model}", "--source", "{}/bomb.png"), "bomb.png: larger than 100 mega"),
    "missing model": (("{}/nowhere.tflite", "--source", "{}"), "nowhere.tflite: No such file"),
    "text as model": (("{}/text.tflite", "--source", "{}"), "not a .tflite file"),
    "half a model": (("{}/cut.tflite", "--source", "{}"), "cut.tflite: "),
}


@pytest.mark.parametrize("arguments, message", EDGE.values(), ids=EDGE)
def test_edge_demo_ends_with_one_line(arguments, message, bad, exported, edge_cli):
    model = str(exported / "int8.tflite")
    done = edge_cli(*[a.replace("{model}", model).replace("{}", str(bad)) for a in arguments])
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1


def limited_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def assert_a_full_disk_is_one_line(*arguments):
    done = subprocess.run(
        [BIN / "tfvit", *arguments],
        preexec_fn=limited_files,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "not written" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_full_disk_while_saving_loses_nothing(tmp_path, digits_run):
    out = tmp_path / "run"
    shutil.copytree(digits_run, out)
    settings = json.loads((out / "run.json").read_text())
    settings["recipe"]["steps"] += 20  # so that there is something left to do
    (out / "run.json").write_text(json.dumps(settings))
    before = tfvit.load(out / "last").get_weights()
    assert_a_full_disk_is_one_line("train", "--out", out, "--resume")
    after = tfvit.load(out / "last").get_weights()
    assert all((a == b).all() for a, b in zip(before, after))


def test_a_full_disk_while_exporting_leaves_the_old_files(tmp_path, digits_run, exported):
    out = tmp_path / "exported"
    shutil.copytree(exported, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert_a_full_disk_is_one_line("convert", digits_run, "--out", out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


WITHOUT = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "tensorflow" else find(name, *a)
from tfvit.cli import main
main(["train", "--data", "digits", "--out", "x"])
"""


def test_a_missing_extra_says_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert done.stderr == "error: needs tensorflow: pip install 'tfvit[train]'\n"
