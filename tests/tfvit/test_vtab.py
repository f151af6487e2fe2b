"""`tfvit vtab`: runs on small sets of TFDS's own form, and what is chosen, repeated and refused."""

import json

import pytest
import tensorflow_datasets as tfds
from helpers import terminated_at
from small_models import labelled
from vtab_sets import write

import tfvit
from tfvit import runs
from tfvit.evaluate import vtab
from tfvit.exit_codes import PREEMPTED, Diverged

SHORT = ("--steps", "2", "--batch-size", "8", "--image-size", "16")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint to start from; TFDS has three of VTAB's sets, and downloads no other."""
    root = tmp_path_factory.mktemp("vtab")
    tfds.core.add_data_dir(root / "tfds")
    for name in ("cifar100", "eurosat/rgb", "dsprites"):
        write(name, root / "tfds")
    tfvit.save(labelled(("any",)), root / "model")
    yield root / "model"
    tfds.core.utils.file_utils.clear_registered_data_dirs()


def top1_of_tasks(file):
    return {name: task["top1"] for name, task in json.loads(file.read_text())["tasks"].items()}


def test_tasks_are_trained_measured_and_resumed(model, tmp_path, tfvit_cli, monkeypatch):
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    command = ("vtab", model, "--out", out, *SHORT, "--json", figures)
    with monkeypatch.context() as patched:
        patched.setattr("tfvit.train.make_train_step", terminated_at(1))
        done = tfvit_cli(*command, "--tasks", "cifar100")
    assert done.code == PREEMPTED
    assert done.err == "\nstopped, all saved; go on with the same command\n"
    done = tfvit_cli(*command, "--tasks", "eurosat,resisc45,cifar100")
    assert done.code == 2
    assert "resuming after step 1 of 2" in done.out
    (failed,) = [line for line in done.out.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: vtab:resisc45: cannot be downloaded or prepared (")
    assert "manual" in failed.lower()  # TFDS says it in two ways
    assert done.err == "error: 1 of 3 failed: resisc45\n"
    top1 = top1_of_tasks(figures)
    assert list(top1) == ["cifar100", "eurosat"]
    assert list(json.loads(figures.read_text())["failed"]) == ["resisc45"]
    for name in top1:
        kept = {path.name for path in (out / name).iterdir()}
        assert runs.BEST in kept and not kept & {runs.LAST, runs.PREVIOUS}

    done = tfvit_cli(*command, "--tasks", "cifar100,eurosat")
    assert done.code == 0, done.err
    assert "step " not in done.out
    assert top1_of_tasks(figures) == top1
    mean = 100 * sum(top1.values()) / 2
    lines = [line.split() for line in done.out.splitlines()]
    assert ["natural", "cifar100", f"{100 * top1['cifar100']:.2f}", "%", "220"] in lines
    assert ["specialised", "eurosat", f"{100 * top1['eurosat']:.2f}", "%", "400"] in lines
    assert f"top-1 {mean:.2f} %, mean of 2 of 19 tasks (not a VTAB score" in done.out

    again = tmp_path / "eval.json"
    done = tfvit_cli("eval", out / "eurosat", "--data", "vtab:eurosat", "--json", again)
    assert done.code == 0, done.err
    assert json.loads(again.read_text())["top1"] == top1["eurosat"]


@pytest.fixture
def trained(monkeypatch):
    """Runs are not trained: each comes to what `figures` has for its (rate, steps), (top-1, loss)."""
    seen, figures = [], {}

    def train(run, source, folder, **_):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / runs.RUN).write_text(json.dumps(run.to_json()))
        recipe = run.recipe
        seen.append((run, source.train, source.eval.name))
        top1, loss = figures.get((recipe.learning_rate, recipe.steps), (0.5, 1.0))
        if top1 is None:
            raise Diverged("the loss is nan")
        row = {"step": recipe.steps, "phase": "eval", "top1": top1, "loss": loss}
        (folder / runs.METRICS).write_text(json.dumps(row) + "\n")
        return {}

    monkeypatch.setattr(vtab, "train", train)
    train.seen, train.figures = seen, figures
    return train


def test_the_recipe_is_that_of_the_paper(model, tmp_path, tfvit_cli, trained):
    options = ("--tasks", "cifar100,dsprites_location", "--set", "accumulate=4")
    done = tfvit_cli("vtab", model, "--out", tmp_path / "out", *options)
    assert done.code == 0, done.err
    for run, train, held in trained.seen:
        recipe = run.recipe
        assert (train.name, train.size, held) == ("train800val200", 1000, "test")
        assert run.architecture.image_size == (384, 384)
        assert (run.preprocess.width, run.preprocess.resize) == (384, "squash")
        assert (recipe.steps, recipe.learning_rate, recipe.batch_size) == (2500, 0.01, 512)
        assert (recipe.optimizer, recipe.beta_1, recipe.schedule) == ("sgd", 0.9, "cosine")
        assert (recipe.weight_decay, recipe.clip_norm, recipe.accumulate) == (0.0, 1.0, 4)
        assert recipe.eval_every == recipe.steps  # nothing is chosen by the test images
    views = [run.recipe.augmentation for run, _, _ in trained.seen]
    assert [(v.flip, v.crop_min_area) for v in views] == [(True, 0.73), (False, 1.0)]


def test_a_sweep_chooses_on_the_validation_images(model, tmp_path, tfvit_cli, trained):
    trained.figures.update({
        (0.01, 10): (0.6, 1.0),
        (0.01, 40): (0.7, 0.9),  # as good as the next, with a lower loss
        (0.1, 10): (0.7, 1.1),
        (0.1, 40): (None, None),
    })  # fmt: skip
    figures = tmp_path / "figures.json"
    command = ("vtab", model, "--out", tmp_path / "out", "--sweep", "--steps", "10")
    command += ("--tasks", "cifar100", "--json", figures)
    done = tfvit_cli(*command)
    assert done.code == 0, done.err
    grid = [(0.01, 10), (0.01, 40), (0.1, 10), (0.1, 40), (0.01, 40)]
    assert [(r.recipe.learning_rate, r.recipe.steps) for r, _, _ in trained.seen] == grid
    trials = [("train800", "val200")] * 4
    assert [(t.name, held) for _, t, held in trained.seen] == [*trials, ("train800val200", "test")]
    task = json.loads(figures.read_text())["tasks"]["cifar100"]
    assert (task["learning_rate"], task["steps"], task["validation"]) == (0.01, 40, 0.7)
    row = next(line.split() for line in done.out.splitlines() if line.startswith("natural"))
    assert row[-4:] == ["0.01", "40", "70.00", "%"]
    assert tfvit_cli(*command).code == 0
    assert len(trained.seen) == 5


def test_losses_that_run_away_fail_their_task_alone(model, tmp_path, tfvit_cli, trained):
    trained.figures.update({(0.01, 2): (None, None)})
    command = ("vtab", model, "--out", tmp_path / "out", *SHORT, "--tasks", "cifar100")
    done = tfvit_cli(*command)
    assert done.code == 2 and done.err == "error: 1 of 1 failed: cifar100\n"
    assert "cifar100: the loss ran away; try a lower --lr" in done.out
    done = tfvit_cli(*command[:2], "--sweep", "--out", tmp_path / "swept", *SHORT, *command[-2:])
    assert done.code == 0, done.err


def test_the_bars_are_drawn(model, tmp_path, tfvit_cli, trained):
    bars = tmp_path / "bars.png"
    options = ("--tasks", "dsprites_orientation,eurosat", "--plot", bars)
    assert tfvit_cli("vtab", model, "--out", tmp_path / "out", *options).code == 0
    assert bars.read_bytes().startswith(b"\x89PNG")


BAD = {
    "unknown task": (("--tasks", "cifar100,cifar10"), "'cifar10': did you mean cifar100? there"),
    "size and patch": (("--image-size", "20"), "not divisible by the patch size 8 of vit-ti/8"),
    "a rate for a sweep": (("--sweep", "--lr", "0.1"), "--sweep chooses the rate itself"),
    "unknown field": (("--set", "acumulate=2"), "acumulate"),
    "length of a recipe": (("--sweep", "--set", "epochs=2"), "--set epochs: give it as --steps"),
    "no rate": (("--lr", "nan"), "not a finite number"),
    "workers": (
        ("--workers", "a:1,b:1", "--worker-index", "0"),
        "one machine; share the tasks out",
    ),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(arguments, message, model, tmp_path, tfvit_cli, trained):
    out = tmp_path / "out"
    done = tfvit_cli("vtab", model, "--out", out, *arguments)
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not trained.seen and not out.exists()


def test_a_checkpoint_that_is_none_is_one_line(tmp_path, tfvit_cli):
    done = tfvit_cli("vtab", tmp_path / "none", "--out", tmp_path / "out")
    assert done.code == 2
    assert done.err == f"error: {tmp_path}/none: no such checkpoint folder\n"


def test_a_folder_of_other_runs_is_left_alone(model, tmp_path, tfvit_cli, trained):
    out = tmp_path / "out"
    command = ("vtab", model, "--out", out, "--tasks", "cifar100")
    assert tfvit_cli(*command, *SHORT).code == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    done = tfvit_cli(*command, *SHORT, "--lr", "0.1", "--steps", "3")
    assert done.code == 2
    assert f"{out}/cifar100: was begun with another steps, lr; choose another --out" in done.err
    assert tfvit_cli(*command, *SHORT, "--sweep").code == 2
    (out / "cifar100/result.json").write_text("{")
    done = tfvit_cli(*command, *SHORT)
    assert done.code == 2 and "result.json: damaged" in done.err
    (out / "cifar100/result.json").write_text(before[out / "cifar100/result.json"].decode())
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
    other = tmp_path / "other"
    (other / "cifar100").mkdir(parents=True)
    (other / "cifar100/run.json").write_text(json.dumps({"options": {"data": "digits"}}))
    done = tfvit_cli("vtab", model, "--out", other, "--tasks", "cifar100")
    assert done.code == 2 and "is not of tfvit vtab; choose another --out" in done.err
