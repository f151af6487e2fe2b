"""The reference pictures of an export, and `edge-demo parity`: does it find what is different?"""

import dataclasses
import hashlib
import json
import shutil
import zlib

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from convert import reference
from edge_demo import Classifier
from edge_demo.preprocess import to_pixels
from tfvit.data import DataOptions, open_source


@pytest.fixture(scope="module")
def untrained(tmp_path_factory, tfvit_cli):
    """An export without data, of a model with other pixels and other classes."""
    folder = tmp_path_factory.mktemp("untrained")
    sizes = ("--classes", "7", "--image-size", "16x24")
    for arguments in (
        ("create", "vit-mu/8", *sizes, "--out", folder / "model"),
        ("convert", folder / "model", "--out", folder / "exported"),
    ):
        done = tfvit_cli(*arguments)
        assert done.code == 0, done.err
    return folder / "exported"


@pytest.fixture
def copy(tmp_path, exported):
    """A copy of the exported folder, to spoil."""
    return shutil.copytree(exported, tmp_path / "exported")


def read_report(folder):
    return json.loads((folder / "report.json").read_text())


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image)


# --- what an export writes


def test_the_pictures_are_held_out_digits_of_many_classes(exported):
    from sklearn.datasets import load_digits

    data = load_digits()
    levels = data.images * (255 / 16)
    names, labels = read_report(exported)["reference"], set()
    assert names == [f"reference/{number:02d}.jpg" for number in range(16)]
    for name in names:
        with Image.open(exported / name) as image:
            assert (image.format, image.size) == ("JPEG", (8, 8))
            distances = np.abs(levels - np.asarray(image.convert("L"))).mean(axis=(1, 2))
        assert distances.min() < 8  # what a JPEG loses of it
        labels.add(data.target[distances.argmin()])
    assert len(labels) > 5


@pytest.mark.parametrize("kind", ["exported", "untrained"])
def test_the_report_has_what_each_file_makes_of_them(kind, request):
    folder = request.getfixturevalue(kind)
    report = read_report(folder)
    for entry in report["files"].values():
        classifier, range_of_logits = Classifier(folder / entry["file"]), set()
        assert len(entry["reference_logits"]) == len(report["reference"]) == 16
        for jpeg, png, expected in zip(
            report["reference"], entry["reference_pixels"], entry["reference_logits"]
        ):
            with Image.open(folder / jpeg) as image:
                pixels = to_pixels(image, classifier.preprocess)
            assert (picture(folder / png) == pixels).all()
            assert classifier.logits(pixels) == pytest.approx(expected, rel=1e-4, abs=1e-5)
            range_of_logits.add(tuple(expected))
        assert len(range_of_logits) > 1 or kind == "untrained"  # whose head is zero
    files = {path.name for path in (folder / "reference").iterdir()}
    named = {
        *report["reference"],
        *(n for e in report["files"].values() for n in e["reference_pixels"]),
    }
    assert {f"reference/{name}" for name in files} == named


def test_without_data_the_pictures_are_coloured_and_change_smoothly(untrained):
    pictures = [picture(untrained / name) for name in read_report(untrained)["reference"]]
    assert len({image.shape for image in pictures}) > 1
    assert len({image.tobytes() for image in pictures}) == 16
    for image in pictures:
        levels = image.astype(float)
        assert levels.std() > 20 and np.ptp(levels.mean(axis=2)) > 100
        assert np.abs(levels[..., 0] - levels[..., 2]).mean() > 10
        assert np.abs(np.diff(levels, axis=1)).mean() < levels.std() / 4


