"""`edge-demo benchmark`: what it measures, of whatever file, and what it says of those that do not run."""

import contextlib
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from broken_models import without_operands

from edge_demo import machine
from edge_demo.errors import GateError
from edge_demo.measure import benchmark, runner

SECONDS, THREADS = 0.3, (1, 2)
WIDTH = 2000  # of the matrix of `foreign`, whose file has 16 MB


def converted(function, *specs):
    graph = tf.function(function, input_signature=[tf.TensorSpec(*spec) for spec in specs])
    return tf.lite.TFLiteConverter.from_concrete_functions(
        [graph.get_concrete_function()]
    ).convert()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A file that nothing of ours has written: a large matrix product, and what XNNPACK does not take."""
    path = tmp_path_factory.mktemp("foreign") / "matrix.tflite"
    matrix = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    path.write_bytes(converted(lambda x: tf.cumsum(x @ matrix, 1), ([1, WIDTH], tf.float32)))
    return path


@pytest.fixture(scope="module")
def bad(tmp_path_factory, float32):
    """Half a file, and one that ends the process that runs it."""
    folder, whole = tmp_path_factory.mktemp("bad"), float32.read_bytes()
    (folder / "half.tflite").write_bytes(whole[: len(whole) // 2])
    (folder / "deadly.tflite").write_bytes(without_operands(whole))
    return folder


@pytest.fixture(scope="module")
def measured(float32, int8, bad, tmp_path_factory, edge_cli):
    """What the command says of two good files with two bad ones between them, and its JSON."""
    path = tmp_path_factory.mktemp("measured") / "speed.json"
    files = (float32, bad / "half.tflite", bad / "deadly.tflite", int8)
    options = ("--threads", "1,2", "--seconds", SECONDS, "--json", path)
    done = edge_cli("benchmark", *files, *options)
    return done, json.loads(path.read_text()), [str(file) for file in files]


def rows(text, first, count):
    """So many rows of the table that begins with a heading, each as a dictionary."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(first))
    columns = [match.span() for match in re.finditer("-+", lines[start + 1])]
    heading, _, *others = lines[start : start + 2 + count]
    names = [heading[a:b].strip() for a, b in columns]
    return [{n: line[a:b].strip() for n, (a, b) in zip(names, columns)} for line in others]


def test_the_table_says_what_the_json_says(measured):
    done, found, files = measured
    table = rows(done.out, "file", len(files) * len(THREADS))
    assert len(table) == len(found["runs"])
    keys = {"p50": "p50_ms", "p90": "p90_ms", "p99": "p99_ms", "per second": "per_second"}
    keys |= {"speed": "speed", "start-up": "start_up_ms", "load": "load_ms"}
    keys |= {"peak": "peak_mib", "of the file": "above_mib"}
    for row, entry in zip(table, found["runs"]):
        assert row["file"].removesuffix(" (fails)") == entry["file"]
        assert row["threads"] == str(entry["threads"])
        assert float(row["size"].removesuffix(" MB")) == round(entry["bytes"] / 1e6, 2)
        for column, key in keys.items():
            if entry.get(key) is None:
                assert row[column] == "-"
            else:
                number = float(re.match(r"[\d.e+-]+", row[column])[0])
                assert number == pytest.approx(entry[key], rel=0.01, abs=0.06), column
    assert [(e["file"], e["threads"]) for e in found["runs"]] == [
        (file, count) for file in files for count in THREADS
    ]
    assert f"{os.cpu_count()} threads" in done.out


def test_a_file_that_does_not_run_is_named_and_ends_no_other(measured):
    done, found, files = measured
    assert (done.code, done.err) == (3, "error: 2 of 4 files do not run here\n")
    errors = {entry["file"]: entry.get("error", "") for entry in found["runs"]}
    assert [bool(errors[file]) for file in files] == [False, True, True, False]
    assert "SIGSEGV" in errors[files[2]]
    for file in files[1:3]:
        assert f"{file}: {errors[file]}" in done.out.splitlines()
    for entry in found["runs"]:
        assert ("error" in entry) == ("p50_ms" not in entry) == ("speed" not in entry)


