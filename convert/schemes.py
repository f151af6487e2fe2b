"""One table: what each kind of file holds and how it is made."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Scheme:
    """name: also the file's name. bits: of the quantized layers' weights and activations; None is float.

    summary: one line for people.
    """

    name: str
    bits: int | None
    summary: str


SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("float32", None, "the edge graph as it is: the reference for the others"),
        Scheme(
            "int8",
            8,
            "dense layers in int8, weights per channel, by quantization-aware fine-tuning; "
            "LayerNorm, softmax, GELU, residuals and the head float",
        ),
    )
}
