"""Thousands of damaged image files through the command: each is read or named, and nothing else happens."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import BIN
from PIL import Image

FORMATS = {
    "jpg": {"format": "JPEG", "quality": 80},
    "progressive.jpg": {"format": "JPEG", "progressive": True},
    "png": {"format": "PNG"},
    "palette.png": {"format": "PNG"},
    "webp": {"format": "WEBP"},
    "lossless.webp": {"format": "WEBP", "lossless": True},
    "bmp": {"format": "BMP"},
}
MIB = 2**20


@pytest.fixture(scope="module")
def good(sample_photos):
    """A small picture in each format, the JPEG with EXIF."""
    picture = sample_photos["flower"].crop((200, 100, 296, 164))
    found = {}
    for name, options in FORMATS.items():
        buffer, changed = io.BytesIO(), picture.quantize(16) if "palette" in name else picture
        if name == "jpg":
            exif = Image.Exif()
            exif[0x0112] = 6
            options = options | {"exif": exif}
        changed.save(buffer, **options)
        found[name] = buffer.getvalue()
    return found


def damaged(data, rng):
    """A file with one to some of what happens to files: cut, bits, bytes, numbers, parts moved."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        size = len(data)
        kind = rng.integers(7)
        # Headers are short and decide the most: half of the damage goes there.
        place = int(rng.integers(min(size, 80) if rng.random() < 0.5 else size)) if size else 0
        if kind == 0:
            del data[place:]
        elif kind == 1 and size:
            data[place] ^= 1 << rng.integers(8)
        elif kind == 2:
            data[place : place + 8] = rng.bytes(int(rng.integers(0, 9)))
        elif kind == 3:
            extreme = [0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF][rng.integers(6)]
            data[place : place + 4] = struct.pack("><"[rng.integers(2)] + "I", extreme)
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 200))]
        elif kind == 5:
            data[place:place] = data[: int(rng.integers(1, 200))]
        else:
            data[place:place] = bytes(int(rng.integers(1, 200)))
    return bytes(data)


def high_water(pid):
    """The most memory that a process has had, in bytes; None if it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    lines = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(lines[0]) if lines else None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_damaged_files_are_read_or_named(int8, good, tmp_path, count):
    rng = np.random.default_rng(0)
    for number in range(count):
        name, data = list(good.items())[number % len(good)]
        (tmp_path / f"{number:05}.{name}").write_bytes(damaged(data, rng))
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        running = subprocess.Popen(
            [BIN / "edge-demo", int8, "--source", tmp_path, "--json"], stdout=out, stderr=err
        )
        peak = 0
        while running.poll() is None:
            peak = high_water(running.pid) or peak
            time.sleep(0.05)
    errors = (tmp_path / "err").read_text().splitlines()
    assert running.returncode == 0, errors[-3:]
    rows = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    unread = int(next(line for line in errors if line.startswith("skipped ")).split()[1])
    assert len(rows) + unread == count
    assert count / 10 < len(rows) < count  # the damage is neither nothing nor everything
    named = [line for line in errors if line.startswith(f"  {tmp_path}")]
    assert len(named) == min(unread, 100)
    assert all(line.partition(": ")[2] for line in named)
    print(f"{len(rows)} of {count} read, peak {peak / MIB:.0f} MiB")
    assert not any("Traceback" in line or "Warning" in line for line in errors)
    for row in rows:
        assert sum(top["score"] for top in row["top"]) <= 1.001 and 0 < row["score"] <= 1
    assert 30 * MIB < peak < 600 * MIB  # a header may ask for a picture of 100 megapixels
