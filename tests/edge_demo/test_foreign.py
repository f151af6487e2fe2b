"""Models from elsewhere, against Keras and against LiteRT fed by hand."""

import dataclasses
import json

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from scipy.special import expit, softmax
from test_edge_cli import check_one_line

from convert import flatbuffer
from convert.metadata_schema import image_classifier
from edge_demo import Classifier, Foreign, PreprocessSpec
from edge_demo.preprocess import to_pixels
from edge_demo.tflite.schema import ACTIVATIONS, ENTRY, UNCHANGING

LABELS = tuple("abcdefghij")
TO_ONE = ("--mean", "127.5", "--std", "127.5")
IMAGENET = ("--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375")


def converted(function, shape, dtype=np.float32, **settings) -> bytes:
    """A .tflite of a function of one input, by TensorFlow's converter."""
    import tensorflow as tf

    signature = tf.TensorSpec(shape, tf.as_dtype(dtype))
    graph = tf.function(function).get_concrete_function(signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], function)
    converter.experimental_lower_to_saved_model = False  # the way through a file takes 20 s
    for name, value in settings.items():
        setattr(converter, name, value)
    return converter.convert()


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory, sample_photos):
    """MobileNetV2 of Keras, and its files: float32, and all of int8 with uint8 and int8 at its ends."""
    import tensorflow as tf
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((96, 96, 3), 0.35, weights=None, classes=len(LABELS))
    rng, photo = np.random.default_rng(0), sample_photos["flower"]
    corners = zip(rng.integers(0, 540, 16), rng.integers(0, 330, 16))
    crops = [np.asarray(photo.crop((x, y, x + 96, y + 96))) for x, y in corners]
    examples = (np.float32(crops)[:, np.newaxis] - 127.5) / 127.5
    for layer in model.layers:  # as if it was trained: its answers depend on the picture
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0
    model(np.concatenate(examples), training=True)
    model.layers[-1].kernel.assign(rng.normal(0, 0.2, (1280, len(LABELS))))
    folder = tmp_path_factory.mktemp("mobilenet")
    integer = {
        "optimizations": [tf.lite.Optimize.DEFAULT],
        "representative_dataset": lambda: ([example] for example in examples),
    }
    for kind in (tf.float32, tf.uint8, tf.int8):
        settings = {} if kind == tf.float32 else integer
        settings |= {"inference_input_type": kind, "inference_output_type": kind}
        content = converted(lambda x: model(x, training=False), (1, 96, 96, 3), **settings)
        (folder / f"{kind.name}.tflite").write_bytes(content)
    return model, folder


@pytest.fixture(scope="module")
def crop(tmp_path_factory, sample_photos):
    """A picture of 96x96, as file and pixels."""
    path = tmp_path_factory.mktemp("crop") / "crop.png"
    picture = sample_photos["china"].crop((200, 100, 488, 388)).resize((96, 96))
    picture.save(path)
    return path, np.asarray(picture)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(LABELS).encode())  # as Windows saves it
    return path


@pytest.fixture()
def scores(edge_cli, crop, labels):
    """The scores of LABELS that the command says of `crop`, or of another picture."""

    def run(model, *options, picture=crop[0]):
        options = ("--labels", labels, *options) if "--labels" not in options else options
        done = edge_cli(model, "--source", picture, "--json", "--top", 99, *options)
        assert (done.code, done.err) == (0, "")
        answers = {each["label"]: each["score"] for each in json.loads(done.out)["top"]}
        return np.array([answers[label] for label in LABELS if label in answers])

    return run


def by_hand(path, values) -> np.ndarray:
    """Output 0 of a model in float for an input of its own type."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    tensor, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    assert values.dtype == tensor["dtype"]
    interpreter.set_tensor(tensor["index"], values)
    interpreter.invoke()
    found = interpreter.get_tensor(output["index"]).ravel()
    scale, zero_point = output["quantization"]
    return (found.astype(np.float32) - zero_point) * scale if scale else found


def quantized(path, values) -> np.ndarray:
    """Real values in the numbers of a model's input."""
    tensor = Interpreter(str(path)).get_input_details()[0]
    scale, zero_point = tensor["quantization"]
    limits = np.iinfo(tensor["dtype"])
    found = np.floor(values / scale + zero_point + 0.5)
    return np.clip(found, limits.min, limits.max).astype(tensor["dtype"])


