"""What models cost, against published tables, graphs that can be counted by hand, and files that are run."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter
from small_models import SMALL, small

import tfvit
from tfvit import architecture, cost, dry_run, liveness, tflite_graph
from tfvit.model import build
from tfvit.recipe import Recipe
from tfvit.resnet import StdConv
from tfvit.state import learning

# torchvision/models/vision_transformer.py, "num_params" and "_ops": parameters, and 1e9 multiply-adds of
# matrix products and convolutions.
TORCHVISION = {
    ("vit-b/16", 224): (86_567_656, "17.564"),
    ("vit-b/16", 384): (86_859_496, "55.484"),
    ("vit-b/32", 224): (88_224_232, "4.409"),
    ("vit-l/16", 224): (304_326_632, "61.555"),
    ("vit-l/16", 512): (305_174_504, "361.986"),
    ("vit-h/14", 224): (632_045_800, "167.295"),
    ("vit-h/14", 518): (633_470_440, "1016.717"),
}
# timm's results/benchmark-infer-amp-nhwc-pt240-cu124-rtx3090.csv: million parameters, GMACs by fvcore, which
# counts five more for each value that a LayerNorm or GroupNorm makes, and four for each weight of a kernel
# that is standardised, which timm does by F.batch_norm.
TIMM = {
    ("vit-ti/16", 224): ("5.72", "1.26"),
    ("vit-ti/16", 384): ("5.79", "4.70"),
    ("vit-s/16", 224): ("22.05", "4.61"),
    ("vit-s/32", 224): ("22.88", "1.15"),
    ("vit-b/16", 224): ("86.57", "17.58"),
    ("vit-b/8", 224): ("86.58", "78.22"),
    ("r+vit-ti/16", 224): ("6.34", "0.44"),
    ("r26+vit-s/32", 224): ("36.43", "3.56"),
    ("bit-r50x1", 224): ("25.55", "4.23"),
}


@pytest.mark.parametrize("name, size", TORCHVISION, ids=lambda x: str(x))
def test_torchvisions_table(name, size):
    found = cost.of_architecture(architecture.named(name, 1000, size))
    parameters, gflops = TORCHVISION[name, size]
    assert found.parameters == parameters and found.weights == 4 * parameters
    assert f"{found.macs / 1e9:.3f}" == gflops


def normalising(arch):
    """Multiply-adds by fvcore's count of what the norms of a model do, and of the standardised kernels."""
    one = dataclasses.replace(arch, depth=1) if hasattr(arch, "depth") else arch
    values = arch.tokens * arch.width * (2 * arch.depth + 1) if hasattr(arch, "depth") else 0
    with tf.Graph().as_default():
        layers = build(one).layers
    groups = [x for x in layers if isinstance(x, keras.layers.GroupNormalization)]
    values += sum(math.prod(x.output.shape[1:]) for x in groups)
    weights = sum(math.prod(x.kernel.shape) for x in layers if isinstance(x, StdConv))
    return 5 * values + 4 * weights


@pytest.mark.parametrize("name, size", TIMM, ids=lambda x: str(x))
def test_timms_table(name, size):
    arch = architecture.named(name, 1000, size)
    found = cost.of_architecture(arch)
    parameters, gmacs = TIMM[name, size]
    assert f"{found.parameters / 1e6:.2f}" == parameters
    assert f"{(found.macs + normalising(arch)) / 1e9:.2f}" == gmacs


def test_blocks_are_alike():
    arch = architecture.named("vit-ti/8", 5, (24, 40), **{**SMALL, "depth": 5})
    found = cost.of_architecture(arch)
    whole = dry_run.describe(
        lambda: learning(build(arch), Recipe()), batch_size=1, steps=1, examples=1
    )
    assert (found.parameters, found.macs) == (whole.parameters, whole.macs_per_image)
    assert cost.of_architecture(dataclasses.replace(arch, depth=1)).macs < found.macs


def test_memory_by_hand():
    n, d, hidden, heads = 15, 48, 96, 3
    arch = architecture.named("vit-ti/8", 5, (24, 40), **SMALL, pooling="gap")
    found = cost.of_architecture(arch)
    # Inside GELU, the residual stream beside it; or the scores of attention, which are fewer here.
    assert found.activations == 4 * (n * d + 4 * n * hidden) > 4 * (2 * heads * n * n)