def test_photos_are_upright_not_large_and_what_is_missing_is_generated(tmp_path, sample_photos):
    for label, photo in sample_photos.items():
        for split in ("train", "test"):
            (tmp_path / "photos" / split / label).mkdir(parents=True)
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned clockwise
            path = tmp_path / "photos" / split / label / "0.jpg"
            photo.resize((1280, 854)).save(path, exif=exif, comment="of my house", quality=95)
    (tmp_path / "photos/test/china/bad.jpg").write_bytes(b"no picture")
    source = open_source(DataOptions(str(tmp_path / "photos")))
    names = reference.write_pictures(tmp_path, source)
    pictures = [picture(tmp_path / name) for name in names]
    assert len(pictures) == 16
    for name in names:
        content = (tmp_path / name).read_bytes()
        assert b"house" not in content and b"Exif" not in content
    for found, photo in zip(pictures, sample_photos.values()):
        assert found.shape == (640, 427, 3)
        upright = np.asarray(photo.transpose(Image.Transpose.ROTATE_270), float)
        assert np.abs(found - upright).mean() < 8
    assert {image.shape for image in pictures[2:]} == {(*size[::-1], 3) for size in reference.SIZES}


# --- where nothing is different


@pytest.mark.parametrize("kind", ["exported", "untrained"])
@pytest.mark.parametrize("name", ["", "report.json"])
def test_where_it_was_exported_all_agrees(kind, name, request, tmp_path, edge_cli):
    folder = request.getfixturevalue(kind)
    done = edge_cli("parity", folder / name, "--json", tmp_path / "found.json")
    assert (done.code, done.err) == (0, "")
    found, report = json.loads((tmp_path / "found.json").read_text()), read_report(folder)
    assert found["agrees"] is True and found["machine"]["threads"] >= 1
    assert [e["file"] for e in found["files"]] == [e["file"] for e in report["files"].values()]
    lines = done.out.splitlines()[2:]
    for entry, line in zip(found["files"], lines):
        assert entry["same_file"] and entry["grey_levels"] == 0 and entry["same_answers"] == 16
        assert 0 <= entry["logits"] <= entry["tolerance"] and entry["differs"] == []
        assert line.split()[:4] == [entry["file"], "agrees", "same", "0"]
        assert f"{100 * entry['logits']:.4f} %" in line and "16 of 16" in line
    assert len(lines) == len(found["files"])


def test_one_file_can_be_asked_for_alone(copy, edge_cli):
    (copy / "float32.tflite").unlink()
    done = edge_cli("parity", copy, "--file", "int8.tflite", "--threads", "2")
    assert done.code == 0 and "int8.tflite" in done.out and "float32" not in done.out


def test_a_quantized_file_may_differ_more_than_a_float_one(exported):
    files = read_report(exported)["files"]
    tolerances = {name: entry["reference_tolerance"] for name, entry in files.items()}
    assert tolerances["float32"] < 0.01 < tolerances["int8"] < 0.15


# --- where something is


def with_another_weight(path, split_model, join_model, more=1.0):
    """The file with `more` added to one weight of the head, and the checksum inside it right."""
    graph, labels, description = split_model(path)
    interpreter = Interpreter(str(path))
    constants = [
        interpreter.get_tensor(tensor["index"]).tobytes()
        for tensor in interpreter.get_tensor_details()
        if tensor["dtype"] == np.float32 and list(tensor["shape"]) == [10, 48]
    ]
    (place,) = {graph.find(constant) for constant in constants} - {-1}
    weights = np.frombuffer(graph[place : place + 40 * 48], np.float32).copy()
    weights[0] += more
    graph = graph[:place] + weights.tobytes() + graph[place + 40 * 48 :]
    inside = {**json.loads(description), "graph_crc32": zlib.crc32(graph)}
    path.write_bytes(join_model(graph, {"labels.txt": labels, "tfvit.json": json.dumps(inside)}))


def spoil_png(folder, levels):
    path = folder / "reference/03-32.png"
    pixels = picture(path).copy()
    pixels[5, 7, 1] = (
        pixels[5, 7, 1] + levels if pixels[5, 7, 1] < 128 else pixels[5, 7, 1] - levels
    )
    Image.fromarray(pixels).save(path)


def spoil_report(folder, change):
    report = read_report(folder)
    change(report)
    (folder / "report.json").write_text(json.dumps(report))


def flip_a_byte(folder, **_):
    path = folder / "float32.tflite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def another_weight(folder, split_model, join_model, **_):
    with_another_weight(folder / "float32.tflite", split_model, join_model)


def another_weight_and_hash(folder, **fixtures):
    another_weight(folder, **fixtures)
    digest = hashlib.sha256((folder / "float32.tflite").read_bytes()).hexdigest()
    spoil_report(folder, lambda report: report["files"]["float32"].update(sha256=digest))


