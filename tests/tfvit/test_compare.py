"""`tfvit compare` on run folders: finished, killed, just begun."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tfvit import plots, runs

RECIPE = {"steps": 40, "learning_rate": 1e-3, "augmentation": {"flip": True}, "batch_size": 8}


def rows_of(steps, offset=0.0):
    """Rows of a run that evaluates every 20 steps."""
    rows = []
    for step in range(10, steps + 1, 10):
        row = {"step": step, "epoch": step / 20, "seconds": 2.0 * step}
        speeds = {"learning_rate": 1e-3, "images_per_second": 100.0 + step}
        rows.append(row | {"phase": "train", "loss": 2 / step + offset, "top1": 0.5} | speeds)
        if step % 20 == 0:
            top1 = {20: 0.75, 40: 0.625}[step]
            rows.append(row | {"phase": "eval", "loss": 1 / step, "top1": top1})
    return rows


@pytest.fixture
def write(tmp_path):
    """write(name, steps, **recipe): the folder of a run."""

    def run(name, steps=40, lines=None, **recipe):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        settings = {
            "data": {"data": "digits"},
            "recipe": {**RECIPE, **recipe},
            "options": {"x": name},
        }
        (folder / runs.RUN).write_text(json.dumps(settings))
        text = "".join(json.dumps(row) + "\n" for row in rows_of(steps, len(name)))
        if steps:
            (folder / runs.METRICS).write_text(text if lines is None else lines(text))
        return folder

    return run


def test_it_says_what_runs_came_to_and_how_they_differ(tmp_path, write, tfvit_cli):
    whole, fast = write("whole"), write("fast", learning_rate=0.5, augmentation={"flip": False})
    picture, figures = tmp_path / "out/curves.png", tmp_path / "figures.json"
    done = tfvit_cli("compare", whole, fast, "--out", picture, "--json", figures)
    assert done.code == 0, done.err
    found = json.loads(figures.read_text())
    assert list(found["runs"]) == ["whole", "fast"]
    first = found["runs"]["whole"]
    assert (first["best_top1"], first["best_step"], first["last_top1"]) == (0.75, 20, 0.625)
    assert (first["steps"], first["of_steps"], first["seconds"]) == (40, 40, 80)
    assert first["images_per_second"] == np.median([110, 120, 130, 140])
    expected = {"recipe.learning_rate": [1e-3, 0.5], "recipe.augmentation.flip": [True, False]}
    assert found["differences"] == expected
    assert "75.00 %" in done.out and "40/40" in done.out and "recipe.learning_rate" in done.out
    assert "recipe.steps" not in done.out
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 1000


def test_runs_that_have_not_come_far(tmp_path, write, tfvit_cli):
    folders = [
        write("_begun", 0),
        write("$no$evaluation", 10),
        write("killed", lines=lambda text: text[:-9]),
        write("a/same"),
        write("b/same"),
    ]
    done = tfvit_cli("compare", *folders, "--out", tmp_path / "c.png", "--against", "time")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line.split() for line in done.out.splitlines() if line}
    assert lines["_begun"] == ["_begun", "0/40", *"-----"]
    assert lines["$no$evaluation"][1:3] == ["10/40", "-"]
    assert lines["killed"][1:3] == ["40/40", "75.00"] and lines["killed"][5:7] == ["75.00", "%"]
    assert {"a/same", "b/same"} <= lines.keys() and "all settings are the same" in done.out


def test_a_finished_run_of_the_trainer(digits_run, tmp_path, tfvit_cli):
    figures = tmp_path / "figures.json"
    done = tfvit_cli("compare", digits_run, "--out", tmp_path / "c.png", "--json", figures)
    assert done.code == 0, done.err
    best = max(r["top1"] for r in runs.read_metrics(digits_run) if r["phase"] == "eval")
    assert json.loads(figures.read_text())["runs"][digits_run.name]["best_top1"] == best


def test_each_run_has_a_line_of_its_own():
    file = io.BytesIO()
    plots.comparison({"a": rows_of(40), "b": rows_of(40, 1)}, file, "step", "step")
    pixels = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    blue, orange = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)
    assert {blue, orange} <= set(map(tuple, pixels.tolist()))


BAD = {
    "nowhere": "nowhere: no such run",
    "empty": "empty: not the folder of a run",
    "text": "run.json: damaged",
    "binary": "metrics.jsonl: damaged",
    "rows": "metrics.jsonl: damaged",
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_run_is_one_line(tmp_path, write, tfvit_cli, name):
    (tmp_path / "empty").mkdir()
    (write("text") / runs.RUN).write_text("{")
    (write("binary") / runs.METRICS).write_bytes(b"\xff\xfe\x00")
    (write("rows") / runs.METRICS).write_text("[1]\n")
    done = tfvit_cli("compare", tmp_path / name, "--out", tmp_path / "c.png")
    assert done.code == 2 and BAD[name] in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "c.png").exists()


def test_the_same_run_twice_and_an_axis_that_is_not_told_are_one_line(tmp_path, write, tfvit_cli):
    run = write("run", lines=lambda text: text.replace('"epoch"', '"other"'))
    done = tfvit_cli("compare", run, tmp_path / "." / "run", "--out", tmp_path / "c.png")
    assert done.code == 2 and "named twice" in done.err
    done = tfvit_cli("compare", run, "--against", "epochs", "--out", tmp_path / "c.png")
    assert done.code == 2 and "no epoch; take --against steps" in done.err
    assert len(done.err.splitlines()) == 1


def test_it_does_without_tensorflow(tmp_path, write):
    code = "import sys; from tfvit.cli import main; main(sys.argv[1:], standalone_mode=False)\n"
    code += "assert 'tensorflow' not in sys.modules"
    command = [sys.executable, "-c", code, "compare", write("run"), "--out", tmp_path / "c.png"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
