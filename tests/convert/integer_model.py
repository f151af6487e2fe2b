"""A small classifier of 16x16 pictures with uint8 in and out, and a signature."""

import numpy as np
import tensorflow as tf

CLASSES, SIZE = 5, 16


def integer_model(folder) -> bytes:
    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.normal(0, 0.02, (4, 4, 3, 8)), tf.float32)
    head = tf.constant(rng.normal(0, 0.1, (16 * 8, CLASSES)), tf.float32)
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([1, SIZE, SIZE, 3], tf.float32, name="pixels")])
    def forward(pixels):
        x = tf.nn.relu(tf.nn.conv2d(pixels, kernel, 4, "VALID"))
        return {"logits": tf.reshape(x, [1, -1]) @ head}

    module.forward = forward
    tf.saved_model.save(module, str(folder), signatures=forward)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [rng.integers(0, 256, (1, SIZE, SIZE, 3)).astype(np.float32)] for _ in range(20)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    return converter.convert()
