"""Folders served by the real command, and a real browser that tells whatever goes wrong in it."""

from __future__ import annotations

import contextlib

import pytest
from served import running


@pytest.fixture(scope="session")
def site():
    """site(folder, *options) -> the `Served` of `edge-demo web`, one process for each such call."""
    with contextlib.ExitStack() as stack:
        known = {}

        def serve(folder, *options):
            key = (str(folder), *options)
            if key not in known:
                known[key] = stack.enter_context(running("web", folder, "--port", 0, *options))
            return known[key]

        yield serve
