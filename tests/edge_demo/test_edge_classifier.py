import io
import json
import random
import sys
import zipfile

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
from scipy.special import softmax

from edge_demo import Classifier, PreprocessSpec, UserError

SCHEMES = ("float32", "int8")


@pytest.fixture(scope="module", params=SCHEMES)
def model(request, exported):
    """Path of an exported file, once for each scheme."""
    return exported / f"{request.param}.tflite"


@pytest.fixture(scope="module")
def classifier(model) -> Classifier:
    return Classifier(model)


# --- answers


def test_a_classifier_knows_its_labels_preprocessing_and_origin(model, classifier):
    with zipfile.ZipFile(model) as archive:
        labels = archive.read("labels.txt").decode().split("\n")[:-1]
        description = json.loads(archive.read("tfvit.json"))
    assert list(classifier.labels) == labels == list("0123456789")
    assert classifier.preprocess == PreprocessSpec.from_json(description["preprocess"])
    assert (classifier.preprocess.height, classifier.preprocess.width) == (32, 32)
    assert classifier.description["scheme"] == description["scheme"] == model.stem


def test_the_file_holds_its_labels_and_description_as_a_zip(model):
    with zipfile.ZipFile(model) as archive:
        assert sorted(archive.namelist()) == ["labels.txt", "tfvit.json"]
        assert archive.testzip() is None
    assert model.read_bytes()[4:8] == b"TFL3"


def test_scores_are_those_of_the_runtime_by_hand(model, classifier, digits):
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    spec = json.loads(zipfile.ZipFile(model).read("tfvit.json"))["preprocess"]
    assert spec["resize"] == "squash"
    for picture in digits[0][:20]:
        pixels = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR), np.float32)
        values = (pixels - np.float32(spec["mean"])) / np.float32(spec["std"])
        interpreter.set_tensor(source["index"], values[np.newaxis])
        interpreter.invoke()
        expected = softmax(interpreter.get_tensor(target["index"])[0])
        scores = dict(classifier.classify(picture, top=10))
        assert [scores[label] for label in "0123456789"] == pytest.approx(expected, abs=1e-4)


def test_a_path_a_string_a_picture_and_an_array_have_the_same_answer(
    classifier, digits, sample_photos, tmp_path
):
    for i, picture in enumerate([*digits[0][:5], *sample_photos.values()]):
        path = tmp_path / f"{i}.png"
        picture.save(path)
        expected = classifier.classify(path)
        assert len(expected) == 5
        assert classifier.classify(str(path)) == expected
        assert classifier.classify(picture) == expected
        assert classifier.classify(Image.open(path)) == expected
        assert classifier.classify(np.asarray(picture)) == expected
        assert classifier.classify(picture.convert("RGBA")) == expected


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA", "CMYK", "I;16"])
def test_a_picture_of_any_mode_has_the_answer_of_its_file(
    classifier, sample_photos, tmp_path, mode
):
    photo = sample_photos["flower"]
    if mode == "I;16":
        picture = Image.fromarray(257 * np.asarray(photo.convert("L")).astype(np.uint16))
    else:
        picture = photo.convert(mode)
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    picture.save(path)
    expected = classifier.classify(path)
    assert classifier.classify(Image.open(path)) == expected
    if mode == "L":
        assert classifier.classify(np.asarray(picture)) == expected


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_an_opened_picture_is_turned_upright_like_its_file(
    classifier, sample_photos, tmp_path, form
):
    tags = Image.Exif()
    tags[0x0112] = 6
    path = tmp_path / f"photo.{form.lower()}"
    sample_photos["china"].save(path, form, exif=tags)
    expected = classifier.classify(path)
    assert expected != classifier.classify(sample_photos["china"])  # it makes a difference
    assert classifier.classify(Image.open(path)) == expected