def test_the_figures_fit_each_other(measured):
    _, found, files = measured
    good = [entry for entry in found["runs"] if "error" not in entry]
    first = {entry["threads"]: entry for entry in good if entry["file"] == files[0]}
    for entry in good:
        assert 0 < entry["p50_ms"] <= entry["p90_ms"] <= entry["p99_ms"]
        assert 0.5 * SECONDS < entry["runs"] / entry["per_second"] < 3 * SECONDS
        assert entry["speed"] == pytest.approx(first[entry["threads"]]["p50_ms"] / entry["p50_ms"])
        assert entry["p50_ms"] < entry["load_ms"] < entry["start_up_ms"]
        assert entry["start_up_ms"] > 20  # no Python with NumPy starts faster
        if Path("/proc/self/status").exists():
            assert 0 < entry["above_mib"] < entry["peak_mib"]
            assert 15 < entry["peak_mib"] < 200  # this process, with TensorFlow, has more


@pytest.fixture(scope="module")
def profiled(foreign, float32, tmp_path_factory, edge_cli):
    path = tmp_path_factory.mktemp("profiled") / "profile.json"
    options = ("--threads", "1", "--seconds", "0.5", "--profile", "--json", path)
    done = edge_cli("benchmark", foreign, float32, *options)
    assert (done.code, done.err) == (0, "")
    return done.out, json.loads(path.read_text())


def test_a_file_without_our_metadata_is_measured(profiled, foreign):
    _, found = profiled
    large, small = found["runs"]
    assert large["file"] == str(foreign) and large["p50_ms"] > small["p50_ms"]
    if large["above_mib"] is not None:
        size = large["bytes"] / 2**20
        assert size > 15 and size < large["above_mib"] < 5 * size
        assert small["above_mib"] < large["above_mib"]


def test_the_profile_knows_every_operation_of_the_file(profiled, foreign, float32):
    out, found = profiled
    for path in (foreign, float32):
        entry = found["profiles"][str(path)]
        operations = entry["operations"]
        assert sum(o["milliseconds"] for o in operations) <= entry["milliseconds"]
        assert entry["runs"] >= 3
        graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
        codes = [
            graph.operatorCodes[o.opcodeIndex].builtinCode for o in graph.subgraphs[0].operators
        ]
        for code, op in (
            (schema.BuiltinOperator.FULLY_CONNECTED, "Fully Connected"),
            (schema.BuiltinOperator.SOFTMAX, "Softmax"),
            (schema.BuiltinOperator.CUMSUM, "CUMSUM"),
        ):
            count = sum(o["count"] for o in operations if o["op"].startswith(op))
            assert count == codes.count(code), op
        times = [o["milliseconds"] for o in operations]
        assert times == sorted(times, reverse=True)
        section = out[out.index(f"\n{path}, ") :]
        table = rows(section, "operation", len(operations))
        for row, operation in zip(table, operations):
            assert (row["operation"], row["by"]) == (operation["op"], operation["by"])
            assert row["time"] == f"{operation['milliseconds']:.3f} ms"


def test_the_profile_says_where_the_time_goes_and_what_xnnpack_leaves(profiled, foreign):
    out, found = profiled
    entry = found["profiles"][str(foreign)]
    slowest, *others = entry["operations"]
    assert slowest["op"].startswith("Fully Connected") and slowest["by"] == "XNNPACK"
    assert slowest["milliseconds"] > sum(o["milliseconds"] for o in others)
    assert [o["op"] for o in others if o["by"] == "LiteRT"] == ["CUMSUM"]
    assert [rest["op"] for rest in entry["delegation"]["rest"]] == ["CUMSUM"]
    assert "XNNPACK takes 1 of 2 operations of the file, in 1 part." in out
    assert "XNNPACK has no CUMSUM" in out


OLDER = """
import ctypes

class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "LiteRtCompiledModelGetProfiler":
            raise AttributeError("no " + name)
        return super().__getattr__(name)

ctypes.CDLL = Library
"""


