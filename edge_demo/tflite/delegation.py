"""Which operations of a .tflite XNNPACK takes, which it leaves to the reference kernels, and why.

The tables were found by experiment with ai-edge-litert 2.3.0; the tests convert every row.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

DELEGATE = "DELEGATE"
# Operations without an XNNPACK kernel, whatever their type.
NEVER = {
    *("ARG_MAX", "BROADCAST_TO", "CUMSUM", "GATHER", "L2_NORMALIZATION", "PACK", "SHAPE", "TILE"),
    *("TOPK_V2", "UNPACK"),
}
# Operations with an XNNPACK kernel in float only.
FLOAT_ONLY = {
    *("ABS", "DIV", "EXP", "GELU", "HARD_SWISH", "LOG", "MAXIMUM", "RELU", "RSQRT", "SOFTMAX"),
    *("SQRT", "SQUARED_DIFFERENCE"),
}
# int8 operation: powers of 2 that its scales may lie between, the upper one excluded.
SUM_SCALES, PRODUCT_SCALES = (-10, 8), (-16, 8)
CONVERSIONS = {"QUANTIZE", "DEQUANTIZE", "CAST"}


def delegation(path: str | Path) -> dict:
    """How XNNPACK divides the main graph of a .tflite, as LiteRT does it by default.

    Returns `partitions`, the number of XNNPACK's parts; `delegated` of `operations`; `rest`, what it
    did not take: op, type, count and reason (None where it is not known), most frequent first.
    Loads the file in this process, which a bad file can abort: see `measure.runner`.
    """
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()  # the file's own operations, then the delegate's
    parts = [node for node in nodes if node["op_name"] == DELEGATE]
    operations = [node for node in nodes if node["op_name"] != DELEGATE]
    producers = {int(tensor): node for node in operations for tensor in node["outputs"]}
    taken = set().union(*(_replaced(part, producers) for part in parts))
    tensors = {tensor["index"]: tensor for tensor in interpreter.get_tensor_details()}
    rest = Counter(
        (node["op_name"], _type(node), _reason(node, tensors, producers))
        for node in operations
        if node["index"] not in taken
    )
    return {
        "partitions": len(parts),
        "delegated": len(operations) - rest.total(),
        "operations": len(operations),
        "rest": [
            {"op": op, "type": kind, "count": count, "reason": reason}
            for (op, kind, reason), count in rest.most_common()
        ],
    }


def _replaced(part: dict, producers: dict[int, dict]) -> set[int]:
    """Indices of the operations between a part's outputs and its inputs."""
    inputs = set(map(int, part["inputs"]))
    found, tensors = set(), [int(tensor) for tensor in part["outputs"]]
    while tensors:
        tensor = tensors.pop()
        node = producers.get(tensor)
        if tensor not in inputs and node and node["index"] not in found:
            found.add(node["index"])
            tensors += map(int, node["inputs"])
    return found


def _type(node: dict) -> str:
    """Data type of an operation's result; of both sides where it converts."""
    result = np.dtype(node["result_types"][0]).name
    if node["op_name"] in CONVERSIONS:
        return f"{np.dtype(node['operand_types'][0]).name} to {result}"
    return result


def _reason(node: dict, tensors: dict[int, dict], producers: dict[int, dict]) -> str | None:
    op, kind = node["op_name"], _type(node)
    inputs = [tensors.get(int(tensor)) for tensor in node["inputs"]]
    output = tensors.get(int(node["outputs"][0]))
    if op in NEVER:
        return f"XNNPACK has no {op}"
    if "int16" in kind:
        return "XNNPACK has no int16 kernels"
    if op in FLOAT_ONLY and kind in ("int8", "uint8"):
        return f"XNNPACK has no {kind} kernel"
    if op == "RESHAPE" and int(node["inputs"][1]) in producers:
        return "its shape is computed, not constant"
    if op == "STRIDED_SLICE" and len(output["shape"]) < len(inputs[0]["shape"]):
        return "it drops an axis"
    if op == "QUANTIZE" and kind in ("uint8 to int8", "int8 to uint8"):
        return "XNNPACK does not convert between uint8 and int8"
    if kind not in ("int8", "uint8"):
        return None
    scales = [tensor["quantization"][0] for tensor in inputs if tensor]
    if op == "BATCH_MATMUL" and inputs[1]["quantization"][1] != 0:
        return "zero point of the right-hand side is not 0"
    if op in ("ADD", "SUB") and _outside(scales, output, SUM_SCALES):
        return _scales("scale of an input", SUM_SCALES)
    if op == "MUL" and _outside([math.prod(scales)], output, PRODUCT_SCALES):
        return _scales("product of the scales", PRODUCT_SCALES)
    return None


def _outside(scales: list[float], output: dict, powers: tuple[int, int]) -> bool:
    ratios = [scale / output["quantization"][0] for scale in scales]
    return min(ratios) < 2.0 ** powers[0] or max(ratios) >= 2.0 ** powers[1]


def _scales(what: str, powers: tuple[int, int]) -> str:
    return f"{what} is not within 2^{powers[0]} to 2^{powers[1]} of the output's"
