"""`tfvit scaling` against the commands that train and measure one model; its compute against the paper."""

from __future__ import annotations

import io
import json
import shutil
import signal

import numpy as np
import pytest
from helpers import stopped
from PIL import Image
from scipy import ndimage

import tfvit
from tfvit import architecture, checkpoint, cost, exit_codes, plots, runs
from tfvit.architecture import Architecture, ResNetArchitecture
from tfvit.data import DataOptions, open_source

JFT, CLASSES = 303_000_000, 18_291  # images and classes of JFT-300M: arXiv 2010.11929, section 4.1


def vit(name):
    return architecture.named(name, CLASSES)


def hybrid(variant, stem):
    shape = dict(zip(("width", "depth", "mlp_dim", "heads"), architecture.VARIANTS[variant]))
    return Architecture("hybrid", CLASSES, 224, patch_size=1, stem=stem, **shape)


def resnet(units, width_factor):
    return ResNetArchitecture("resnet", CLASSES, 224, units, width_factor)


# Table 6 of the paper, the whole: model, epochs of JFT-300M, exaFLOPs, and how far ours are off, in percent.
# It gives whole exaFLOPs. Its ResNets need 3.5 to 5 % less than ours, which agree with timm's count.
PUBLISHED = [
    (lambda: vit("vit-b/32"), 7, 55, 2.4),
    (lambda: vit("vit-b/16"), 7, 224, 0.3),
    (lambda: vit("vit-l/32"), 7, 196, 0.3),
    (lambda: vit("vit-l/16"), 7, 783, 0.3),
    (lambda: vit("vit-l/16"), 14, 1567, 0.3),
    (lambda: vit("vit-h/14"), 14, 4262, 0.3),
    (lambda: hybrid("vit-b", (3, 4, 6, 3)), 7, 106, 1.8),
    (lambda: hybrid("vit-b", (3, 4, 9)), 7, 274, 0.3),
    (lambda: hybrid("vit-l", (3, 4, 6, 3)), 7, 246, 0.6),
    (lambda: hybrid("vit-l", (3, 4, 9)), 7, 859, 3.0),  # the paper's is not half of the next
    (lambda: hybrid("vit-l", (3, 4, 9)), 14, 1668, 0.3),
    (lambda: resnet((3, 4, 6, 3), 1), 7, 50, 5.1),
    (lambda: resnet((3, 4, 6, 3), 2), 7, 199, 3.6),
    (lambda: resnet((3, 4, 23, 3), 1), 7, 96, 4.0),
    (lambda: resnet((3, 8, 36, 3), 1), 7, 141, 4.3),
    (lambda: resnet((3, 8, 36, 3), 2), 7, 563, 3.8),
    (lambda: resnet((3, 8, 36, 3), 2), 14, 1126, 3.8),
    (lambda: resnet((3, 24, 36, 3), 3), 14, 3306, 3.6),
]
SHORT = (224, 4262, 50)


@pytest.mark.parametrize(
    "make, epochs, published, percent",
    [pytest.param(*row, marks=() if row[2] in SHORT else pytest.mark.long) for row in PUBLISHED],
    ids=[str(row[2]) for row in PUBLISHED],
)
def test_training_costs_what_the_paper_says(make, epochs, published, percent):
    found = cost.of_architecture(make()).training(epochs * JFT) / 1e18
    assert abs(found / published - 1) < percent / 100


STEPS, BATCH = 12, 16
VIT, HYBRID, RESNET = "vit-ti/8", "r+vit-ti/16", "bit-tiny"
GRID = ("scaling", "--data", "digits", "--image-size", "32", "--steps", str(STEPS))
SETTINGS = ("depth=1", "width=48", "heads=3", "mlp_dim=96", "learning_rate=3e-3", "eval_every=6")
GRID += tuple(word for value in (*SETTINGS, f"batch_size={BATCH}") for word in ("--set", value))
FEW = ("--shots", "3", "--seeds", "2")
FIRST = (*GRID, *FEW, "--models", VIT, "--fractions", "0.1,1")
ALL = (*GRID, *FEW, "--models", f"{VIT},{HYBRID},{RESNET}", "--fractions", "1")