def test_without_the_profiler_what_xnnpack_takes_is_still_said(tmp_path, foreign, process):
    """As with an older runtime: its library has not all of the functions."""
    (tmp_path / "sitecustomize.py").write_text(OLDER)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = process(
        *("edge-demo", "benchmark", foreign, "--profile", "--seconds", "0.1", "--threads", "1"),
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.code == 0, done.err
    assert (
        "the runtime gives no times of operations (no LiteRtCompiledModelGetProfiler)" in done.out
    )
    assert "XNNPACK takes 1 of 2 operations" in done.out and "XNNPACK has no CUMSUM" in done.out


@pytest.mark.parametrize("kind", [tf.int32, tf.uint8, tf.float32])
def test_inputs_of_any_type_are_filled(kind, tmp_path, edge_cli):
    rows = np.arange(40, dtype=np.float32).reshape(4, 10)
    model = converted(
        lambda x: tf.gather(rows, tf.minimum(tf.cast(x, tf.int32), 3)), ([None, 6], kind)
    )
    (tmp_path / "table.tflite").write_bytes(model)
    done = edge_cli(
        *("benchmark", tmp_path / "table.tflite", "--seconds", "0.05", "--threads", "1")
    )
    assert (done.code, done.err) == (0, "")


def test_files_take_turns_and_one_that_fails_on_the_way_is_left_out(monkeypatch, tmp_path):
    times = {"a": [4.0, 6.0, 8.0], "b": [2.0, 2.0, 10.0], "c": [1.0]}
    asked = []

    @contextlib.contextmanager
    def bare(path, threads):
        def run_for(seconds):
            asked.append(path.name)
            if path.name == "c" and asked.count("c") == 3:
                raise GateError("c: ended")
            return times[path.name]

        yield runner.Bare(100.0, 20.0, 5.0, 60.0, 40.0, run_for)

    monkeypatch.setattr(runner, "bare", bare)
    paths = [tmp_path / name for name in times]
    for path in paths:
        path.write_bytes(b"12345")
    a, b, c = benchmark.measure(paths, [1], 2.5 * benchmark.TURN)
    assert "".join(asked) == "abcabcabcab"  # first to warm up
    assert c["error"] == "ended" and "p50_ms" not in c
    assert (a["p50_ms"], a["runs"], a["speed"]) == (6.0, 9, 1.0)
    assert (b["p50_ms"], b["speed"], b["bytes"]) == (2.0, 3.0, 5)
    assert a["p90_ms"] == np.percentile(times["a"] * 3, 90)
    assert a["per_second"] == pytest.approx(1e3 / 6) and a["above_mib"] == 20.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("no.tflite",), "no.tflite: no such file"),
        ((), "Missing argument"),
        (("no.tflite", "--threads", "1,0"), "'1,0' is not like 1,2,4"),
        (("no.tflite", "--threads", "two"), "'two' is not like"),
        (("no.tflite", "--threads", ""), "is not like"),
        (("no.tflite", "--threads", "9" * 5000), "each 1024 at most"),
        (("no.tflite", "--seconds", "0"), "--seconds"),
    ],
)
def test_bad_input_is_one_line(arguments, message, edge_cli):
    done = edge_cli("benchmark", *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err and len(done.err.splitlines()) == 1


def test_what_slows_a_device_is_read_and_told(tmp_path):
    assert machine.state(tmp_path) == {}
    for core, (speed, governor) in enumerate(((600, "powersave"), (1500, "ondemand"))):
        folder = tmp_path / f"devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{governor}\n")
        (folder / "scaling_cur_freq").write_text(f"{speed}000\n")
        (folder / "cpuinfo_max_freq").write_text("1800000\n")
    for zone, (kind, level) in enumerate((("cpu-thermal", 81234), ("battery", 99000))):
        folder = tmp_path / f"class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(f"{level}\n")
    state = machine.state(tmp_path)
    assert state == {
        "governor": "ondemand, powersave",
        "ghz": 0.6,
        "max_ghz": 1.8,
        "celsius": 81.234,
    }
    told = machine.in_words(machine.describe(), state)
    assert told.endswith("; governor ondemand, powersave; 0.60 of 1.80 GHz; 81 °C")
    assert machine.in_words(machine.describe(), {}) == told.partition("; governor")[0]
