"""Google's published models in NumPy, float64, from tensors under Google's names: nothing of tfvit is here.

Equations: arXiv 2010.11929 (ViT, hybrids), 2106.04560 (attention pooling), 1912.11370 (BiT); constants and
paddings: google-research/vision_transformer, vit_jax/models_vit.py and models_resnet.py,
google-research/big_vision, models/vit.py, and google-research/big_transfer, bit_pytorch/models.py.
"""

from __future__ import annotations

import numpy as np

PRE_LINEN = ("LayerNorm_2", "MultiHeadDotProductAttention_1", "MlpBlock_3")
LINEN = ("LayerNorm_1", "MultiHeadDotProductAttention_0", "MlpBlock_0")
IN_MODULE, IN_ENCODER, ON_TOP = (
    "Transformer/posembed_input/pos_embedding",
    "Transformer/pos_embedding",
    "pos_embedding",
)


def logits(tensors, images):
    """[b, classes] of normalised images [b, h, w, 3]."""
    t = {name: value.astype(np.float64) for name, value in tensors.items()}
    run = bit if "resnet/group_norm/gamma" in t else vit
    return run(t, images.astype(np.float64))


def vit(t, x):
    if "conv_root/kernel" in t:
        x = stem(t, x)
    p, _, c, d = t["embedding/kernel"].shape
    b, h, w = len(x), x.shape[1] // p, x.shape[2] // p
    x = x.reshape(b, h, p, w, p, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h * w, p * p * c)
    x = x @ t["embedding/kernel"].reshape(-1, d) + t["embedding/bias"]
    position = next((n for n in (IN_MODULE, IN_ENCODER, ON_TOP) if n in t), None)
    if position is None:
        x = x + sincos(h, w, d)
    elif position == ON_TOP:
        x = x + t[position]
    if "cls" in t:
        x = np.concatenate([np.repeat(t["cls"], b, 0), x], 1)
    if position in (IN_MODULE, IN_ENCODER):
        x = x + t[position]
    norm_2, attend, mlp_block = PRE_LINEN if any("MlpBlock_3" in name for name in t) else LINEN
    depth = 1 + max(int(n.split("_")[1].split("/")[0]) for n in t if "encoderblock_" in n)
    for i in range(depth):
        block = f"Transformer/encoderblock_{i}"
        y = layer_norm(t, f"{block}/LayerNorm_0", x)
        x = x + attention(t, f"{block}/{attend}", y, y)
        x = x + mlp(t, f"{block}/{mlp_block}", layer_norm(t, f"{block}/{norm_2}", x))
    x = layer_norm(t, "Transformer/encoder_norm", x)
    inlined = "probe" in t
    if inlined or "MAPHead_0/probe" in t:
        head = "" if inlined else "MAPHead_0/"
        probe = np.repeat(t[f"{head}probe"], b, 0)
        x = attention(t, f"{head}MultiHeadDotProductAttention_0", probe, x)
        x = (x + mlp(t, f"{head}MlpBlock_0", layer_norm(t, f"{head}LayerNorm_0", x)))[:, 0]
    else:
        x = x[:, 0] if "cls" in t else x.mean(1)
    if "pre_logits/kernel" in t:
        x = np.tanh(dense(t, "pre_logits", x))
    return dense(t, "head", x)


def dense(t, name, x):
    return x @ t[f"{name}/kernel"] + t[f"{name}/bias"]


def layer_norm(t, name, x):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return x * t[f"{name}/scale"] + t[f"{name}/bias"]


def attention(t, name, queries, x):
    heads = probabilities(t, name, queries, x) @ project(t, f"{name}/value", x)
    return np.einsum("bhnk,hkd->bnd", heads, t[f"{name}/out/kernel"]) + t[f"{name}/out/bias"]


def probabilities(t, name, queries, x):
    q, k = project(t, f"{name}/query", queries), project(t, f"{name}/key", x)
    scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def project(t, name, x):
    return np.einsum("bnd,dhk->bhnk", x, t[f"{name}/kernel"]) + t[f"{name}/bias"][None, :, None]


def mlp(t, name, x):
    x = dense(t, f"{name}/Dense_0", x)
    x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return dense(t, f"{name}/Dense_1", x)


def sincos(h, w, d):
    omega = 1 / 10_000 ** (np.arange(d // 4) / (d // 4 - 1))
    y, x = (np.outer(axis.ravel(), omega) for axis in np.mgrid[:h, :w])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], 1)