# --- a real architecture


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [(TO_ONE, 127.5, 127.5), (IMAGENET, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])],
)
def test_a_float_model_says_what_keras_says(mobilenet, scores, crop, options, mean, std):
    model, folder = mobilenet
    values = (crop[1] - np.array(mean)) / np.array(std)
    expected = model(values[np.newaxis].astype(np.float32)).numpy()[0]
    assert np.abs(expected - model(np.zeros((1, 96, 96, 3))).numpy()[0]).max() > 0.1
    found = scores(folder / "float32.tflite", *options)
    assert found == pytest.approx(expected, abs=1e-4)
    assert found.sum() == pytest.approx(1, abs=1e-3)  # and softmax, its last op, is not done twice


@pytest.mark.parametrize("kind", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [(TO_ONE, 127.5, 127.5), (IMAGENET, [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])],
)
def test_a_quantized_model_says_what_it_says_by_hand(
    mobilenet, scores, crop, kind, options, mean, std
):
    path = mobilenet[1] / f"{kind}.tflite"
    values = (crop[1] - np.array(mean)) / np.array(std)
    expected = by_hand(path, quantized(path, values)[np.newaxis])
    assert scores(path, *options) == pytest.approx(expected, abs=1e-6)


def test_all_kinds_of_a_model_agree(mobilenet, scores):
    _, folder = mobilenet
    answers = [scores(folder / f"{kind}.tflite", *TO_ONE) for kind in ("float32", "uint8", "int8")]
    assert np.abs(answers[0] - answers[1]).max() < 0.15
    assert answers[0].argmax() == answers[1].argmax() == answers[2].argmax()


def test_bytes_are_the_pixels_where_nobody_tells_a_mean(mobilenet, scores, crop):
    path = mobilenet[1] / "uint8.tflite"
    assert scores(path) == pytest.approx(by_hand(path, crop[1][np.newaxis]), abs=1e-6)


def test_a_picture_of_any_size_is_resized_as_told(mobilenet, scores, sample_photos, tmp_path):
    path = mobilenet[1] / "float32.tflite"
    sample_photos["flower"].save(tmp_path / "flower.png")
    seen = {}
    for told in (
        {},
        {"resize": "crop"},
        {"resize": "crop", "crop_fraction": 0.5},
        {"interpolation": "bicubic"},
    ):
        Image.fromarray(to_pixels(sample_photos["flower"], PreprocessSpec(96, 96, **told))).save(
            tmp_path / "small.png"
        )
        options = [f"--{name.replace('_', '-')}={value}" for name, value in told.items()]
        found = scores(path, *TO_ONE, *options, picture=tmp_path / "flower.png")
        assert found == pytest.approx(scores(path, *TO_ONE, picture=tmp_path / "small.png"))
        seen[str(told)] = tuple(found)
    assert len(set(seen.values())) == len(seen)


def test_the_python_interface(mobilenet, scores, crop):
    path = mobilenet[1] / "float32.tflite"
    told = Foreign(labels=LABELS, mean=(127.5,), std=(127.5,))
    classifier = Classifier(path, foreign=told)
    assert classifier.scores(crop[1]) == pytest.approx(scores(path, *TO_ONE), abs=1e-6)
    before = classifier.classify(crop[0])
    classifier.warm_up()
    assert classifier.classify(crop[0]) == before


# --- other inputs and outputs

KERNEL = np.random.default_rng(1).normal(0, 0.1, (3, 3, 3, 10)).astype(np.float32)


def network(picture):
    """Logits [batch, 10] of a picture [batch, height, width, channels]."""
    import tensorflow as tf

    kernel = KERNEL[:, :, : picture.shape[-1]]
    return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(picture, kernel, 2, "SAME")), (1, 2))


