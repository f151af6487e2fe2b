"""One inference engine in a process of its own: `python engine.py RUNTIME MODEL THREADS OPTIONS`.

Reads requests on standard input, one JSON list per line, and answers each with one line of JSON:

    ["load", "input.npy"]               an array [n, ...] whose first entry is what `time` runs on
    ["logits", "output.npy"]            runs all n and writes their logits [n, classes]
    ["time", uncounted, counted]        runs the first entry; milliseconds of each counted call, the cores
                                        that they kept busy, CPU milliseconds used since the last request

Only the runtime asked for is imported, so that no engine's threads meet another's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np

# load an input [1, ...], run, read the logits [classes]
Session = tuple[Callable[[np.ndarray], None], Callable[[], object], Callable[[], np.ndarray]]


def litert(path: str, threads: int, options: dict) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = result["quantization"]

    def logits() -> np.ndarray:
        found = interpreter.get_tensor(result["index"])[0]
        return (found.astype(np.float32) - zero_point) * scale if scale else found

    return (
        lambda x: interpreter.set_tensor(given["index"], x.astype(given["dtype"])),
        interpreter.invoke,
        logits,
    )


def onnxruntime(path: str, threads: int, options: dict) -> Session:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    state = {}

    def run() -> None:
        state["logits"] = session.run(None, state["feed"])[0]

    def load(x: np.ndarray) -> None:
        state["feed"] = {session.get_inputs()[0].name: x}

    return load, run, lambda: state["logits"][0]


def openvino(path: str, threads: int, options: dict) -> Session:
    import openvino as ov

    held = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(path, "CPU", {**held, **options}).create_infer_request()
    return (
        lambda x: request.set_input_tensor(ov.Tensor(np.ascontiguousarray(x))),
        request.infer,
        lambda: request.get_output_tensor().data[0].copy(),
    )


RUNTIMES = {f.__name__: f for f in (litert, onnxruntime, openvino)}


def serve(session: Session, requests, answer: Callable[[object], None]) -> None:
    """Answers requests until their stream ends."""
    load, run, logits = session
    inputs, cpu = None, time.process_time()
    for line in requests:
        what, *arguments = json.loads(line)
        if what == "load":
            inputs = np.load(arguments[0])
            load(inputs[:1])
            answer(None)
        elif what == "logits":
            found = []
            for i in range(len(inputs)):
                load(inputs[i : i + 1])
                run()
                found.append(logits())
            load(inputs[:1])
            np.save(arguments[0], np.array(found))
            answer(None)
        elif what == "time":
            idle = time.process_time() - cpu
            uncounted, counted = arguments
            for _ in range(uncounted):
                run()
            began, cpu, ends = time.perf_counter(), time.process_time(), []
            for _ in range(counted):
                run()
                ends.append(time.perf_counter())
            busy = time.process_time() - cpu
            answer(
                {
                    "milliseconds": (1e3 * np.diff([began, *ends])).tolist(),
                    "cores": busy / (ends[-1] - began),
                    "idle": 1e3 * idle,
                }
            )
        cpu = time.process_time()


def main() -> None:
    runtime, path, threads, options = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    def answer(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    session = RUNTIMES[runtime](path, int(threads), json.loads(options))
    answer(None)
    serve(session, sys.stdin, answer)


if __name__ == "__main__":
    main()
