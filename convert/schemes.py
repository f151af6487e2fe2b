"""One table: what each kind of file holds and how it is made."""

from __future__ import annotations

import dataclasses

from edge_demo.errors import UserError

FLOAT, DYNAMIC, MIXED, INTEGER = "float", "dynamic", "mixed", "integer"
CALIBRATIONS = ("minmax", "average", "percentile")  # how `qat.calibrate` takes ranges
BLOCK = 32  # inputs that share a scale in a block-wise int4 kernel: the smallest that XNNPACK takes


@dataclasses.dataclass(frozen=True)
class Scheme:
    """name: also the file's name.

    weights: type of the kernels in the file.
    activations: FLOAT; DYNAMIC, rounded to int8 row by row as they come, no data needed; MIXED, int8
        with calibrated ranges in the dense layers and the attention's products, float elsewhere;
        INTEGER, int8 everywhere.
    steps, learning_rate: of quantization-aware fine-tuning; 0 steps: there is none. The rate is the
        peak, relative to the size of each weight.
    summary: one line for people.
    """

    name: str
    weights: str
    activations: str
    steps: int
    learning_rate: float
    summary: str

    @property
    def calibrated(self) -> bool:
        """Whether it holds ranges of activations, which only data can tell."""
        return self.activations in (MIXED, INTEGER)

    @property
    def needs_data(self) -> bool:
        """Whether there is nothing to write without training images."""
        return self.calibrated or self.steps > 0


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "float32", "float32", FLOAT, 0, 0.0, "the edge graph as it is: what others are held to"
        ),
        Scheme("float16", "float16", FLOAT, 0, 0.0, "weights of half the size, computed in float"),
        Scheme("dynamic", "int8", DYNAMIC, 0, 0.0, "int8 weights per channel, no data needed"),
        Scheme(
            "int8",
            "int8",
            MIXED,
            200,
            3e-5,
            "dense layers and attention products in int8; LayerNorm, softmax, residuals, head float",
        ),
        Scheme(
            "int8-full",
            "int8",
            INTEGER,
            300,
            3e-5,
            "every op an integer one, uint8 in and out: for NPUs and microcontrollers",
        ),
        Scheme(
            "int4-dynamic",
            "int4",
            DYNAMIC,
            300,
            1e-4,
            "int4 weights in blocks of 32, the smallest file",
        ),
    )
}

# name: why it is not offered
REFUSED = {
    "int8x16": "TFLite has no int16 kernel for SQUARED_DIFFERENCE, RSQRT or batch matrix products of "
    "this graph that is not a reference one: 30 times slower than float where it runs at all",
    "int4": "int4 activations have no kernels in LiteRT; int4-dynamic has int4 weights",
    "bfloat16": "LiteRT's CPU kernels do not compute in bfloat16; take float16 for half the size",
}
REFUSED.update(dict.fromkeys(("16x8", "int16x8", "int16"), REFUSED.pop("int8x16")))


def blockwise(scheme: Scheme, dense: str, inputs: int) -> bool:
    """Whether a dense layer's kernel is int4 in blocks; else it is int8 per channel.

    The first and the last layer are not: they are small, and nothing else makes up for their error.
    """
    return scheme.weights == "int4" and dense not in ("embedding", "head") and inputs % BLOCK == 0


def parse(names: str) -> list[Scheme]:
    """Schemes of "int8,dynamic"; UserError names one that is unknown or cannot work, with the reason."""
    chosen = []
    for name in dict.fromkeys(part.strip() for part in names.split(",")):
        if name in REFUSED:
            raise UserError(f"scheme {name} cannot work: {REFUSED[name]}")
        if name not in SCHEMES:
            raise UserError(f"unknown scheme {name!r}; known are {', '.join(SCHEMES)}")
        chosen.append(SCHEMES[name])
    return chosen
