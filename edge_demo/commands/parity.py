"""`edge-demo parity`: whether this device computes what the export did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from edge_demo.commands.options import json_option, threads_option
from edge_demo.errors import GateError, UserError

EXAMPLES = """\b
Examples:
  edge-demo parity exported/
  edge-demo parity exported/report.json --file int8.tflite
  edge-demo parity exported/ --json parity.json
"""


@click.command(epilog=EXAMPLES, short_help="Check that this device computes what the export did.")
@click.argument("report", type=click.Path(path_type=Path))
@click.option("--file", "names", multiple=True, help="Check this file only; may be repeated.")
@threads_option
@json_option
def parity(report, names, threads, json_file):
    """Check that this device computes what `tfvit convert` computed where it wrote REPORT.

    REPORT is a report.json, or the exported folder. Of every file in it: is it the same file, are the
    reference pictures decoded and resized to the same pixels, are their logits the same? Ends with exit
    code 3 where something differs.
    """
    from edge_demo import files, machine
    from edge_demo.measure import parity as check
    from edge_demo.progress import progress
    from edge_demo.tables import table

    references = check.read(report)
    for name in names:
        if name not in references:
            known = ", ".join(references)
            raise UserError(f"{report}: no file {name!r} in it; there are {known}")
    chosen = [references[name] for name in dict.fromkeys(names or references)]
    for reference in chosen:
        absent = check.missing(reference)
        if absent:
            rest = " or name the others with --file" if absent == reference.path else ""
            raise UserError(f"{absent}: not there; copy the whole exported folder{rest}")
    with progress(chosen, "checking") as bar:
        verdicts = [check.check(reference, threads) for reference in bar]
    differing = [verdict for verdict in verdicts if verdict.differs]
    rows = [
        [
            verdict.file,
            "differs" if verdict.differs else "agrees",
            "same" if verdict.same_file else "other",
            "-" if verdict.grey_levels is None else str(verdict.grey_levels),
            "-" if verdict.logits is None else f"{100 * verdict.logits:.4f} %",
            f"{100 * verdict.tolerance:.2f} %",
            "-"
            if verdict.same_answers is None
            else f"{verdict.same_answers} of {verdict.pictures}",
        ]
        for verdict in verdicts
    ]
    header = ["file", "verdict", "sha256", "grey levels", "logits", "allowed", "same answers"]
    click.echo(table(rows, header, left=2))
    for verdict in differing:
        click.echo(f"{verdict.file}: {'; '.join(verdict.differs)}")
    if json_file:
        entries = [dataclasses.asdict(verdict) for verdict in verdicts]
        found = {"machine": machine.describe(), "files": entries, "agrees": not differing}
        files.write_json(json_file, found)
    if differing:
        raise GateError(
            f"{len(differing)} of {len(verdicts)} files differ here from what they were"
        )
