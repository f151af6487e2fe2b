"""What MediaPipe makes of .tflite files: runs in an environment of its own, prints JSON.

Arguments: a folder of PNG or JPEG pictures, then the files. Printed: file -> `metadata` (its
flatbuffer, as MediaPipe's generated reader has it) and `results` (picture -> [index, label, score]
of every class, best first).
"""

import json
import sys
from pathlib import Path

import mediapipe as mp
import numpy as np
from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata_schema
from mediapipe.tasks.metadata import schema_py_generated as schema
from mediapipe.tasks.python import BaseOptions, vision
from PIL import Image


def plain(value):
    """A table of the generated object API as JSON types."""
    if isinstance(value, (list, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode()
    if hasattr(value, "__dict__"):
        return {k: plain(v) for k, v in vars(value).items() if v is not None}
    return value.item() if isinstance(value, np.generic) else value


def metadata(path):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes()))
    (entry,) = [e for e in model.metadata if e.name == b"TFLITE_METADATA"]
    content = model.buffers[entry.buffer].data.tobytes()
    assert metadata_schema.ModelMetadata.ModelMetadataBufferHasIdentifier(content, 0)
    root = metadata_schema.ModelMetadata.GetRootAs(content)
    return plain(metadata_schema.ModelMetadataT.InitFromObj(root))


def results(path, pictures):
    options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(path)))
    found = {}
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for picture in pictures:
            pixels = np.asarray(Image.open(picture).convert("RGB"))
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=pixels)
            head, *_ = classifier.classify(image).classifications  # extra outputs follow, unnamed
            found[picture.name] = [(c.index, c.category_name, c.score) for c in head.categories]
    return found


if __name__ == "__main__":
    pictures = sorted(Path(sys.argv[1]).iterdir())
    models = [Path(name) for name in sys.argv[2:]]
    print(
        json.dumps(
            {m.name: {"metadata": metadata(m), "results": results(m, pictures)} for m in models}
        )
    )
