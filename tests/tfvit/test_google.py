from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import warnings
import zipfile

import google_reference as reference
import ml_dtypes
import numpy as np
import pytest
from google_reference import IN_ENCODER, LINEN, ON_TOP, bit_shapes, filled, vit_shapes
from small_models import inputs, randomise, small

import tfvit
from edge_demo.errors import UserError
from edge_demo.preprocess import PreprocessSpec
from tfvit.architecture import RESNETS, ResNetArchitecture
from tfvit.interop import google
from tfvit.interop.imported import finish
from tfvit.model import build, named_weights

BIG_VISION = {"numbering": LINEN, "position": ON_TOP, "class_row": False}
SINES = {"numbering": LINEN, "position": None}
ROOT_ONLY = {"units": (), "patch": 8, "grid": 2}
TWO_STAGES = {"units": (2, 1), "patch": 1, "grid": 8}
MAP, INLINED, HIDDEN = {"pooling": "map"}, {"pooling": "inlined map"}, {"hidden": 20}
# case: (layout, shapes, pixels)
CASES = {
    "token": ("original", vit_shapes(), 32),
    "gap": ("original", vit_shapes(pooling="gap"), 32),
    "token, hidden": ("original", vit_shapes(**HIDDEN), 32),
    "linen token": ("linen", vit_shapes(LINEN), 32),
    "linen gap, hidden": ("linen", vit_shapes(LINEN, pooling="gap", **HIDDEN), 32),
    "old gap": ("big_vision before 2022", vit_shapes(LINEN, IN_ENCODER, "gap"), 32),
    "old token": ("big_vision before 2022", vit_shapes(LINEN, IN_ENCODER), 32),
    "big_vision gap": ("big_vision", vit_shapes(**BIG_VISION, pooling="gap"), 32),
    "big_vision token": ("big_vision", vit_shapes(**BIG_VISION), 32),
    "big_vision map": ("big_vision", vit_shapes(**BIG_VISION, **MAP), 32),
    "big_vision map, hidden": ("big_vision", vit_shapes(**BIG_VISION, **MAP, **HIDDEN), 32),
    "big_vision inlined map": ("big_vision", vit_shapes(**BIG_VISION, **INLINED), 32),
    "sines gap": ("big_vision", vit_shapes(**SINES, pooling="gap"), 40),
    "sines token": ("big_vision", vit_shapes(**SINES), 24),
    "sines map": ("big_vision", vit_shapes(**SINES, **MAP), 24),
    "hybrid of a root": ("original", vit_shapes(**ROOT_ONLY), 64),
    "hybrid of two stages": ("original", vit_shapes(**TWO_STAGES), 64),
    "hybrid, newer code": ("linen", vit_shapes(LINEN, **TWO_STAGES, norm_axes=()), 64),
    "BiT": ("big_transfer", bit_shapes((2, 1)), 64),
}
PLAIN = filled(vit_shapes())


def save(path, tensors):
    np.savez(path, **tensors)
    return path


def restore(path, image_size=None):
    return finish(google.read(path), image_size, path)[0]


@pytest.mark.parametrize(
    "case, faint",
    [(case, False) for case in CASES]
    + [(case, True) for case in CASES if not case.startswith("sines")],  # these are never faint
)
def test_an_imported_model_computes_the_published_equations(tmp_path, case, faint):
    layout, shapes, size = CASES[case]
    tensors, images = filled(shapes), inputs(3, size, size)
    if faint:  # variances as small as the epsilons of the norms and of standardised kernels
        kernels = [name for name in tensors if "conv" in name and "head" not in name]
        tokens = [n for n in tensors if n.startswith(("embedding", "cls")) or "pos_embed" in n]
        images = images * np.float32(1e-3 if kernels else 1)
        for name in kernels or tokens:
            tensors[name] = tensors[name] * np.float32(1e-4 if kernels else 1e-3)
    path = save(tmp_path / "model.npz", tensors)
    read = google.read(path)
    assert read.origin["layout"] == layout
    logits = finish(read, (size, size), path)[0](images).numpy()
    expected = reference.logits(tensors, images)
    spread = np.ptp(expected, axis=0).min()
    assert spread > 1e-3  # the pictures matter, in every class
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.ptp(expected))