def weights_that_are_no_numbers(folder, split_model, join_model, **_):
    with_another_weight(folder / "float32.tflite", split_model, join_model, np.nan)


def half_a_file(folder, **_):
    path = folder / "float32.tflite"
    path.write_bytes(path.read_bytes()[:9000])


def another_png(folder, **_):
    spoil_png(folder, 3)


def another_jpeg(folder, **_):
    shutil.copy(folder / "reference/00.jpg", folder / "reference/05.jpg")


def other_logits(folder, **_):
    """Of two pictures with other answers, exchanged."""

    def exchange(report):
        logits = report["files"]["float32"]["reference_logits"]
        first = np.argmax(logits[0])
        other = next(i for i, row in enumerate(logits) if np.argmax(row) != first)
        logits[0], logits[other] = logits[other], logits[0]

    spoil_report(folder, exchange)


def another_export(folder, untrained, **_):
    """Its float32.tflite for this one's report."""
    shutil.copy(untrained / "float32.tflite", folder / "float32.tflite")


def the_report_of_another(folder, untrained, **_):
    shutil.copy(untrained / "report.json", folder)
    shutil.copytree(untrained / "reference", folder / "reference", dirs_exist_ok=True)


SHA, LOGITS, ANSWERS = "other sha256", "of their range apart", "answers are others"
FLOAT, BOTH = ["float32.tflite"], ["float32.tflite", "int8.tflite"]
# what is done -> (files that differ, what is said of float32 and what is not)
DIFFERENCES = {
    flip_a_byte: (FLOAT, [SHA, "checksum differs"], [LOGITS]),
    another_weight: (FLOAT, [SHA, LOGITS], ["checksum"]),
    another_weight_and_hash: (FLOAT, [LOGITS], [SHA, "grey"]),
    weights_that_are_no_numbers: (FLOAT, [SHA, "logits are not finite"], [LOGITS]),
    half_a_file: (FLOAT, [SHA, "no labels and preprocessing inside"], [LOGITS]),
    another_png: (BOTH, ["3 grey levels apart"], [SHA]),
    another_jpeg: (BOTH, ["grey levels apart"], [SHA, LOGITS]),
    other_logits: (FLOAT, [LOGITS, ANSWERS], [SHA, "grey"]),
    another_export: (FLOAT, [SHA, "input is 16x24 pixels"], [LOGITS]),
    the_report_of_another: (FLOAT, [SHA, "input is 32x32 pixels"], [LOGITS]),
}


@pytest.mark.parametrize("spoil", DIFFERENCES, ids=lambda spoil: spoil.__name__)
def test_what_is_different_is_named(spoil, copy, untrained, split_model, join_model, edge_cli):
    spoil(copy, untrained=untrained, split_model=split_model, join_model=join_model)
    differing, said, unsaid = DIFFERENCES[spoil]
    done = edge_cli("parity", copy, "--json", copy / "found.json")
    count = len(read_report(copy)["files"])
    summary = f"error: {len(differing)} of {count} files differ here from what they were\n"
    assert (done.code, done.err) == (3, summary)
    found = json.loads((copy / "found.json").read_text())
    assert found["agrees"] is False
    entries = {entry["file"]: entry["differs"] for entry in found["files"]}
    assert [file for file, differs in entries.items() if differs] == differing
    text = "; ".join(entries["float32.tflite"])
    assert all(part in text for part in said) and not any(part in text for part in unsaid)
    rows = {line.split()[0]: line.split()[1] for line in done.out.splitlines()[2 : 2 + count]}
    assert rows == {file: "differs" if file in differing else "agrees" for file in entries}
    assert f"float32.tflite: {text}" in done.out.splitlines()


