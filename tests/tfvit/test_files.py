"""Folders among the files that an export moves in at its end."""

import os

import pytest

from edge_demo.errors import UserError
from tfvit.files import staged_files


def content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("pictures/old", "pictures/both", "report", "kept"):
        (tmp_path / name).write_text("before")
    return tmp_path


def fill(staging):
    (staging / "pictures").mkdir()
    for name in ("pictures/both", "pictures/new", "report"):
        (staging / name).write_text("after")


def test_a_folder_is_replaced_as_a_whole(folder):
    for _ in range(2):
        with staged_files(folder) as staging:
            fill(staging)
        expected = dict.fromkeys(("pictures/both", "pictures/new", "report"), "after")
        assert content(folder) == {**expected, "kept": "before"}
        assert sorted(p.name for p in folder.iterdir()) == ["kept", "pictures", "report"]


def test_what_fails_leaves_the_folder_as_it_was(folder):
    before = content(folder)
    with pytest.raises(ZeroDivisionError), staged_files(folder) as staging:
        fill(staging)
        raise ZeroDivisionError
    assert content(folder) == before


def test_what_is_stale_goes_unless_it_is_written_anew(folder):
    stale = ("pictures", "kept", "report", "never there")
    with pytest.raises(ZeroDivisionError), staged_files(folder, stale):
        raise ZeroDivisionError
    assert (folder / "kept").exists() and (folder / "pictures").exists()
    with staged_files(folder, stale) as staging:
        (staging / "report").write_text("after")
    assert content(folder) == {"report": "after"} and not (folder / "pictures").exists()


@pytest.mark.parametrize("name, wanted", [("pictures", "folder"), ("report", "file")])
def test_a_file_and_a_folder_do_not_replace_each_other(folder, name, wanted):
    (folder / name).rename(folder / "aside")
    (folder / "report").mkdir() if wanted == "file" else (folder / name).write_text("a file")
    before = content(folder)
    with (
        pytest.raises(UserError, match=f"{name}: in the way of a {wanted} of this name; move"),
        staged_files(folder) as staging,
    ):
        (staging / "first").write_text("after")
        fill(staging)
    assert content(folder) == before


@pytest.mark.parametrize("renames", [0, 1])
def test_a_disk_that_refuses_to_rename_a_folder_loses_nothing(folder, renames, monkeypatch):
    before, replace, done = content(folder), os.replace, []

    def refusing(source, target):
        if len(done) == renames:
            done.append(None)
            raise OSError(28, "No space left on device")
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", refusing)
    with pytest.raises(UserError, match="No space left"), staged_files(folder) as staging:
        fill(staging)
    assert content(folder) == before


def test_a_folder_that_was_moved_aside_by_a_killed_process_is_not_lost(folder):
    (folder / "pictures").rename(folder / ".pictures.old")
    with staged_files(folder) as staging:
        fill(staging)
    assert "pictures/new" in content(folder) and not (folder / ".pictures.old").exists()
