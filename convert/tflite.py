"""The .tflite writers: the edge graph in float by TensorFlow's converter, quantized from there.

The float file is converted first. What int8 needs, the range of every activation, is then handed over
as it was calibrated and trained with (ai-edge-quantizer rounds the weights per channel): nothing is
estimated a second time, and no fake-quantization op ever meets the converter.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from convert import edge_graph, sites
from convert.extras import NORMALISED, outputs
from convert.fold import Weights
from convert.schemes import BLOCK, INTEGER, MIXED, Scheme, blockwise
from convert.sites import Range
from edge_demo.quiet import quiet
from edge_demo.tflite.metadata import LOGITS
from tfvit.architecture import Architecture

_OPERATORS = {code: name for name, code in vars(schema.BuiltinOperator).items()}
_SHAPE_OPS = ("RESHAPE", "TRANSPOSE", "STRIDED_SLICE")  # their output has the range of their input
# What a mixed file computes in integers. GELU is not there: between two int8 tensors XNNPACK turns a
# float one into a table of 256 values, while the int8 GELU of LiteRT is outside of XNNPACK.
_MIXED_OPS = ("FULLY_CONNECTED", "BATCH_MATMUL", *_SHAPE_OPS)
ISLANDS = (edge_graph.STEM, NORMALISED)  # name scopes that stay in float


def write(
    scheme: Scheme,
    weights: Weights,
    arch: Architecture,
    ranges: dict[str, Range] | None = None,
    in_float: frozenset[str] = frozenset(),
    extras: Sequence[str] = (),
) -> bytes:
    """A .tflite of folded weights: grey levels [1, h, w, 3] -> logits [1, classes], then the `extras`.

    ranges: (lowest, highest) of every rounded activation site, for a scheme that is `calibrated`.
    in_float: layers (`sites.layers`) that stay in float.
    extras: what it tells beside its logits (`convert.extras`).
    """
    if scheme.weights == "float16":
        return _float_model(weights, arch, extras, half=True)
    model = _float_model(weights, arch, extras, integer=scheme.activations == INTEGER)
    if scheme.weights == "float32":
        return model
    from ai_edge_quantizer import quantizer

    file = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    with quiet():
        aeq = quantizer.Quantizer(model)
        found = tensor_sites(file, arch, extras)
        rounded = sites.rounded(arch, scheme, in_float, extras)
        _by_row(aeq, file, found, rounded, scheme)
        statistics = None
        if scheme.calibrated:
            statistics = _static(aeq, file, found, rounded, scheme, ranges or {})
        return bytes(aeq.quantize(statistics, None, False, False).quantized_model)


def _float_model(
    weights: Weights,
    arch: Architecture,
    extras: Sequence[str],
    *,
    half: bool = False,
    integer: bool = False,
) -> bytes:
    """The edge graph in float32; half: with float16 weights. integer: as `edge_graph.forward` has it."""
    constants = {name: tf.constant(value) for name, value in weights.items()}
    signature = tf.TensorSpec([1, *arch.image_size, 3], tf.float32, name="pixels")
    graph = tf.function(
        lambda pixels: outputs(constants, pixels, arch, integer=integer, extras=extras),
        [signature],
        autograph=False,
    )
    owner = tf.Module()
    owner.graph = graph
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [graph.get_concrete_function()], owner
        )
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        return _in_order(converter.convert(), (LOGITS, *extras))


def _in_order(model: bytes, names: Sequence[str]) -> bytes:
    """The file with its outputs in the order of `names`; the converter has an order of its own."""
    content = bytearray(model)
    try:
        file = schema.Model.GetRootAs(content)
        signature = file.SignatureDefs(0)
        found = [signature.Outputs(i) for i in range(signature.OutputsLength())]
        tensors = {output.Name().decode(): output.TensorIndex() for output in found}
        file.Subgraphs(0).OutputsAsNumpy()[:] = [tensors[name] for name in names]
    except (AttributeError, KeyError, TypeError, ValueError, struct.error):
        message = "TensorFlow's converter wrote a part of it only: is the temporary folder full?"
        raise OSError(errno.ENOSPC, message) from None
    return bytes(content)


def _by_row(
    aeq,
    file: schema.ModelT,
    found: dict[int, str],
    rounded: dict[str, sites.Site],
    scheme: Scheme,
) -> None:
    """Rounds the kernels of the dense layers whose rows the runtime rounds as they come."""
    from ai_edge_quantizer.qtyping import QuantGranularity

    for op in file.subgraphs[0].operators:
        dense = found.get(op.outputs[0], "").removesuffix("/output")
        if _kind(file, op) == "FULLY_CONNECTED" and f"{dense}/rows" in rounded:
            blocks = blockwise(scheme, dense, file.subgraphs[0].tensors[op.inputs[1]].shape[-1])
            granularity = f"BLOCKWISE_{BLOCK}" if blocks else "CHANNELWISE"
            aeq.add_dynamic_config(
                *_selected(file, op), 4 if blocks else 8, getattr(QuantGranularity, granularity)
            )


def _static(
    aeq,
    file: schema.ModelT,
    found: dict[int, str],
    rounded: dict[str, sites.Site],
    scheme: Scheme,
    ranges: dict[str, Range],
) -> dict[str, dict]:
    """Names the ops that compute in integers and returns the ranges of their tensors."""
    from ai_edge_quantizer import qtyping
    from ai_edge_quantizer.qtyping import TFLOperationName

    statistics = {}
    for op in file.subgraphs[0].operators:
        activations = [i for i in (*op.inputs, *op.outputs) if i in found]
        if scheme.activations == MIXED and (
            _kind(file, op) not in _MIXED_OPS or not all(found[i] in rounded for i in activations)
        ):
            continue
        if not activations:  # in one of ISLANDS
            continue
        aeq.add_static_config(*_selected(file, op), 8, 8)
        for i in activations:
            tensor = file.subgraphs[0].tensors[i]
            limits = rounded[found[i]].fixed or ranges[found[i]]
            statistics[tensor.name.decode()] = {
                end: np.full([1] * len(tensor.shape), value)
                for end, value in zip(("min", "max"), limits)
            }
    if scheme.activations == INTEGER:  # whoever feeds it and reads it has unsigned bytes
        kinds = qtyping.TensorDataType
        tensor, weight = (
            qtyping.TensorQuantizationConfig(8, symmetric=symmetric, dtype=dtype)
            for symmetric, dtype in ((False, kinds.UINT), (True, kinds.INT))
        )
        uint8 = qtyping.OpQuantizationConfig(tensor, weight, qtyping.ComputePrecision.INTEGER)
        for end in (TFLOperationName.INPUT, TFLOperationName.OUTPUT):
            aeq.update_quantization_recipe(".*", end, uint8)
    return statistics


def _kind(file: schema.ModelT, op: schema.OperatorT) -> str:
    return _OPERATORS[file.operatorCodes[op.opcodeIndex].builtinCode]


def _selected(file: schema.ModelT, op: schema.OperatorT) -> tuple:
    """What selects one op in a recipe of ai-edge-quantizer: the name of its output, and its kind."""
    from ai_edge_quantizer.qtyping import TFLOperationName

    output = file.subgraphs[0].tensors[op.outputs[0]].name.decode()
    return f"^{re.escape(output)};?$", TFLOperationName[_kind(file, op)]


def tensor_sites(
    file: schema.ModelT, arch: Architecture, extras: Sequence[str] = ()
) -> dict[int, str]:
    """The site of every activation tensor of a float file that has one, by the tensor's index.

    A tensor that is computed in a site's name scope is that site's; one that only has another shape
    is the same site as what it was made from. What is in one of ISLANDS has none.
    """
    graph, known = file.subgraphs[0], sites.sites(arch, extras)
    names = (LOGITS, *extras)
    found = {i: sites.OUTPUT_SITES[name] for i, name in zip(graph.outputs, names)}
    if arch.stem is None:
        found[graph.inputs[0]] = "embedding/input"
    for op in graph.operators:
        output = op.outputs[0]
        if _kind(file, op) in _SHAPE_OPS and op.inputs[0] in found:
            found[output] = found[op.inputs[0]]
        elif output not in found:
            name = graph.tensors[output].name.decode()
            if not name.startswith(ISLANDS):
                found[output] = _scope(name, known)
    return found


def _scope(tensor: str, known: dict[str, sites.Site]) -> str:
    """The site in whose name scope a tensor was computed, "a/b/Add;a/b/Mul" in "a/b"."""
    scope = tensor.split(";")[0]
    while scope not in known:
        scope, separator, _ = scope.rpartition("/")
        if not separator:
            raise RuntimeError(f"the converter made a tensor of no site: {tensor}")
    return scope
