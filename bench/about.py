"""What a benchmark ran on: printed under every table."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_fp16", "avx512_bf16")
INSTRUCTIONS += ("amx_bf16", "amx_int8", "asimddp", "i8mm", "bf16", "sve")
VERSIONED = ("ai-edge-litert", "ai-edge-quantizer", "tensorflow", "onnxruntime", "openvino", "nncf")


def facts() -> dict:
    """Machine and versions, for JSON."""
    return {"machine": machine(), "versions": versions()}


def lines() -> str:
    """Machine and versions, for people."""
    return f"{machine()}\n" + ", ".join(map(" ".join, versions().items()))


def machine() -> str:
    """Processor, cores and the instructions that matter here, as Linux tells them."""
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text().splitlines()
        told = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in text)}
        flags = (told.get("flags") or told.get("Features") or "").split()
        known = " ".join(name for name in INSTRUCTIONS if name in flags)
        processor = told.get("model name") or platform.machine()
        return f"{processor}, {os.cpu_count()} cores, {known}; {platform.system()}"
    return (
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {platform.system()}"
    )


def versions() -> dict[str, str]:
    """Of Python and of the packages that are measured."""
    found = {"python": platform.python_version()}
    for package in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