def test_an_architecture_is_what_the_shapes_say(tmp_path):
    read = google.read(save(tmp_path / "a.npz", filled(vit_shapes(**HIDDEN))))
    arch = read.architecture
    assert (arch.name, arch.image_size, arch.patch_size) == ("vit-48x2/8", (32, 32), 8)
    assert (arch.width, arch.depth, arch.mlp_dim, arch.heads) == (48, 2, 96, 3)
    assert (arch.pooling, arch.position, arch.representation_size) == ("cls", "learned", 20)
    assert (arch.activation, arch.layer_norm_epsilon) == ("gelu_tanh", 1e-6)
    assert arch.position_interpolation == "bilinear"
    assert read.preprocess == PreprocessSpec(32, 32)
    assert read.labels == ("0", "1", "2", "3", "4")
    assert not read.dropped and not read.reset
    origin = read.origin
    assert (origin["source"], origin["file"]) == (str(tmp_path / "a.npz"), "a.npz")
    assert origin["format"] == "Google npz" and len(origin["sha256"]) == 64


@pytest.mark.parametrize("name", ["vit-ti/16", "r+vit-ti/16"])
def test_a_known_shape_has_its_name(tmp_path, name):
    google.write(tfvit.create_model(name, 3, 64), tmp_path / "a.npz")
    assert google.read(tmp_path / "a.npz").architecture.name == name


def test_a_resnet_is_named_for_its_layers(tmp_path):
    read = google.read(save(tmp_path / "a.npz", filled(CASES["BiT"][1])))
    assert read.architecture == dataclasses.replace(BIT, image_size=(224, 224))
    for name, (units, factor) in RESNETS.items():
        assert name == f"bit-r{3 * sum(units) + 2}x{factor}"


@pytest.mark.parametrize("case", ["sines gap", "BiT"])
def test_where_the_file_does_not_tell_the_input_has_224_pixels(tmp_path, case):
    read = google.read(save(tmp_path / "a.npz", filled(CASES[case][1])))
    assert read.architecture.image_size == (224, 224)


def test_a_class_token_without_position_gets_a_zero_one(tmp_path):
    read = google.read(save(tmp_path / "a.npz", filled(CASES["big_vision token"][1])))
    position = read.weights["position/embedding"]
    assert position.shape == (1, 17, 48)
    assert not position[0, 0].any() and position[0, 1:].any(axis=1).all()


@pytest.mark.parametrize("without", ["head", "pre_logits"])
def test_a_part_that_is_absent_or_empty(tmp_path, without):
    tensors = {n: v for n, v in PLAIN.items() if not n.startswith(without)}
    tensors[f"{without}/kernel"] = np.zeros((48, 0), np.float32)
    path = save(tmp_path / "a.npz", tensors)
    read = google.read(path)
    assert read.dropped == {f"{without}/kernel": "(48, 0)"}
    model, result = finish(read, None, path)
    if without == "head":
        assert read.labels == ("0",)
        assert set(result.reset) == {"head/kernel", "head/bias"}
        assert not model(inputs(2, 32, 32)).numpy().any()


# Other forms of the same file


def stacked(tensors):
    found = {n: v for n, v in tensors.items() if "encoderblock" not in n}
    for name, value in tensors.items():
        if "encoderblock_0/" in name:
            rest = name.split("encoderblock_0/")[1]
            other = tensors[name.replace("encoderblock_0/", "encoderblock_1/")]
            found[f"Transformer/encoderblock/{rest}"] = np.stack([value, other])
    return found


def numbered(tensors):
    names = {n: n.replace("conv2d/kernel", f"conv2d_{i}/kernel") for i, n in enumerate(tensors)}
    return {n if "head" in n else names[n]: v for n, v in tensors.items()}


OTHER_TREES = {
    "params/": ({"opt/0/mu/x": (2,), "opt/0/nu/x": (2,)}, {"opt"}),
    "params/img/": ({"params/txt/head/bias": (3,), "params/t": (1,)}, {"params/txt", "params/t"}),
    "opt/target/": ({"opt/state/step": (), "opt/state/x": (2,)}, {"opt/state"}),
    "img/": ({"txt/head/bias": (3,), "t": (1,)}, {"txt", "t"}),
}


