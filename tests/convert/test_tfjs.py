"""TF.js models: read back in TensorFlow, and run by TF.js itself, in Node."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from random_models import SPEC, random_model, randomised, weights_of
from scipy.special import ndtr
from test_edge_graph import MODELS

from convert import fold, tfjs, tfjs_graph, tfjs_ops
from convert.extras import EXTRAS, refusal
from convert.tfjs_weights import WEIGHTS, decode
from edge_demo.errors import GateError
from edge_demo.preprocess import normalise
from tfvit.architecture import ResNetArchitecture
from tfvit.model import build

NODE_MODULES = Path(__file__).parents[2] / "edge_demo/web/node_modules"
RUN = Path(__file__).with_name("run_tfjs.mjs")
PIXELS = np.random.default_rng(1).integers(0, 256, (2, 16, 24, 3)).astype(np.uint8)
BIT = "BiT ResNet"
ALL = [*MODELS, BIT]


def made(name):
    if name != BIT:
        return random_model(**MODELS[name])
    keras.utils.set_random_seed(0)
    return randomised(build(ResNetArchitecture("bit", 5, (16, 24), (1, 1), 1)))


@pytest.fixture(scope="module")
def expected():
    """Name of a model -> its logits of PIXELS, by Keras; filled with `written`."""
    return {}


@pytest.fixture(scope="module")
def graphs(expected):
    """Name -> (graph, its outputs) of every model there is, with all that it can tell."""
    requests = {}
    for name in ALL:
        model = made(name)
        expected[name] = model(normalise(PIXELS.astype(np.float32), SPEC)).numpy()
        arch = model.architecture
        extras = [extra for extra in EXTRAS if not refusal([extra], arch)]
        requests[name] = fold.fold(weights_of(model), arch, SPEC), arch, extras
    found = tfjs_graph.graphs(list(requests.values()))
    return {name: (graph, ("logits", *requests[name][2])) for name, graph in zip(requests, found)}


@pytest.fixture(scope="module")
def written(graphs, tmp_path_factory):
    """Name -> folder of its TF.js model in float32."""
    root = tmp_path_factory.mktemp("tfjs")
    folders = {name: root / str(i) for i, name in enumerate(graphs)}
    for name, (graph, outputs) in graphs.items():
        tfjs.write(folders[name], graph, "float32", outputs, {})
    return folders


def in_node(backend, folders, tmp_path, pixels=PIXELS):
    """What TF.js itself computes: a dictionary of outputs for each folder."""
    node = shutil.which("node")
    if not (node and NODE_MODULES.is_dir()):
        missing = "needs Node and `make web`"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    (tmp_path / "pixels.bin").write_bytes(pixels.astype(np.float32).tobytes())
    models = [str(folder / tfjs.MODEL) for folder in folders]
    done = subprocess.run(
        [node, RUN, NODE_MODULES, backend, tmp_path / "pixels.bin", *models],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    return [{n: np.array(v) for n, v in found[model].items()} for model in models]


def agrees(found, expected):
    return np.abs(found - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", ALL)
def test_what_is_read_back_computes_what_keras_does(name, written, expected):
    assert np.ptp(expected[name]) > 0.5
    with tfjs.runner(written[name]) as run:
        assert agrees(run(PIXELS), expected[name])
        assert run(PIXELS[:0]).shape == (0, 5)


@pytest.mark.parametrize("backend", ["wasm", "cpu"])
def test_tfjs_itself_computes_what_keras_does(backend, written, expected, tmp_path):
    found = in_node(backend, written.values(), tmp_path)
    for (name, folder), outputs in zip(written.items(), found):
        assert agrees(outputs["logits"].reshape(2, 5), expected[name]), name
        for extra in set(outputs) - {"logits"}:
            with tfjs.runner(folder, extra) as run:
                assert agrees(outputs[extra], run(PIXELS).ravel()), (name, extra)
        if "attention" in outputs:
            assert outputs["attention"].reshape(2, -1).sum(axis=1) == pytest.approx([1, 1])


def test_products_are_in_the_form_that_tfjs_is_fastest_in(graphs):
    graph, _ = graphs["cls"]
    nodes = [node for node in graph.node if "rollout" not in node.name]
    kinds = [node.op for node in nodes]
    assert kinds.count("_FusedMatMul") == 3 * 4 + 2  # in blocks, of the patches, and the head
    # In each block keys and values, which need no bias, and two products for each head.
    assert kinds.count("MatMul") == 3 * (2 + 2 * 3)
    assert not {"BatchMatMulV2", "Tanh", "Pow", "Erf", "Erfc"} & set(kinds)
    products = [node for node in nodes if node.op in tfjs.MULTIPLY]
    for node in products:
        assert not node.attr["transpose_a"].b and not node.attr["transpose_b"].b, node.name


def test_gelu_by_a_sigmoid_is_gelu():
    x = np.linspace(-12, 12, 100_001)
    for approximate, exact in ((True, tf.nn.gelu(x, True).numpy()), (False, x * ndtr(x))):
        found = tfjs_ops.gelu(tf.constant(x), approximate).numpy()
        assert np.abs(found - exact).max() < 1e-7, approximate
    far = tf.constant([-1e30, -1e4, 0, 1e4, 1e30])
    for approximate in (True, False):
        assert np.array_equal(tfjs_ops.gelu(far, approximate), [0, 0, 0, 1e4, np.float32(1e30)])


def kernels_of(folder):
    """The manifest's entries that are stored in another type than they have."""
    (group,) = json.loads((folder / tfjs.MODEL).read_text())["weightsManifest"]
    return {e["name"]: e for e in group["weights"] if "quantization" in e}


