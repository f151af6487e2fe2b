"""What figures are measured on, and what may slow it down."""

from __future__ import annotations

import os
import platform
import sys
import zlib
from pathlib import Path

CPU_ZONES = ("cpu", "soc", "pkg")  # in the types of thermal zones that are the processor's


# What of /proc/cpuinfo decides which instructions are used, on x86 and on ARM.
INSTRUCTIONS = ("vendor_id", "cpu family", "model", "flags")
INSTRUCTIONS += ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")


def instructions() -> str:
    """Eight digits that tell processors apart by what they can do."""
    told = (_read(Path("/proc/cpuinfo")) or platform.processor()).splitlines()
    kinds = {line for line in told if line.partition(":")[0].strip() in INSTRUCTIONS}
    parts = (platform.machine(), sys.maxsize, *sorted(kinds or told))
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def describe() -> dict:
    """processor, threads, system."""
    told = (_read(Path("/proc/cpuinfo")) or "").splitlines()
    names = [line.partition(":")[2].strip() for line in told if line.startswith("model name")]
    board = (_read(Path("/proc/device-tree/model")) or "").strip("\0")  # where ARM tells no name
    name = next(filter(None, (*names, board, platform.processor(), platform.machine())), "")
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return {"processor": name, "threads": os.cpu_count(), "system": system}


def state(system: Path = Path("/sys")) -> dict[str, str | float]:
    """governor; ghz and max_ghz, of the slowest core; celsius, of the hottest part of the processor.

    What the system does not tell is left out. A hot or throttled processor is why figures are bad.
    """
    found: dict[str, str | float] = {}
    cores = sorted((system / "devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = {_read(core / "scaling_governor") for core in cores} - {None}
    if governors:
        found["governor"] = ", ".join(sorted(governors))
    for name, file in (("ghz", "scaling_cur_freq"), ("max_ghz", "cpuinfo_max_freq")):
        values = [_number(core / file) for core in cores]
        if values and None not in values:
            found[name] = min(values) / 1e6
    zones = (system / "class/thermal").glob("thermal_zone*")
    hot = [_number(z / "temp") for z in zones if _is_processor(_read(z / "type") or "")]
    if any(hot):
        found["celsius"] = max(filter(None, hot)) / 1e3
    return found


def in_words(machine: dict, now: dict) -> str:
    """`describe` and `state` as one line."""
    parts = [f"{machine['processor']}, {machine['threads']} threads, {machine['system']}"]
    if "governor" in now:
        parts.append(f"governor {now['governor']}")
    if "ghz" in now:
        most = f" of {now['max_ghz']:.2f}" if "max_ghz" in now else ""
        parts.append(f"{now['ghz']:.2f}{most} GHz")
    if "celsius" in now:
        parts.append(f"{now['celsius']:.0f} °C")
    return "; ".join(parts)


def _is_processor(zone: str) -> bool:
    return any(part in zone.lower() for part in CPU_ZONES)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_read(path) or "")
    except ValueError:
        return None