@pytest.mark.parametrize("prefix", OTHER_TREES)
def test_the_model_is_found_within_a_larger_file(tmp_path, prefix):
    others, trees = OTHER_TREES[prefix]
    tensors = {prefix + name: value for name, value in PLAIN.items()}
    tensors |= {name: np.ones(shape, np.int32) for name, shape in others.items()}
    read = google.read(save(tmp_path / "a.npz", tensors))
    assert set(read.dropped) == trees
    _same_weights(read.weights, google.read(save(tmp_path / "b.npz", PLAIN)).weights)


def test_stacked_blocks_are_those_of_single_ones(tmp_path):
    tensors = filled(CASES["big_vision map"][1])
    read = google.read(save(tmp_path / "a.npz", stacked(tensors)))
    _same_weights(read.weights, google.read(save(tmp_path / "b.npz", tensors)).weights)


def test_numbered_convolutions_are_those_without_numbers(tmp_path):
    tensors = filled(CASES["BiT"][1])
    read = google.read(save(tmp_path / "a.npz", numbered(tensors)))
    _same_weights(read.weights, google.read(save(tmp_path / "b.npz", tensors)).weights)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64, ">f4"])
def test_every_floating_point_type_becomes_float32(tmp_path, dtype):
    narrow = {name: value.astype(dtype) for name, value in PLAIN.items()}
    read = google.read(save(tmp_path / "a.npz", narrow))
    exact = {name: value.astype(np.float32) for name, value in narrow.items()}
    _same_weights(read.weights, google.read(save(tmp_path / "b.npz", exact)).weights)
    assert {value.dtype for value in read.weights.values()} == {np.dtype(np.float32)}


def test_compressed_files_and_fortrans_order_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", **{n: np.asfortranarray(v) for n, v in PLAIN.items()})
    expected = google.read(save(tmp_path / "b.npz", PLAIN)).weights
    _same_weights(google.read(tmp_path / "a.npz").weights, expected)


# Written files

PREFIXED = {f"params/{n}": s for n, s in CASES["big_vision map, hidden"][1].items()}
BIT = ResNetArchitecture("bit-r11x1", 5, (64, 64), (2, 1), 1)
# fields, pixels, shapes by their names
WRITTEN = {
    "token": ({}, 32, vit_shapes()),
    "gap, hidden": (
        {"pooling": "gap", "representation_size": 20},
        32,
        vit_shapes(pooling="gap", **HIDDEN),
    ),
    "map, hidden": ({"pooling": "map", "representation_size": 20}, 32, PREFIXED),
    "sines": (
        {"position": "sincos_2d", "pooling": "gap"},
        (32, 48),
        {f"params/{n}": s for n, s in CASES["sines gap"][1].items()},
    ),
    "sines, token": (
        {"position": "sincos_2d"},
        32,
        {f"params/{n}": s for n, s in CASES["sines token"][1].items()},
    ),
    "hybrid of a root": ({"stem": ()}, 64, vit_shapes(**ROOT_ONLY)),
    "hybrid of two stages": ({"stem": (2, 1), "patch": 1}, 64, vit_shapes(**TWO_STAGES)),
    "BiT": (None, 64, bit_shapes((2, 1))),
}


def written_model(case):
    fields, size, _ = WRITTEN[case]
    if fields is None:
        return randomise(build(BIT))
    patch = fields.get("patch", 8)
    changes = {k: v for k, v in fields.items() if k != "patch"}
    return small(5, size, name=f"vit-ti/{patch}", **changes)


