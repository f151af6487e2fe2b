import json
import math
import shutil
import signal
import subprocess

import numpy as np
import pytest
from helpers import ENVIRONMENT, MIRRORED, SMALL, stopped
from PIL import Image

import tfvit
from tfvit import checkpoint, exit_codes, runs
from tfvit.recipes import RECIPES

QUICK = ("--data", "digits", *SMALL, "--set", "depth=1", "--crop-min-area", "0.5")


def metrics(folder):
    """The rows of a run without what a clock decides."""
    return [
        {k: v for k, v in row.items() if k not in ("images_per_second", "seconds")}
        for row in runs.read_metrics(folder)
    ]


def weights(folder):
    return checkpoint.read_weights(folder, checkpoint.read_config(folder))


# What counts answers: of 348 pictures some may lie on the border between two, where the last bit decides.
COUNTED = dict.fromkeys(("top1", "top5", "colors"), 0.01)


def assert_same_run(first, second, tolerance):
    rows, others = metrics(first), metrics(second)
    assert len(rows) == len(others)
    for row, other in zip(rows, others):
        assert row.keys() == other.keys()
        for key in row.keys() - {"phase"}:
            close = pytest.approx(other[key], rel=tolerance, abs=COUNTED.get(key, tolerance))
            assert row[key] == close, (row, other)


def test_a_run_leaves_metrics_curves_tensorboard_and_checkpoints(digits_run):
    rows = metrics(digits_run)
    evaluations = [row for row in rows if row["phase"] == "eval"]
    assert evaluations[-1]["top1"] > 0.75
    assert evaluations[-1]["loss"] < evaluations[0]["loss"]
    best = max(row["top1"] for row in evaluations)
    assert tfvit.load(digits_run / "best").provenance["metrics"]["top1"] == best
    last = tfvit.load(digits_run / "last")
    assert last.provenance["step"] == rows[-1]["step"]
    assert last.labels == tuple("0123456789")
    with Image.open(digits_run / "curves.png") as picture:
        picture.load()
        assert picture.width > 500
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(digits_run / "tensorboard"), {"tensors": 0}).Reload()
    assert {"train/loss", "eval/top1"} <= set(events.Tags()["tensors"])


def test_the_first_loss_of_a_zero_head_is_that_of_a_uniform_guess(tmp_path, tfvit_cli):
    done = tfvit_cli("train", *QUICK, "--steps", "1", "--label-smoothing", "0", "--out", tmp_path)
    assert done.code == 0, done.err
    assert metrics(tmp_path)[0]["loss"] == pytest.approx(math.log(10), rel=1e-6)


@pytest.fixture(scope="module")
def bfloat16(tmp_path_factory, tfvit_cli):
    """A run in bfloat16, evaluated at its end alone."""
    out = tmp_path_factory.mktemp("bfloat16") / "run"
    options = ("--steps", "53", "--eval-every", "53", "--lr", "3e-3", "--dtype", "bfloat16")
    done = tfvit_cli("train", *QUICK, *options, "--out", out)
    assert done.code == 0, done.err
    return out


def test_rows_of_metrics_are_means_of_about_as_many_steps(bfloat16):
    assert [row["step"] for row in metrics(bfloat16) if row["phase"] == "train"] == [27, 53]


def test_bfloat16_trains_and_keeps_float32_weights(bfloat16):
    losses = [row["loss"] for row in metrics(bfloat16) if row["phase"] == "train"]
    assert losses[-1] < losses[0]
    assert all(value.dtype == np.float32 for value in weights(bfloat16 / "last").values())


def test_killed_terminated_and_resumed_ends_as_unbroken(tmp_path, tfvit_cli):
    command = ("train", *QUICK, "--dropout", "0.1", "--ema", "0.9")
    command += ("--steps", "40", "--eval-every", "4", "--seed", "3", "--out")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for step, stop in ((5, signal.SIGKILL), (17, signal.SIGTERM)):
        code, errors = stopped([*command, broken, "--resume"], broken, step, stop)
    assert code == exit_codes.PREEMPTED
    assert f"go on with: tfvit train --out {broken} --resume" in errors
    last = checkpoint.read_config(broken / "last")["provenance"]["step"]
    assert f"stopped after step {last} of 40" in errors
    assert tfvit_cli(*command, whole).code == 0
    done = tfvit_cli("train", "--out", broken, "--resume")
    assert done.code == 0, done.err
    assert f"resuming after step {last}" in done.out
    evaluations = [[r for r in metrics(run) if r["phase"] == "eval"] for run in (whole, broken)]
    assert evaluations[0] == evaluations[1]
    for name in ("best", "last"):
        first, second = weights(whole / name), weights(broken / name)
        assert all(np.array_equal(first[n], second[n]) for n in first)


