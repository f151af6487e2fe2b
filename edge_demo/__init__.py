"""Run an exported model on a device: NumPy, Pillow and LiteRT, nothing of TensorFlow.

    from edge_demo import Classifier
    Classifier("int8.tflite").classify("photo.jpg")   # [("rose", 0.98), ...]

preprocess.py  PreprocessSpec and its NumPy/Pillow implementation (tfvit and convert use it too)
images.py      files and bytes to upright RGB pictures
scores.py      softmax or sigmoid: logits to scores and decisions
prototypes.py  classes as the mean features of a few examples
enrolment.py   from the pictures of a source to a class
metadata.py    labels, preprocessing and provenance inside a .tflite
foreign.py     models from elsewhere;  tflite_schema.py  what their own metadata and graph tell
runtime.py     a .tflite in LiteRT: its input filled, its outputs in float; delegates
weight_cache.py  the same with packed weights kept in a file
classifier.py  a .tflite in, labelled scores out
frames.py      one picture of a source, and when it was taken
sources.py     what a --source is: files, videos, cameras, streams, the screen, stdin
feeds.py       cameras, streams and the screen, by FFmpeg or picamera2
live.py        always the newest frame of these, and again when they come back
image_stream.py  images one behind the other on stdin
smoothing.py   labels that do not flicker
pipeline.py    from frames to results;  results.py  what was seen in a frame
outputs.py     where results go: lines, pictures, videos, a folder of what is to be labelled
render.py      results as bars, JSON and CSV;  annotate.py  on the picture;  terminal.py  in place
server.py      --serve: the live page (page.html), the same for programs, and metrics.py for Prometheus
web_server.py  `edge-demo web`: the files of an exported web folder, for browsers
certificate.py  https for a local network
bounded_http.py  the HTTP server under both: whoever asks, everything about it is bounded;  http_messages.py
benchmark.py   how fast files are;  bare.py  any .tflite;  profiler.py  where its time goes
parity.py      whether this device computes what the export did
machine.py     what figures are measured on;  tables.py, progress.py  for people
cli.py         the `edge-demo` command;  commands/  its parts
options.py     options that these share;  option_types.py  of what is given to options
runner.py      a .tflite in a process of its own, which it may end
delegation.py  which operations XNNPACK takes, and why not the others
files.py       files written whole or not at all, and read with one line for what is wrong
stopping.py    Ctrl-C as the usual end
errors.py      UserError: one line, exit code 2
quiet.py       silence for libraries that greet
"""

from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.foreign import Foreign
from edge_demo.preprocess import PreprocessSpec
from edge_demo.runtime import Delegate

__all__ = ["Classifier", "Delegate", "Foreign", "PreprocessSpec", "UserError"]