@pytest.mark.parametrize("case", WRITTEN)
def test_a_written_file_is_theirs_and_comes_back_to_the_bit(tmp_path, case):
    model, path = written_model(case), tmp_path / "model.npz"
    google.write(model, path)
    with np.load(path, allow_pickle=False) as file:
        assert {name: file[name].shape for name in file.files} == WRITTEN[case][2]
        assert {file[name].dtype for name in file.files} == {np.dtype(np.float32)}
    again = restore(path, model.architecture.image_size)
    name = again.architecture.name
    assert again.architecture == dataclasses.replace(model.architecture, name=name)
    _same_weights(*({n: v.numpy() for n, v in named_weights(m).items()} for m in (again, model)))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"layer_scale": 0.1}, "layer_scale 0.1"),
        ({"registers": 2}, "registers 2"),
        ({"distillation_token": True}, "distillation_token True"),
        ({"activation": "gelu"}, "activation gelu"),
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05"),
        ({"position": "learned_2d"}, "position learned_2d"),
        ({"position": "relative"}, "position relative"),
        ({"position": "none"}, "position none"),
        ({"pooling": "cls+gap"}, "pooling cls+gap"),
        ({"image_size": (32, 64)}, "image_size 32x64"),
        ({"stem": (), "image_size": (64, 64), "pooling": "map"}, "stem with pooling map"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_their_code_does_not_compute_is_not_written(tmp_path, changes, field):
    model = small(5, changes.pop("image_size", (32, 32)), **changes)
    with pytest.raises(UserError) as caught:
        google.write(model, tmp_path / "a.npz")
    _one_line(caught.value, tmp_path / "a.npz", field)
    assert not any(tmp_path.iterdir())


# Files that are no good


def member(shape, data=b"", dtype="'<f4'", magic=b"\x93NUMPY\x01\x00"):
    """A .npy file whose header may lie."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return magic + struct.pack("<H", len(header)) + header + data


def zipped(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", compression) as file:
        warnings.simplefilter("ignore")
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def npz(tensors, saver=np.savez):
    buffer = io.BytesIO()
    saver(buffer, **tensors)
    return buffer.getvalue()


def larger_entry(data, field, value):
    """A zip file whose directory gives its first member another size."""
    at = data.index(b"PK\x01\x02") + field
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


WHOLE, ONE = npz(PLAIN), zipped([("cls.npy", member((2,), bytes(8)))])
FLIPPED = bytearray(WHOLE)
FLIPPED[len(WHOLE) // 2] ^= 1
OBJECT = {"pre_logits": np.array({}, dtype=object)}
BAD_FILES = {
    "empty": (b"", "not an .npz file"),
    "text": (b"not a model at all", "not an .npz file"),
    "pickle": (pickle.dumps({"cls": 1}), "may hold code and is not read"),
    "single array": (member((2,), bytes(8)), "single array"),
    "half": (WHOLE[: len(WHOLE) // 2], "truncated or damaged"),
    "without its end": (WHOLE[:-30], "truncated or damaged"),
    "a bit flipped": (bytes(FLIPPED), "truncated or damaged"),
    "object": (npz({**PLAIN, **OBJECT}), "may hold code and are not read"),
    "object in another tree": (
        npz({**{f"params/{n}": v for n, v in PLAIN.items()}, "opt/x": OBJECT["pre_logits"]}),
        "may hold code and are not read",
    ),
    "declares more": (zipped([("cls.npy", member((10**12,), bytes(8)))]), "4000000000000 bytes"),
    "declares less": (zipped([("cls.npy", member((1,), bytes(8)))]), "4 bytes, but 8"),
    "negative": (zipped([("cls.npy", member((-1, -2), bytes(8)))]), "no plain array"),
    "structured": (
        zipped([("cls.npy", member((1,), bytes(8), "[('a', '<f4'), ('b', '<f4')]"))]),
        "no plain array",
    ),
    "magic": (zipped([("cls.npy", member((2,), bytes(8), magic=b"\x93NUMPX\x01\x00"))]), "header"),
    "version": (
        zipped([("cls.npy", member((2,), bytes(8), magic=b"\x93NUMPY\x09\x00"))]),
        "header",
    ),
    "header": (zipped([("cls.npy", member("((", bytes(8)))]), "header"),
    "no header": (zipped([("cls.npy", b"")]), "header"),
    "no array": (zipped([("readme.txt", b"hello")]), "which is no array"),
    "name of two lines": (zipped([("a\nb.npy", member((0,)))]), "'a\\nb.npy', which is no array"),
    "name of no encoding": (
        zipped([("\u00e9.npy", member((0,)))]).replace("\u00e9".encode(), b"\xff\xfe"),
        "truncated or damaged",
    ),
    "twice": (zipped([("a.npy", member((0,)))] * 2), "more than once"),
    "bomb": (
        zipped([("cls.npy", member((2**22,), bytes(2**24)))], zipfile.ZIP_DEFLATED),
        "declares 16777",
    ),
    "stored size": (larger_entry(ONE, 24, 5000), "cls declares 5000 bytes"),
    "packed size": (larger_entry(ONE, 20, 2**31), "declares"),
    "other compression": (zipped([("a.npy", member((0,)))], zipfile.ZIP_BZIP2), "NumPy does not"),
    "integers": (npz({**PLAIN, "cls": np.ones((1, 1, 48), np.int32)}), "cls holds int32"),
    "of something else": (npz({"MixerBlock_0/x": np.ones(2)}), "neither a ViT nor a BiT"),
    "nothing": (npz({}), "neither a ViT nor a BiT"),
}


def changed(case="token", **tensors):
    """A file of which some tensors are replaced (or removed: None)."""
    found = {**filled(CASES[case][1]), **{n.replace("__", "/"): v for n, v in tensors.items()}}
    return {name: value for name, value in found.items() if value is not None}


def ones(*shape):
    return np.ones(shape, np.float32)


QUERY = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
UNEVEN = stacked(filled(CASES["big_vision map"][1]))
UNEVEN["Transformer/encoderblock/LayerNorm_1/bias"] = ones(3, 48)
BAD_MODELS = {
    "unknown": (changed(extra__kernel=ones(2, 2)), ["extra/kernel is not a weight"]),
    "missing": (changed(head__bias=None), ["head/bias is missing"]),
    "no blocks": (
        {n: v for n, v in PLAIN.items() if "encoderblock" not in n},
        ["encoderblock_0", "is missing"],
    ),
    "a block missing": (
        {n.replace("encoderblock_1", "encoderblock_7"): v for n, v in PLAIN.items()},
        ["encoderblock_7/", "not a weight"],
    ),
    "shape": (changed(Transformer__encoder_norm__bias=ones(47)), ["encoder_norm/bias", "(47,)"]),
    "width": (changed(embedding__kernel=ones(8, 8, 3, 50)), ["width 50"]),
    "channels": (changed(embedding__kernel=ones(8, 8, 4, 48)), ["embedding/kernel", "8, 8, 4"]),
    "patch": (changed(embedding__kernel=ones(8, 4, 3, 48)), ["patches of 8x4"]),
    "axes": (changed(embedding__kernel=ones(192, 48)), ["embedding/kernel", "not 4 axes"]),
    "fused heads": (changed(**{QUERY: ones(48, 48)}), ["query/kernel", "not 3 axes"]),
    "rows": (
        changed(Transformer__posembed_input__pos_embedding=ones(1, 15, 48)),
        ["15 rows", "no square and a class token"],
    ),
    "rows without class token": (
        changed("gap", Transformer__posembed_input__pos_embedding=ones(1, 17, 48)),
        ["17 rows"],
    ),
    "stacked unevenly": (UNEVEN, ["LayerNorm_1/bias is (3, 48)", "not as many blocks"]),
    "head": (changed(head__kernel=ones(40, 5)), ["head/kernel", "(40, 5)"]),
    "BiT of 65 channels": (
        changed("BiT", resnet__root_block__standardized_conv2d__kernel=ones(7, 7, 3, 65)),
        ["65 channels"],
    ),
    "BiT without a norm": (changed("BiT", resnet__group_norm__beta=None), ["group_norm/beta"]),
    "hybrid without a norm": (
        changed("hybrid of two stages", block1__unit2__gn3__bias=None),
        ["block1/unit2/gn3/bias is missing"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_good_ends_in_one_line(tmp_path, case):
    data, part = BAD_FILES[case]
    (tmp_path / "bad.npz").write_bytes(data)
    _refused(tmp_path / "bad.npz", part)


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_does_not_fit_together_ends_in_one_line(tmp_path, case):
    tensors, parts = BAD_MODELS[case]
    _refused(save(tmp_path / "bad.npz", tensors), *parts)


def test_no_file_and_a_folder_end_in_one_line(tmp_path):
    _refused(tmp_path / "none.npz", "No such file")
    _refused(tmp_path, "Is a directory")


def test_no_damage_ends_in_anything_but_one_line(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "bad.npz"
    start = WHOLE.index(b"PK\x01\x02")  # the directory, where every byte means something
    for at in rng.integers(start, len(WHOLE), 60):
        data = bytearray(WHOLE)
        data[at] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            google.read(path)
        except UserError as error:
            _one_line(error, path)


def _refused(path, *parts):
    with pytest.raises(UserError) as caught:
        google.read(path)
    _one_line(caught.value, path, *parts)


def _one_line(error, path, *parts):
    message = str(error)
    assert error.exit_code == 2
    assert "\n" not in message
    for part in (str(path), *parts):
        assert part in message


def _same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
