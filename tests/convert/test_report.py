"""The report page, read as a browser would and held to report.json."""

import base64
import copy
import html.parser
import io
import json

import numpy as np
import pytest
from PIL import Image

from convert import report
from convert.formats import FORMATS

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "br"}


class Page(html.parser.HTMLParser):
    """A page's elements: tags, attributes by tag, text, and the tables' cells by id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.tables, self.text = {}, []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables[dict(attributes)["id"]] = self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and "table" in self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def column(self, table, header):
        """The cells below a header, by the first cell of their rows."""
        names, *rows = self.tables[table]
        return {row[0]: row[names.index(header)] for row in rows}

    def said(self):
        return " ".join(" ".join(self.text).split())


def shows(cell, value):
    """Whether a cell shows a figure, to the half of its last digit."""
    number = cell.split()[0].rstrip("x")
    mantissa, _, exponent = number.partition("e")
    decimals = len(mantissa.partition(".")[2])
    half = 0.5 * 10.0 ** (int(exponent or 0) - decimals)
    return abs(float(number) - value) <= half * 1.0001


@pytest.fixture(scope="module")
def real(exported):
    return json.loads((exported / "report.json").read_text())


@pytest.fixture
def rich(real):
    """The real report with disagreements, what XNNPACK left, sensitivity, and its photos."""
    rich, rng = copy.deepcopy(real), np.random.default_rng(0)
    answers = [
        {
            "name": f"photo {i}",
            "label": "3",
            "reference": {"label": "3", "score": 0.9 - 0.01 * i},
            "found": {"label": "5", "score": 0.5},
        }
        for i in range(12)
    ]
    rich["files"]["int8"]["disagreements"] = answers
    other = copy.deepcopy(rich["files"]["int8"])
    other |= {"file": "int8-full.tflite", "scheme": "int8-full"}
    other["disagreements"] = [{**answers[0]}, {**answers[0], "name": "only here"}]
    other["disagreements"][1]["reference"] = {"label": "3", "score": 0.95}
    other["delegation"]["rest"] = [
        {"op": "SOFTMAX", "type": "int8", "count": 2, "reason": "XNNPACK has no int8 kernel"},
        {"op": "NEW_OP", "type": "int8", "count": 1, "reason": None},
    ]
    rich["files"]["int8-full"] = other
    costs = {f"block_{i}/mlp/dense_1": {"kl": 1e-3 * i, "changed": 1e-3} for i in range(30)}
    rich["sensitivity"] = {"int8": dict(sorted(costs.items(), key=lambda item: -item[1]["kl"]))}
    names = [("int8", f"photo {i}") for i in range(12)] + [("int8-full", "only here")]
    examples = {key: rng.integers(0, 256, (32, 48, 3)).astype(np.uint8) for key in names}
    return rich, examples


def test_the_page_of_an_export_shows_the_figures_of_its_report(exported, real):
    page = Page((exported / "report.html").read_text("utf-8"))
    for entry in real["files"].values():
        name = entry["file"]

        def figure(header, name=name):
            return page.column("files", header)[name]

        assert shows(figure("size"), entry["bytes"] / 1e6)
        assert shows(figure("top-1"), 100 * entry["accuracy"]["top1"])
        assert shows(figure("peakmemory"), entry["memory_mib"]["peak"])
        assert figure("XNNPACKpartitions") == str(entry["delegation"]["partitions"])
        operations = entry["delegation"]["operations"]
        assert figure("operationsit took") == f"{operations} of {operations}"
        headers = page.tables["files"][0]
        cells = next(row for row in page.tables["files"] if row[0] == name)
        for threads, milliseconds in entry["latency_ms"].items():
            place = headers.index(f"{threads} thread" + "s" * (threads != "1"))
            assert shows(cells[place], milliseconds)
            assert headers[place + 1] == "speed"
            assert shows(cells[place + 1], entry["speedup"][threads])
    float32, int8 = real["files"]["float32"], real["files"]["int8"]
    change = page.column("files", "against float,points")
    assert shows(
        change["int8.tflite"], 100 * (int8["accuracy"]["top1"] - float32["accuracy"]["top1"])
    )
    unchanged = page.column("files", "predictionsunchanged")
    assert shows(unchanged["int8.tflite"], 100 * int8["unchanged"])
    assert change["float32.tflite"] == unchanged["float32.tflite"] == "-"
    parity = [row for row in page.tables["parity"] if row[1] in ("Keras", "simulation")]
    expected = [e["parity_with_keras"] for e in (float32, int8)] + [int8["parity_with_simulation"]]
    for row, found in zip(parity, expected):
        assert shows(row[2], found["max_difference"])
        assert shows(row[3], found["snr_db"])
        assert row[5] == f"{found['steps']:.2f}"
        assert shows(row[4], 100 * found["agreement"])
    assert len(parity) == 3
    said = page.said()
    assert real["provenance"]["weights_sha256"] in said and int8["sha256"] in said
    assert "calibration minmax images 256" in said
    assert real["machine"]["processor"] in said and real["versions"]["ai-edge-litert"] in said


def test_the_page_needs_nothing_but_itself(rich):
    text = report.page(*rich)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text and "url(http" not in text
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name)
    identifiers = [value for _, name, value in page.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    assert ("meta", "name", "viewport") in page.attributes


def test_the_worst_disagreements_come_with_their_photos(rich):
    page = Page(report.page(*rich))
    found = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    names = ["only here", *(f"photo {i}" for i in range(11))]  # twelve, the surest first
    assert [value for tag, name, value in page.attributes if name == "alt"] == names
    for name, uri in zip(names, found):
        image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        scheme = "int8-full" if name == "only here" else "int8"
        assert np.array_equal(np.asarray(image), rich[1][scheme, name])
    assert "float32: 3 90.00 % int8: 5 50.00 % int8-full: 5 50.00 % photo 0" in page.said()


def hostile(value):
    """A report in which every text but those that only the export chooses is an attack."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_other_peoples_text_is_shown_not_obeyed(rich):
    content, examples = rich
    attacked = hostile(content)
    attacked["machine"][EVIL] = EVIL
    for stem, entry in attacked["files"].items():
        entry["reference"] = content["files"][stem]["reference"]
        for item, original in zip(
            entry.get("disagreements", ()), content["files"][stem].get("disagreements", ())
        ):
            item["name"] = original["name"] + EVIL
    examples = {(stem, name + EVIL): pixels for (stem, name), pixels in examples.items()}
    text = report.page(attacked, examples)
    page = Page(text)
    assert "script" not in page.tags and EVIL not in text
    assert page.said().count(EVIL) > 30
    assert f"photo 0{EVIL}" in [value for _, name, value in page.attributes if name == "alt"]


