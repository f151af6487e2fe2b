"""labels.csv: the labels of the pictures of a folder, any number for each.

    file_name,labels
    street/001.jpg,car;person
    002.jpg,

One row per picture, its path below the folder, its labels separated by semicolons; none is an answer too.
"""

from __future__ import annotations

import csv
import io

from edge_demo.errors import UserError
from edge_demo.images import EXTENSIONS
from tfvit.data import storage
from tfvit.data.storage import Place

LABEL_FILE = "labels.csv"
HEADER = ["file_name", "labels"]
SEPARATOR = ";"


def read(
    folder: Place, labels: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[tuple[Place, list[int]]]]:
    """Class names in alphabetical order, and every picture with the numbers of its labels.

    labels: the only names allowed, in their order; None takes those that occur.
    Raises UserError, naming the line, for what is not as above: a picture that is not there, or is
    listed twice, or has a label that is not allowed.
    """
    path = folder / LABEL_FILE
    allowed = set(labels or ())
    rows: dict[Place, tuple[int, list[str]]] = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        if len(row) != len(HEADER):
            raise UserError(f"{where}: {len(row)} columns instead of {len(HEADER)}")
        picture = folder / row[0]
        if picture.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{where}: {row[0]!r} is not an image ({', '.join(EXTENSIONS)})")
        if not _is_file(picture):
            raise UserError(f"{where}: no such file {row[0]!r} in {folder}")
        if picture in rows:
            raise UserError(f"{where}: {row[0]!r} is there already, in line {rows[picture][0]}")
        names = [name.strip() for name in row[1].split(SEPARATOR) if name.strip()]
        unknown = [name for name in names if labels and name not in allowed]
        if unknown:
            raise UserError(f"{where}: label {unknown[0]!r} is not among {', '.join(labels)}")
        rows[picture] = line, list(dict.fromkeys(names))
    found = labels or tuple(sorted({name for _, names in rows.values() for name in names}))
    if not found:
        raise UserError(f"{path}: no picture has a label")
    numbers = {name: number for number, name in enumerate(found)}
    return found, [(p, [numbers[name] for name in names]) for p, (_, names) in rows.items()]


def _is_file(path: Place) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name longer than any file's
        return False


def _rows(path: Place) -> list[tuple[int, list[str]]]:
    """The rows after the header with their line numbers, without empty lines."""
    try:
        text = storage.read(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not rows or rows[0][1] != HEADER:
        found = f"is {','.join(rows[0][1])[:80]!r}" if rows else "is missing"
        raise UserError(f"{path}: the first line {found}; it must be {','.join(HEADER)!r}")
    if not rows[1:]:
        raise UserError(f"{path}: no pictures in it")
    return rows[1:]