@pytest.fixture(scope="module")
def study(once, tfvit_cli):
    """A study on digits, begun with a ViT on two fractions, grown by a hybrid and a ResNet on all of them.

    Its folder, the cells of both commands and what they said.
    """

    def make(root):
        for i, command in enumerate((FIRST, ALL)):
            done = tfvit_cli(*command, "--out", root / "study", "--json", root / f"{i}.json")
            assert done.code == 0, done.err
            (root / f"{i}.txt").write_text(done.out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(architecture.RESNETS, RESNET, ((1, 1), 1))
        root = once("scaling", make)
        cells = [json.loads((root / f"{i}.json").read_text())["cells"] for i in range(2)]
        yield root / "study", cells, [(root / f"{i}.txt").read_text() for i in range(2)]


def content(folder):
    """The files below a folder that no clock decides about."""
    return {
        p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.suffix != ".png"
    }


def test_a_grid_of_runs_trained_alike(study):
    out, (first, grown), _ = study
    assert [(c["model"], c["fraction"], c["images"]) for c in first + grown] == [
        *((VIT, 0.1, 144), (VIT, 1, 1449)),
        *((VIT, 1, 1449), (HYBRID, 1, 1449), (RESNET, 1, 1449)),
    ]
    assert [c["family"] for c in grown] == ["ViT", "hybrid", "ResNet"]
    for cell in first + grown:
        folder = out / cell["model"].replace("/", "-") / f"{cell['fraction']:g}"
        assert cell["folder"] == str(folder)
        run = runs.read_settings(folder)
        assert run["recipe"]["steps"] == STEPS and run["recipe"]["batch_size"] == BATCH
        scored = [row["step"] for row in runs.read_metrics(folder) if row["phase"] == "eval"]
        assert scored == [6, 12]
        assert cell["epochs"] == pytest.approx(STEPS * BATCH / cell["images"])
        assert run["architecture"].get("depth", 1) == 1  # which a ResNet knows nothing of
        kept = {path.name for path in folder.iterdir()}
        assert runs.BEST in kept and not kept & {runs.LAST, runs.PREVIOUS}
    assert first[0]["exaflops"] == first[1]["exaflops"]


def test_a_study_grows_and_what_is_finished_is_left_alone(study, tmp_path, tfvit_cli):
    out, (first, grown), said = study
    assert said[0].count("step") == 4 and "already measured" not in said[0]
    assert said[1].count("step") == 4 and said[1].count("already measured") == 1
    assert first[1] == grown[0]
    shutil.copytree(out, tmp_path / "study")
    before = content(tmp_path)
    done = tfvit_cli(*ALL, "--out", tmp_path / "study")
    assert done.code == 0 and done.out.count("already measured") == 3
    assert done.out.splitlines()[4:9] == said[1].splitlines()[-8:-3]  # the table
    assert content(tmp_path) == before


def test_the_figures_are_those_of_eval_fewshot_and_info(study, tmp_path, tfvit_cli):
    _, (first, grown), said = study
    for cell, text in ((first[0], said[0]), (grown[2], said[1])):
        run, out = cell["folder"], tmp_path / "figures.json"
        done = tfvit_cli("eval", run, "--data", "digits", "--json", out)
        assert done.code == 0, done.err
        scores, measured = json.loads(out.read_text()), cell["measured"]
        for key in ("top1", "top5", "loss", "images", "split"):
            assert measured["held_out"][key] == pytest.approx(scores[key]), key
        assert tfvit_cli("fewshot", run, "--data", "digits", *FEW, "--json", out).code == 0
        (few,) = json.loads(out.read_text())["models"][run]["fixed"]
        assert measured["few_shot"]["accuracies"] == pytest.approx(few["accuracies"])
        assert tfvit_cli("info", run, "--flops", "--json", out).code == 0
        (costs,) = json.loads(out.read_text())
        assert cell["parameters"] == costs["parameters"]
        assert cell["exaflops"] == pytest.approx(3 * costs["flops"] * STEPS * BATCH / 1e18)
        row = [cell["model"], str(cell["images"])]
        (line,) = [x for x in text.splitlines() if x.split()[:2] == row]
        assert f"{100 * scores['top1']:.2f} %" in line
        assert f"{100 * few['mean']:.2f} ± {100 * few['std']:.2f} %" in line


def test_a_cell_is_what_train_makes_of_a_fraction(study, tmp_path, tfvit_cli):
    command = ("train", *GRID[1:], "--model", VIT, "--fraction", "0.1", "--out", tmp_path / "run")
    done = tfvit_cli(*command)
    assert done.code == 0, done.err
    first, second = (
        checkpoint.read_weights(path, checkpoint.read_config(path))
        for path in (tmp_path / "run/best", study[0] / "vit-ti-8/0.1/best")
    )
    assert all(np.array_equal(first[name], second[name]) for name in first | second)


def test_other_shots_are_measured_without_training_again(study, tmp_path, tfvit_cli):
    out, (first, _), _ = study
    folder = tmp_path / "vit-ti-8/0.1"
    shutil.copytree(out / "vit-ti-8/0.1", folder)
    before = content(folder)
    done = tfvit_cli(*FIRST, "--out", tmp_path, "--fractions", "0.1", "--shots", "2")
    assert done.code == 0 and "step " not in done.out and "2 shots" in done.out
    after = content(folder)
    assert {p.name for p in after if after[p] != before[p]} == {"measured.json"}
    found = json.loads((folder / "measured.json").read_text())
    assert found["few_shot"]["shots"] == 2
    assert found["held_out"] == first[0]["measured"]["held_out"]


def test_the_same_epochs_cost_less_on_less_data(tmp_path, tfvit_cli):
    out, of_data = tmp_path / "study", ("--set", "epochs=3")
    grid = [word for word in FIRST if word not in ("--steps", str(STEPS))]
    wanted = {"steps": ("272", "272"), "epochs": ("27", "272")}
    for same, steps in wanted.items():
        done = tfvit_cli(*grid, *of_data, "--same", same, "--out", out, "--dry-run")
        assert done.code == 0, done.err
        rows = [line.split() for line in done.out.splitlines()[2:4]]
        assert tuple(row[2] for row in rows) == steps
        flops = [float(row[4]) for row in rows]
        assert flops[0] / flops[1] == pytest.approx(int(steps[0]) / int(steps[1]), rel=0.01)
        assert "2 runs, " in done.out and "at 1 TFLOP/s" in done.out
    assert not out.exists()


def test_another_few_shot_set_has_its_own_share_held_out(study, photos, tmp_path, tfvit_cli):
    """Also where the data have a test split already, of which no share is taken."""
    shutil.copytree(study[0] / "vit-ti-8/1", tmp_path / "vit-ti-8/1")
    few = ("--fewshot-data", photos / "train", "--out", tmp_path, "--fractions", "1")
    done = tfvit_cli(*FIRST, *few)
    assert done.code == 2 and "train: no train/ and test/ inside; add --split 0.1" in done.err
    done = tfvit_cli(*FIRST, *few, "--split", "0.25", "--json", tmp_path / "study.json")
    assert done.code == 0 and "step " not in done.out, done.err
    (cell,) = json.loads((tmp_path / "study.json").read_text())["cells"]
    tested = cell["measured"]["few_shot"]
    expected = open_source(DataOptions(str(photos / "train"), holdout=0.25)).eval
    assert (tested["split"], tested["images"]) == ("held out", expected.size)
    assert cell["measured"]["held_out"]["images"] == 348


def test_a_share_is_held_out_beside_splits_of_other_names(photos, tmp_path, tfvit_cli):
    for name, split in (("here", "train"), ("there", "test")):
        shutil.copytree(photos / split, tmp_path / "data" / name)
    data = ("--data", tmp_path / "data", "--train-split", "here", "--eval-split", "there")
    few = ("--fewshot-data", photos / "train", "--split", "0.25", "--shots", "1")
    options = ("--models", VIT, "--image-size", "32", "--out", tmp_path / "out", "--dry-run")
    done = tfvit_cli("scaling", *data, *few, *options)
    assert done.code == 0 and "3 runs, " in done.out, done


def test_a_measured_cell_is_not_trained_again(study, tfvit_cli):
    folder = study[0] / "vit-ti-8/1"
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    done = tfvit_cli("train", "--out", folder, "--resume")
    reason = "has ended, and last/ was removed since"
    assert (done.code, done.err) == (2, f"error: {folder}: {reason}\n")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "stop", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_killed_or_stopped_it_goes_on_and_ends_as_unbroken(stop, study, tmp_path, tfvit_cli):
    out, command = tmp_path / "study", [*FIRST, "--fractions", "1", "--set", "eval_every=2"]
    code, errors = stopped([*command, "--out", out], out / "vit-ti-8/1", 1, stop)
    if stop == signal.SIGTERM:
        assert code == exit_codes.PREEMPTED
        assert "stopped, all saved; the same command goes on" in errors
    done = tfvit_cli(*command, "--out", out, "--json", tmp_path / "study.json")
    assert done.code == 0 and "already measured" not in done.out
    (found,) = json.loads((tmp_path / "study.json").read_text())["cells"]
    assert found["measured"]
    scores = []  # the same after the last step, though evaluated more often here, to be stopped early
    for folder in (out / "vit-ti-8/1", study[0] / "vit-ti-8/1"):
        rows = [row for row in runs.read_metrics(folder) if row["phase"] == "eval"]
        scores.append({key: rows[-1][key] for key in ("step", "loss", "top1", "top5")})
        assert not (folder / runs.LAST).exists()
    assert scores[0] == scores[1] and scores[0]["step"] == STEPS


@pytest.mark.long
def test_a_loss_that_runs_away_does_not_stop_the_others(tmp_path, tfvit_cli):
    options = ("--set", "learning_rate=1e30", "--set", "clip_norm=none", "--set", "eval_every=1")
    done = tfvit_cli(*FIRST, *options, "--steps", "6", "--out", tmp_path)
    assert done.code == exit_codes.DIVERGED and "[2/2]" in done.out
    assert len(done.err.splitlines()) == 1 and "vit-ti-8/0.1, " in done.err
    rows = [line.split() for line in done.out.splitlines() if line.startswith(VIT)]
    assert [row[-2:] for row in rows] == [["-", "-"]] * 2


def marks(picture, number):
    """Where the marks of one of matplotlib's colours are: [n, 2] of right and up, in pixels, from the left.

    Lines and error bars are thinner than marks, and are worn away.
    """
    colours = ((0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C))
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    near = np.abs(pixels - colours[number]).max(axis=-1) < 40
    labels, count = ndimage.label(ndimage.binary_opening(near, iterations=3))
    centres = np.array(ndimage.center_of_mass(near, labels, range(1, count + 1)))
    found = np.stack([centres[:, 1], -centres[:, 0]], axis=1)
    return found[np.argsort(found[:, 0])]


def affine(values, places):
    """How far places are from a linear function of values, at most."""
    matrix = np.stack([values, np.ones(len(values))], axis=1)
    solution, *_ = np.linalg.lstsq(matrix, places, rcond=None)
    assert solution[0] > 0
    return np.abs(matrix @ solution - places).max()


def row(model, family, images, fraction, exaflops, top1, mean, std=0.02):
    measured = {"held_out": {"top1": top1}, "few_shot": {"mean": mean, "std": std}}
    origin = {"model": model, "family": family, "images": images, "fraction": fraction}
    return {**origin, "exaflops": exaflops, "measured": measured}


ROWS = [
    row("a_$x$", "ViT", 100, 0.1, 1e-6, 0.31, 0.41),
    row("a_$x$", "ViT", 320, 0.32, 3e-6, 0.45, 0.52),
    row("a_$x$", "ViT", 1000, 1.0, 9e-6, 0.72, 0.61),
    row("_b", "hybrid", 100, 0.1, 2e-6, 0.52, 0.25),
    row("_b", "hybrid", 1000, 1.0, 2e-5, 0.58, 0.73),
    row("c", "ResNet", 1000, 1.0, 1e-4, 0.93, 0.85, None),
]
GROUPS = [ROWS[:3], ROWS[3:5], ROWS[5:]]


@pytest.mark.parametrize("measure, figure", [("held_out", "top1"), ("few_shot", "mean")])
def test_the_pictures_over_images_have_a_mark_for_each_run(measure, figure):
    file = io.BytesIO()
    plots.over_images(ROWS, file, measure, "top-1")
    found = [marks(file, i)[:-1] for i in range(3)]  # the last on the right is the legend's
    assert [len(places) for places in found] == [3, 2, 1]
    x, y = np.concatenate(found).T
    assert affine(np.log([r["images"] for r in ROWS]), x) < 1.5
    assert affine([r["measured"][measure][figure] for r in ROWS], y) < 1.5


def test_the_picture_over_compute_has_two_panels_and_larger_marks_for_more_data():
    file = io.BytesIO()
    plots.over_compute(ROWS, file, {"held_out": "top-1", "few_shot": "few-shot"})
    width = Image.open(file).width
    found = [marks(file, i)[:-1] for i in range(3)]
    assert [len(places) for places in found] == [6, 4, 2]
    for first, measure, figure in ((True, "held_out", "top1"), (False, "few_shot", "mean")):
        x, y = np.concatenate([p[: len(p) // 2] if first else p[len(p) // 2 :] for p in found]).T
        assert (x < width / 2).all() == first
        assert affine(np.log([r["exaflops"] for r in ROWS]), x) < 1.5
        assert affine([r["measured"][measure][figure] for r in ROWS], y) < 1.5


BAD = {
    "unknown model": (("--models", "vit-ti/8,vit-m/16"), "unknown model 'vit-m/16'"),
    "no model": (("--models", "vit-ti/8,"), "'vit-ti/8,' has an empty name in it"),
    "field of no model": (("--set", "depht=3"), "depht"),
    "fraction of more": (("--fractions", "0.5,2"), "2.0 is not in the range 0<x<=1"),
    "fraction of nothing": (("--fractions", "0.1,"), "'' is not a valid"),
    "image size": (("--image-size", "100"), "not divisible by the patch size 8 of vit-ti/8"),
    "shots": (("--shots", "5000"), "5000 shots need as many training images of each class"),
    "other few-shot data": (("--fewshot-data", "{}/nowhere"), "nowhere: no such folder"),
    "several labels": (("--data", "{several}"), "a scaling study is for one"),
    "a fraction alone": (("--fraction", "0.5"), "No such option"),
    "no data": (("--data", "{}/nowhere"), "nowhere: no such folder"),
    "workers": (("--workers", "a:1,b:1", "--worker-index", "0"), "share the models out"),
    "other settings": (
        ("--out", "{study}", "--steps", "25"),
        "vit-ti-8/0.1: recipe.steps 25 is not what the run began with (12)",
    ),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(arguments, message, study, labelled_photos, tmp_path, tfvit_cli):
    before, out = content(study[0]), tmp_path / "out"
    places = {"several": labelled_photos, "study": study[0]}
    given = [a.replace("{}", str(tmp_path)).format(**places) for a in arguments]
    done = tfvit_cli(*FIRST, "--out", out, *given)
    assert done.code == 2, done.out
    assert message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
    assert not out.exists() and content(study[0]) == before
    assert tfvit.load(study[0] / "vit-ti-8/1/best")
