"""Every model of an exported web folder computes with every backend what it is to compute."""

from __future__ import annotations

import numpy as np
import pytest
from engines import LOGITS, OPTIONS, SOFTWARE_GPU, differences, expected, manifest, pictures
from module_page import not_isolating

# Largest difference of a logit. Of float32 from Keras; of what is rounded, from the same rounding elsewhere.
TOLERANCES = {
    "float32": 1e-4,
    "tfjs-float32": 1e-4,
    "tfjs-float16": 1e-4,
    "tfjs-uint8": 1e-4,
    "dynamic": 1e-3,
    "int8": 1e-3,
}
FEW = 4  # pictures for a graphics processor, which is one in software here, and slow


@pytest.fixture(scope="module")
def wanted(web_export, digits_run):
    return expected(web_export, digits_run / "best")


@pytest.fixture
def page(bare):
    return bare(*SOFTWARE_GPU)


def test_all_models_with_all_backends(page, web_export, wanted):
    assert page.evaluate("crossOriginIsolated")
    models, seen = manifest(web_export)["models"], []
    for name, options, told, found in differences(page, web_export, wanted, FEW):
        assert found.max() <= TOLERANCES[name], (name, options, told["backend"])
        asked = options.get("backend", "wasm")
        # LiteRT's WebGPU computes something else on a processor; whatever does must not be used.
        assert told["backend"] == asked or (told["backend"] == "wasm" and told["fallback"])
        assert told["threads"] == options.get("threads", told["threads"])
        seen.append((name, asked, told["threads"]))
    assert len(set(seen)) == sum(len(OPTIONS[model["engine"]]) for model in models)
    assert TOLERANCES.keys() == {model["name"] for model in models}


def test_one_thread_where_the_host_sends_no_headers(page, web_export, wanted):
    page.route("**/*", not_isolating)
    page.reload()
    assert not page.evaluate("crossOriginIsolated")
    for model in ("int8", "tfjs-float32"):
        given = {"options": {"model": model, "threads": 2}, "pictures": pictures(web_export)}
        told = page.evaluate(LOGITS, given)
        assert told["threads"] == 1
        assert np.abs(np.array(told["logits"]) - wanted[model]).max() <= TOLERANCES[model]