def channels_last(picture):
    import tensorflow as tf

    return network(tf.transpose(picture, (0, 2, 3, 1)))


def like_a_picture(picture):
    import tensorflow as tf

    return tf.reshape(network(picture), (1, 1, 1, 10))


def batch(values):
    return values[np.newaxis]


def grey(values):
    levels = Image.fromarray(np.uint8(np.round(values * 127.5 + 127.5))).convert("L")
    return ((np.asarray(levels) - 127.5) / 127.5)[np.newaxis, ..., np.newaxis]


# function, shape of its input, how it is fed a picture [96, 96, 3] of -1 to 1
LAYOUTS = {
    "plain": (network, (1, 96, 96, 3), batch),
    "any batch": (network, (None, 96, 96, 3), batch),
    "a batch of eight": (network, (8, 96, 96, 3), lambda v: np.stack([v] * 8)),
    "grey": (network, (1, 96, 96, 1), grey),
    "channels first": (channels_last, (1, 3, 96, 96), lambda v: batch(v.transpose(2, 0, 1))),
    "grey first": (channels_last, (1, 1, 96, 96), lambda v: grey(v).transpose(0, 3, 1, 2)),
    "outputs like a picture": (like_a_picture, (1, 96, 96, 3), batch),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_input_of_any_layout(name, scores, crop, tmp_path):
    function, shape, feed = LAYOUTS[name]
    path = tmp_path / "model.tflite"
    path.write_bytes(converted(function, shape))
    values = feed((crop[1] - 127.5) / 127.5).astype(np.float32)
    expected = softmax(by_hand(path, values)[: len(LABELS)])
    assert scores(path, *TO_ONE) == pytest.approx(expected, abs=1e-5)
    assert expected.std() > 1e-3


def test_how_outputs_become_scores(scores, edge_cli, crop, labels, tmp_path):
    import tensorflow as tf

    ends = {"logits": lambda x: x, "softmax": tf.nn.softmax, "sigmoid": tf.sigmoid}
    ends["reshaped"] = lambda x: tf.reshape(tf.nn.softmax(x), (1, 1, 1, 10))
    paths = {}
    for name, end in ends.items():
        paths[name] = tmp_path / f"{name}.tflite"
        function = lambda x, end=end: end(network(x))  # noqa: E731
        paths[name].write_bytes(converted(function, (1, 96, 96, 3)))
    logits = by_hand(paths["logits"], ((crop[1] - 127.5) / 127.5).astype(np.float32)[np.newaxis])
    expected = {"softmax": softmax(logits), "sigmoid": expit(logits), "none": logits}
    for name, option, answer in [
        ("logits", None, "softmax"),
        *(("logits", each, each) for each in expected),
        ("softmax", None, "softmax"),
        ("softmax", "softmax", "softmax"),
        ("softmax", "none", "softmax"),
        ("reshaped", None, "softmax"),
        ("sigmoid", None, "sigmoid"),
        ("sigmoid", "sigmoid", "sigmoid"),
    ]:
        options = ("--scores", option) if option else ()
        found = scores(paths[name], *TO_ONE, *options)
        assert found == pytest.approx(expected[answer], abs=1e-5), (name, option)
    stars = edge_cli(paths["sigmoid"], "--source", crop[0], "--labels", labels, *TO_ONE)
    assert stars.out.count("*") == min((expit(logits) >= 0.5).sum(), 5) > 0


def test_the_operations_that_matter_have_the_numbers_of_the_schema():
    codes = vars(schema_py_generated.BuiltinOperator)
    assert {codes[name] for name in ("DEQUANTIZE", "RESHAPE", "SQUEEZE", "QUANTIZE")} == UNCHANGING
    assert {codes["SOFTMAX"]: "softmax", codes["LOGISTIC"]: "sigmoid"} == ACTIVATIONS


# --- TFLite Metadata


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_mean_std_and_labels_of_tflite_metadata_are_taken(
    mobilenet, scores, edge_cli, crop, join_model, tmp_path, kind
):
    model = (mobilenet[1] / f"{kind}.tflite").read_bytes()
    mean, std = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    spec = PreprocessSpec(96, 96, mean=mean, std=std)
    content = image_classifier("m", "d", "1", spec, "softmax", "names.txt")
    files = {"names.txt": "\n".join(LABELS), "other.txt": "x"}
    path = tmp_path / "model.tflite"
    path.write_bytes(join_model(flatbuffer.with_metadata(model, ENTRY, content), files))
    done = edge_cli(path, "--source", crop[0], "--json", "--top", 99)
    assert (done.code, done.err) == (0, "")
    found = {each["label"]: each["score"] for each in json.loads(done.out)["top"]}
    expected = scores(mobilenet[1] / f"{kind}.tflite", *IMAGENET)
    assert [found[label] for label in LABELS] == pytest.approx(list(expected), abs=1e-6)
    assert scores(path, *TO_ONE) == pytest.approx(  # what is told counts more
        scores(mobilenet[1] / f"{kind}.tflite", *TO_ONE), abs=1e-6
    )


def test_the_only_text_of_the_zip_is_the_labels(mobilenet, scores, join_model, crop, tmp_path):
    model = (mobilenet[1] / "uint8.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(join_model(model, {"classes.txt": "\n".join(LABELS), "model.json": "{}"}))
    assert list(Classifier(path).labels) == list(LABELS)
    path.write_bytes(join_model(model, {"a.txt": "a\n", "b.txt": "b\n"}))
    assert scores(path).sum() == pytest.approx(1, abs=0.05)  # by --labels


# --- bad input


def means(picture):
    import tensorflow as tf

    return tf.reduce_mean(picture, (1, 2)) @ tf.ones((picture.shape[-1], 10))


def of_whole_numbers(picture):
    import tensorflow as tf

    return network(tf.cast(picture, tf.float32))


def with_background(picture):
    import tensorflow as tf

    return tf.pad(network(picture), ((0, 0), (1, 0)))


def by_eights(picture):
    import tensorflow as tf

    return network(tf.reshape(picture, (4, 2, 96, 96, 3))[:, 0])


def boxes(picture):
    import tensorflow as tf

    return tf.reshape(tf.tile(network(picture), (1, 4)), (1, 10, 4))


# function, shape and type of its input, words of the message
NO_CLASSIFIERS = {
    "numbers": (lambda x: x * 2, (1, 10), np.float32, "[1, 10]"),
    "five channels": (means, (1, 96, 96, 5), np.float32, "[1, 96, 96, 5]"),
    "a video": (lambda x: network(x[:, 0]), (1, 2, 96, 96, 3), np.float32, "[1, 2, 96, 96, 3]"),
    "any size": (network, (1, None, None, 3), np.float32, "no fixed size"),
    "a batch of eight alone": (by_eights, (8, 96, 96, 3), np.float32, "a batch of 8, not of 1"),
    "whole numbers": (of_whole_numbers, (1, 96, 96, 3), np.int32, "int32"),
    "a background": (with_background, (1, 96, 96, 3), np.float32, "11 outputs, 10 labels"),
    "boxes": (boxes, (1, 96, 96, 3), np.float32, "40 outputs, 10 labels"),
}


@pytest.mark.parametrize("name", NO_CLASSIFIERS)
def test_a_model_that_is_no_image_classifier_is_one_line(name, edge_cli, crop, labels, tmp_path):
    function, shape, dtype, words = NO_CLASSIFIERS[name]
    path = tmp_path / "model.tflite"
    path.write_bytes(converted(function, shape, dtype))
    done = edge_cli(path, "--source", crop[0], "--labels", labels, *TO_ONE)
    check_one_line(done, words, path)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scores", ["softmax", "sigmoid", "none"])
def test_a_model_that_gives_no_numbers_is_one_line(edge_cli, crop, labels, tmp_path, scores):
    import tensorflow as tf

    path = tmp_path / "nan.tflite"
    path.write_bytes(converted(lambda x: tf.math.log(-1 - network(x)), (1, 96, 96, 3)))
    for form in ((), ("--json",), ("--csv", "--out", tmp_path / "out")):
        options = ("--labels", labels, *TO_ONE, "--scores", scores, *form)
        done = edge_cli(path, "--source", crop[0], *options)
        assert done.out == "" and list(tmp_path.glob("out/*")) == []
        check_one_line(done, f"{path}: gives values that are not finite")


# options after the model float32.tflite, words of the message
BAD_OPTIONS = {
    "no labels": ((), "--labels FILE"),
    "no mean": (("--labels", "labels.txt", "--std", "1"), "--mean"),
    "no std": (("--labels", "labels.txt", "--mean", "1"), "--std"),
    "two means": (("--mean", "1,2"), "1,2"),
    "a word as mean": (("--mean", "grey"), "grey"),
    "an endless mean": (("--labels", "labels.txt", "--mean", "nan", "--std", "1"), "mean"),
    "a std of 0": (("--labels", "labels.txt", "--mean", "1", "--std", "0"), "std"),
    "no such labels": (("--labels", "none.txt", *TO_ONE), "none.txt"),
    "a folder of labels": (("--labels", ".", *TO_ONE), "directory"),
    "no label in it": (("--labels", "empty.txt", *TO_ONE), "no labels in it"),
    "labels in another code": (("--labels", "latin.txt", *TO_ONE), "UTF-8"),
    "too few labels": (("--labels", "two.txt", *TO_ONE), "10 outputs, 2 labels"),
    "an unknown resize": (("--resize", "stretch"), "stretch"),
    "an unknown kernel": (("--interpolation", "best"), "best"),
    "no middle": (("--crop-fraction", "0"), "0"),
    "unknown scores": (("--scores", "tanh"), "tanh"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_a_bad_option_is_one_line(name, mobilenet, edge_cli, crop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "latin.txt").write_bytes("é\n".encode("latin-1") * 10)
    options, words = BAD_OPTIONS[name]
    path = mobilenet[1] / "float32.tflite"
    check_one_line(edge_cli(path, "--source", crop[0], *options), words)


def test_a_grey_model_takes_one_mean(edge_cli, crop, labels, tmp_path):
    path = tmp_path / "grey.tflite"
    path.write_bytes(converted(network, (1, 96, 96, 1)))
    done = edge_cli(path, "--source", crop[0], "--labels", labels, *IMAGENET)
    check_one_line(done, "grey", "mean", path)


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.99])
def test_a_model_that_is_cut_off_is_one_line(mobilenet, edge_cli, crop, labels, tmp_path, cut):
    data = (mobilenet[1] / "float32.tflite").read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(data[: int(len(data) * cut)])
    done = edge_cli(path, "--source", crop[0], "--labels", labels, *TO_ONE)
    check_one_line(done, "damaged", path)


TOLD = {"mean": "1", "std": "1", "resize": "crop", "crop_fraction": "0.5", "scores": "none"}
TOLD |= {"interpolation": "bicubic"}


def test_our_own_files_take_labels_and_nothing_else(int8, edge_cli, digits, tmp_path):
    assert set(TOLD) | {"labels"} == {field.name for field in dataclasses.fields(Foreign)}
    picture = tmp_path / "digit.png"
    digits[0][0].save(picture)
    for name, value in TOLD.items():
        option = f"--{name.replace('_', '-')}"
        check_one_line(edge_cli(int8, "--source", picture, option, value), option, int8)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"digit {n}\n" for n in range(10)))
    done = edge_cli(int8, "--source", picture, "--labels", names, "--json", "--top", 1)
    best, score = Classifier(int8).classify(picture, 1)[0]
    found = json.loads(done.out)
    assert (found["label"], found["score"]) == (f"digit {best}", pytest.approx(score, abs=1e-4))
    names.write_text("one\ntwo\n")
    check_one_line(edge_cli(int8, "--source", picture, "--labels", names), "10 outputs, 2 labels")
