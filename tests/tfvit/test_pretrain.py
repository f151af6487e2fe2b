"""`tfvit pretrain`: runs, what they leave, what can start from it, and data without labels."""

from __future__ import annotations

import json
import signal
import subprocess

import numpy as np
import pytest
from helpers import ENVIRONMENT, MIRRORED, SMALL, stopped, terminated_at
from PIL import Image
from test_train import assert_same_run, metrics, weights

import tfvit
from tfvit import checkpoint, exit_codes
from tfvit.data import DataOptions, open_source
from tfvit.data.unlabelled import HOLDOUT
from tfvit.objectives import OBJECTIVES

PRETRAIN = ("pretrain", "--data", "digits", *SMALL, "--no-flip", "--decoder-width", "32")
PRETRAIN += ("--decoder-depth", "1")


@pytest.fixture(scope="module", params=OBJECTIVES)
def backbone(request, tmp_path_factory, tfvit_cli):
    """A run folder of an objective, a few epochs on digits, its name and what was printed."""
    out = tmp_path_factory.mktemp("pretrained") / request.param
    options = ("--epochs", "8", "--lr", "3e-3", "--eval-every", "46", "--out", out)
    done = tfvit_cli(*PRETRAIN, "--objective", request.param, *options)
    assert done.code == 0, done.err
    return out, request.param, done.out


def test_the_loss_falls_and_pictures_show_it(backbone):
    folder, objective, said = backbone
    rows = metrics(folder)
    evaluations = [row for row in rows if row["phase"] == "eval"]
    assert evaluations[-1]["loss"] < 0.95 * evaluations[0]["loss"]
    assert ("colors" in evaluations[0]) == (objective == "masked-patch")
    if objective == "masked-patch":
        assert evaluations[-1]["colors"] > evaluations[0]["colors"] + 0.05
        assert "right colours" in said
    best = tfvit.load(folder / "best").provenance["metrics"]["loss"]
    assert best == min(row["loss"] for row in evaluations)
    for name in ("curves.png", "reconstructions.png"):
        with Image.open(folder / name) as picture:
            picture.load()
            assert picture.width > 300
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), {"tensors": 0}).Reload()
    assert {"train/loss", "eval/loss", "reconstructions"} <= set(events.Tags()["tensors"])


def test_it_leaves_a_backbone_and_the_rest_where_resuming_finds_it(backbone):
    folder, _, _ = backbone
    model = tfvit.load(folder / "best")
    assert model.labels == ("0",) and model.architecture.num_classes == 1
    assert not any(name.startswith("pretraining/") for name in weights(folder / "best"))
    config = checkpoint.read_config(folder / "last")
    state = checkpoint.read_state(folder / "last", config)
    assert {"pretraining/mask/token", "pretraining/head/kernel"} <= state.keys()
    assert not (folder / "best" / checkpoint.OPTIMIZER).exists()


