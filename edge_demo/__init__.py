"""Run an exported model on a device: NumPy, Pillow and LiteRT, nothing of TensorFlow.

    from edge_demo import Classifier
    Classifier("int8.tflite").classify("photo.jpg")   # [("rose", 0.98), ...]

preprocess.py  PreprocessSpec and its NumPy/Pillow implementation (tfvit and convert use it too)
images.py      files and bytes to upright RGB pictures
scores.py      softmax or sigmoid: logits to scores and decisions
metadata.py    labels, preprocessing and provenance inside a .tflite
foreign.py     models from elsewhere;  tflite_schema.py  what their own metadata and graph tell
runtime.py     a .tflite in LiteRT: its input filled, its outputs in float; delegates
classifier.py  a .tflite in, labelled scores out
frames.py      one picture of a source, and when it was taken
sources.py     what a --source is: files, videos, cameras, streams, the screen, stdin
live.py        cameras and streams: always the newest frame, and again when they come back
image_stream.py  images one behind the other on stdin
smoothing.py   labels that do not flicker
pipeline.py    from frames to results;  results.py  what was seen in a frame
outputs.py     where results go;  render.py  results as bars, JSON and CSV
cli.py         the `edge-demo` command;  commands/  its parts, options.py what these share
errors.py      UserError: one line, exit code 2
quiet.py       silence for libraries that greet
"""

from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.foreign import Foreign
from edge_demo.preprocess import PreprocessSpec
from edge_demo.runtime import Delegate

__all__ = ["Classifier", "Delegate", "Foreign", "PreprocessSpec", "UserError"]
