"""Tables of weights: what a tensor of another library is called, and which of ours it holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edge_demo.errors import UserError

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of theirs.

    theirs: its name.
    ours: the name of our weight; several lie behind each other along their first axis (a fused qkv).
    axes: the order of its axes that is ours; None is theirs.
    shape: its shape, where it is not ours with other axes: ours is reshaped to it, and back.
    """

    theirs: str
    ours: str | tuple[str, ...]
    axes: tuple[int, ...] | None = None
    shape: Shape | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Our names."""
        return (self.ours,) if isinstance(self.ours, str) else self.ours


def dense(theirs: str, ours: str, bias: bool = True) -> tuple[Row, ...]:
    """Rows of a torch `Linear`: [out, in] there, [in, out] here."""
    kernel = Row(f"{theirs}.weight", f"{ours}/kernel", (1, 0))
    return (kernel, Row(f"{theirs}.bias", f"{ours}/bias")) if bias else (kernel,)


def norm(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rows of a torch `LayerNorm`."""
    return Row(f"{theirs}.weight", f"{ours}/gamma"), Row(f"{theirs}.bias", f"{ours}/beta")


def convolution(theirs: str, ours: str) -> tuple[Row, ...]:
    """Rows of a torch `Conv2d`: [out, in, h, w] there, [h, w, in, out] here."""
    kernel = Row(f"{theirs}.weight", f"{ours}/kernel", (2, 3, 1, 0))
    return kernel, Row(f"{theirs}.bias", f"{ours}/bias")


def to_ours(
    rows: Iterable[Row],
    tensors: dict[str, np.ndarray],
    shapes: Callable[[str], Shape],
    where: str,
) -> dict[str, np.ndarray]:
    """Our float32 weights from their tensors.

    tensors: emptied of what is in the table, so that a large model is not held twice.
    shapes: of our weights, by name. where: of the file, for messages.
    Raises UserError, naming both sides, for a tensor that is missing or does not fit.
    """
    found = {}
    for row in rows:
        if row.theirs not in tensors:
            raise UserError(f"{where}: weight {row.theirs} is missing")
        value = tensors.pop(row.theirs)
        expected = their_shape(row, shapes)
        if value.shape != expected:
            raise UserError(
                f"{where}: weight {row.theirs} is {value.shape}; "
                f"{' + '.join(row.names)} of this model takes {expected}"
            )
        parts = np.split(value, len(row.names)) if len(row.names) > 1 else [value]
        for name, part in zip(row.names, parts):
            part = part.astype(np.float32, copy=False)
            part = part.transpose(row.axes) if row.axes else part
            found[name] = np.ascontiguousarray(part.reshape(shapes(name)))
    return found


def to_theirs(rows: Iterable[Row], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Their tensors, float32, from our weights: the inverse of `to_ours`, to the bit."""
    found = {}
    for row in rows:
        parts = [weights[name] for name in row.names]
        if row.axes:
            parts = [part.transpose(np.argsort(row.axes)) for part in parts]
        value = np.concatenate(parts) if len(parts) > 1 else parts[0]
        found[row.theirs] = np.ascontiguousarray(value.reshape(row.shape or value.shape))
    return found


def their_shape(row: Row, shapes: Callable[[str], Shape]) -> Shape:
    """The shape that a row's tensor has in a model whose weights have `shapes`."""
    if row.shape:
        return row.shape
    ours = shapes(row.names[0])
    theirs = tuple(ours[i] for i in np.argsort(row.axes)) if row.axes else tuple(ours)
    return (len(row.names) * theirs[0], *theirs[1:])
