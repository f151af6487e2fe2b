"""`edge-demo` left running: memory, delay, and a stream that is restarted again and again."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from helpers import BIN
from network_camera import RATE, Camera

pytest.importorskip("av")
MIB = 2**20
AWAY = 0.2  # seconds that the stream is gone for
# seconds in all, seconds of settling that are not looked at, restarts
SHORT, LONG = (30, 10, 2), (1800, 60, 10)


@pytest.fixture(scope="module")
def pictures(sample_photos):
    """A second of a 640x480 camera that pans over a photo, as JPEG."""
    photo = sample_photos["china"].resize((960, 640))
    found = []
    for number in range(RATE):
        left = round(320 * abs(1 - 2 * number / RATE))
        buffer = io.BytesIO()
        photo.crop((left, 80, left + 640, 560)).save(buffer, "JPEG", quality=80)
        found.append(buffer.getvalue())
    return found


def resident(process):
    """Bytes of memory of a process."""
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("seconds", "settling", "restarts"),
    [SHORT, pytest.param(*LONG, marks=[pytest.mark.long, pytest.mark.timeout(2400)])],
)
def test_it_runs_on_without_growing(int8, pictures, seconds, settling, restarts, record_property):
    def camera(port=0):
        return Camera(port, lambda number: pictures[number % len(pictures)])

    stream, found = camera(), []
    running = subprocess.Popen(
        [BIN / "edge-demo", int8, "--source", stream.address, "--json", "--smooth", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def read():
        for line in running.stdout:
            row = json.loads(line)
            found.append((time.monotonic(), row["frame"], row["milliseconds"]["age"]))

    reader = threading.Thread(target=read)
    reader.start()
    began, port = time.monotonic(), stream.server_port
    memory, restarted, counts = [], [], []
    due = list(began + seconds * np.arange(1, restarts + 1) / (restarts + 1))
    while time.monotonic() < began + seconds:
        time.sleep(1)
        memory.append((time.monotonic() - began, resident(running)))
        if due and time.monotonic() > due[0]:
            restarted.append(due.pop(0))
            counts.append(len(found))
            stream.stop()
            time.sleep(AWAY)
            stream = camera(port)
    assert running.poll() is None
    running.terminate()
    reader.join(60)
    errors = running.communicate(timeout=60)[1]
    stream.stop()
    assert running.returncode == 0, errors
    assert errors.count("back") == len(restarted) == restarts
    assert "Traceback" not in errors

    later = np.array([(at, bytes_) for at, bytes_ in memory if at > settling])
    first, last = (np.median(part) for part in np.array_split(later[:, 1], 4)[::3])
    times, numbers, ages = np.array(found).T
    late = times - began > settling
    # Of the quickest tenth: what keeps frames back delays these, too, and other work does not.
    early_age, late_age = (np.percentile(part, 10) for part in np.array_split(ages[late], 4)[::3])
    figures = {
        "frames": int(numbers[-1] + 1),
        "results": len(found),
        "memory_mib": [round(float(n) / MIB, 1) for n in (first, last, later[:, 1].max())],
        "age_ms": [
            round(float(n), 1) for n in (early_age, late_age, np.percentile(ages[late], 99))
        ],
    }
    print(json.dumps(figures))
    record_property("figures", figures)
    assert last - first < 5 * MIB
    assert late_age < early_age + 10
    assert np.percentile(ages, 25) < 2000 / RATE
    assert (np.diff(numbers) > 0).all()
    assert numbers[-1] > RATE * (times[-1] - times[0] - 5 * restarts)  # and none is lost for long
    assert all(after > before for before, after in zip(counts, [*counts[1:], len(found)]))
