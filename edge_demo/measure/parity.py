"""Whether this device computes what the export did: its pictures and logits, once more.

`tfvit convert` writes them: `reference` and `files` in report.json, the pictures beside it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from edge_demo import files, images
from edge_demo.errors import GateError, UserError
from edge_demo.measure import runner
from edge_demo.preprocess import PreprocessSpec, to_pixels
from edge_demo.scores import SIGMOID, decided, known
from edge_demo.tflite import metadata

REPORT = "report.json"
GREY_LEVELS = 1  # that two implementations of the preprocessing may be apart
# How far logits may be from the stored ones, as a share of the range of these. Other CPUs add up in
# another order, which a float file shows in its last digits. A quantized one rounds a value on the
# border of two steps the other way, and so on in every layer; docs/parity-and-benchmark.md says how far.
FLOAT_TOLERANCE, QUANTIZED_TOLERANCE = 1e-3, 32 / 255


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an export says of one of its files.

    path: the file. pictures, pixels: of each picture the JPEG, and the PNG of the model's input.
    logits: float64 [pictures, classes], of the pixels. tolerance: share of their range.
    scores: a name of `edge_demo.scores.SCORES`.
    """

    path: Path
    sha256: str
    pictures: tuple[Path, ...]
    pixels: tuple[Path, ...]
    logits: np.ndarray
    tolerance: float
    scores: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How far a file is here from what it was where it was exported; None where it does not run.

    same_file: whether its hash is the exported one's. grey_levels: largest difference of the pixels.
    logits: largest difference, as a share of the range of the stored ones; tolerance: what it may be.
    same_answers: pictures with the labels that they had. differs: in words; nothing if all agrees.
    """

    file: str
    pictures: int
    same_file: bool
    grey_levels: int | None
    logits: float | None
    tolerance: float
    same_answers: int | None
    differs: tuple[str, ...]


def read(path: Path) -> dict[str, Reference]:
    """The files of a report by name.

    path: of the report, or the folder that it is in.
    Raises UserError if it is missing, damaged, without reference pictures, or names files elsewhere.
    """
    path = path / REPORT if path.is_dir() else path
    report = files.read_json(path, "folder that `tfvit convert` wrote")
    with files.decoding(path):
        if "reference" not in report:
            raise UserError("no reference pictures; export again with this version of tfvit")
        found = {}
        for entry in report["files"].values():
            logits = np.array(entry["reference_logits"], np.float64)
            pictures = _inside(path.parent, report["reference"])
            pixels = _inside(path.parent, entry["reference_pixels"])
            if logits.ndim != 2 or not len(pictures) == len(pixels) == len(logits) > 0:
                raise ValueError("as many logits as pictures were expected")
            tolerance = float(entry["reference_tolerance"])
            if not (np.isfinite(logits).all() and 0 <= tolerance < 1):
                raise ValueError("a number is none")
            (file,) = _inside(path.parent, [entry["file"]])
            found[file.name] = Reference(
                *(file, entry["sha256"], pictures, pixels, logits, tolerance),
                known(report["scores"]),
            )
        return found


def _inside(folder: Path, names: list[str]) -> tuple[Path, ...]:
    """Files of a folder; UserError for a name that leads out of it: a report may come from anywhere."""
    if not isinstance(names, list):
        raise TypeError("a list of names was expected")
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{name!r} is not in this folder")
    return tuple(folder / name for name in names)


def missing(reference: Reference) -> Path | None:
    """The first of its files that is not there."""
    wanted = (reference.path, *reference.pictures, *reference.pixels)
    return next((path for path in wanted if not path.is_file()), None)


def check(reference: Reference, threads: int | None = None) -> Verdict:
    """Runs a file on its reference pictures, in a process of its own.

    Raises UserError if a picture cannot be read.
    """
    path, count = reference.path, len(reference.pictures)
    same_file = files.sha256(path) == reference.sha256
    differs = [] if same_file else ["it is not the exported file (other sha256)"]

    def verdict(grey_levels=None, logits=None, same_answers=None) -> Verdict:
        figures = grey_levels, logits, reference.tolerance, same_answers
        return Verdict(path.name, count, same_file, *figures, tuple(differs))

    try:
        spec = metadata.read(path).preprocess
    except UserError as error:
        differs.append(str(error).removeprefix(f"{path}: "))
        return verdict()
    pixels = [np.asarray(images.read_rgb(png)) for png in reference.pixels]
    if any(png.shape != (spec.height, spec.width, 3) for png in pixels):
        differs.append(f"its input is {spec.height}x{spec.width} pixels, the pictures' is not")
        return verdict()
    grey_levels = max(map(_grey_levels, reference.pictures, pixels, [spec] * count))
    if grey_levels > GREY_LEVELS:
        differs.append(f"pictures are decoded and resized {grey_levels} grey levels apart")
    try:
        with runner.runner(path, threads) as run:
            found = run(np.stack(pixels)).astype(np.float64)
    except GateError as error:
        differs.append(str(error).removeprefix(f"{path.name}: "))
        return verdict(grey_levels)
    if found.shape != reference.logits.shape:
        differs.append(f"it has {found.shape[1]} classes, not {reference.logits.shape[1]}")
        return verdict(grey_levels)
    if not np.isfinite(found).all():
        differs.append("logits are not finite")
        return verdict(grey_levels)
    logits, same, clear = compare(found, reference)
    if logits > reference.tolerance:
        differs.append(f"logits are {100 * logits:.2g} % of their range apart")
    if clear:
        differs.append(f"{clear} of {count} answers are others")
    return verdict(grey_levels, logits, same)


def compare(found: np.ndarray, reference: Reference) -> tuple[float, int, int]:
    """How far logits [pictures, classes] are from the stored ones.

    Returns the largest difference as a share of their range; the pictures with the same labels; those
    with others although the stored ones were further from it than the tolerance.
    """
    stored, scores = reference.logits, reference.scores
    spread = max(np.ptp(stored), 1e-30)  # of a head of zeros it is 0
    changed = decided(found, scores) != decided(stored, scores)
    if scores == SIGMOID:
        margins = np.abs(stored)
    else:
        margins = np.ptp(np.sort(stored)[:, -2:], axis=-1, keepdims=True)
    clear = changed & (margins > reference.tolerance * spread)
    worst = float(np.abs(found - stored).max() / spread)
    return worst, int((~changed.any(axis=-1)).sum()), int(clear.any(axis=-1).sum())


def _grey_levels(picture: Path, pixels: np.ndarray, spec: PreprocessSpec) -> int:
    """How far this device's pixels of a picture are from the stored ones."""
    found = to_pixels(images.read_rgb(picture), spec)
    return int(np.abs(found.astype(int) - pixels).max())
