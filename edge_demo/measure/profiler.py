"""Times of the operations of a .tflite, from the profiler in LiteRT's C interface.

The Python package brings that library and has no way to its profiler. Found by experiment with
ai-edge-litert 2.3.0; signatures of another version may be others, which can end the process.
"""

from __future__ import annotations

import ctypes
import time
from collections import Counter
from pathlib import Path

import ai_edge_litert

CPU = 1  # of LiteRtHwAccelerators
WRITE = 1  # of LiteRtTensorBufferLockMode
LITERT, XNNPACK = 2, 8  # types of events: an operation of the runtime, one inside a delegate
MOST_RUNS = 100  # whose events are kept in memory
TENSOR_TYPE_BYTES = 512  # more than any LiteRtRankedTensorType

Handle, Size = ctypes.c_void_p, ctypes.c_size_t


class Event(ctypes.Structure):
    """ProfiledEventData."""

    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", Size * 6),
        ("metadata", ctypes.c_uint64 * 2),
        ("source", ctypes.c_int),
    ]


def profile(path: str, threads: int, seconds: float) -> dict:
    """Where the time of a run goes.

    Returns `runs` that were measured, `milliseconds` of one, and `operations`, the slowest first: op, by
    ("XNNPACK" or "LiteRT"), count and milliseconds in one run. The runtime counts whole microseconds.
    Raises RuntimeError if the runtime refuses, or has no such interface.
    Loads the file in this process, which a bad file can abort: see `runner.profile`.
    """
    paths = list(Path(ai_edge_litert.__file__).parent.glob("libLiteRt.*"))
    library = ctypes.CDLL(str(paths[0])) if paths else None

    def call(name: str, *arguments) -> None:
        function = getattr(library, name, None)
        if function is None:
            raise RuntimeError(f"no {name}")
        status = function(*arguments)
        if status:
            raise RuntimeError(f"{name} gives {status}")

    def made(name: str, *arguments, kind=Handle):
        result = kind()
        call(name, *arguments, ctypes.byref(result))
        return result

    environment = made("LiteRtCreateEnvironment", 0, None)
    model = made("LiteRtCreateModelFromFile", environment, path.encode())
    options = made("LiteRtCreateOptions")
    call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
    release = ctypes.CFUNCTYPE(None, Handle)(lambda _: None)
    kept = []  # the library reads them until the end
    for name, text in (
        (b"runtime_options_string", b"enable_profiling = true\n"),
        (b"xnnpack", b"num_threads = %d\n" % threads),
    ):
        kept.append(ctypes.create_string_buffer(text))
        extra = made("LiteRtCreateOpaqueOptions", name, kept[-1], release)
        call("LiteRtAddOpaqueOptions", options, extra)
    compiled = made("LiteRtCreateCompiledModel", environment, model, options)
    signature = made("LiteRtGetModelSignature", model, Size(0))

    def buffers(side: str) -> tuple:
        count = made(f"LiteRtGetNumSignature{side}s", signature, kind=Size).value
        found = []
        for number in map(Size, range(count)):
            tensor = made(f"LiteRtGetSignature{side}TensorByIndex", signature, number)
            kind = ctypes.create_string_buffer(TENSOR_TYPE_BYTES)
            call("LiteRtGetRankedTensorType", tensor, kind)
            needs = made(
                f"LiteRtGetCompiledModel{side}BufferRequirements", compiled, Size(0), number
            )
            buffer = made(
                "LiteRtCreateManagedTensorBufferFromRequirements", environment, kind, needs
            )
            size = made("LiteRtGetTensorBufferSize", buffer, kind=Size)
            memory = Handle()
            call("LiteRtLockTensorBuffer", buffer, ctypes.byref(memory), WRITE)
            ctypes.memset(memory, 0, size.value)
            call("LiteRtUnlockTensorBuffer", buffer)
            found.append(buffer)
        return Size(count), (Handle * count)(*found)

    both = *buffers("Input"), *buffers("Output")

    def run_for(limit: float) -> int:
        end, runs = time.perf_counter() + limit, 0
        while not runs or (runs < MOST_RUNS and time.perf_counter() < end):
            call("LiteRtRunCompiledModel", compiled, Size(0), *both)
            runs += 1
        return runs

    run_for(seconds / 4)
    profiler = made("LiteRtCompiledModelGetProfiler", compiled)
    call("LiteRtStartProfiler", profiler)
    start = time.perf_counter()
    runs = run_for(seconds)
    elapsed = time.perf_counter() - start
    call("LiteRtStopProfiler", profiler)
    events = (Event * made("LiteRtGetNumProfilerEvents", profiler, kind=ctypes.c_int).value)()
    call("LiteRtGetProfilerEvents", profiler, len(events), events)
    return {
        "runs": runs,
        "milliseconds": 1e3 * elapsed / runs,
        "operations": _operations(events, runs),
    }


def _operations(events, runs: int) -> list[dict]:
    counts, times = Counter(), Counter()
    for event in events:
        if event.type in (LITERT, XNNPACK):
            key = event.tag.decode(errors="replace"), event.type
            counts[key] += 1
            times[key] += event.elapsed_us
    return [
        {
            "op": op,
            "by": "XNNPACK" if kind == XNNPACK else "LiteRT",
            "count": round(counts[op, kind] / runs),
            "milliseconds": microseconds / 1e3 / runs,
        }
        for (op, kind), microseconds in times.most_common()
    ]