def test_a_run_goes_on_with_the_classes_it_began_with(photos, tmp_path, tfvit_cli):
    data, run = shutil.copytree(photos, tmp_path / "data"), tmp_path / "run"
    command = ("train", "--data", data, *SMALL, "--set", "depth=1", "--steps", "2", "--out", run)
    assert tfvit_cli(*command).code == 0
    (run / "curves.png").unlink()  # it has not ended
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for made, removed, message in (
        ("zebra", None, "has 3 classes, the run began with 2"),
        (None, "china", "has other classes than when the run began"),
        (None, "zebra", "one class folder inside"),
    ):
        for split in (data / "train", data / "test"):
            if made:
                shutil.copytree(split / "china", split / made)
            if removed:
                shutil.rmtree(split / removed)
        done = tfvit_cli("train", "--out", run, "--resume")
        assert (done.code, done.err.count("\n")) == (2, 1) and message in done.err, done
        assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("content", ["{}", "[1]", "3", "{", '{"recipe": {}}', "options", "data"])
def test_a_damaged_run_is_named_and_never_begun_anew(content, digits_run, tmp_path, tfvit_cli):
    run = shutil.copytree(digits_run, tmp_path / "run")
    settings = json.loads((run / "run.json").read_text())
    if content in settings:
        content = json.dumps(settings | {content: {"options": None, "data": {"a": 1}}[content]})
    (run / "run.json").write_text(content)
    done = tfvit_cli("train", "--out", run, "--resume")
    assert (done.code, done.err.count("\n")) == (2, 1), done
    assert f"{run / 'run.json'}: " in done.err
    done = tfvit_cli("train", *QUICK, "--out", run)
    assert done.code == 2
    assert weights(run / "best").keys() == weights(digits_run / "best").keys()


