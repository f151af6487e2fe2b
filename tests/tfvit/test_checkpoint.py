from __future__ import annotations

import hashlib
import json
import shutil
import struct
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise
from small_models import inputs, labelled, small

import tfvit
from edge_demo.preprocess import PreprocessSpec
from tfvit import UserError, checkpoint
from tfvit.model import build, named_weights

FILES = {"config.json", "weights.safetensors"}


@pytest.fixture(scope="module")
def model():
    """A small model with random weights, labels in several alphabets and other than usual settings."""
    arch = small(3, pooling="gap", representation_size=20, dropout=0.1).architecture
    spec = PreprocessSpec(24, 40, "crop", 0.9, "bicubic", (120, 110, 100), (60, 50, 40))
    given = build(arch, labels=("café", "東京", "a b"), preprocess=spec, provenance={"step": 7})
    for variable, source in zip(given.weights, small(3, seed=5, **_kept(arch)).weights):
        variable.assign(source)
    return given


def _kept(arch):
    return {"pooling": arch.pooling, "representation_size": arch.representation_size}


@pytest.fixture
def saved(model, tmp_path):
    """The model's checkpoint folder."""
    tfvit.save(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def logits_of(model):
    return model(inputs(3)).numpy()


def python(code, *args, **kwargs):
    """Runs code in another Python process."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        **kwargs,
    )


def one_line(caught, *parts):
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# Saving and loading


def test_a_loaded_model_is_the_saved_one(model, saved):
    loaded = tfvit.load(saved)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    assert loaded.architecture == model.architecture
    assert loaded.preprocess == model.preprocess
    assert loaded.labels == ("café", "東京", "a b")
    assert loaded.provenance["step"] == 7
    assert loaded.provenance["versions"]["numpy"] == np.__version__
    for name, variable in named_weights(model).items():
        np.testing.assert_array_equal(named_weights(loaded)[name].numpy(), variable.numpy())


def test_another_process_computes_the_same_bits(model, saved, tmp_path):
    np.save(tmp_path / "inputs.npy", inputs(3))
    code = """
import sys, numpy as np, tfvit
folder, x, out = sys.argv[1:]
np.save(out, tfvit.load(folder)(np.load(x)).numpy())
"""
    done = python(code, saved, tmp_path / "inputs.npy", tmp_path / "logits.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits_of(model))


@pytest.mark.parametrize("folder", [".", "../checkpoint/", ""])
def test_the_working_folder_is_loaded(folder, model, saved, monkeypatch):
    monkeypatch.chdir(saved)
    np.testing.assert_array_equal(logits_of(tfvit.load(folder)), logits_of(model))


def test_saving_a_loaded_model_again_changes_nothing_but_provenance(saved, tmp_path):
    tfvit.save(tfvit.load(saved), tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_bfloat16_loads_the_same_float32_weights(model, saved):
    loaded = checkpoint.load(saved, dtype="mixed_bfloat16")
    for name, variable in named_weights(model).items():
        np.testing.assert_array_equal(named_weights(loaded)[name].numpy(), variable.numpy())
    difference = np.abs(logits_of(loaded) - logits_of(model)).max()
    assert 0 < difference < 0.1


def test_a_checkpoint_is_json_and_plain_numbers_nothing_that_can_run(model, saved):
    assert {path.name for path in saved.iterdir()} == FILES
    config = json.loads((saved / "config.json").read_text("utf-8"))
    assert config["labels"] == ["café", "東京", "a b"]
    # safetensors by hand: the length of a JSON header, the header, then the numbers and no more
    data = (saved / "weights.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    weights = {n: v.numpy() for n, v in named_weights(model).items()}
    assert set(header) == set(weights)
    covered = 0
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        assert (entry["dtype"], entry["shape"]) == ("F32", list(weights[name].shape))
        assert data[8 + length + start : 8 + length + end] == weights[name].tobytes()
        covered += end - start
    assert covered == len(data) - 8 - length
    assert config["weights_sha256"] == hashlib.sha256(data).hexdigest()


def test_a_run_folder_means_its_best_checkpoint(model, tmp_path):
    tfvit.save(model, tmp_path / "run" / "best")
    assert checkpoint.find(tmp_path / "run") == tmp_path / "run" / "best"
    assert checkpoint.find(tmp_path / "run" / "best") == tmp_path / "run" / "best"
    tfvit.load(checkpoint.find(tmp_path / "run"))


# Damage


def edit(change):
    """A damage that changes the dictionary of config.json."""

    def damage(folder):
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps(change(config) or config), "utf-8")

    return damage


def rewrite(change):
    """A damage that changes the tensors and keeps the hash right."""

    def damage(folder):
        path = folder / "weights.safetensors"
        data = serialise(change(parse(path.read_bytes())))
        path.write_bytes(data)
        edit(lambda c: c.update(weights_sha256=hashlib.sha256(data).hexdigest()))(folder)

    return damage


def cut(name, share):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * share)])

    return damage


def flip(at):
    def damage(folder):
        path = folder / "weights.safetensors"
        data = bytearray(path.read_bytes())
        data[int(len(data) * at)] ^= 1
        path.write_bytes(data)

    return damage


def replace_by_file(folder):
    shutil.rmtree(folder)
    folder.write_text("text")


def replace_config_by_folder(folder):
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()


def without(config, *path):
    for key in path[:-1]:
        config = config[key]
    del config[path[-1]]


CONFIG, WEIGHTS = "config.json", "weights.safetensors"
DAMAGES = {
    "no folder": (shutil.rmtree, ["no such checkpoint folder"]),
    "a file": (replace_by_file, ["not a checkpoint folder"]),
    "no config": (lambda f: (f / CONFIG).unlink(), [CONFIG]),
    "config a folder": (replace_config_by_folder, [CONFIG]),
    "config empty": (cut(CONFIG, 0), [CONFIG, "damaged"]),
    "config cut": (cut(CONFIG, 0.5), [CONFIG, "damaged"]),
    "config no json": (lambda f: (f / CONFIG).write_text("hello"), [CONFIG, "damaged"]),
    "config no text": (lambda f: (f / CONFIG).write_bytes(b"\xff\xfe\x00"), [CONFIG, "damaged"]),
    "config a list": (edit(lambda c: [c]), [CONFIG, "damaged"]),
    "config null": (lambda f: (f / CONFIG).write_text("null"), [CONFIG, "damaged"]),
    "newer format": (edit(lambda c: c.update(format=99)), [CONFIG, "newer", "99"]),
    "format a word": (edit(lambda c: c.update(format="one")), [CONFIG]),
    **{
        f"no {key}": (edit(lambda c, key=key: without(c, key)), [CONFIG, key])
        for key in ("format", "architecture", "preprocess", "labels", "provenance")
    },
    "no hash": (edit(lambda c: without(c, "weights_sha256")), [CONFIG, "weights_sha256"]),
    "hash empty": (edit(lambda c: c.update(weights_sha256="")), [CONFIG]),
    "no width": (edit(lambda c: without(c, "architecture", "width")), ["width"]),
    "unknown field": (edit(lambda c: c["architecture"].update(colour=1)), ["colour"]),
    "architecture null": (edit(lambda c: c.update(architecture=None)), [CONFIG]),
    "image size empty": (edit(lambda c: c["architecture"].update(image_size=[])), []),
    "image size a word": (edit(lambda c: c["architecture"].update(image_size="ab")), []),
    "width zero": (edit(lambda c: c["architecture"].update(width=0)), ["width"]),
    "no height": (edit(lambda c: without(c, "preprocess", "height")), ["height"]),
    "mean of words": (edit(lambda c: c["preprocess"].update(mean=["a", "b", "c"])), ["mean"]),
    "labels missing": (edit(lambda c: c.update(labels=["a", "b"])), [CONFIG, "labels"]),
    "labels null": (edit(lambda c: c.update(labels=None)), [CONFIG]),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), [WEIGHTS]),
    "weights empty": (cut(WEIGHTS, 0), [WEIGHTS]),
    "weights cut": (cut(WEIGHTS, 0.9), [WEIGHTS]),
    "a bit of the header": (flip(0.0), [WEIGHTS]),
    "a bit in the middle": (flip(0.5), [WEIGHTS]),
    "the last bit": (flip(0.99999), [WEIGHTS]),
    "no tensors": (rewrite(lambda t: {}), ["missing"]),
    "a tensor missing": (
        rewrite(lambda t: {k: v for k, v in t.items() if k != "head/bias"}),
        ["head/bias", "missing"],
    ),
    "wrong shape": (
        rewrite(lambda t: {**t, "head/bias": np.zeros(4, np.float32)}),
        ["head/bias", "(4,)", "(3,)"],
    ),
    "wrong type": (
        rewrite(lambda t: {**t, "head/bias": np.zeros(3, np.float16)}),
        [WEIGHTS, "head/bias", "float16"],
    ),
    "another model's weights": (edit(lambda c: c["architecture"].update(mlp_dim=50)), ["mlp/"]),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_folder_is_one_line_that_names_it(saved, case):
    damage, parts = DAMAGES[case]
    damage(saved)
    with pytest.raises(UserError) as caught:
        tfvit.load(saved)
    one_line(caught, saved, *parts)


# Writing is all or nothing


def test_saving_over_a_checkpoint_replaces_it_and_leaves_nothing_else(model, saved):
    other = small(4, seed=9)
    tfvit.save(model, saved, state={"m": np.ones(3, np.float32)})
    tfvit.save(other, saved)
    assert {path.name for path in saved.iterdir()} == FILES
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    np.testing.assert_array_equal(logits_of(tfvit.load(saved)), logits_of(other))


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(model, saved):
    code = """
import resource, sys, tfvit
from tfvit import UserError
model = tfvit.load(sys.argv[1])
model.get_layer("head").bias.assign_add([1, 1, 1])
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for target in sys.argv[1:]:
    try:
        tfvit.save(model, target)
    except UserError as error:
        print(error, error.exit_code)
"""
    before = {name: (saved / name).read_bytes() for name in FILES}
    assert len(before["weights.safetensors"]) > 20_000
    new = saved.parent / "new"
    done = python(code, saved, new)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line, target in zip(lines, (saved, new), strict=True):
        assert str(target) in line
        assert "not written" in line
        assert line.endswith(" 2")
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert {name: (saved / name).read_bytes() for name in FILES} == before
    np.testing.assert_array_equal(logits_of(tfvit.load(saved)), logits_of(model))


def test_a_process_killed_before_the_first_rename_leaves_the_old_checkpoint(model, saved):
    partial = saved.with_name(f".{saved.name}.partial")
    partial.mkdir()
    (partial / "weights.safetensors").write_bytes(b"half of it")
    np.testing.assert_array_equal(logits_of(tfvit.load(saved)), logits_of(model))
    tfvit.save(model, saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("then", ["load", "save", "read_config"])
def test_a_process_killed_between_the_renames_loses_nothing(model, saved, then):
    shutil.copytree(saved, saved.with_name(f".{saved.name}.partial"))
    saved.rename(saved.with_name(f".{saved.name}.old"))
    if then == "load":
        np.testing.assert_array_equal(logits_of(tfvit.load(saved)), logits_of(model))
    elif then == "save":
        tfvit.save(model, saved)
    else:
        assert checkpoint.read_config(saved)["labels"] == model.labels
    np.testing.assert_array_equal(logits_of(tfvit.load(saved)), logits_of(model))
    tfvit.save(model, saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_process_killed_after_the_second_rename_has_saved(model, saved):
    other = small(4, seed=9)
    old = saved.with_name(f".{saved.name}.old")
    saved.rename(old)
    tfvit.save(other, saved.with_name("new"))
    saved.with_name("new").rename(saved)
    np.testing.assert_array_equal(logits_of(tfvit.load(saved)), logits_of(other))
    assert not old.exists()


def test_the_best_checkpoint_of_a_run_killed_while_saving_is_found(model, tmp_path):
    run = tmp_path / "run"
    tfvit.save(model, run / "best")
    (run / "best").rename(run / ".best.old")
    np.testing.assert_array_equal(logits_of(tfvit.load(checkpoint.find(run))), logits_of(model))


@pytest.mark.parametrize("what", ["photos", "file", "run"])
def test_saving_deletes_nothing_that_is_not_a_checkpoint(model, tmp_path, what):
    target = tmp_path / "target"
    if what == "file":
        kept = target
    else:
        kept = target / {"photos": "holiday/photo.jpg", "run": "best/config.json"}[what]
        kept.parent.mkdir(parents=True)
    kept.write_bytes(b"mine")
    with pytest.raises(UserError) as caught:
        tfvit.save(model, target)
    one_line(caught, target)
    assert kept.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_saving_into_an_empty_folder_fills_it(model, tmp_path):
    tfvit.save(model, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_the_working_folder_is_refused_in_one_line(model, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        tfvit.save(model, ".")
    one_line(caught)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_one_line(model, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError) as caught:
        tfvit.save(model, tmp_path / "file" / "checkpoint")
    one_line(caught, tmp_path / "file" / "checkpoint")


def test_labels_are_part_of_the_checkpoint(tmp_path):
    tfvit.save(labelled(["b", "a"]), tmp_path / "m")
    assert tfvit.load(tmp_path / "m").labels == ("b", "a")
