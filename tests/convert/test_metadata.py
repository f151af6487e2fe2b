import json
import zipfile
import zlib

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from integer_model import integer_model

import tfvit
from convert import fold, metadata, sites, tflite
from convert.schemes import SCHEMES
from edge_demo import Classifier, PreprocessSpec, UserError
from edge_demo.tflite.metadata import describe, read

LABELS = ("rose", "Gänseblümchen", "tulip", "poppy", "other")
SPEC = PreprocessSpec(32, 32, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """One model of each kind that there is: float, int8 with its weights behind, uint8 in and out."""
    model = tfvit.create_model("vit-ti/8", 5, 32, width=96, depth=2, mlp_dim=1024, heads=3)
    rng = np.random.default_rng(0)
    weights = {
        v.name.removesuffix(":0"): v.numpy() + rng.normal(0, 0.1, v.shape) for v in model.weights
    }
    arch = model.architecture
    folded = fold.fold(weights, arch, model.preprocess)
    ranges = dict.fromkeys(sites.sites(arch), (-3.0, 3.0))
    return {
        "float32": tflite.write(SCHEMES["float32"], folded, arch),
        "int8": tflite.write(SCHEMES["int8"], folded, arch, ranges),
        "uint8": integer_model(tmp_path_factory.mktemp("saved")),
    }


def with_metadata(graph, **description):
    description = {"scheme": "int8", "provenance": {}, **description}
    return metadata.add(graph, LABELS, SPEC, description, name="vit", version="1")


def plain(value):
    if isinstance(value, (list, np.ndarray)):
        return [plain(item) for item in value]
    return {k: plain(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else value


def constants(content):
    """Position and size of the bytes of every buffer, by the schema: inside, or behind."""
    model = schema.Model.GetRootAs(content)
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.Offset() > 1:
            yield buffer.Offset(), buffer.Size()
        elif buffer.DataLength():
            yield buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataLength()
        else:
            yield 0, 0


def parts(content):
    """Everything in a .tflite: the graph, the buffers' bytes, the metadata entries."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    buffers = [bytes(content[start : start + size]) for start, size in constants(content)]
    entries = {entry.name.decode(): buffers[entry.buffer] for entry in model.metadata}
    model.buffers = model.metadata = None
    return plain(model), buffers, entries


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8"])
def test_the_graph_is_what_it_was(graphs, kind):
    before, after = graphs[kind], with_metadata(graphs[kind])
    graph, buffers, entries = parts(before)
    found_graph, found_buffers, found_entries = parts(after)
    assert found_graph == graph
    assert found_buffers[:-1] == buffers
    assert found_entries == {**entries, "TFLITE_METADATA": found_buffers[-1]}
    assert "min_runtime_version" in found_entries
    assert [p % 16 for p, _ in constants(after)][:-1] == [p % 16 for p, _ in constants(before)]
    assert len(graph["signatureDefs"]) == 1
    model = schema.Model.GetRootAs(before)
    behind = [i for i in range(model.BuffersLength()) if model.Buffers(i).Offset() > 1]
    assert bool(behind) == (kind == "int8")


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8"])
def test_the_runtime_answers_bit_for_bit_as_before(graphs, kind):
    outputs = []
    for content in (graphs[kind], with_metadata(graphs[kind])):
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        port = interpreter.get_input_details()[0]
        pixels = np.random.default_rng(0).integers(0, 256, port["shape"]).astype(port["dtype"])
        interpreter.set_tensor(port["index"], pixels)
        interpreter.invoke()
        output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        outputs.append((output.tolist(), interpreter.get_signature_list()))
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0][0][0])) > 1


def test_measured_figures_go_in_and_the_graph_stays(graphs, tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(with_metadata(graphs["int8"], provenance={"weights_sha256": "abc"}))
    before, first = path.read_bytes(), read(path)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    logits = Classifier(path).logits(pixels)
    describe(path, accuracy={"top1": 0.5, "images": 12}, latency_ms={"1": 3.5})
    describe(path, accuracy={"top1": 0.75, "images": 12})
    after, second = path.read_bytes(), read(path)
    figures = {"accuracy": {"top1": 0.75, "images": 12}, "latency_ms": {"1": 3.5}}
    assert second.description == {**first.description, **figures}
    assert (second.labels, second.preprocess) == (first.labels, first.preprocess) == (LABELS, SPEC)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        size = min(entry.header_offset for entry in archive.infolist())
        checksum = json.loads(archive.read("tfvit.json"))["graph_crc32"]
    assert before[:size] == after[:size] and before[size:] != after[size:]
    assert checksum == zlib.crc32(before[:size])
    assert np.array_equal(Classifier(path).logits(pixels), logits)
    assert [p.name for p in tmp_path.iterdir()] == ["model.tflite"]


def test_a_damaged_file_is_not_described(graphs, tmp_path):
    path = tmp_path / "model.tflite"
    content = bytearray(with_metadata(graphs["float32"]))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.tflite: damaged model"):
        describe(path, accuracy={"top1": 1.0})
    assert path.read_bytes() == content


def test_the_same_model_gives_the_same_bytes(graphs):
    assert with_metadata(graphs["float32"]) == with_metadata(graphs["float32"])


@pytest.mark.parametrize("scheme", ["float32", "int8"])
def test_an_exported_file_tells_where_it_comes_from(exported, digits_run, scheme):
    origin = read(exported / f"{scheme}.tflite").description["provenance"]
    config = json.loads((digits_run / "best/config.json").read_text())
    assert origin["weights_sha256"] == config["weights_sha256"]
    assert origin["checkpoint"]["recipe"] == config["provenance"]["recipe"]
    assert origin["checkpoint"]["recipe"]["learning_rate"] == 3e-3
    assert (origin.get("quantization") or {}).get("steps") == (20 if scheme == "int8" else None)