def test_answers_that_were_close_may_change_and_clear_ones_may_not(exported):
    """By hand: a range of 10 and a tolerance of 0.1, so that a lead of 1 is none."""
    from edge_demo.measure import parity

    (whole, *_) = parity.read(exported).values()
    stored = np.array([[0.0, 4.0, 3.5], [10.0, 2.0, 1.0]])
    given = dataclasses.replace(whole, logits=stored, tolerance=0.1, scores="softmax")
    found = np.array([[0.0, 3.7, 3.8], [10.0, 2.0, 1.5]])
    assert parity.compare(found, given) == (pytest.approx(0.05), 1, 0)
    assert parity.compare(found[:, ::-1], given)[1:] == (0, 1)
    several = dataclasses.replace(given, logits=stored - 3.0, scores="sigmoid")
    assert parity.compare(np.where(stored == 3.5, -0.2, stored - 3.0), several)[1:] == (1, 0)
    assert parity.compare(np.where(stored == 10.0, -0.2, stored - 3.0), several)[1:] == (1, 1)


# --- bad input


def of_report(change):
    return lambda folder: spoil_report(folder, change)


def named(name):
    """A report whose first picture, pixels or file is called otherwise."""
    return {
        "a picture": of_report(lambda r: r["reference"].__setitem__(0, name)),
        "pixels": of_report(lambda r: r["files"]["int8"]["reference_pixels"].__setitem__(0, name)),
        "a file": of_report(lambda r: r["files"]["int8"].update(file=name)),
    }


def link(folder):
    (folder / "reference/00.jpg").unlink()
    (folder / "reference/00.jpg").symlink_to(__file__)


def in_int8(**values):
    return of_report(lambda report: report["files"]["int8"].update(values))


OUT = "is not in this folder"
BAD = {
    "no report": (lambda f: (f / "report.json").unlink(), "no report.json inside"),
    "no JSON": (lambda f: (f / "report.json").write_text("{"), "damaged"),
    "a list": (lambda f: (f / "report.json").write_text("[]"), "damaged"),
    "of an older version": (of_report(lambda r: r.pop("reference")), "no reference pictures"),
    "no files": (of_report(lambda r: r.pop("files")), "'files' is missing"),
    "files is a list": (of_report(lambda r: r.update(files=[])), "damaged"),
    "other scores": (of_report(lambda r: r.update(scores="max")), "'max' is not one of"),
    "no logits": (in_int8(reference_logits=[]), "damaged"),
    "ragged logits": (in_int8(reference_logits=[[1, 2]] * 15 + [[1]]), "damaged"),
    "too few logits": (in_int8(reference_logits=[[1, 2]] * 15), "as many logits as pictures"),
    "no number": (in_int8(reference_logits=[[1, float("nan")]] * 16), "a number is none"),
    "no tolerance": (in_int8(reference_tolerance=None), "damaged"),
    "any tolerance": (in_int8(reference_tolerance=7), "a number is none"),
    "names as text": (in_int8(reference_pixels="reference/00-32.png"), "a list of names"),
    **{f"{what} above": (spoil, OUT) for what, spoil in named("../labels.txt").items()},
    **{f"{what} at the root": (spoil, OUT) for what, spoil in named("/etc/passwd").items()},
    **{f"{what} with a NUL": (spoil, "damaged") for what, spoil in named("a\0b").items()},
    "a link": (link, OUT),
    "no picture": (lambda f: (f / "reference/07.jpg").unlink(), "07.jpg: not there"),
    "no pixels": (lambda f: (f / "reference/07-32.png").unlink(), "07-32.png: not there"),
    "no file": (lambda f: (f / "int8.tflite").unlink(), "name the others with --file"),
    "a damaged picture": (lambda f: (f / "reference/07.jpg").write_text("x"), "not a JPEG"),
}


@pytest.mark.parametrize("spoil, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(spoil, message, copy, edge_cli):
    spoil(copy)
    done = edge_cli("parity", copy, "--json", copy / "found.json")
    assert (done.code, done.out) == (2, ""), done.err
    assert message in done.err and len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: {copy}")
    assert not (copy / "found.json").exists()


def test_a_file_of_another_name_is_not_of_the_report(exported, tmp_path, edge_cli):
    done = edge_cli("parity", exported, "--file", "int9.tflite")
    assert done.code == 2 and "there are float32.tflite, int8.tflite" in done.err
    done = edge_cli("parity", tmp_path / "nothing")
    assert done.code == 2 and len(done.err.splitlines()) == 1
