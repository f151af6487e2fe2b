"""Figures for people."""

from __future__ import annotations


def table(rows: list[list[str]], header: list[str], left: int = 1) -> str:
    """Rows of text as a table; the first `left` columns left, the others right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(row: list[str]) -> str:
        sides = [str.ljust] * left + [str.rjust] * (len(row) - left)
        cells = [side(cell, width) for side, cell, width in zip(sides, row, widths)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def percent(share: float | None, spread: float | None = None) -> str:
    """0.9731 as "97.31 %", with a spread of 0.02 as "97.31 ± 2.00 %"; None as "-"."""
    if share is None:
        return "-"
    return f"{100 * share:.2f} %" if spread is None else f"{100 * share:.2f} ± {100 * spread:.2f} %"


def scaled(value: float) -> str:
    """17580000000 as "17.58 G"."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 1000 or prefix == "E":
            return f"{value:.4g} {prefix}"
        value /= 1000
    raise AssertionError