def convolve(x, kernel, stride, pads):
    x = np.pad(x, [(0, 0), *pads, (0, 0)])
    size = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, size, (1, 2))[:, ::stride, ::stride]
    return np.einsum("bhwcij,ijco->bhwo", windows, kernel, optimize=True)


def max_pool(x, pads, value):
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=value)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2]
    return windows.max((-1, -2))


def same(x, size, stride):
    """TensorFlow's and JAX's SAME: an odd row goes to the end."""
    pads = []
    for n in x.shape[1:3]:
        total = max((-(-n // stride) - 1) * stride + size - n, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def group_norm(x, scale, bias, epsilon):
    b, h, w, c = x.shape
    groups = x.reshape(b, h * w, 32, c // 32)
    groups = groups - groups.mean((1, 3), keepdims=True)
    groups = groups / np.sqrt((groups**2).mean((1, 3), keepdims=True) + epsilon)
    return groups.reshape(x.shape) * scale.ravel() + bias.ravel()


def stem(t, x):
    def conv(name, x, stride=1):
        w = t[f"{name}/kernel"]
        w = (w - w.mean((0, 1, 2))) / (w.std((0, 1, 2)) + 1e-5)
        return convolve(x, w, stride, same(x, len(w), stride))

    def norm(name, x):
        return group_norm(x, t[f"{name}/scale"], t[f"{name}/bias"], 1e-6)

    x = np.maximum(norm("gn_root", conv("conv_root", x, 2)), 0)
    x = max_pool(x, same(x, 3, 2), -np.inf)
    for stage, unit in units_of(t, "block{}/unit{}/conv1/kernel"):
        at, stride = f"block{stage}/unit{unit}", 2 if stage > 1 and unit == 1 else 1
        y = np.maximum(norm(f"{at}/gn1", conv(f"{at}/conv1", x)), 0)
        y = np.maximum(norm(f"{at}/gn2", conv(f"{at}/conv2", y, stride)), 0)
        y = norm(f"{at}/gn3", conv(f"{at}/conv3", y))
        if unit == 1:
            x = norm(f"{at}/gn_proj", conv(f"{at}/conv_proj", x, stride))
        x = np.maximum(x + y, 0)
    return x


def bit(t, x):
    def conv(name, x, stride=1):
        w = t[f"{name}/standardized_conv2d/kernel"]
        w = (w - w.mean((0, 1, 2))) / np.sqrt(w.var((0, 1, 2)) + 1e-10)
        return convolve(x, w, stride, [(len(w) // 2,) * 2] * 2)

    def norm_relu(name, x):
        name = f"{name}/group_norm"
        return np.maximum(group_norm(x, t[f"{name}/gamma"], t[f"{name}/beta"], 1e-5), 0)

    x = max_pool(conv("resnet/root_block", x, 2), [(1, 1)] * 2, 0)
    for stage, unit in units_of(t, "resnet/block{}/unit{:02d}/a/group_norm/gamma"):
        at, stride = f"resnet/block{stage}/unit{unit:02d}", 2 if stage > 1 and unit == 1 else 1
        y = norm_relu(f"{at}/a", x)
        if unit == 1:
            x = conv(f"{at}/a/proj", y, stride)
        y = norm_relu(f"{at}/b", conv(f"{at}/a", y))
        y = norm_relu(f"{at}/c", conv(f"{at}/b", y, stride))
        x = x + conv(f"{at}/c", y)
    x = norm_relu("resnet", x).mean((1, 2))
    return x @ t["resnet/head/conv2d/kernel"][0, 0] + t["resnet/head/conv2d/bias"]


def units_of(t, name):
    """(stage, unit), from 1, of all that are there."""
    return [(s, u) for s in range(1, 9) for u in range(1, 99) if name.format(s, u) in t]


# Tensors of small models, as the published files name and shape them, with values that hide nothing.

WIDTH, HEADS, DEPTH, MLP, CLASSES = 48, 3, 2, 96, 5


def vit_shapes(
    numbering=PRE_LINEN,
    position=IN_MODULE,
    pooling="cls",
    hidden=None,
    units=None,
    patch=8,
    grid=4,
    norm_axes=(1, 1, 1),
    class_row=True,
):
    """Shapes by name; position: None for fixed sines; units: of a hybrid's stem."""
    norm_2, attend, mlp_block = numbering
    shapes, channels = {}, 3
    if units is not None:
        shapes["conv_root/kernel"], channels = (7, 7, 3, 64), 64
        _pair(shapes, "gn_root", (*norm_axes, 64))
        for stage, count in enumerate(units):
            inside = 64 * 2**stage
            for unit in range(1, count + 1):
                at = f"block{stage + 1}/unit{unit}"
                convs = {"1": (1, 1, channels, inside), "2": (3, 3, inside, inside)}
                convs["3"] = (1, 1, inside, 4 * inside)
                if unit == 1:
                    convs["_proj"] = (1, 1, channels, 4 * inside)
                for part, shape in convs.items():
                    shapes[f"{at}/conv{part}/kernel"] = shape
                    _pair(shapes, f"{at}/gn{part}", (*norm_axes, shape[-1]))
                channels = 4 * inside
    _layer(shapes, "embedding", (patch, patch, channels, WIDTH), (WIDTH,))
    if pooling == "cls":
        shapes["cls"] = (1, 1, WIDTH)
    if position:
        shapes[position] = (1, grid**2 + (pooling == "cls" and class_row), WIDTH)
    for i in range(DEPTH):
        block = f"Transformer/encoderblock_{i}"
        _pair(shapes, f"{block}/LayerNorm_0", (WIDTH,))
        _pair(shapes, f"{block}/{norm_2}", (WIDTH,))
        _attention(shapes, f"{block}/{attend}")
        _mlp(shapes, f"{block}/{mlp_block}")
    _pair(shapes, "Transformer/encoder_norm", (WIDTH,))
    if pooling in ("map", "inlined map"):
        head = "MAPHead_0/" if pooling == "map" else ""
        shapes[f"{head}probe"] = (1, 1, WIDTH)
        _attention(shapes, f"{head}MultiHeadDotProductAttention_0")
        _pair(shapes, f"{head}LayerNorm_0", (WIDTH,))
        _mlp(shapes, f"{head}MlpBlock_0")
    if hidden:
        _layer(shapes, "pre_logits", (WIDTH, hidden), (hidden,))
    _layer(shapes, "head", (hidden or WIDTH, CLASSES), (CLASSES,))
    return shapes


def bit_shapes(units, factor=1, suffix=""):
    """Shapes by name; suffix: that some files put behind the name of a convolution."""
    conv, channels = f"standardized_conv2d{suffix}/kernel", 64 * factor
    shapes = {f"resnet/root_block/{conv}": (7, 7, 3, channels)}
    for stage, count in enumerate(units):
        inside = 64 * factor * 2**stage
        for unit in range(1, count + 1):
            at = f"resnet/block{stage + 1}/unit{unit:02d}"
            if unit == 1:
                shapes[f"{at}/a/proj/{conv}"] = (1, 1, channels, 4 * inside)
            shapes[f"{at}/a/{conv}"] = (1, 1, channels, inside)
            shapes[f"{at}/b/{conv}"] = (3, 3, inside, inside)
            shapes[f"{at}/c/{conv}"] = (1, 1, inside, 4 * inside)
            for group, width in (("a", channels), ("b", inside), ("c", inside)):
                for part in ("gamma", "beta"):
                    shapes[f"{at}/{group}/group_norm/{part}"] = (width,)
            channels = 4 * inside
    shapes |= {f"resnet/group_norm/{part}": (channels,) for part in ("gamma", "beta")}
    _layer(shapes, "resnet/head/conv2d", (1, 1, channels, CLASSES), (CLASSES,))
    return shapes


def filled(shapes, seed=0):
    """Random float32 tensors, of the size that training gives them."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape) * 0.3
        if name.endswith("kernel"):
            inputs = shape[:-2] if "/out/" in name else shape[:1] if len(shape) == 3 else shape[:-1]
            value /= 0.3 * np.sqrt(np.prod(inputs))
        elif name.endswith(("scale", "gamma")):
            value += 1
        tensors[name] = value.astype(np.float32)
    return tensors


def _layer(shapes, name, kernel, bias):
    shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = kernel, bias


def _pair(shapes, name, shape):
    shapes[f"{name}/scale"] = shapes[f"{name}/bias"] = shape


def _attention(shapes, name):
    heads = (HEADS, WIDTH // HEADS)
    for part in ("query", "key", "value"):
        _layer(shapes, f"{name}/{part}", (WIDTH, *heads), heads)
    _layer(shapes, f"{name}/out", (*heads, WIDTH), (WIDTH,))


def _mlp(shapes, name):
    _layer(shapes, f"{name}/Dense_0", (WIDTH, MLP), (MLP,))
    _layer(shapes, f"{name}/Dense_1", (MLP, WIDTH), (WIDTH,))
