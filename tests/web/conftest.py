"""Folders served by the real command, and a real browser that tells whatever goes wrong in it."""

from __future__ import annotations

import contextlib

import engines
import pytest
from module_page import ICON
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


@pytest.fixture
def bare(site, web_export, browse, once):
    """bare(*options, may_say=None) -> a page of an exported folder that does nothing by itself."""
    page = web_export / "web" / "bare.html"  # which other processes may be showing
    once("bare", lambda _: page.write_text(f"<!doctype html>{ICON}"))

    def visit(*options, **kwargs):
        return browse(f"{site(web_export).url}/bare.html", *options, **kwargs)

    return visit


@pytest.fixture(scope="session")
def manifest(web_export):
    """The `classifier.json` of `web_export`."""
    return engines.manifest(web_export)
