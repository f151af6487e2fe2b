"""What `tfvit eval --corruptions` prints and writes of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_demo import files
from edge_demo.errors import UserError
from edge_demo.tables import percent, table
from tfvit.options import name_unreadable

if TYPE_CHECKING:
    from tfvit.data import Source
    from tfvit.evaluate.robustness import Difference


def compare(
    models: Sequence[Path],
    source: Source,
    *,
    kinds: str,
    images: int | None,
    seed: int,
    batch_size: int,
    threads: int | None,
    strict: bool,
    json_file: Path | None,
) -> None:
    """Measures models on corrupted pictures; kinds: names, or "all". The rest are options of the command."""
    from tfvit.evaluate import corruptions, robustness

    names = corruptions.named(kinds)
    subjects = {str(path): robustness.subject(path, threads) for path in models}
    found, unreadable = robustness.measure(
        subjects, source, names, images=images, seed=seed, batch_size=batch_size
    )
    if strict and unreadable:
        raise UserError(next(iter(unreadable.values())))
    first, *others = found.items()
    differences = {name: result.against(first[1]) for name, result in others}
    rows = [
        [
            kind.replace("_", " "),
            *(percent(sum(r.levels[kind]) / len(r.levels[kind])) for r in found.values()),
        ]
        for kind in names
    ]
    rows.append(["mean", *(percent(result.corrupted) for result in found.values())])
    rows.append(["clean", *(percent(result.clean) for result in found.values())])
    click.echo(table(rows, ["corruption", *found]))
    count = first[1].right.shape[1]
    click.echo(
        f"\n{source.name}: top-1 on {count} images ({source.eval.name}), mean over 5 levels, seed {seed}"
    )
    for name, costs in differences.items():
        in_words = ", ".join(f"{_points(cost)} {which}" for which, cost in costs.items())
        click.echo(f"{name} against {first[0]}, points: {in_words}")
    if json_file:
        content = {
            **{"data": source.name, "split": source.eval.name, "images": count, "seed": seed},
            "models": {name: result.to_json() for name, result in found.items()},
            "against": {
                "model": first[0],
                "differences": {
                    name: {k: vars(v) for k, v in d.items()} for name, d in differences.items()
                },
            },
            "unreadable": sorted(unreadable),
        }
        files.write_json(json_file, content)
    name_unreadable(unreadable)


def _points(found: Difference) -> str:
    """-0.012 and 0.003 as "-1.20 ± 0.30"."""
    spread = "" if found.error is None else f" ± {100 * found.error:.2f}"
    return f"{100 * found.mean:+.2f}{spread}"