def test_what_xnnpack_left_is_named_with_its_reason(rich):
    page = Page(report.page(*rich))
    assert page.tables["rest"][1:] == [
        ["int8-full.tflite", "SOFTMAX", "int8", "2", "XNNPACK has no int8 kernel"],
        ["", "NEW_OP", "int8", "1", "not known"],
    ]


def test_the_pictures_show_the_files_and_the_most_sensitive_sites(rich):
    said = Page(report.page(*rich)).said()
    for text in ("milliseconds on one thread", "top-1, %", "float32 0.21 MB"):
        assert text in said
    assert "block_29/mlp/dense_1" in said and "block_10/mlp" in said
    assert "block_9/mlp" not in said  # the twenty-first


def test_two_resolutions_are_one_line_per_scheme_and_compared_with_their_own_float(rich):
    content, _ = rich
    for stem in ("float32", "int8"):
        entry = copy.deepcopy(content["files"][stem])
        entry |= {"file": f"{stem}-48.tflite", "image_size": [48, 48], "reference": "float32-48"}
        entry["accuracy"]["top1"] = 0.95 if stem == "float32" else 0.92
        content["files"][f"{stem}-48"] = entry
    page = Page(report.page(content, {}))
    assert page.column("files", "against float,points")["int8-48.tflite"] == "-3.00"
    assert page.tags.count("svg") == 2 and "32, 48 pixels" in page.said()