@pytest.mark.parametrize("weights", [name for name in WEIGHTS if name != "float32"])
@pytest.mark.parametrize("name", ["cls", "ResNet"])
def test_kernels_alone_are_stored_in_other_types(name, weights, graphs, tmp_path):
    graph, outputs = graphs[name]
    tfjs.write(tmp_path / "m", graph, weights, outputs, {})
    constants = {
        node.name: tf.make_ndarray(node.attr["value"].tensor)
        for node in graph.node
        if node.op == "Const"
    }
    stored = kernels_of(tmp_path / "m")
    assert {e["quantization"]["dtype"] for e in stored.values()} == {weights}
    large = {n for n, value in constants.items() if value.ndim > 1 and value.size > 48 * 20}
    assert large <= set(stored)
    assert all(constants[n].ndim in (2, 4) for n in stored)
    (found,) = in_node("wasm", [tmp_path / "m"], tmp_path)
    with tfjs.runner(tmp_path / "m") as run:
        assert agrees(found["logits"].reshape(2, 5), run(PIXELS))


@pytest.mark.parametrize(
    "kernel",
    [
        np.random.default_rng(0).normal(0, 0.1, (40, 30)),
        np.random.default_rng(0).uniform(0.5, 2, (3, 3, 2, 4)),
        np.random.default_rng(0).uniform(-2, -0.5, (8, 8)),
        np.zeros((4, 4)),
        np.full((4, 4), -3.0),
    ],
    ids=["both signs", "positive", "negative", "zeros", "one value"],
)
def test_a_kernel_comes_back_within_half_a_step_and_zero_as_zero(kernel):
    kernel = kernel.astype(np.float32)
    for weights, store in WEIGHTS.items():
        stored, how = store(np.concatenate([kernel.ravel(), [np.float32(0)]]))
        entry = {"shape": [kernel.size + 1], "dtype": "float32"}
        entry |= {"quantization": how} if how else {}
        data = stored.tobytes()
        found, size = decode(entry, data + b"what follows")
        assert size == len(data) == (kernel.size + 1) * {"float16": 2, "uint8": 1}.get(weights, 4)
        step = how.get("scale", 2e-3 * np.abs(kernel).max() if how else 0)
        assert np.abs(found[:-1] - kernel.ravel()).max() <= 0.5 * step * (1 + 1e-5)
        assert found[-1] == 0


def product(rows, columns):
    """A graph of one matrix product, and its kernel."""
    kernel = np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1, rows], tfjs_graph.INPUT)
        tf.matmul(x, tf.constant(kernel), name="logits")
    return graph.as_graph_def(), kernel


