"""What XNNPACK takes, held to models of one operation and to the runtime without the delegate."""

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edge_demo.tflite.delegation import FLOAT_ONLY, NEVER, delegation

INT8 = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
INT16 = [tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]


def positive(x):
    return tf.abs(x) + 1.0


# operation -> a function of x [1, 16, 8] that becomes it
OPERATIONS = {
    "ABS": tf.abs,
    "ARG_MAX": lambda x: tf.argmax(x, -1),
    "BROADCAST_TO": lambda x: tf.broadcast_to(x, [3, 16, 8]),
    "CUMSUM": lambda x: tf.cumsum(x, 1),
    "DIV": lambda x: x / positive(x),
    "EXP": tf.exp,
    "GATHER": lambda x: tf.gather(x, [1, 0], axis=1),
    "GELU": tf.nn.gelu,
    "HARD_SWISH": lambda x: x * tf.nn.relu6(x + 3.0) / 6.0,
    "L2_NORMALIZATION": lambda x: tf.math.l2_normalize(x, -1),
    "LOG": lambda x: tf.math.log(positive(x)),
    "MAXIMUM": lambda x: tf.maximum(x, x * 0.5),
    "PACK": lambda x: tf.stack([x, x * 0.5]),
    "RELU": tf.nn.relu,
    "RSQRT": lambda x: tf.math.rsqrt(positive(x)),
    "SHAPE": lambda x: tf.shape(x),
    "SOFTMAX": tf.nn.softmax,
    "SQRT": lambda x: tf.sqrt(positive(x)),
    "SQUARED_DIFFERENCE": lambda x: tf.math.squared_difference(x, x * 2.0),
    "TILE": lambda x: tf.tile(x, [1, 2, 1]),
    "TOPK_V2": lambda x: tf.math.top_k(x, 2)[0],
    "UNPACK": lambda x: tf.add(*tf.unstack(x, axis=1)[:2]),
}


def converted(function, ops=None, shape=(1, 16, 8)):
    """A .tflite of a function, in float or fully quantized."""
    spec = tf.TensorSpec(shape, tf.float32, name="x")
    graph = tf.function(tf.autograph.experimental.do_not_convert(lambda x: {"y": function(x)}))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function(spec)])
    if ops:
        rng = np.random.default_rng(0)
        samples = [rng.normal(size=[n or 1 for n in shape]).astype(np.float32) for _ in range(8)]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x] for x in samples)
        converter.target_spec.supported_ops = ops
    return converter.convert()


@pytest.fixture
def divide(tmp_path):
    """divide(model bytes) -> their delegation, its sums checked against the runtime without XNNPACK."""

    def found(model):
        path = tmp_path / "model.tflite"
        path.write_bytes(model)
        result = delegation(path)
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
        interpreter.allocate_tensors()
        names = [node["op_name"] for node in interpreter._get_ops_details()]
        left = {}
        for item in result["rest"]:
            left[item["op"]] = left.get(item["op"], 0) + item["count"]
        assert result["operations"] == len(names)
        assert result["delegated"] == len(names) - sum(left.values())
        assert all(names.count(name) >= count for name, count in left.items())
        assert (result["partitions"] == 0) == (result["delegated"] == 0)
        return result

    return found


def left(result):
    return {item["op"]: (item["type"], item["reason"]) for item in result["rest"]}


def test_every_operation_of_the_tables_is_tried():
    assert set(OPERATIONS) == NEVER | FLOAT_ONLY and not NEVER & FLOAT_ONLY


@pytest.mark.parametrize("op", sorted(FLOAT_ONLY))
def test_what_is_taken_in_float_only(op, divide):
    assert divide(converted(OPERATIONS[op]))["rest"] == []
    found = left(divide(converted(OPERATIONS[op], INT8)))
    assert found[op] == ("int8", "XNNPACK has no int8 kernel")
    assert set(found) <= {op, "ABS"}


@pytest.mark.parametrize("op", sorted(NEVER))
def test_what_is_never_taken(op, divide):
    shape = (None, 16, 8) if op == "SHAPE" else (1, 16, 8)  # else it is a constant
    (item,) = divide(converted(OPERATIONS[op], shape=shape))["rest"]
    assert (item["op"], item["reason"]) == (op, f"XNNPACK has no {op}")