def without_data(content):
    content["data"] = content["held_out"] = None
    for entry in content["files"].values():
        for key in ("accuracy", "unreadable", "unchanged", "disagreements"):
            entry.pop(key, None)


def only_float(content):
    content["files"] = {"float32": content["files"]["float32"]}


def on_another_system(content):
    for entry in content["files"].values():
        entry["memory_mib"] = None
        entry["latency_ms"].pop("2", None), entry["speedup"].pop("2", None)


@pytest.mark.parametrize(
    "take_away, gone",
    [
        (without_data, "Accuracy against time"),
        (only_float, "Quantization"),
        (on_another_system, "MiB"),
        (lambda content: [take(content) for take in (without_data, only_float)], "held-out"),
    ],
)
def test_what_was_not_measured_is_left_out(take_away, gone, real):
    content = copy.deepcopy(real)
    assert gone in Page(report.page(content, {})).said()
    take_away(content)
    page = Page(report.page(content, {}))
    assert gone not in page.said()
    assert len(page.tables["files"]) == 1 + len(content["files"])
    assert len({len(row) for row in page.tables["files"]}) == 1
    assert "None" not in page.said().replace("None: every file", "")


def entry(name, top1, speed, size, reference="float32"):
    return {
        "file": f"{name}.tflite",
        "reference": reference,
        "bytes": size,
        "accuracy": {"top1": top1},
        "latency_ms": {"1": 10 / speed},
        "speedup": {"1": speed},
        "parity_with_keras": {"max_difference": 1e-6},
    }


FLOAT = entry("float32", 0.9, 1, 100)
VERDICTS = {  # the other files -> what the sentence begins with
    "right and fast": (
        {"int8": entry("int8", 0.895, 4, 30), "dynamic": entry("dynamic", 0.9, 2, 30)},
        "Take int8.tflite, 4.00x as fast as float32.tflite at 0.30x its size; top-1 89.50 %",
    ),
    "the fastest is wrong": (
        {"int8": entry("int8", 0.88, 4, 30), "dynamic": entry("dynamic", 0.9, 2, 30)},
        "Take dynamic.tflite, 2.00x as fast",
    ),
    "all wrong": (
        {"int8": entry("int8", 0.8, 4, 30)},
        "Take float32.tflite: no other file comes within 1 point of its top-1; the nearest is "
        "top-1 80.00 % with int8.tflite",
    ),
    "slow": (
        {"float16": entry("float16", 0.9, 0.9, 50)},
        "No file is faster than float here: float16.tflite, 0.90x as fast",
    ),
    "smaller pictures, held to the best float": (
        {"float32-64": entry("float32-64", 0.8, 1, 99, "float32-64")}
        | {"int8-64": entry("int8-64", 0.8, 9, 30, "float32-64")}
        | {"int8": entry("int8", 0.9, 4, 30)},
        "Take int8.tflite, 4.00x as fast as float32.tflite",
    ),
    "alone": ({}, "float32.tflite computes what the Keras model does: logits differ by 1.0e-06"),
}


@pytest.mark.parametrize("others, begins", VERDICTS.values(), ids=VERDICTS)
def test_the_verdict(others, begins):
    assert report.verdict({"float32": FLOAT, **others}).startswith(begins)


def test_figures_are_written_as_people_read_them():
    assert FORMATS["points"](-1e-9) == "+0.00" and FORMATS["points"](-0.0123) == "-1.23"
    assert FORMATS["milliseconds"](0.03941) == "0.0394 ms"
    assert FORMATS["milliseconds"](12345.6) == "12346 ms"
    assert {write(None) for write in FORMATS.values()} == {"-"}
