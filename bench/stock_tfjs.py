"""The Keras model in TF.js, frozen and optimised as tensorflowjs_converter 4.22 does it.

That package cannot be installed beside this TensorFlow; the passes are of `tf_saved_model_conversion_v2.py`.
`python stock_tfjs.py MODEL GRAPH` is a process of its own: oneDNN, whose ops no browser has, can only be
left out before TensorFlow is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import random_vit
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from convert.tfjs_graph import INPUT, optimised
from edge_demo.tflite.metadata import LOGITS
from tfvit.preprocess import normalise

PASSES = ("pruning", "constfold", "arithmetic", "dependency")
ROUNDS = (2 * PASSES, ("remap", *PASSES[1:]))


def graph(name: str) -> tf.compat.v1.GraphDef:
    """Grey levels [1, 224, 224, 3] -> logits [1, classes] of `random_vit.create(name)`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph.pb")
        environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
        subprocess.run([sys.executable, __file__, name, path], env=environment, check=True)
        return tf.compat.v1.GraphDef.FromString(path.read_bytes())


def _make(name: str) -> tf.compat.v1.GraphDef:
    model = random_vit.create(name)
    signature = tf.TensorSpec([1, *model.architecture.image_size, 3], tf.float32, INPUT)

    @tf.function(input_signature=[signature])
    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return tf.identity(model.keras(normalise(pixels, model.preprocess)), LOGITS)

    frozen = convert_variables_to_constants_v2(forward.get_concrete_function())
    (output,) = frozen.outputs
    found = frozen.graph.as_graph_def()
    for passes in ROUNDS:
        imported = tf.Graph()
        with imported.as_default(), tf.device("/device:CPU:0"):
            tf.import_graph_def(found, name="")
        found = optimised(imported, passes, [INPUT, output.op.name])
    found.node.add(op="Identity", name=LOGITS, input=[output.op.name]).attr["T"].type = 1
    return found


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(_make(sys.argv[1]).SerializeToString())