def test_a_finished_run_without_its_metrics_or_its_best_is_left_as_it_is(
    digits_run, tmp_path, tfvit_cli
):
    run = shutil.copytree(digits_run, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert tfvit_cli("train", "--out", run, "--resume").code == 0
    shutil.rmtree(run / "best")
    done = tfvit_cli("train", "--out", run, "--resume")
    assert (done.code, done.err) == (2, f"error: {run}: has ended, and best/ was removed since\n")


def test_resuming_a_finished_run_changes_nothing(tmp_path, digits_run, tfvit_cli):
    run = shutil.copytree(digits_run, tmp_path / "run")
    done = tfvit_cli("train", "--out", run, "--resume", "--data", "digits")
    assert done.code == 0, done.err
    assert metrics(run) == metrics(digits_run)


@pytest.mark.parametrize(
    "option, message",
    [
        ((), "already holds a run; add --resume"),
        (("--resume", "--lr", "0.5"), "--lr 0.5 is not what the run began with (0.003)"),
        (("--resume", "--epochs", "7"), "--epochs 7.0 is not what the run began with (6.0)"),
    ],
)
def test_a_run_is_not_overwritten_or_continued_as_another(digits_run, tfvit_cli, option, message):
    before = metrics(digits_run)
    done = tfvit_cli("train", "--data", "digits", "--out", digits_run, *option)
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1
    assert metrics(digits_run) == before


def test_xla_trains_the_same(tmp_path, tfvit_cli):
    for name, option in (("plain", "--no-xla"), ("xla", "--xla")):
        done = tfvit_cli("train", *QUICK, "--steps", "8", option, "--out", tmp_path / name)
        assert done.code == 0, done.err
    assert_same_run(tmp_path / "plain", tmp_path / "xla", 1e-3)


def test_mirrored_on_two_devices_trains_as_one_device(tmp_path, tfvit_cli):
    common = ("train", *QUICK, "--crop-min-area", "1", "--steps", "12", "--eval-every", "6")
    common += ("--out",)
    assert tfvit_cli(*common, tmp_path / "one", "--strategy", "one").code == 0
    arguments = [*common, str(tmp_path / "mirrored"), "--strategy", "mirrored"]
    subprocess.run([*MIRRORED, *arguments], check=True, env=ENVIRONMENT)
    assert_same_run(tmp_path / "one", tmp_path / "mirrored", 1e-4)


def test_unreadable_images_are_skipped_counted_and_named(tmp_path, photos, tfvit_cli):
    import shutil

    data = tmp_path / "data"
    shutil.copytree(photos, data)
    good = (data / "train/china/00.jpg").read_bytes()
    (data / "train/china/cut.jpg").write_bytes(good[: len(good) // 2])
    (data / "train/flower/text.jpg").write_text("not a picture")
    (data / "test/flower/empty.jpg").write_bytes(b"")
    options = ("--data", data, *SMALL, "--epochs", "2", "--batch-size", "8")
    done = tfvit_cli("train", *options, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "skipped 3 unreadable images" in done.err
    assert all(name in done.err for name in ("cut.jpg", "text.jpg", "empty.jpg"))
    strict = tfvit_cli("train", *options, "--strict", "--out", tmp_path / "strict")
    assert strict.code == 2
    assert "(and 1 more)" in strict.err and len(strict.err.splitlines()) == 1
    assert not (tmp_path / "strict").exists()


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(tmp_path, tfvit_cli):
    done = tfvit_cli(
        *("train", *QUICK, "--steps", "40", "--lr", "1e30", "--clip", "0", "--warmup", "20"),
        *("--eval-every", "1", "--out", tmp_path),
    )
    assert done.code == exit_codes.DIVERGED
    assert "try a lower --lr" in done.err and len(done.err.splitlines()) == 1
    assert tfvit.load(tmp_path / "last")


def test_fine_tuning_at_another_size_and_class_count(tmp_path, photos, digits_run, tfvit_cli):
    done = tfvit_cli(
        *("train", "--data", photos, "--init", digits_run, "--image-size", "48x64"),
        *("--epochs", "1", "--batch-size", "8", "--out", tmp_path),
    )
    assert done.code == 0, done.err
    assert (
        "resized  position/embedding  class token + 4x4 patches -> class token + 6x8 patches"
        in done.out
    )
    assert "reset    head/kernel  10 -> 2 classes, zero" in done.out
    model = tfvit.load(tmp_path / "last")
    assert model.labels == ("china", "flower")
    assert (model.preprocess.height, model.preprocess.width) == (48, 64)


def test_the_recipe_is_shown_as_the_options_make_it(tfvit_cli):
    rows = dict(
        line.split()[:2]
        for line in tfvit_cli(
            *(
                "train",
                "--recipe",
                "deit3",
                "--set",
                "ema=0.99",
                "--mixup",
                "0",
                "--data",
                "digits",
            ),
            *("--epochs", "100", "--batch-size", "100", "--print-recipe"),
        ).out.splitlines()
        if len(line.split()) > 1
    )
    expected = {"optimizer": "lamb", "ema": "0.99", "mixup": "0.0", "cutmix": "1.0"}
    expected |= {"steps": "1449", "warmup_steps": "72", "policy": "three_augment"}
    assert expected.items() <= rows.items()
    listed = tfvit_cli("train", "--print-recipe").out
    assert all(name in listed for name in RECIPES)
    lines = tfvit_cli("train", "--set", "depth=5", "--print-recipe").out.splitlines()
    assert ["depth", "5", "*"] in map(str.split, lines) and lines[0].startswith("scratch: ")


@pytest.mark.parametrize(
    "options, message",
    [
        (("--recipe", "diet"), "unknown recipe 'diet': did you mean deit?"),
        (("--set", "beta_2=7"), "beta_2 7.0 is not in [0, 1)"),
        (("--set", "optimizer=adamax"), "optimizer 'adamax' is not one of sgd, adam"),
        (("--set", "policy=wild"), "policy 'wild' is not one of none, randaugment"),
        (("--set", "remat=often"), "remat 'often' is not true or false"),
        (("--set", "seed=5000000000"), "seed 5000000000 is not in [0, 2^31)"),
        (("--set", "augmentation=strong"), "augmentation has fields of its own"),
        (("--set", "layer_scale=0"), "layer_scale 0 is not a number above 0, or none"),
    ],
)
def test_what_no_recipe_can_have_is_one_line(tmp_path, tfvit_cli, options, message):
    done = tfvit_cli("train", *QUICK, *options, "--out", tmp_path / "run")
    assert done.code == 2
    assert message in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_what_training_would_refuse_a_dry_run_refuses(tmp_path, digits_run, photos, tfvit_cli):
    init = ("--init", digits_run / "best")
    cases = {
        ("--accumulate", "3", "--batch-size", "8"): "8 does not divide into 3 equal parts",
        ("--frozen", "neck/*"): "frozen 'neck/*' fits no weight",
        ("--set", f"teacher={tmp_path}"): "not a checkpoint",
        ("--data", photos, "--set", f"teacher={digits_run}"): "the teacher knows other classes",
        (*init, "--set", "position=sincos_2d"): "which does not fit",
        (*init, "--set", "num_classes=7"): "num_classes is not set as a further field",
        (*init, "--set", "image_size=64"): "image_size is not set as a further field",
        (*init, "--set", "name=other"): "name is not set as a further field",
    }
    for options, message in cases.items():
        for dry in ((), ("--dry-run",)):
            done = tfvit_cli("train", *QUICK, *options, *dry, "--out", tmp_path / "run")
            assert done.code == 2 and message in done.err, (options, dry, done)
            assert len(done.err.splitlines()) == 1


def test_a_recipes_field_of_the_architecture_can_be_none(tmp_path, tfvit_cli):
    recipe = ("--recipe", "deit3", "--set", "layer_scale=none", "--dry-run")
    done = tfvit_cli("train", *QUICK, *recipe, "--out", tmp_path)
    assert done.code == 0, done.err
    found = tfvit_cli("train", *QUICK, *recipe[:2], "--dry-run", "--out", tmp_path / "with")
    numbers = [json.loads((f / "dry_run.json").read_text()) for f in (tmp_path, tmp_path / "with")]
    assert found.code == 0 and numbers[0]["parameters"] < numbers[1]["parameters"]


def test_a_dry_run_says_what_it_costs_shows_a_batch_and_trains_nothing(tmp_path, tfvit_cli):
    done = tfvit_cli(
        "train", *QUICK, "--steps", "9", "--mixup", "1", "--dry-run", "--out", tmp_path
    )
    assert done.code == 0, done.err
    assert "9 steps, 0.4 epochs of 1449 images" in done.out
    assert json.loads((tmp_path / "dry_run.json").read_text())["steps"] == 9
    with Image.open(tmp_path / "batch.png") as picture:
        picture.load()
    assert not (tmp_path / "last").exists() and not (tmp_path / "run.json").exists()


def test_a_model_learns_from_its_teacher_and_shows_what_it_saw(tmp_path, digits_run, tfvit_cli):
    done = tfvit_cli(
        *("train", *QUICK, "--steps", "16", "--teacher", digits_run, "--cache", "memory"),
        *("--ema", "0.9", "--profile", "--out", tmp_path),
    )
    assert done.code == 0, done.err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0}).Reload()
    assert {"batch", "confusion", "attention"} <= set(events.Tags()["tensors"])
    assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))


def test_ctrl_c_says_how_to_go_on(tmp_path):
    command = ("train", *QUICK, "--epochs", "500", "--out", tmp_path / "run")
    code, errors = stopped(command, tmp_path / "run", 1, signal.SIGINT)
    assert code == exit_codes.INTERRUPTED
    assert f"tfvit train --out {tmp_path / 'run'} --resume" in errors


def test_the_run_remembers_how_it_was_started(digits_run):
    settings = json.loads((digits_run / "run.json").read_text())
    assert settings["data"]["data"] == "digits"
    assert settings["recipe"]["learning_rate"] == 3e-3
    assert settings["architecture"]["depth"] == 2
