"""A model as transformers would write it, and its equations in NumPy, by its names."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import load as parse
from safetensors.numpy import save_file
from scipy.special import erf

WIDTH, DEPTH, HEADS, MLP, PATCH, SIZE, CLASSES = 48, 2, 3, 96, 8, 32, 3
QUERY = "encoder.layer.1.attention.attention.query.weight"
LABELS = ("tench", "great white shark", "cock")
CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "hidden_act": "gelu",
    "image_size": SIZE,
    "patch_size": PATCH,
    "num_channels": 3,
    "qkv_bias": True,
}
CONFIGS = {
    "vit": {
        **CONFIG,
        "model_type": "vit",
        "intermediate_size": MLP,
        "layer_norm_eps": 1e-2,  # so large that another one shows
        "id2label": {str(i): label for i, label in enumerate(LABELS)},
    },
    "dinov2": {
        **CONFIG,
        "model_type": "dinov2",
        "mlp_ratio": 2,
        "layer_norm_eps": 1e-6,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
    },
}
NORMALISED = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS = {
    "vit": {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
    "dinov2": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": SIZE, "width": SIZE},
        **NORMALISED,
    },
}
CONFIGS["deit"] = {**CONFIGS["vit"], "model_type": "deit"}
CONFIGS["dinov2_with_registers"] = {
    **CONFIGS["dinov2"],
    "model_type": "dinov2_with_registers",
    "num_register_tokens": 3,
}
PROCESSORS["deit"] = {  # as facebook's folders have it
    "feature_extractor_type": "DeiTFeatureExtractor",
    "size": 40,
    "crop_size": SIZE,
    "do_center_crop": True,
    "resample": 3,
    **NORMALISED,
}
PROCESSORS["dinov2_with_registers"] = PROCESSORS["dinov2"]
# name in a block of each kind: norm before attention, norm before the MLP, its two dense layers
PARTS = {
    "vit": ("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    "dinov2": ("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
}
PARTS["deit"] = PARTS["vit"]
PARTS["dinov2_with_registers"] = PARTS["dinov2"]
HEADS_OF = {"vit": ("classifier",), "deit": ("cls_classifier", "distillation_classifier")}


def tensors_of(kind, *, prefix="", head=True, heads=None):
    """Random weights by transformers' names, in its layouts. heads: None is the kind's own."""
    rng = np.random.default_rng(0)
    weights = {}

    def add(name, *shape, scale=0.3, offset=0.0):
        weights[prefix + name] = (offset + scale * rng.standard_normal(shape)).astype(np.float32)

    def dense(name, out, width):
        add(f"{name}.weight", out, width, scale=width**-0.5)
        add(f"{name}.bias", out)

    def norm(name):
        add(f"{name}.weight", WIDTH, offset=1.0)
        add(f"{name}.bias", WIDTH)

    add("embeddings.cls_token", 1, 1, WIDTH)
    patches = (SIZE // PATCH) ** 2
    add("embeddings.position_embeddings", 1, patches + 1 + (kind == "deit"), WIDTH)
    if kind == "deit":
        add("embeddings.distillation_token", 1, 1, WIDTH)
    if kind == "dinov2_with_registers":
        add("embeddings.register_tokens", 1, 3, WIDTH)
    projection = "embeddings.patch_embeddings.projection"
    add(f"{projection}.weight", WIDTH, 3, PATCH, PATCH, scale=(3 * PATCH**2) ** -0.5)
    add(f"{projection}.bias", WIDTH)
    first, second, up, down = PARTS[kind]
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        norm(f"{layer}.{first}")
        for part in ("query", "key", "value"):
            dense(f"{layer}.attention.attention.{part}", WIDTH, WIDTH)
        dense(f"{layer}.attention.output.dense", WIDTH, WIDTH)
        norm(f"{layer}.{second}")
        dense(f"{layer}.{up}", MLP, WIDTH)
        dense(f"{layer}.{down}", WIDTH, MLP)
        if kind.startswith("dinov2"):
            add(f"{layer}.layer_scale1.lambda1", WIDTH)
            add(f"{layer}.layer_scale2.lambda1", WIDTH)
    norm("layernorm")
    prefix = ""
    for name in (HEADS_OF.get(kind, ()) if heads is None else heads) if head else ():
        dense(name, CLASSES, WIDTH)
    return weights


def sequence(weights, kind, images, epsilon):
    """The tokens after the last norm, float64 [n, tokens, width]; images: [n, 3, h, w] of the model's size.

    Follows transformers' modeling_vit.py, modeling_deit.py and modeling_dinov2_with_registers.py.
    """
    w = {name.removeprefix(f"{kind}."): v.astype(np.float64) for name, v in weights.items()}

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(x, layer):
        count = x.shape[1]
        q, k, v = (
            dense(x, f"{layer}.attention.attention.{part}")
            .reshape(len(x), count, HEADS, -1)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS))
        context = scores / scores.sum(-1, keepdims=True) @ v
        context = context.swapaxes(1, 2).reshape(len(x), count, WIDTH)
        return dense(context, f"{layer}.attention.output.dense")

    kernel = w["embeddings.patch_embeddings.projection.weight"]
    n, _, height, width = images.shape
    x = np.stack(
        [
            np.einsum("ncyx,ocyx->no", images[:, :, top : top + PATCH, left : left + PATCH], kernel)
            for top in range(0, height, PATCH)
            for left in range(0, width, PATCH)
        ],
        axis=1,
    )
    x = x + w["embeddings.patch_embeddings.projection.bias"]
    first = [w["embeddings.cls_token"]]
    if kind == "deit":
        first.append(w["embeddings.distillation_token"])
    x = np.concatenate([np.repeat(token, n, axis=0) for token in first] + [x], axis=1)
    x = x + w["embeddings.position_embeddings"]
    if kind == "dinov2_with_registers":
        registers = np.repeat(w["embeddings.register_tokens"], n, axis=0)
        x = np.concatenate([x[:, :1], registers, x[:, 1:]], axis=1)
    first, second, up, down = PARTS[kind]
    for i in range(DEPTH):
        layer = f"encoder.layer.{i}"
        y = attention(norm(x, f"{layer}.{first}"), layer)
        x = x + y * w.get(f"{layer}.layer_scale1.lambda1", 1)
        y = dense(norm(x, f"{layer}.{second}"), f"{layer}.{up}")
        y = dense(0.5 * y * (1 + erf(y / np.sqrt(2))), f"{layer}.{down}")
        x = x + y * w.get(f"{layer}.layer_scale2.lambda1", 1)
    return norm(x, "layernorm")


def features(weights, kind, images, epsilon):
    """The class token of `sequence`, float64 [n, width]."""
    return sequence(weights, kind, images, epsilon)[:, 0]


def logits(tokens, weights, head):
    """What a dense layer makes of tokens [n, width]: [n, classes]."""
    return tokens @ weights[f"{head}.weight"].T + weights[f"{head}.bias"]


def write_folder(root, kind, tensors, config=(), processor=()):
    """A Hugging Face folder, new; a value of None leaves out."""
    root.mkdir()
    for name, values in (
        ("config.json", {**CONFIGS[kind], **dict(config)}),
        ("preprocessor_config.json", {**PROCESSORS[kind], **dict(processor)}),
    ):
        values = {key: value for key, value in values.items() if value is not None}
        (root / name).write_text(json.dumps(values))
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, root / "model.safetensors")
    return root


def shard(folder):
    """Parts the weights into two files with an index."""
    path = folder / "model.safetensors"
    tensors = parse(path.read_bytes())
    path.unlink()
    names = sorted(tensors)
    index = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def write_raw(path, header, content):
    """A safetensors file of any header: name -> (type, shape), their bytes one behind the other."""
    entries, at = {}, 0
    for name, (dtype, shape, size) in header.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    start = json.dumps(entries).encode()
    path.write_bytes(len(start).to_bytes(8, "little") + start + content)


def pictures(height=SIZE, width=SIZE):
    return np.random.default_rng(1).standard_normal((3, height, width, 3)).astype(np.float32)


def channels_first(images):
    return images.transpose(0, 3, 1, 2)
