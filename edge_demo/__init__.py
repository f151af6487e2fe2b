"""Run an exported model on a device: NumPy, Pillow and LiteRT, nothing of TensorFlow.

    from edge_demo import Classifier
    Classifier("int8.tflite").classify("photo.jpg")   # [("rose", 0.98), ...]

preprocess.py  PreprocessSpec and its NumPy/Pillow implementation (tfvit and convert use it too)
images.py      files and bytes to upright RGB pictures
scores.py      softmax or sigmoid: logits to scores and decisions
prototypes.py  classes as the mean features of a few examples
enrolment.py   from the pictures of a source to a class
metadata.py    labels, preprocessing and provenance inside a .tflite
classifier.py  a .tflite in, labelled scores out
frames.py      one picture of a source, and when it was taken
sources.py     what a --source is: files, videos, cameras, streams, the screen, stdin
live.py        cameras and streams: always the newest frame, and again when they come back
image_stream.py  images one behind the other on stdin
smoothing.py   labels that do not flicker
pipeline.py    from frames to results;  results.py  what was seen in a frame
outputs.py     where results go;  render.py  results as bars, JSON and CSV
cli.py         the `edge-demo` command;  commands/  its parts, options.py what these share
runner.py      a .tflite in a process of its own, which it may end
delegation.py  which operations XNNPACK takes, and why not the others
files.py       files written whole or not at all, and read with one line for what is wrong
errors.py      UserError: one line, exit code 2
quiet.py       silence for libraries that greet
"""

from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec

__all__ = ["Classifier", "PreprocessSpec", "UserError"]
