"""The peers: how each makes its files from the same model, the way its own documentation says.

A peer's best is what is measured. Tried and left out because they were slower here: ONNX Runtime's
transformers optimizer (0.85-0.95x of its float32, 0.75x of its dynamic int8), int8 activations that are
signed, int8 of all operators instead of MatMul, Gemm and Conv; OpenVINO's float16 hint, weight-only
int8, NNCF's int8 with float32 for the rest.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ours import ours
from random_vit import RandomViT

from edge_demo.quiet import quiet


@dataclasses.dataclass(frozen=True)
class Engine:
    """A file and what runs it.

    runtime: of `engine.RUNTIMES`, with its options. layout: of its input, of `LAYOUTS`.
    """

    name: str
    runtime: str
    path: Path
    layout: str
    options: dict = dataclasses.field(default_factory=dict)


# layout -> its array of uint8 [n, height, width, 3]
LAYOUTS: dict[str, Callable[[RandomViT, np.ndarray], np.ndarray]] = {
    "pixels": lambda model, pixels: pixels.astype(np.float32),
    "nhwc": lambda model, pixels: model.normalise(pixels),
    "nchw": lambda model, pixels: model.normalise(pixels).transpose(0, 3, 1, 2).copy(),
}


def our_files(model: RandomViT, pixels: np.ndarray, folder: Path) -> list[Engine]:
    return [
        _written(f"tfvit {scheme}", folder / f"ours-{scheme}.tflite", content, "pixels")
        for scheme, content in ours(model, pixels).items()
    ]


def tensorflow_files(model: RandomViT, pixels: np.ndarray, folder: Path) -> list[Engine]:
    from stock_tf import files

    return [
        _written(f"TF converter {kind}", folder / f"stock-{kind}.tflite", content, "nhwc")
        for kind, content in files(model, LAYOUTS["nhwc"](model, pixels)).items()
    ]


def onnxruntime_files(model: RandomViT, pixels: np.ndarray, folder: Path) -> list[Engine]:
    """float32; dynamic and static (QDQ) int8, weights per channel.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    paths = {kind: folder / f"{kind}.onnx" for kind in ("prepared", "dynamic", "static")}
    images = iter(LAYOUTS["nchw"](model, pixels))

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict | None:
            image = next(images, None)
            return None if image is None else {"image": image[np.newaxis]}

    common = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
    with quiet():
        quant_pre_process(str(_onnx(model, folder)), str(paths["prepared"]))
        quantization.quantize_dynamic(
            *(paths["prepared"], paths["dynamic"]),
            op_types_to_quantize=["MatMul", "Gemm"],
            extra_options={"MatMulConstBOnly": True},
            **common,
        )
        quantization.quantize_static(
            *(str(paths["prepared"]), str(paths["static"]), Reader()),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            **common,
        )
    return [
        Engine("ONNX Runtime float32", "onnxruntime", _onnx(model, folder), "nchw"),
        Engine("ONNX Runtime dynamic int8", "onnxruntime", paths["dynamic"], "nchw"),
        Engine("ONNX Runtime QDQ int8", "onnxruntime", paths["static"], "nchw"),
    ]


def openvino_files(model: RandomViT, pixels: np.ndarray, folder: Path) -> list[Engine]:
    path = _onnx(model, folder)
    return [
        Engine(f"OpenVINO {name}", "openvino", path, "nchw", {"INFERENCE_PRECISION_HINT": hint})
        for name, hint in (("float32", "f32"), ("bfloat16", "bf16"))
    ]


def nncf_files(model: RandomViT, pixels: np.ndarray, folder: Path) -> list[Engine]:
    """int8 by post-training quantization; what is not int8 in the precision that OpenVINO chooses.

    Source: https://docs.openvino.ai, "Basic quantization flow", model_type=TRANSFORMER
    """
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    images = list(LAYOUTS["nchw"](model, pixels))
    with quiet():
        quantized = nncf.quantize(
            ov.Core().read_model(_onnx(model, folder)),
            nncf.Dataset(images, lambda image: image[np.newaxis]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
        )
    ov.save_model(quantized, folder / "nncf.xml")
    return [Engine("OpenVINO NNCF int8", "openvino", folder / "nncf.xml", "nchw")]


# maker -> (modules that it needs, how its files are made from model, uint8 pixels and a folder)
SUPPLIERS: dict[str, tuple[tuple[str, ...], Callable]] = {
    "tfvit": ((), our_files),
    "TF converter": ((), tensorflow_files),
    "ONNX Runtime": (("onnx", "onnxruntime", "sympy"), onnxruntime_files),
    "OpenVINO": (("onnx", "openvino"), openvino_files),
    "NNCF": (("onnx", "openvino", "nncf"), nncf_files),
}


def missing(modules: tuple[str, ...]) -> list[str]:
    """Those of some modules that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _written(name: str, path: Path, content: bytes, layout: str) -> Engine:
    path.write_bytes(content)
    return Engine(name, "litert", path, layout)


def _onnx(model: RandomViT, folder: Path) -> Path:
    import onnx
    import vit_onnx

    path = folder / "float32.onnx"
    if not path.exists():
        onnx.save(vit_onnx.model(model.weights, model.architecture), path)
    return path