def test_weights_are_in_shards_of_four_mebibytes(tmp_path):
    graph, kernel = product(1100, 1000)  # 4.4 MB
    tfjs.write(tmp_path / "m", graph, "float32", ["logits"], {})
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "m").glob("*.bin")}
    rest = kernel.nbytes - 4 * 2**20
    assert sizes == {"group1-shard1of2.bin": 4 * 2**20, "group1-shard2of2.bin": rest}
    with tfjs.runner(tmp_path / "m") as run:
        found = run(np.eye(1100, dtype=np.uint8)[:3])
    assert np.array_equal(found, kernel[:3])


def test_the_same_model_is_the_same_bytes_in_another_process(graphs, tmp_path):
    model = made("cls")
    request = fold.fold(weights_of(model), model.architecture, SPEC), model.architecture, EXTRAS
    (again,) = tfjs_graph.graphs([request])
    for folder, graph in ((tmp_path / "a", again), (tmp_path / "b", graphs["cls"][0])):
        tfjs.write(folder, graph, "uint8", ("logits", *EXTRAS), {"labels": ["a"]})
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_an_op_that_tfjs_has_not_is_named(graphs):
    graph = tf.compat.v1.GraphDef()
    graph.CopyFrom(graphs["cls"][0])
    assert list(tfjs_ops.refusals(graph)) == []
    graph.node.add(name="block_0/erf", op="Erfc")
    fused = next(node for node in graph.node if node.op == "_FusedMatMul")
    fused.attr["fused_ops"].list.s[:] = [b"BiasAdd", b"GeluExact"]
    assert list(tfjs_ops.refusals(graph)) == [
        f"_FusedMatMul with BiasAdd and GeluExact ({fused.name})",
        "Erfc (block_0/erf)",
    ]


def test_the_table_of_ops_is_that_of_the_npm_packages():
    """Every op is known to the converter, and every kernel to all four backends."""
    packages = NODE_MODULES / "@tensorflow"
    if not packages.is_dir():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs `make web`")
    dist = packages / "tfjs-converter/dist"
    version = json.loads((packages / "tfjs-converter/package.json").read_text())["version"]
    assert version.startswith(f"{tfjs_ops.VERSION}.")
    known = set()
    for path in (dist / "operations/op_list").glob("*.js"):
        known |= set(re.findall(r"'tfOpName': '(\w+)'", path.read_text()))
    assert set(tfjs_ops.OPS) <= known
    for backend in ("cpu", "wasm", "webgl", "webgpu"):
        registered = packages / f"tfjs-backend-{backend}/dist/register_all_kernels.js"
        names = set(re.findall(r"'\./kernels/(\w+)'", registered.read_text()))
        assert {k for kernels in tfjs_ops.OPS.values() for k in kernels} <= names, backend


def damaged(change):
    """What breaks a folder by a change of its model.json."""

    def spoil(folder):
        path = folder / tfjs.MODEL
        model = json.loads(path.read_text())
        change(model)
        path.write_text(json.dumps(model))

    return spoil


def cut(folder):
    (shard,) = folder.glob("*.bin")
    shard.write_bytes(shard.read_bytes()[:-4])


DAMAGE = {
    "a shard cut short": cut,
    "a shard too long": lambda folder: next(folder.glob("*.bin")).open("ab").write(b"more"),
    "a shard missing": lambda folder: next(folder.glob("*.bin")).unlink(),
    "no model.json": lambda folder: (folder / tfjs.MODEL).unlink(),
    "half a model.json": lambda folder: os.truncate(folder / tfjs.MODEL, 100),
    "a layers model": damaged(lambda model: model.update(format="layers-model")),
    "no manifest": damaged(lambda model: model.pop("weightsManifest")),
    "a weight missing": damaged(lambda m: m["weightsManifest"][0]["weights"].pop()),
    "no output": damaged(lambda model: model["modelTopology"].update(node=[])),
    "an unknown node": damaged(lambda model: model["modelTopology"]["node"][0].update(op="?")),
    "no topology": damaged(lambda model: model.update(modelTopology={"node": 3})),
}


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_model_is_one_line(spoil, written, tmp_path):
    folder = tmp_path / "float32"
    shutil.copytree(written["cls"], folder)
    spoil(folder)
    with pytest.raises(GateError) as caught, tfjs.runner(folder):
        pass
    message = str(caught.value)
    assert message.startswith("tfjs/float32/model.json: ") and len(message.splitlines()) == 1
    assert str(tmp_path) not in message.removeprefix("tfjs/float32/model.json: ")
