"""What the browser tests stand on: whatever goes wrong in a page is seen."""

from __future__ import annotations

import re

import pytest
from browser import watched

PAGES = {  # script of the page -> what is said of it
    "console.error('broken')": "console: broken",
    "nothing.at.all": "uncaught: .*nothing is not defined",
    "Promise.reject(Error('late'))": "uncaught: .*late",
    "fetch('http://127.0.0.1:9/x').catch(() => 0)": "asked for http://127.0.0.1:9/x",
    "fetch('https://example.com/x').catch(() => 0)": "asked for https://example.com/x",
    "new Worker('worker.js')": "asked for http://127.0.0.1:9/worker",
    "navigator.serviceWorker.register('worker.js')": "asked for http://127.0.0.1:9/worker",
    "document.title = 'fine'": None,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory, site):
    folder = tmp_path_factory.mktemp("pages")
    for name in ("classifier.json", "index.html"):
        (folder / name).write_text("{}")
    (folder / "worker.js").write_text("fetch('http://127.0.0.1:9/worker').catch(() => 0)")
    for number, script in enumerate(PAGES):
        page = f"<link rel=icon href=data:,><script>{script}</script>"
        (folder / f"{number}.html").write_text(page)
    return site(folder).url


@pytest.mark.parametrize("script", PAGES)
def test_what_goes_wrong_is_told(url, chromium, script):
    said = []
    with watched(chromium, said.append) as visit:
        page = visit(f"{url}/{list(PAGES).index(script)}.html")
        assert page.evaluate("crossOriginIsolated")
        page.wait_for_timeout(300)
        while PAGES[script] and not any(re.match(PAGES[script], line) for line in said):
            page.wait_for_timeout(50)  # for ever, if nothing is told
    assert bool(said) == bool(PAGES[script]), said
