"""`tfvit import --list`, and training straight from another library's file."""

from __future__ import annotations

import pytest
from small_models import labelled

import tfvit
from tfvit import interop
from tfvit.architecture import named
from tfvit.interop.public import PUBLIC
from tfvit.model import named_weights

LABELS = tuple("0123456789")


def test_every_public_checkpoint_is_of_a_model_that_exists():
    assert {p.format for p in PUBLIC} == set(interop.FORMATS)
    assert len({p.name for p in PUBLIC}) == len(PUBLIC)
    for public in PUBLIC:
        named(public.model, 1000, public.pixels)
        assert public.licence


def test_the_list_names_them_all(tfvit_cli):
    done = tfvit_cli("import", "--list")
    assert done.code == 0
    for public in PUBLIC:
        (line,) = [line for line in done.out.splitlines() if line.startswith(public.name + " ")]
        assert all(part in line for part in (public.model, str(public.pixels), public.licence))


@pytest.mark.parametrize("format", interop.FORMATS)
def test_training_starts_from_what_another_library_wrote(format, tfvit_cli, tmp_path):
    activation = "gelu_tanh" if format == "google-npz" else "gelu"
    model = labelled(LABELS, (16, 16), activation=activation, depth=1)
    tfvit.save(model, tmp_path / "model")
    there = tmp_path / ("there.npz" if format == "google-npz" else "there")
    done = tfvit_cli("export", tmp_path / "model", "--format", format, "--out", there)
    assert done.code == 0, done.err
    assert str(there) in done.out and "without" in done.out
    train = ("train", "--data", "digits", "--steps", "1", "--no-flip", "--out", tmp_path / "run")
    done = tfvit_cli(*train, "--init", there, "--image-size", "24")
    assert done.code == 0, done.err
    assert f"from {there}:" in done.out and "resized  position/embedding" in done.out
    kept = named_weights(tfvit.load(tmp_path / "run" / "init"))["block_0/mlp/dense_1/kernel"]
    assert (kept.numpy() == named_weights(model)["block_0/mlp/dense_1/kernel"].numpy()).all()


def test_what_is_no_model_at_all_is_one_line(tfvit_cli, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    done = tfvit_cli(
        *("train", "--data", "digits", "--init", tmp_path / "notes.txt"),
        *("--out", tmp_path / "run"),
    )
    assert done.code == 2 and "notes.txt" in done.err and len(done.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
