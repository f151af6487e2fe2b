"""The .tflite writers: the edge graph in float by TensorFlow's converter, quantized from there.

The float file is converted first. What int8 needs, the range of every activation, is then handed over
as it was calibrated and trained with (ai-edge-quantizer rounds the weights per channel): nothing is
estimated a second time, and no fake-quantization op ever meets the converter.
"""

from __future__ import annotations

import re

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from convert import edge_graph
from convert.edge_graph import Weights
from convert.qat import Range
from edge_demo.quiet import quiet
from tfvit.architecture import Architecture


def float_model(weights: Weights, arch: Architecture) -> bytes:
    """The edge graph of folded weights as a float32 .tflite: grey levels [1, h, w, 3] -> logits."""
    constants = {name: tf.constant(value) for name, value in weights.items()}
    signature = tf.TensorSpec([1, *arch.image_size, 3], tf.float32, name="pixels")
    graph = tf.function(
        lambda pixels: {"logits": edge_graph.forward(constants, pixels, arch)}, [signature]
    )
    owner = tf.Module()
    owner.graph = graph
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [graph.get_concrete_function()], owner
        )
        return converter.convert()


def int8_model(weights: Weights, arch: Architecture, ranges: dict[str, Range]) -> bytes:
    """The edge graph with its quantized dense layers in int8, the rest float; input and output float.

    ranges: (lowest, highest) of every activation site of `edge_graph.sites`.
    """
    from ai_edge_quantizer import qtyping, quantizer

    model = float_model(weights, arch)
    layers = edge_graph.quantized_dense(arch)
    statistics = _statistics(model, layers, ranges)
    scope = "|".join(re.escape(name) for name in layers)
    with quiet():
        aeq = quantizer.Quantizer(model)
        aeq.add_static_config(
            rf"^({scope})/MatMul",
            qtyping.TFLOperationName.FULLY_CONNECTED,
            activation_num_bits=8,
            weight_num_bits=8,
        )
        return bytes(aeq.quantize(statistics).quantized_model)


def _statistics(model: bytes, layers: list[str], ranges: dict[str, Range]) -> dict[str, dict]:
    """Tensor name -> its range, for the inputs and outputs of the quantized layers.

    A FULLY_CONNECTED op is recognised by its layer's name scope in the name of its output.
    """
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model))
    tensors = graph.subgraphs[0].tensors
    found, missing = {}, set(layers)
    for op in graph.subgraphs[0].operators:
        code = graph.operatorCodes[op.opcodeIndex].builtinCode
        if code != schema.BuiltinOperator.FULLY_CONNECTED:
            continue
        names = [tensors[i].name.decode() for i in (op.inputs[0], op.outputs[0])]
        layer = names[1].split("/MatMul")[0]
        if layer not in missing:
            continue
        missing.remove(layer)
        for name, site in zip(names, (edge_graph.input_site(layer), f"{layer}/output")):
            low, high = ranges[site]
            found[name] = {"min": np.array([[low]]), "max": np.array([[high]])}
    if missing:
        raise RuntimeError(f"the converter lost the dense layers {sorted(missing)}")
    return found
