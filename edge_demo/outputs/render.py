"""What was seen in a picture, as a line or some lines of text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

from edge_demo.results import Result
from edge_demo.scores import PRESENT

CSV_COLUMNS = ("source", "frame", "time", "label", "score", "inference_ms", "age_ms")


def fields(result: Result, top: int) -> dict:
    """What `json_line` writes: the source, the label and the `top` best ones, milliseconds."""
    frame, when = result.frame, "seconds" if result.age is None else "time"
    found = {
        "source": frame.source,
        **({} if frame.number is None else {"frame": frame.number}),
        **({} if frame.time is None else {when: round(result.time, 3)}),
        "label": result.label,
        "score": round(result.score, 6),
        "top": [{"label": label, "score": round(score, 6)} for label, score in result.ranked[:top]],
    }
    if result.several:
        found["labels"] = [label for label, score in result.ranked if score >= PRESENT]
    found["milliseconds"] = {stage: round(ms, 3) for stage, ms in result.milliseconds.items()}
    if result.age is not None:
        found["milliseconds"]["age"] = round(result.age, 3)
    return found


def json_line(result: Result, top: int) -> str:
    """One JSON object with the `top` best labels."""
    return json.dumps(fields(result, top), ensure_ascii=False)


def csv_line(result: Result, top: int) -> str:
    """The `CSV_COLUMNS`, quoted where they must be."""
    frame, age = result.frame, result.age
    values = [
        *(frame.source, frame.number, None if frame.time is None else f"{result.time:.3f}"),
        *(result.label, f"{result.score:.6f}", f"{result.milliseconds['inference']:.3f}"),
        None if age is None else f"{age:.3f}",
    ]
    buffer = io.StringIO()
    csv.writer(buffer).writerow(values)  # which quotes what is in its line ends, too
    return buffer.getvalue().removesuffix("\r\n")


def bars(result: Result, top: int) -> str:
    """The `top` best labels for people; a star marks those that are there."""
    total, inference = sum(result.milliseconds.values()), result.milliseconds["inference"]
    late = "" if result.age is None else f", age {result.age:.0f} ms"
    head = f"{result.frame}  ({total:.1f} ms, inference {inference:.1f} ms{late})"
    if result.label != result.ranked[0][0]:
        head += f": {result.label}"
    return f"{head}\n{bar_lines(result, top)}"


def bar_lines(result: Result, top: int) -> str:
    """A line with a bar for each of the `top` best labels."""
    width, lines = max(len(label) for label, _ in result.ranked), []
    for label, score in result.ranked[:top]:
        star = "*" if result.several and score >= PRESENT else " "
        bar = "█" * round(30 * score)
        lines.append(f"{star} {label:<{width}}  {100 * score:5.1f} %  {bar}".rstrip())
    return "\n".join(lines)


FORMATS: dict[str, Callable[[Result, int], str]] = {
    "bars": bars,
    "json": json_line,
    "csv": csv_line,
}
HEADS = {"csv": ",".join(CSV_COLUMNS)}  # form -> what comes before its first line