def test_the_transparent_colour_of_an_opened_picture_is_white_like_in_its_file(
    classifier, sample_photos, tmp_path
):
    photo = sample_photos["china"].quantize(8).convert("RGB")
    _, clear = max(photo.getcolors())
    path = tmp_path / "photo.png"
    photo.save(path, transparency=clear)
    expected = classifier.classify(path)
    assert expected != classifier.classify(photo)  # it makes a difference
    assert classifier.classify(Image.open(path)) == expected


def test_scores_are_sorted_and_sum_to_one_over_all_labels(classifier, digits):
    for picture in digits[0][:50]:
        results = classifier.classify(picture, top=10)
        scores = [score for _, score in results]
        assert sorted(label for label, _ in results) == list("0123456789")
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert sum(scores) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top", "count"), [(1, 1), (3, 3), (10, 10), (11, 10), (1000, 10)])
def test_top_limits_the_labels(classifier, digits, top, count):
    every = classifier.classify(digits[0][0], top=10)
    assert classifier.classify(digits[0][0], top=top) == every[:count]


def test_top_is_five_unless_told(classifier, digits):
    assert classifier.classify(digits[0][0]) == classifier.classify(digits[0][0], top=5)


def test_an_answer_is_made_of_plain_types(classifier, digits):
    for label, score in classifier.classify(digits[0][0]):
        assert (type(label), type(score)) == (str, float)


def test_an_answer_does_not_depend_on_the_one_before(classifier, digits):
    first, second = digits[0][:2]
    alone = classifier.classify(first)
    assert classifier.classify(second) != alone
    assert classifier.classify(first) == alone


def test_threads_do_not_change_the_answer(model, classifier, digits):
    single, double = Classifier(model, threads=1), Classifier(model, threads=2)
    for picture in digits[0][:5]:
        expected = dict(classifier.classify(picture, top=10))
        assert dict(single.classify(picture, top=10)) == pytest.approx(expected, abs=1e-4)
        assert dict(double.classify(picture, top=10)) == pytest.approx(expected, abs=1e-4)


def test_most_digits_are_recognised_and_both_files_agree(float32, int8, digits):
    pictures, target = digits
    answers = {}
    for path in (float32, int8):
        classifier = Classifier(path)
        answers[path] = np.array([int(classifier.classify(p, 1)[0][0]) for p in pictures])
        assert (answers[path] == target).mean() > 0.8
    assert (answers[float32] == answers[int8]).mean() > 0.9
    assert int8.stat().st_size < float32.stat().st_size