def test_an_operation_in_between_makes_two_partitions(divide):
    def two_layers(x):
        kernel = tf.constant(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32))
        hidden = tf.nn.softmax(tf.matmul(tf.reshape(x, [16, 8]), kernel))
        return tf.matmul(hidden, kernel)

    whole, cut = divide(converted(two_layers)), divide(converted(two_layers, INT8))
    assert (whole["partitions"], cut["partitions"]) == (1, 2)
    assert cut["rest"] == [
        {"op": "SOFTMAX", "type": "int8", "count": 1, "reason": "XNNPACK has no int8 kernel"}
    ]


def test_nothing_of_16_bits_is_taken(divide):
    result = divide(converted(lambda x: x + x * 0.5, INT16))
    assert result["partitions"] == 0
    assert {item["reason"] for item in result["rest"]} == {"XNNPACK has no int16 kernels"}
    assert left(result)["QUANTIZE"][0] == "float32 to int16"


def test_what_depends_on_the_graph(divide):
    squeezed = left(divide(converted(lambda x: x[:, 0])))
    assert squeezed["STRIDED_SLICE"] == ("float32", "it drops an axis")
    kept = divide(converted(lambda x: x[:, :1]))
    assert kept["rest"] == []
    dynamic = converted(lambda x: tf.reshape(x, [tf.shape(x)[0], 128]), shape=(None, 16, 8))
    assert left(divide(dynamic))["RESHAPE"] == ("float32", "its shape is computed, not constant")


def with_tensors(model, op_name, edit):
    """A model after edit(inputs, outputs) of the quantization of one operation's tensors."""
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    graph, code = content.subgraphs[0], getattr(schema.BuiltinOperator, op_name)
    (op,) = [o for o in graph.operators if content.operatorCodes[o.opcodeIndex].builtinCode == code]
    edit(*([graph.tensors[i].quantization for i in side] for side in (op.inputs, op.outputs)))
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(content.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    "zero_point, reason", [(0, None), (1, "zero point of the right-hand side")]
)
def test_a_matrix_product_needs_zero_point_0_on_its_right(zero_point, reason, divide):
    model = converted(lambda x: tf.matmul(x, x * 0.7 + 0.3, transpose_b=True), INT8)

    def edit(inputs, outputs):
        inputs[1].zeroPoint = np.array([zero_point], np.int64)

    found = left(divide(with_tensors(model, "BATCH_MATMUL", edit))).get("BATCH_MATMUL")
    assert found is None if reason is None else found[1].startswith(reason)


@pytest.mark.parametrize(
    "op, function, power, taken",
    [
        ("ADD", lambda x: x + x * 0.5, -10, True),
        ("ADD", lambda x: x + x * 0.5, -10.1, False),
        ("ADD", lambda x: x + x * 0.5, 7.9, True),
        ("ADD", lambda x: x + x * 0.5, 8, False),
        ("SUB", lambda x: x - x * 0.5, -10, True),
        ("SUB", lambda x: x - x * 0.5, -10.1, False),
        ("MUL", lambda x: x * x, -16, True),
        ("MUL", lambda x: x * x, -16.1, False),
        ("MUL", lambda x: x * x, 7.9, True),
        ("MUL", lambda x: x * x, 8, False),
    ],
)
def test_scales_have_limits(op, function, power, taken, divide):
    def edit(inputs, outputs):
        outputs[0].scale = np.array([1.0], np.float32)
        share = power / 2 if op == "MUL" else power  # both inputs of x * x are one tensor
        inputs[0].scale = np.array([2.0**share], np.float32)
        if op != "MUL":
            inputs[1].scale = np.array([1.0], np.float32)

    model = converted(function, INT8)
    found = left(divide(with_tensors(model, op, edit)))
    assert (op not in found) == taken
    assert taken or "of the output's" in found[op][1]


def test_the_edge_graph_is_taken_whole(exported):
    for name in ("float32", "int8"):
        result = delegation(exported / f"{name}.tflite")
        assert result["partitions"] == 1
        assert result["delegated"] == result["operations"] > 50
        assert result["rest"] == []
