"""`edge-demo benchmark`: how fast .tflite files are on this device."""

from __future__ import annotations

import os
from pathlib import Path

import click

from edge_demo.commands.options import json_option
from edge_demo.errors import GateError, UserError
from edge_demo.option_types import Counts, Number

# heading -> (key of `edge_demo.measure.benchmark.measure`, how it is written)
COLUMNS = {
    "p50": ("p50_ms", "{:.3g} ms"),
    "p90": ("p90_ms", "{:.3g} ms"),
    "p99": ("p99_ms", "{:.3g} ms"),
    "per second": ("per_second", "{:.1f}"),
    "speed": ("speed", "{:.2f}x"),
    "start-up": ("start_up_ms", "{:.0f} ms"),
    "load": ("load_ms", "{:.3g} ms"),
    "peak": ("peak_mib", "{:.1f} MiB"),
    "of the file": ("above_mib", "{:.1f} MiB"),
}
MOST_OPERATIONS = 15  # that are shown one by one
EXAMPLES = """\b
Examples:
  edge-demo benchmark float32.tflite int8.tflite
  edge-demo benchmark int8.tflite --threads 1,2,4 --seconds 10 --json speed.json
  edge-demo benchmark int8.tflite --profile
  edge-demo benchmark int8.tflite mobilenet.tflite
"""


@click.command(epilog=EXAMPLES, short_help="Compare the speed and memory of files.")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--threads",
    type=Counts(),
    default=lambda: tuple(dict.fromkeys((1, os.cpu_count() or 1))),
    help="CPU threads, one number or several with commas.  [default: 1 and all]",
)
@click.option(
    "--seconds",
    default=5.0,
    show_default=True,
    type=Number(0, 3600, min_open=True),
    help="Of measuring, per file and number of threads.",
)
@click.option(
    "--profile", "with_profile", is_flag=True, help="Say which operations the time goes to."
)
@json_option
def benchmark(models, threads, seconds, with_profile, json_file):
    """Measure MODELS, any .tflite files, and compare them with the first.

    Latency (median, 90th and 99th percentile), runs per second, time from the start of a process to its
    first result and the part of it that is loading, peak memory. Each file has a process of its own, and
    all take turns. One that does not run is named with the reason, and the exit code is 3.
    """
    from edge_demo import files, machine
    from edge_demo.measure import benchmark as timing

    for path in models:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    models = list(dict.fromkeys(models))
    entries = timing.measure(models, threads, seconds)
    found = {"machine": machine.describe(), "state": machine.state(), "runs": entries}
    failed = {entry["file"]: entry["error"] for entry in entries if "error" in entry}
    if with_profile:
        profiled = [path for path in models if str(path) not in failed]
        found["profiles"] = {str(path): _profile(path, threads[0], seconds) for path in profiled}
    click.echo(_comparison(entries))
    click.echo(machine.in_words(found["machine"], found["state"]))
    for path, reason in failed.items():
        click.echo(f"{path}: {reason}")
    for path, entry in found.get("profiles", {}).items():
        click.echo(f"\n{path}, {_operations(entry)}")
    if json_file:
        files.write_json(json_file, found)
    if failed:
        raise GateError(f"{len(failed)} of {len(models)} files do not run here")


def _comparison(entries: list[dict]) -> str:
    from edge_demo.tables import table

    def cell(entry: dict, key: str, form: str) -> str:
        value = entry.get(key)
        return "-" if value is None else form.format(value)

    rows = [
        [
            entry["file"] + (" (fails)" if "error" in entry else ""),
            str(entry["threads"]),
            *(cell(entry, *column) for column in COLUMNS.values()),
            f"{entry['bytes'] / 1e6:.2f} MB",
        ]
        for entry in entries
    ]
    return table(rows, ["file", "threads", *COLUMNS, "size"])


def _profile(path: Path, threads: int, seconds: float) -> dict:
    """What each kind of operation takes, or why that is not known; and what XNNPACK takes of the file."""
    from edge_demo.measure import runner

    try:
        times = runner.profile(path, threads, seconds)
    except GateError as error:
        times = {"unknown": str(error).removeprefix(f"{path.name}: ")}
    try:
        return {"threads": threads, **times, "delegation": runner.delegation(path)}
    except GateError:
        return {"threads": threads, **times, "delegation": None}


def _operations(entry: dict) -> str:
    from edge_demo.tables import percent, table

    divided = entry["delegation"]
    if "unknown" in entry:
        lines = [f"the runtime gives no times of operations ({entry['unknown']})"]
    else:
        whole = entry["milliseconds"]
        known = entry["operations"]
        shown, others = known[:MOST_OPERATIONS], known[MOST_OPERATIONS:]
        rows = [[o["op"], o["by"], o["count"], o["milliseconds"]] for o in shown]
        if others:
            count, ms = (sum(o[key] for o in others) for key in ("count", "milliseconds"))
            rows.append(["others", "", count, ms])
        rows.append(["between them", "", "", whole - sum(o["milliseconds"] for o in known)])
        cells = [[op, by, str(n), f"{ms:.3f} ms", percent(ms / whole)] for op, by, n, ms in rows]
        header = ["operation", "by", "count", "time", "share"]
        count = entry["threads"]
        lines = [
            f"{whole:.3g} ms a run with the profiler, {count} thread{'s' * (count > 1)}:",
            table(cells, header, left=2),
        ]
    if divided:
        parts = divided["partitions"]
        lines.append(
            f"XNNPACK takes {divided['delegated']} of {divided['operations']} operations of the file, "
            f"in {parts} part{'s' * (parts != 1)}."
        )
        rows = [[r["op"], r["type"], r["reason"] or "-", str(r["count"])] for r in divided["rest"]]
        if rows:
            lines.append(table(rows, ["left to LiteRT", "type", "why", "count"], left=3))
    return "\n".join(lines)