def test_loading_and_classifying_print_nothing(model, digits, capfd):
    Classifier(model).classify(digits[0][0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_program_without_a_terminal_can_classify(int8, digits, monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)  # as under pythonw or a windowed bundle
    answer = Classifier(int8).classify(digits[0][0], top=1)
    monkeypatch.undo()
    assert len(answer) == 1


# --- bad pictures


def test_a_bad_file_is_a_user_error_and_the_next_picture_is_answered(classifier, digits, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    expected = classifier.classify(digits[0][0])
    for path in (bad, str(bad), tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            classifier.classify(path)
    assert classifier.classify(digits[0][0]) == expected


BAD_ARRAYS = {
    "floats": np.zeros((8, 8, 3), np.float32),
    "grey floats": np.full((8, 8), 0.5, np.float32),
    "integers": np.zeros((8, 8, 3), np.int64),
    "a batch": np.zeros((1, 8, 8, 3), np.uint8),
    "five channels": np.zeros((8, 8, 5), np.uint8),
    "channels first": np.zeros((3, 8, 8), np.uint8),
    "no pixels": np.zeros((0, 8, 3), np.uint8),
    "one number": np.zeros((), np.uint8),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_array_that_is_no_picture_is_a_user_error(int8, name):
    with pytest.raises(UserError) as caught:
        Classifier(int8).classify(BAD_ARRAYS[name])
    assert "\n" not in str(caught.value)


# --- bad models


NO_METADATA = "tfvit convert"  # what to do about it
NOISE = b"\0\0\0\0TFL3" + random.Random(0).randbytes(5000)
TEN = "".join(f"{digit}\n" for digit in range(10))

# What is left of a good file, and words of the message
BAD_FILES = {
    "empty": (lambda good, graph: b"", "not a .tflite"),
    "text": (lambda good, graph: b"These are words, not a model.\n" * 9, "not a .tflite"),
    "only a magic": (lambda good, graph: b"\0\0\0\0TFL3", "damaged"),
    "noise with a magic": (lambda good, graph: NOISE, "damaged"),
    "the zip alone": (lambda good, graph: good[len(graph) :], "not a .tflite"),
    "without the zip": (lambda good, graph: graph, "labels.txt is cut off"),
    "cut in half": (lambda good, graph: good[: len(good) // 2], "damaged"),
    "cut within the zip": (lambda good, graph: good[:-40], "labels.txt is cut off"),
    "cut by a byte": (lambda good, graph: good[:-1], "labels.txt is cut off"),
}
# What is left of the graph, before a good zip
BAD_GRAPHS = {
    "noise": lambda graph: NOISE,
    "only a magic": lambda graph: graph[:8],
    "cut in half": lambda graph: graph[: len(graph) // 2],
    "cut by some bytes": lambda graph: graph[:-400],
    "a changed weight": lambda graph: graph[:-5000] + bytes([graph[-5000] ^ 64]) + graph[-4999:],
    "cut and filled up": lambda graph: graph[:-5000] + bytes(5000),
}
# labels.txt and tfvit.json after a good graph, made of a good description; words of the message
BAD_ZIPS = {
    "no labels.txt": (lambda good: (None, good), NO_METADATA),
    "no labels": (lambda good: ("", good), "10 outputs, 0 labels"),
    "two labels": (lambda good: ("a\nb\n", good), "10 outputs, 2 labels"),
    "eleven labels": (lambda good: (TEN + "x\n", good), "10 outputs, 11 labels"),
    "labels that are no text": (lambda good: (b"\xff\xfe\n" * 10, good), NO_METADATA),
    "a description that is no text": (lambda good: (TEN, b"\xff\xfe\0"), NO_METADATA),
    "half a description": (lambda good: (TEN, json.dumps(good)[:50]), NO_METADATA),
    "a list as description": (lambda good: (TEN, [good]), NO_METADATA),
    "null as description": (lambda good: (TEN, "null"), NO_METADATA),
    "no preprocessing": (lambda good: (TEN, {"scheme": "int8"}), NO_METADATA),
    "null as preprocessing": (lambda good: (TEN, {**good, "preprocess": None}), "preprocess"),
    "an unknown resize": (lambda good: (TEN, with_spec(good, resize="stretch")), "stretch"),
    "text as mean": (lambda good: (TEN, with_spec(good, mean=["a", "b", "c"])), "mean"),
    "an unknown step": (lambda good: (TEN, with_spec(good, sharpen=1)), "sharpen"),
    "another size": (lambda good: (TEN, with_spec(good, height=99)), "99.*export it again"),
}


def with_spec(description: dict, **fields) -> dict:
    return {**description, "preprocess": {**description["preprocess"], **fields}}


def check_bad_model(path, data: bytes, words: str) -> None:
    path.write_bytes(data)
    with pytest.raises(UserError, match=words) as caught:
        Classifier(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_line_with_its_path(int8, split_model, tmp_path, name):
    make, words = BAD_FILES[name]
    data = make(int8.read_bytes(), split_model(int8)[0])
    check_bad_model(tmp_path / "bad.tflite", data, words)


@pytest.mark.parametrize("name", BAD_GRAPHS)
def test_a_bad_graph_is_one_line_with_its_path(int8, split_model, join_model, tmp_path, name):
    graph, labels, description = split_model(int8)
    files = {"labels.txt": labels, "tfvit.json": description}
    data = join_model(BAD_GRAPHS[name](graph), files)
    check_bad_model(tmp_path / "bad.tflite", data, "damaged")


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_bad_metadata_is_one_line_with_its_path(int8, split_model, join_model, tmp_path, name):
    make, words = BAD_ZIPS[name]
    graph, _, description = split_model(int8)
    labels, description = make(json.loads(description))
    if isinstance(description, (dict, list)):
        description = json.dumps(description)
    files = {"labels.txt": labels, "tfvit.json": description}
    files = {name: text for name, text in files.items() if text is not None}
    check_bad_model(tmp_path / "bad.tflite", join_model(graph, files), words)


def test_a_missing_model_and_a_folder_are_one_line(tmp_path):
    for path, words in ((tmp_path / "none", "[Nn]o such file"), (tmp_path, "directory|folder")):
        with pytest.raises(UserError, match=words) as caught:
            Classifier(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_a_damaged_label_is_found_by_its_checksum(int8, split_model, tmp_path):
    graph, labels, _ = split_model(int8)
    data = bytearray(int8.read_bytes())
    data[data.index(labels.encode(), len(graph))] ^= 1
    path = tmp_path / "bad.tflite"
    path.write_bytes(data)
    with pytest.raises(UserError, match=str(path)):
        Classifier(path)


DAMAGE = """
import random, sys
from edge_demo import Classifier, UserError
import numpy as np
source, target, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
good = open(source, "rb").read()
picture = np.zeros((8, 8, 3), np.uint8)
for seed in range(60):
    rng = random.Random(seed)
    reach = 3000 if seed % 2 else size
    data = bytearray(good)
    for _ in range(4):
        data[rng.randrange(8, reach)] = rng.randrange(256)
    with open(target, "wb") as file:
        file.write(data)
    try:
        Classifier(target).classify(picture)
    except UserError as error:
        assert "\\n" not in str(error), error
print("survived")
"""


def test_random_damage_to_the_graph_is_at_worst_a_user_error(model, split_model, process, tmp_path):
    size = len(split_model(model)[0])
    done = process("python", "-c", DAMAGE, model, tmp_path / "bad.tflite", size)
    assert (done.code, done.out.strip()) == (0, "survived"), done.err[-500:]


# --- metadata that is unusual but right


def test_what_tflite_metadata_tells_is_enough(model, split_model, join_model, tmp_path, digits):
    graph, labels, _ = split_model(model)
    path = tmp_path / "standard.tflite"
    path.write_bytes(join_model(graph, {"labels.txt": labels}))
    assert Classifier(path).classify(digits[0][0]) == Classifier(model).classify(digits[0][0])


def test_the_zip_may_be_written_anew_by_any_tool(int8, split_model, join_model, tmp_path, digits):
    graph, labels, description = split_model(int8)
    path = tmp_path / "again.tflite"
    files = {"readme.txt": "mine", "tfvit.json": description, "labels.txt": labels}
    path.write_bytes(join_model(graph, files, zipfile.ZIP_DEFLATED))
    assert Classifier(path).classify(digits[0][0]) == Classifier(int8).classify(digits[0][0])


LABELS = ["é", "two words", " padded ", "日本語", "a\u2028b", "a\x85b", "a\x0bb", "#", "'", '"']


def test_labels_keep_every_character(int8, split_model, join_model, tmp_path, digits):
    graph, _, description = split_model(int8)
    path = tmp_path / "named.tflite"
    text = "".join(f"{label}\n" for label in LABELS)
    path.write_bytes(join_model(graph, {"labels.txt": text, "tfvit.json": description}))
    named = Classifier(path)
    assert list(named.labels) == LABELS
    expected = [
        (LABELS[int(label)], score) for label, score in Classifier(int8).classify(digits[0][0])
    ]
    assert named.classify(digits[0][0]) == expected


def test_a_model_in_a_folder_of_any_name(int8, tmp_path, digits):
    folder = tmp_path / "modèles [2020] été"
    folder.mkdir()
    path = folder / "a model.tflite"
    path.write_bytes(int8.read_bytes())
    picture = io.BytesIO()
    digits[0][0].save(picture, "PNG")
    (folder / "ü.png").write_bytes(picture.getvalue())
    expected = Classifier(int8).classify(digits[0][0])
    assert Classifier(path).classify(folder / "ü.png") == expected