def test_training_starts_from_all_of_its_encoder(backbone, tmp_path, photos, tfvit_cli):
    folder, _, _ = backbone
    done = tfvit_cli(
        *("train", "--data", photos, "--init", folder, "--steps", "1", "--lr", "1e-12"),
        *("--set", "ema=none", "--batch-size", "8", "--out", tmp_path),
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert "reset    head/kernel  1 -> 2 classes, zero" in done.out
    assert sum(line.startswith("  reset") for line in lines) == 2 and "dropped" not in done.out
    before, after = weights(folder / "best"), weights(tmp_path / "last")
    encoder = [name for name in before if not name.startswith("head/")]
    assert len(encoder) > 30
    assert all(np.allclose(before[name], after[name], atol=1e-9) for name in encoder)


def test_its_features_are_measured_and_looked_at(backbone, tmp_path, photos, tfvit_cli):
    folder, _, _ = backbone
    found = tmp_path / "shots.json"
    shots = ("--shots", "1", "--seeds", "1", "--json", found)
    done = tfvit_cli("fewshot", folder, "--data", photos, *shots)
    assert done.code == 0 and json.loads(found.read_text())
    done = tfvit_cli("info", folder)
    assert done.code == 0 and "vit-ti/8" in done.out


@pytest.mark.parametrize("objective", [pytest.param("masked-patch", marks=pytest.mark.long), "mae"])
def test_killed_terminated_and_resumed_ends_as_unbroken(
    objective, tmp_path, tfvit_cli, monkeypatch
):
    command = (*PRETRAIN, "--set", "depth=1", "--dropout", "0.1", "--ema", "0.9", "--seed", "3")
    command += ("--objective", objective, "--steps", "24", "--eval-every", "4", "--out")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    stopped([*command, broken, "--resume"], broken, 5, signal.SIGKILL)
    with monkeypatch.context() as patched:  # one TensorFlow less to start
        patched.setattr("tfvit.train.make_train_step", terminated_at(14))
        done = tfvit_cli(*command, broken, "--resume")
    assert done.code == exit_codes.PREEMPTED
    assert "stopped after step 14 of 24" in done.err
    assert f"go on with: tfvit pretrain --out {broken} --resume" in done.err
    assert tfvit_cli(*command, whole).code == 0
    done = tfvit_cli("pretrain", "--out", broken, "--resume")
    assert done.code == 0, done.err
    evaluations = [[r for r in metrics(run) if r["phase"] == "eval"] for run in (whole, broken)]
    assert evaluations[0] == evaluations[1]
    for read in (weights, lambda f: checkpoint.read_state(f, checkpoint.read_config(f))):
        first, second = read(whole / "last"), read(broken / "last")
        assert first.keys() == second.keys()
        assert all(np.array_equal(first[n], second[n]) for n in first)


def test_mirrored_on_two_devices_trains_as_one_device(tmp_path, tfvit_cli):
    common = (*PRETRAIN, "--set", "depth=1", "--steps", "8", "--eval-every", "4", "--out")
    assert tfvit_cli(*common, tmp_path / "one", "--strategy", "one").code == 0
    arguments = [*common, str(tmp_path / "mirrored"), "--strategy", "mirrored"]
    subprocess.run([*MIRRORED, *arguments], check=True, env=ENVIRONMENT)
    assert_same_run(tmp_path / "one", tmp_path / "mirrored", 1e-4)


@pytest.mark.parametrize("objective, share", [("masked-patch", 0.5), ("mae", 0.75)])
def test_a_dry_run_says_what_it_costs_and_shows_what_is_hidden(
    objective, share, photos, tmp_path, tfvit_cli
):
    options = ("--data", photos, *SMALL, "--objective", objective, "--batch-size", "12")
    done = tfvit_cli("pretrain", *options, "--steps", "8", "--dry-run", "--out", tmp_path)
    assert done.code == 0, done.err
    assert "8 steps, 2.0 epochs of 48 images" in done.out
    stored = json.loads((tmp_path / "dry_run.json").read_text())
    assert (stored["steps"], stored["examples"], stored["batch_size"]) == (8, 48, 12)
    picture = np.asarray(Image.open(tmp_path / "batch.png").convert("RGB")).astype(int)
    grey = (picture == 128).all(axis=2).mean(axis=1)
    above, below = np.array_split(grey, 2)
    assert above.mean() < 0.05 and below.mean() == pytest.approx(share, abs=0.1)
    assert {path.name for path in tmp_path.iterdir()} == {"dry_run.json", "batch.png"}


# Pictures without labels


@pytest.fixture(scope="module")
def nested(tmp_path_factory, photos):
    """A folder of 48 pictures, some at the top and some in folders of folders; and what is no picture."""
    root = tmp_path_factory.mktemp("nested")
    for i, path in enumerate(sorted((photos / "train").rglob("*.jpg"))):
        folder = (root, root / "2024", root / "2024/may")[i % 3]
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.jpg").write_bytes(path.read_bytes())
    (root / "2024/notes.txt").write_text("not a picture")
    return root


def sizes(data, **options):
    source = open_source(DataOptions(str(data), **options), prefer="val", labelled=False)
    assert source.labels == ("0",) and not source.multi_label
    return source.train.size, source.eval.size


def test_a_folder_needs_no_classes(nested, photos, labelled_photos):
    train, held = sizes(nested, holdout=0.25)
    assert train + held == 48 and 4 <= held <= 20
    assert sum(sizes(nested)) == 48 and 1 <= sizes(nested)[1] <= 48 * 4 * HOLDOUT
    assert sizes(nested, holdout=0.25, fraction=0.5) == (round(train / 2), held)
    assert sizes(nested / "2024/may", holdout=0.3)[0] < 16
    assert sizes(photos) == (48, 16)
    assert sizes(labelled_photos) == (40, 16)
    assert sum(sizes(photos / "train", holdout=0.25)) == 48


def test_a_backbone_of_pictures_without_labels(nested, tmp_path, tfvit_cli):
    done = tfvit_cli(
        *("pretrain", "--data", nested, "--split", "0.2", *SMALL, "--set", "depth=1"),
        *("--steps", "2"),
        *("--batch-size", "8", "--objective", "mae", "--target", "low-res"),
        *("--dtype", "bfloat16", "--out", tmp_path / "run"),
    )
    assert done.code == 0, done.err
    assert "mae for low-res, 2 steps" in done.out
    assert all(value.dtype == np.float32 for value in weights(tmp_path / "run/last").values())
    assert json.loads((tmp_path / "run/run.json").read_text())["recipe"]["pretraining"] == {
        "objective": "mae",
        "target": "low-res",
        "masked": 0.75,
        "decoder_width": None,
        "decoder_depth": 2,
    }


BAD = {
    "no pictures": (("--data", "{}/empty"), "empty: no images"),
    "missing folder": (("--data", "{}/nowhere"), "nowhere: no such folder"),
    "a split of splits": (("--data", "{}/photos", "--split", "0.1"), "has train, test; --split"),
    "a ResNet": (("--model", "bit-r50x1", "--image-size", "32"), "has no patches to mask"),
    "mae of a hybrid": (
        ("--objective", "mae", "--model", "r+vit-ti/16", "--image-size", "32"),
        "a hybrid's stem mixes; take masked-patch",
    ),
    "mae by distances": (("--objective", "mae", "--set", "position=relative"), "position relative"),
    "one patch": (("--model", "vit-ti/32", "--image-size", "32"), "one patch a picture"),
    "a recipe of labels": (("--recipe", "deit"), "is for learning from labels, tfvit train"),
    "another objective": (
        ("--recipe", "paper-mae", "--objective", "masked-patch"),
        "recipe paper-mae: its objective is mae",
    ),
    "labels": (("--set", "mixup=0.2"), "mixup 0.2 is for learning from labels"),
    "all masked": (("--masked", "1"), "masked 1.0 is not in (0, 1)"),
    "width of the decoder": (("--decoder-width", "40"), "decoder_width 40 is not a multiple of 32"),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(arguments, message, tmp_path, photos, tfvit_cli):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").symlink_to(photos)
    arguments = [a.replace("{}", str(tmp_path)) for a in arguments]
    data = () if "--data" in arguments else ("--data", "digits")
    done = tfvit_cli("pretrain", *data, *arguments, "--steps", "1", "--out", tmp_path / "out")
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_commands_leave_each_others_runs_alone(backbone, digits_run, tmp_path, tfvit_cli):
    folder, _, _ = backbone
    for command, run, other in (("train", folder, "pretrain"), ("pretrain", digits_run, "train")):
        done = tfvit_cli(command, "--out", run, "--resume")
        assert done.code == 2 and f"holds a run of tfvit {other}" in done.err
    done = tfvit_cli("train", "--data", "digits", "--recipe", "mae", "--out", tmp_path / "run")
    assert done.code == 2 and "learning without labels, tfvit pretrain" in done.err
