"""Run an exported model on a device: NumPy, Pillow and LiteRT, nothing of TensorFlow.

    from edge_demo import Classifier
    Classifier("int8.tflite").classify("photo.jpg")   # [("rose", 0.98), ...]

sources/         what a --source is: files, videos, cameras, streams, the screen, stdin
outputs/         where results go: lines, pictures, videos, a folder, the terminal
server/          the live page and the exported web folder, over HTTP
tflite/          what a .tflite says of itself, and LiteRT that runs it
measure/         how fast a file is on this device, and whether it computes what the export did
commands/        the parts of the `edge-demo` command;  cli.py puts them together
web/             the same in a browser, in TypeScript

Here is what these share, much of it with tfvit and convert:

classifier.py    a .tflite in, labelled scores out
preprocess.py    PreprocessSpec and its NumPy/Pillow implementation
images.py        files and bytes to upright RGB pictures
scores.py        softmax or sigmoid: logits to scores and decisions
pipeline.py      from frames to results;  results.py  what was seen in a frame
smoothing.py     labels that do not flicker
prototypes.py    classes as the mean features of a few examples
enrolment.py     from the pictures of a source to a class
machine.py       what figures are measured on;  tables.py, progress.py  for people
option_types.py  types of what is given to options
files.py         files written whole or not at all, and read with one line for what is wrong
errors.py        UserError: one line, exit code 2
stopping.py      Ctrl-C and SIGTERM as the usual end
quiet.py         silence for libraries that greet
"""

from edge_demo.classifier import Classifier
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from edge_demo.tflite.foreign import Foreign
from edge_demo.tflite.runtime import Delegate

__all__ = ["Classifier", "Delegate", "Foreign", "PreprocessSpec", "UserError"]
