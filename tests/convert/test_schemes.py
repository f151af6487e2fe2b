"""Every scheme of the table: what its file holds, that it answers as simulated, and what is refused."""

import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from convert import qat, sites, tflite
from convert.schemes import INTEGER, REFUSED, SCHEMES
from edge_demo import Classifier
from edge_demo.tflite.delegation import delegation

INT8, FLOAT32, UINT8 = (getattr(schema.TensorType, t) for t in ("INT8", "FLOAT32", "UINT8"))
NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items()}


def parsed(content):
    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    tensors = file.subgraphs[0].tensors
    for op in file.subgraphs[0].operators:
        kind = NAMES[file.operatorCodes[op.opcodeIndex].builtinCode]
        yield (
            kind,
            [tensors[i] for i in op.inputs if i >= 0],
            [tensors[i] for i in op.outputs],
        )


def answers(content, pixels):
    """Logits, and the step from one to the next in an integer file; 0 in others."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    logits = []
    for image in pixels:
        interpreter.set_tensor(source["index"], image[np.newaxis].astype(source["dtype"]))
        interpreter.invoke()
        logits.append(interpreter.get_tensor(target["index"])[0].astype(np.float32))
    scale, zero_point = target["quantization"]
    return (np.array(logits) - zero_point) * (scale or 1), scale


@pytest.mark.parametrize("name", SCHEMES)
def test_a_file_answers_as_it_is_simulated(trained, name, digits):
    arch, folded, ranges = trained
    pixels, scheme = digits(64), SCHEMES[name]
    found, step = answers(tflite.write(scheme, folded, arch, ranges), pixels)
    simulated = qat.simulate(folded, arch, qat.rounding(arch, scheme, ranges))(pixels)
    # An integer file's own steps: its range is calibrated, and a little wider than that of these logits.
    steps = np.abs(found - simulated) / (step or np.ptp(simulated) / 255)
    assert np.ptp(simulated) > 5
    # A value on the border between two steps may fall to either side; nothing else differs.
    assert np.quantile(steps, 0.99) <= 2.001 and steps.max() <= 5


def test_int8_full_has_no_float_between_its_ends(graph):
    arch, folded, ranges = graph
    ops = list(parsed(tflite.write(SCHEMES["int8-full"], folded, arch, ranges)))
    types = {tensor.type for _, inputs, outputs in ops for tensor in (*inputs, *outputs)}
    assert types <= {INT8, UINT8, schema.TensorType.INT32}
    assert (ops[0][1][0].type, ops[-1][2][0].type) == (UINT8, UINT8)


def test_keys_and_values_have_zero_point_0_and_xnnpack_takes_every_product(graph, tmp_path):
    arch, folded, ranges = graph
    content = tflite.write(SCHEMES["int8"], folded, arch, ranges)
    products = [inputs for kind, inputs, _ in parsed(content) if kind == "BATCH_MATMUL"]
    assert len(products) == 2 * arch.depth
    for _, right in products:
        assert right.type == INT8 and list(right.quantization.zeroPoint) == [0]
    path = tmp_path / "int8.tflite"
    path.write_bytes(content)
    found = delegation(path)
    assert found["rest"] == [] and found["partitions"] <= 6 * arch.depth


def test_int8_weights_are_per_channel_and_activations_have_the_calibrated_ranges(graph):
    arch, folded, ranges = graph
    dense = {
        outputs[0].name.decode().split("/output/")[0]: (inputs, outputs[0])
        for kind, inputs, outputs in parsed(tflite.write(SCHEMES["int8"], folded, arch, ranges))
        if kind == "FULLY_CONNECTED"
    }
    checked = {name for name, layer in sites.dense_layers(arch).items() if layer}
    assert checked < set(dense) | {"head"} and len(checked) == 1 + 6 * arch.depth
    for name in checked:
        (read, kernel, *_), output = dense[name]
        expected = np.abs(folded[f"{name}/kernel"]).max(axis=0) / 127
        assert kernel.type == INT8
        assert np.allclose(kernel.quantization.scale, expected, rtol=1e-5)
        if name in sites.by_row(arch):  # the class token's row, in float as it comes and goes
            assert read.type == output.type == FLOAT32
            continue
        low, high = ranges[f"{name}/output"]
        assert output.quantization.scale[0] == pytest.approx((high - low) / 255, rel=1e-4)


def test_layers_in_float_are_so_in_the_file_and_in_the_simulation(trained, digits):
    arch, folded, ranges = trained
    in_float = frozenset({"block_0/attention", "block_1/mlp/dense_1"})
    content = tflite.write(SCHEMES["int8"], folded, arch, ranges, in_float)
    kinds = [(kind, inputs[1].type) for kind, inputs, _ in parsed(content) if len(inputs) > 1]
    assert kinds.count(("BATCH_MATMUL", FLOAT32)) == 2
    assert kinds.count(("FULLY_CONNECTED", FLOAT32)) == 3 + 1 + 1  # with the head
    pixels = digits(16)
    quantize = qat.rounding(arch, SCHEMES["int8"], ranges, in_float)
    simulated = qat.simulate(folded, arch, quantize)(pixels)
    assert np.abs(answers(content, pixels)[0] - simulated).max() <= 4 * np.ptp(simulated) / 255


def test_sizes_of_the_files(graph):
    arch, folded, ranges = graph
    size = {n: len(tflite.write(s, folded, arch, ranges)) for n, s in SCHEMES.items()}
    weights = sum(value.nbytes for name, value in folded.items() if name.endswith("/kernel"))
    assert 0.4 * weights < size["float32"] - size["float16"] < 0.6 * weights
    assert 0.7 * weights < size["float32"] - size["dynamic"] < 0.75 * weights
    assert 0.6 * weights < size["float32"] - size["int8"] < 0.75 * weights
    assert size["int4-dynamic"] < size["dynamic"] - 0.03 * weights


@pytest.mark.parametrize("names", ["", "int8,", "int9"])
def test_a_scheme_that_is_none_is_refused(names, tfvit_cli, tmp_path):
    done = tfvit_cli("convert", tmp_path, "--scheme", names, "--out", tmp_path / "out")
    unknown = names.rpartition(",")[2]
    assert done.code == 2 and done.err.startswith(f"error: unknown scheme {unknown!r}; known are ")
    assert len(done.err.splitlines()) == 1


def test_the_help_shows_only_bounds_that_there_are(tfvit_cli):
    shown = tfvit_cli("convert", "--help").out
    assert "[x>0]" in shown and "None" not in shown


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_the_reason(name, tfvit_cli, tmp_path):
    done = tfvit_cli("convert", tmp_path, "--scheme", name, "--out", tmp_path / "out")
    assert done.code == 2 and f"scheme {name} cannot work: " in done.err


@pytest.fixture(scope="module")
def everything(tmp_path_factory, tfvit_cli, digits_run):
    """All schemes at two resolutions."""
    out = tmp_path_factory.mktemp("everything")
    options = ("--scheme", ",".join(SCHEMES), "--image-size", "32,48", "--calibrate-only")
    done = tfvit_cli("convert", digits_run, "--data", "digits", *options, "--out", out)
    assert done.code == 0, done.err
    return out, done.out


def test_all_schemes_at_two_resolutions_are_in_one_table(everything):
    out, said = everything
    report = json.loads((out / "report.json").read_text())
    expected = {f"{name}-{size}" for name in SCHEMES for size in (32, 48)}
    assert set(report["files"]) == expected
    for stem, entry in report["files"].items():
        assert f"{stem}.tflite" in said
        assert Classifier(out / entry["file"]).preprocess.height == entry["image_size"][0]
        assert entry["accuracy"]["images"] == 348 and entry["latency_ms"]["1"] > 0
        inside = Classifier(out / entry["file"]).description
        assert inside["accuracy"] == entry["accuracy"]


@pytest.mark.parametrize("name", SCHEMES)
def test_info_tells_what_a_file_holds(everything, name, tfvit_cli, tmp_path):
    path = everything[0] / f"{name}-32.tflite"
    assert tfvit_cli("info", path, "--json", tmp_path / "info.json").code == 0
    found = json.loads((tmp_path / "info.json").read_text())
    sizes, scheme = found["constant_bytes"], SCHEMES[name]
    # int4 shares the file with the ends and whatever has no blocks of 32
    assert scheme.weights == ("int4" if "int4" in sizes else max(sizes, key=sizes.get))
    assert 0.5 * found["bytes"] < sum(sizes.values()) < found["bytes"] == path.stat().st_size
    whole = scheme.activations == INTEGER
    (given,), (result,) = found["inputs"], found["outputs"]
    kind = "uint8" if whole else "float32"
    assert given == {"name": "pixels", "shape": [1, 32, 32, 3], "dtype": kind}
    assert result == {"name": "logits", "shape": [1, 10], "dtype": kind}
    assert found["scheme"] == name and found["operators"]["BATCH_MATMUL"] == 4


def test_sensitivity_names_every_layer_and_the_most_costly_first(tmp_path, tfvit_cli, digits_run):
    options = ("--scheme", "int8,int8-full,dynamic", "--calibrate-only", "--sensitivity")
    done = tfvit_cli("convert", digits_run, "--data", "digits", *options, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert set(report["sensitivity"]) == {"int8", "int8-full", "dynamic"}
    costs = report["sensitivity"]["int8"]
    assert set(costs) == {"embedding"} | {
        f"block_{i}/{part}"
        for i in range(2)
        for part in ("attention", "attention/out", "mlp/dense_1", "mlp/dense_2")
    }
    kl = [cost["kl"] for cost in costs.values()]
    assert kl == sorted(kl, reverse=True) and kl[0] > 0
    assert {"tokens", "block_0/mlp/norm", "head"} < set(report["sensitivity"]["int8-full"])
    assert "int8: rounded alone" in done.out


def test_a_budget_that_cannot_be_kept_leaves_no_file_and_says_which_layers(
    tmp_path, tfvit_cli, digits_run
):
    options = ("--int8", "--calibrate-only", "--max-drop", "-5")
    done = tfvit_cli("convert", digits_run, "--data", "digits", *options, "--out", tmp_path / "out")
    assert done.code == 3
    assert "more than --max-drop -5" in done.err and len(done.err.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failed.json"]
    failed = json.loads((tmp_path / "out/failed.json").read_text())
    assert set(failed["sensitivity"]) >= {"embedding", "block_0/attention"}