def test_a_value_is_free_after_its_last_use():
    steps = [((), "a"), ("a", "b"), ("b", "cx"), ("a", "d"), ("cd", ())]
    size = {"a": 8, "b": 4, "c": 2, "d": 1, "x": 100}  # x is read by nothing
    assert liveness.peak(steps, size) == 8 + 4 + 2
    assert liveness.peak([], {}) == 0


def test_a_file_costs_what_its_operations_cost(exported):
    """MACs by the shapes that LiteRT gives while it runs, for the few ops that our files multiply with."""
    path = exported / "int8.tflite"
    found = tflite_graph.cost(path)
    interpreter = Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    shapes = {t["index"]: t["shape"].tolist() for t in interpreter.get_tensor_details()}
    macs = 0
    for op in interpreter._get_ops_details():
        first, *rest = [shapes[i] for i in op["inputs"] if i in shapes]
        made = math.prod(shapes[op["outputs"][0]])
        if op["op_name"] == "FULLY_CONNECTED":
            macs += made * rest[0][1]
        elif op["op_name"] == "BATCH_MATMUL":
            macs += made * first[-1]
        elif op["op_name"] == "CONV_2D":
            macs += made * math.prod(rest[0][1:])
    assert found.macs == macs > 0
    assert 0.5 * path.stat().st_size < found.weights < path.stat().st_size
    plain = tflite_graph.cost(exported / "float32.tflite")
    assert found.macs == plain.macs and found.weights < 0.4 * plain.weights
    assert found.activations < plain.activations


def test_the_command_counts_names_checkpoints_and_files(exported, tmp_path, tfvit_cli):
    model, numbers = tmp_path / "model", tmp_path / "numbers.json"
    tfvit.save(small(), model)
    sizes = ("--image-size", "24x40,48")
    done = tfvit_cli("info", model, "vit-mu/8", "--flops", *sizes, "--json", numbers)
    assert done.code == 0, done.err
    rows = json.loads(numbers.read_text())
    assert [(row["model"], row["image_size"]) for row in rows] == [
        *((str(model), size) for size in ([24, 40], [48, 48])),
        *(("vit-mu/8", size) for size in ([24, 40], [48, 48])),
    ]
    assert rows[0]["parameters"] == small().count_params()
    assert rows[3]["macs"] == cost.of_architecture(architecture.named("vit-mu/8", 1000, 48)).macs
    assert all(row["flops"] == 2 * row["macs"] and not row["images_per_second"] for row in rows)
    assert "images/s" not in done.out and "24x40" in done.out
    done = tfvit_cli("info", exported / "int8.tflite", model, "--throughput", "--json", numbers)
    assert done.code == 0, done.err
    file, checkpoint = json.loads(numbers.read_text())
    assert file["images_per_second"] > 10 and checkpoint["images_per_second"] > 10
    assert file["image_size"] == [32, 32] and "images/s" in done.out


BAD = {
    "no such size": (("vit-ti/48", "--flops", "--image-size", "64"), "image size 64x64 is not"),
    "no such model": (("vit-m/16", "--flops"), "no such file or folder; as a name: unknown model"),
    "size": (("vit-b/16", "--flops", "--image-size", "100"), "take 96 or 112"),
    "of a file": (("{int8}", "--flops", "--image-size", "96"), "has one image size"),
    "several": (("{int8}", "{int8}"), "several models, or --image-size: with --flops"),
    "no model": (("{text}", "--flops"), "not a .tflite file"),
    "half a model": (("{half}", "--flops"), "half.tflite: "),
}


@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(arguments, message, exported, tmp_path, tfvit_cli):
    whole = (exported / "int8.tflite").read_bytes()
    (tmp_path / "half.tflite").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tflite").write_text("not a model")
    places = {"int8": exported / "int8.tflite"}
    places |= {name: tmp_path / f"{name}.tflite" for name in ("half", "text")}
    done = tfvit_cli("info", *(argument.format(**places) for argument in arguments))
    assert done.code == 2 and message in done.err
    assert done.err.startswith("error: ") and len(done.err.splitlines()) == 1
