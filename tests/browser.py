"""Debian's Chromium, driven by Playwright: fixtures for whatever shows a page."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import urllib.parse

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NO_CHROMIUM = "needs Chromium: apt-get install chromium"
OPTIONS = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
LOCAL = ("data", "blob", "about")  # schemes that ask nobody
WAIT = 60_000  # milliseconds for whatever is waited for: a busy machine may take long, and none fails for it


@pytest.fixture(scope="session")
def chromium():
    """chromium(*options) -> a headless browser started with these, one for each such call.

    Where there is none, the test is skipped; in CI it fails.
    """
    if not CHROMIUM:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(NO_CHROMIUM)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:
        known = {}

        def launch(*options):
            if options not in known:
                browser = playwright.chromium.launch(
                    executable_path=CHROMIUM, args=[*OPTIONS, *options]
                )
                known[options] = stack.enter_context(browser)
            return known[options]

        yield launch


@pytest.fixture
def browse(chromium):
    """browse(url, *options, may_say=None, **context) -> the page, open, in a context of its own.

    options: of the browser. may_say: a pattern of console errors that belong to the test.
    context: as Playwright's `new_context` takes it: viewport, permissions, color_scheme ...
    At the end the test fails if a page had an error or asked another origin for anything.
    """
    wrong = []
    with watched(chromium, wrong.append) as visit:
        yield visit
    assert not wrong, "\n".join(wrong)


@contextlib.contextmanager
def watched(chromium, tell):
    """Yields `browse`'s function; `tell` is given a line for whatever goes wrong."""
    with contextlib.ExitStack() as stack:

        def visit(url, *options, may_say=None, **context):
            here = urllib.parse.urlsplit(url)[:2]

            def hear(message):
                if message.type == "error" and not (may_say and re.search(may_say, message.text)):
                    tell(f"console: {message.text}")

            def see(request):
                asked = urllib.parse.urlsplit(request.url)
                if asked.scheme not in LOCAL and asked[:2] != here:
                    tell(f"asked for {request.url}")

            opened = stack.enter_context(chromium(*options).new_context(**context))
            opened.set_default_timeout(WAIT)
            opened.on("console", hear)
            opened.on("weberror", lambda error: tell(f"uncaught: {error.error}"))
            opened.on("request", see)
            page = opened.new_page()
            page.goto(url)
            return page

        yield visit
