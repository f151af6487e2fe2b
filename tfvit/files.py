"""Files and folders that are either complete under their final name or not there at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge_demo.errors import UserError

CHUNK = 2**20  # bytes read at a time


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name to write to; renamed to `path` at the end, removed if anything fails.

    Raises UserError, naming `path`, when the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yields a temporary folder to fill; renamed to `path` at the end, replacing what was there.

    previous: folder that what was there becomes, replacing another.

    Nothing is lost at any moment: what was there is intact until the new folder is complete; should
    the process be killed between the two renames, `recover` puts the old one back.
    Raises UserError, naming `path`, when the disk refuses.
    """
    temporary, old = path.with_name(f".{path.name}.partial"), _old(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        recover(path)
        if path.exists():
            if previous:
                shutil.rmtree(previous, ignore_errors=True)
            os.replace(path, previous or old)
        os.replace(temporary, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _not_written(path, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def staged_files(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder beside the final one; what was written there is moved in at the end.

    If anything fails, `folder` is as it was. Raises UserError, naming it, when the disk refuses.
    """
    staging = folder / ".partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        yield staging
        for path in sorted(staging.iterdir()):
            os.replace(path, folder / path.name)
    except OSError as error:
        raise _not_written(folder, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def recover(path: Path) -> None:
    """Puts a folder back that a killed `atomic_folder` had moved aside."""
    old = _old(path)
    if old.exists():
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, path)


def read_json(path: Path, of: str) -> dict:
    """The JSON object of a file.

    of: what its folder is with it, for the message where it is missing.
    Raises UserError if it is missing, unreadable or no JSON object.
    """
    if not path.exists():
        raise UserError(f"{path.parent}: no {path.name} inside, not a {of}")
    with decoding(path):
        try:
            values = json.loads(path.read_text("utf-8"))
        except RecursionError:
            raise ValueError("nested too deeply") from None
        if not isinstance(values, dict):
            raise TypeError("not a JSON object")
    return values


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns whatever is wrong with a file's content into one UserError that begins with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except KeyError as error:
        raise UserError(f"{path}: damaged, {error} is missing") from None
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:
        raise UserError(f"{path}: damaged ({error})") from None


def write_json(path: Path, value: dict | list) -> None:
    """A JSON file, indented, written atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _sync(path: Path) -> None:
    """Has a file, or the names in a folder, outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, for folders
            raise
    finally:
        os.close(descriptor)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: not written ({error.strerror or error}); nothing else was changed")


def sha256(*paths: Path) -> str:
    """The hash of files behind each other, in hexadecimal; UserError if one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        with decoding(path), open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
