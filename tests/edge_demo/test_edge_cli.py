import json
import os
import re
import subprocess
import sys

import click
import pytest

from edge_demo import Classifier
from edge_demo.cli import main

LABELS = "0123456789"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, digits):
    """Four digits as files: 0.png, 1.jpg, 2.webp and deep/3.bmp."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "deep").mkdir()
    for name, picture in zip(("0.png", "1.jpg", "2.webp", "deep/3.bmp"), digits[0]):
        picture.resize((64, 64)).save(root / name)
    return root


@pytest.fixture()
def mixed(tmp_path, digits):
    """Two good pictures among two bad ones."""
    digits[0][0].save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not a picture")
    digits[0][1].save(tmp_path / "c.png")
    (tmp_path / "d.png").write_bytes((tmp_path / "c.png").read_bytes()[:60])
    return tmp_path


def expected(model, path, top=5) -> list[tuple[str, float]]:
    return Classifier(model).classify(path, top)


def check_one_line(done, *words) -> None:
    assert done.code == 2
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert len(lines[0]) > len("error: ") + 10
    for word in words:
        assert str(word) in lines[0]


# --- the table


def test_one_picture_is_a_table_of_labels_and_percentages(edge_cli, int8, pictures):
    path = pictures / "0.png"
    done = edge_cli(int8, "--source", path)
    assert (done.code, done.err) == (0, "")
    head, *rows = done.out.splitlines()
    assert head.startswith(str(path))
    assert re.search(r"\d+\.\d ms", head)
    found = [re.fullmatch(r"  (\S+) +(\d+\.\d) %(?:  (█+))?", row).groups() for row in rows]
    for (label, percent, bar), (name, score) in zip(found, expected(int8, path)):
        assert label == name
        assert float(percent) == pytest.approx(100 * score, abs=0.051)
        assert len(bar or "") == pytest.approx(30 * score, abs=0.51)
    assert len(found) == 5


def test_a_folder_is_searched_in_depth_and_in_order(edge_cli, int8, pictures):
    done = edge_cli(int8, "--source", pictures)
    assert done.code == 0
    heads = [line for line in done.out.splitlines() if not line.startswith(" ")]
    names = ["0.png", "1.jpg", "2.webp", "deep/3.bmp"]
    assert [head.split("  (")[0] for head in heads] == [str(pictures / name) for name in names]
    assert re.fullmatch(r"4 images, median inference \d+\.\d ms\n", done.err)


@pytest.mark.parametrize(("top", "rows"), [(1, 1), (3, 3), (10, 10), (99, 10)])
def test_top_is_the_number_of_rows(edge_cli, int8, pictures, top, rows):
    done = edge_cli(int8, "--source", pictures / "0.png", "--top", top)
    assert done.code == 0
    assert len(done.out.splitlines()) == 1 + rows


def test_columns_line_up_under_labels_of_any_length(
    edge_cli, int8, pictures, split_model, join_model, tmp_path
):
    graph, _, description = split_model(int8)
    names = [*"ab", "a longer one", "é", *"efghij"]
    labels = "".join(f"{name}\n" for name in names)
    path = tmp_path / "named.tflite"
    path.write_bytes(join_model(graph, {"labels.txt": labels, "tfvit.json": description}))
    done = edge_cli(path, "--source", pictures / "0.png", "--top", 10)
    assert done.code == 0
    rows = done.out.splitlines()[1:]
    assert {row.index("%") for row in rows} == {rows[0].index("%")}
    assert sorted(row[2:14].rstrip() for row in rows) == sorted(names)


# --- JSON lines


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_json_is_one_object_per_line(edge_cli, exported, pictures, scheme):
    model = exported / f"{scheme}.tflite"
    done = edge_cli(model, "--source", pictures, "--json", "--top", 3)
    assert done.code == 0
    results = [json.loads(line) for line in done.out.splitlines()]
    names = ["0.png", "1.jpg", "2.webp", "deep/3.bmp"]
    assert [result["source"] for result in results] == [str(pictures / name) for name in names]
    for result in results:
        assert set(result) == {"source", "label", "score", "top", "milliseconds"}
        answer = expected(model, result["source"], 3)
        assert [each["label"] for each in result["top"]] == [label for label, _ in answer]
        scores = [each["score"] for each in result["top"]]
        assert scores == pytest.approx([score for _, score in answer], abs=1e-4)
        assert (result["label"], result["score"]) == (result["top"][0]["label"], scores[0])
        assert set(result["milliseconds"]) == {"decode", "resize", "inference"}
        assert all(0 <= ms < 60_000 for ms in result["milliseconds"].values())


GLOBS = {
    "*.png": ["0.png"],
    "[01].*": ["0.png", "1.jpg"],
    "**/*.bmp": ["deep/3.bmp"],
    "**/*.*": ["0.png", "1.jpg", "2.webp", "deep/3.bmp"],
}


@pytest.mark.parametrize("pattern", GLOBS)
def test_a_glob_names_the_pictures(edge_cli, int8, pictures, pattern):
    done = edge_cli(int8, "--source", f"{pictures}/{pattern}", "--json")
    assert done.code == 0
    found = [json.loads(line)["source"] for line in done.out.splitlines()]
    assert found == [str(pictures / name) for name in GLOBS[pattern]]


def test_threads_do_not_change_the_labels(edge_cli, int8, pictures):
    outputs = [
        edge_cli(int8, "--source", pictures, "--json", "--top", 1, *threads)
        for threads in ((), ("--threads", 1), ("--threads", 2))
    ]
    assert [done.code for done in outputs] == [0, 0, 0]
    labels = [[json.loads(line)["label"] for line in done.out.splitlines()] for done in outputs]
    assert labels[0] == labels[1] == labels[2]
    assert set(labels[0]) <= set(LABELS)


# --- errors


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_bad_pictures_are_skipped_counted_and_named(edge_cli, int8, mixed, options):
    done = edge_cli(int8, "--source", mixed, "--top", 1, *options)
    assert done.code == 0
    for name, known in {"a.png": True, "b.jpg": False, "c.png": True, "d.png": False}.items():
        assert (str(mixed / name) in done.out) == known
        assert (str(mixed / name) in done.err) == (not known)
    assert "2 images" in done.err
    assert "skipped 2 of 4" in done.err
    lines = done.err.splitlines()
    assert len([line for line in lines if "b.jpg: not a JPEG, PNG, WebP or BMP" in line]) == 1
    assert len([line for line in lines if "d.png: damaged" in line]) == 1
    assert "Traceback" not in done.err


def test_strict_stops_at_the_first_bad_picture(edge_cli, int8, mixed):
    done = edge_cli(int8, "--source", mixed, "--json", "--strict")
    assert done.code == 2
    assert [json.loads(line)["source"] for line in done.out.splitlines()] == [str(mixed / "a.png")]
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith(f"error: {mixed / 'b.jpg'}: ")


def test_strict_says_nothing_where_every_picture_is_good(edge_cli, int8, pictures):
    done = edge_cli(int8, "--source", pictures, "--strict")
    assert done.code == 0
    assert "skipped" not in done.err


@pytest.mark.parametrize("name", ["b.jpg", "d.png"])
@pytest.mark.parametrize("options", [(), ("--strict",), ("--json",)], ids=str)
def test_a_single_bad_picture_is_one_line(edge_cli, int8, mixed, name, options):
    check_one_line(edge_cli(int8, "--source", mixed / name, *options), mixed / name)


def test_nothing_but_bad_pictures_is_an_error(edge_cli, int8, mixed):
    for name in ("a.png", "c.png"):
        (mixed / name).unlink()
    done = edge_cli(int8, "--source", mixed)
    assert (done.code, done.out) == (2, "")
    for name in ("b.jpg", "d.png"):
        assert str(mixed / name) in done.err
    assert [line.startswith("error: ") for line in done.err.splitlines()].count(True) == 1
    assert "Traceback" not in done.err


SOURCES = {
    "none.jpg": "no such file",
    "none/": "no such file",
    "*.tga": "no file matches",
    "empty": "no images",
    "a" * 300: "",
}


@pytest.mark.parametrize("source", SOURCES, ids=range(len(SOURCES)))
def test_a_source_of_nothing_is_one_line(edge_cli, int8, tmp_path, source):
    (tmp_path / "empty").mkdir()
    check_one_line(edge_cli(int8, "--source", f"{tmp_path}/{source}"), SOURCES[source], tmp_path)


MODELS = {
    "missing": (None, "No such file"),
    "empty": (b"", "not a .tflite file"),
    "text": (b"These are words, not a model.\n" * 9, "not a .tflite file"),
    "a magic and noise": (b"\0\0\0\0TFL3" + bytes(range(256)) * 9, "damaged"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_bad_model_is_one_line(edge_cli, pictures, tmp_path, name):
    content, words = MODELS[name]
    path = tmp_path / "model.tflite"
    if content is not None:
        path.write_bytes(content)
    check_one_line(edge_cli(path, "--source", pictures), words, path)


def test_a_folder_or_a_picture_as_model_is_one_line(edge_cli, exported, pictures):
    check_one_line(edge_cli(exported, "--source", pictures), exported)
    path = pictures / "0.png"
    check_one_line(edge_cli(path, "--source", pictures), "not a .tflite file", path)


USAGE = {
    "no source": ((), "--source"),
    "no label": (("--source", "x.jpg", "--top", "0"), "--top"),
    "top is no number": (("--source", "x.jpg", "--top", "many"), "--top"),
    "no thread": (("--source", "x.jpg", "--threads", "0"), "--threads"),
    "an unknown option": (("--source", "x.jpg", "--tpo", "1"), "--tpo"),
    "two sources": (("--source", "x.jpg", "y.jpg"), "y.jpg"),
}


@pytest.mark.parametrize("name", USAGE)
def test_a_wrong_call_ends_with_a_line_that_names_the_option(edge_cli, int8, name):
    options, named = USAGE[name]
    done = edge_cli(int8, *options)
    assert (done.code, done.out) == (2, "")
    last = done.err.splitlines()[-1]
    assert last.lower().startswith("error: ")
    assert named in last


THREADED = [n for n, c in main.commands.items() if any(p.name == "threads" for p in c.params)]


@pytest.mark.parametrize("command", THREADED)
def test_more_threads_than_a_machine_starts_are_refused(edge_cli, int8, command):
    assert set(THREADED) == {"classify", "benchmark", "parity", "enroll"}
    check_one_line(edge_cli(command, int8, "--threads", 1025), "--threads", "1024", "1025")


def test_a_call_of_nothing_is_a_wrong_call(edge_cli):
    done = edge_cli()
    assert done.code == 2
    assert "MODEL" in done.err


# --- help


@pytest.mark.parametrize("name", main.commands)
def test_help_shows_every_option_and_examples(edge_cli, name):
    done = edge_cli(name, "--help")
    assert (done.code, done.err) == (0, "")
    for parameter in main.commands[name].params:
        assert parameter.opts[0] in done.out or isinstance(parameter, click.Argument)
    examples = done.out[done.out.index("Examples:") :].splitlines()[1:]
    assert len(examples) >= 2
    for example in examples:
        words = example[example.index("edge-demo ") :].split()[1:]
        assert words[0] in main.commands or words[0].endswith(".tflite")


def test_a_name_that_is_no_command_is_a_model_to_classify_with(edge_cli, int8, pictures):
    short, whole = (
        edge_cli(*words, int8, "--source", pictures / "0.png", "--csv").out
        for words in ((), ("classify",))
    )
    columns = [line.split(",")[:5] for line in short.splitlines()]
    assert columns == [line.split(",")[:5] for line in whole.splitlines()]
    assert len(columns) == 2
    overview = edge_cli("--help").out
    assert all(f"  {name} " in overview for name in main.commands)


def test_version_is_that_of_the_package(edge_cli):
    from importlib.metadata import version

    done = edge_cli("--version")
    assert done.code == 0
    assert version("tfvit") in done.out


# --- as a real process

HEAVY = """
import sys
from edge_demo.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = ["tensorflow", "tf_keras", "keras", "matplotlib", "scipy", "sklearn", "jax", "torch"]
heavy += ["tensorflow_datasets", "tensorflow_model_optimization", "tfvit", "convert"]
print("loaded:", *[name for name in heavy if name in sys.modules])
"""


def test_classifying_imports_nothing_of_tensorflow(process, int8, pictures):
    done = process("python", "-c", HEAVY, int8, "--source", pictures, "--json")
    assert (done.code, len(done.out.splitlines())) == (0, 5), done.err
    assert done.out.splitlines()[-1] == "loaded:"


def test_help_imports_nothing_of_tensorflow(process):
    done = process("python", "-c", HEAVY, "--help")
    assert done.code == 0, done.err
    assert done.out.startswith("Usage: ")
    assert done.out.splitlines()[-1] == "loaded:"


def test_the_installed_command_classifies_and_keeps_stderr_clean(process, int8, pictures):
    done = process("edge-demo", int8, "--source", "0.png", "--json", cwd=pictures)
    assert (done.code, done.err) == (0, "")
    result = json.loads(done.out)
    assert (result["source"], result["label"]) == (
        "0.png",
        expected(int8, pictures / "0.png")[0][0],
    )


def test_the_installed_command_has_one_line_for_an_error(process, int8, tmp_path):
    check_one_line(process("edge-demo", int8, "--source", tmp_path / "none.jpg"), "none.jpg")
    check_one_line(process("edge-demo", tmp_path / "none", "--source", tmp_path), tmp_path)


def test_one_picture_costs_little_more_than_starting_python_with_numpy(process, int8, pictures):
    resource = pytest.importorskip("resource")

    def used():
        times = resource.getrusage(resource.RUSAGE_CHILDREN)
        return times.ru_utime + times.ru_stime

    def seconds(*command):
        before, count = used(), 3
        for _ in range(count):
            assert process(*command).code == 0
        return (used() - before) / count

    start = seconds(
        "python", "-c", "import click, numpy, PIL.Image"
    )  # 0.15 s, TensorFlow's is 4.5 s
    assert seconds("edge-demo", int8, "--source", pictures / "0.png") < 4 * start


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_an_output_of_any_encoding_is_written(process, int8, pictures, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}  # as a pipe on Windows
    done = process("edge-demo", int8, "--source", pictures / "0.png", env=environment)
    assert (done.code, done.err) == (0, "")
    label, score = expected(int8, pictures / "0.png")[0]
    assert re.match(rf"  {label} +{100 * score:.1f} %", done.out.splitlines()[1])


def popen(int8, pictures, stdout) -> subprocess.Popen:
    command = [sys.executable, "-c", "from edge_demo.cli import main; main()"]
    return subprocess.Popen(
        [*command, int8, "--source", pictures], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_a_reader_that_has_seen_enough_is_no_error(int8, pictures):
    running = popen(int8, pictures, subprocess.PIPE)
    running.stdout.close()
    error = running.stderr.read()
    running.stderr.close()
    assert running.wait() in (0, 1, 141)
    assert "Traceback" not in error
    assert "Exception" not in error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_a_full_disk_is_one_line(int8, pictures):
    with open("/dev/full", "w") as full, popen(int8, pictures, full) as running:
        error = running.stderr.read()
    assert running.returncode not in (0, None)
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: ")
