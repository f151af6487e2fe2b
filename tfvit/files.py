"""Folders that are either complete under their final name or not there at all; files: `edge_demo.files`."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from edge_demo.errors import UserError
from edge_demo.files import not_written, sync


@contextlib.contextmanager
def atomic_folder(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yields a temporary folder to fill; renamed to `path` at the end, replacing what was there.

    previous: folder that what was there becomes, replacing another.

    Nothing is lost at any moment: what was there is intact until the new folder is complete; should
    the process be killed between the two renames, `recover` puts the old one back.
    Raises UserError, naming `path`, when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        _replace(path, temporary, previous)
    except OSError as error:
        raise not_written(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def staged_files(folder: Path, stale: Collection[str] = ()) -> Iterator[Path]:
    """Yields a temporary folder beside the final one; what was written there is moved in at the end.

    A folder in it replaces the one of its name as a whole.
    stale: names of what goes from `folder` in the end, unless it was written anew.
    If anything fails, `folder` is as it was. Raises UserError, naming what is in the way: a folder where
    a file is to be, or the other way round, or a disk that refuses.
    """
    staging = folder / ".partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        targets = {path: folder / path.name for path in sorted(staging.iterdir())}
        for path, target in targets.items():
            if target.exists() and target.is_dir() != path.is_dir():
                wanted = "folder" if path.is_dir() else "file"
                raise UserError(f"{target}: in the way of a {wanted} of this name; move it away")
        for path, target in targets.items():
            if path.is_dir():
                _replace(target, path)
            else:
                os.replace(path, target)
        for path in sorted(folder.iterdir()):
            if path.name in stale and path not in targets.values():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise not_written(folder, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def recover(path: Path) -> None:
    """Puts a folder back that a killed process had moved aside."""
    old = _old(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


def _replace(path: Path, new: Path, previous: Path | None = None) -> None:
    """Renames a complete folder; what was there becomes `previous`, or goes."""
    recover(path)
    if path.exists():
        if previous:
            shutil.rmtree(previous, ignore_errors=True)
        os.replace(path, previous or _old(path))
    try:
        os.replace(new, path)
    except OSError:
        recover(path)
        raise
    sync(path.parent)
    shutil.rmtree(_old(path), ignore_errors=True)


def _old(path: Path) -> Path:
    path = path.absolute()  # "." has no name
    return path.parent / f".{path.name}.old"
