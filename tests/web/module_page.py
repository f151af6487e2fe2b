"""A page that does nothing by itself, scripts of the module in it, and answers that are not the folder's."""

from __future__ import annotations

ICON = "<link rel=icon href=data:,>"  # or the browser asks for one that is not there
# What each test's script lies in: `load` is `createClassifier`, what it makes is disposed of at the end.
START = """async (given) => {
  const { createClassifier } = await import(new URL("classifier.js", document.baseURI));
  const all = [];
  const load = async (options) => {
    all.push(await createClassifier(".", options));
    return all.at(-1);
  };
  const fetched = async (name) => (await fetch(name)).blob();
  const told = async (work) => {
    try { await work(); } catch (error) { return `${error.name}: ${error.message}`; }
  };
  try {
    return await (async () => {
      SCRIPT
    })();
  } finally {
    for (const classifier of all) classifier.dispose();
  }
}"""


def run(page, script, **given):
    """What a script returns: `load`, `fetched`, `told` and `given` are there; it may await."""
    return page.evaluate(START.replace("SCRIPT", script), given)


def ended(page):
    """Whether no worker is left, after a moment."""
    for _ in range(1200):
        if not page.workers:
            return True
        page.wait_for_timeout(50)
    return False


def rewritten(change):
    """A route's handler that answers as `change` makes it from the JSON that is there."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, json=change(response.json()))

    return answer


def replaced(**answer):
    """A route's handler that answers so."""
    return lambda route: route.fulfill(**answer)


def edited(**fields):
    """A route's handler that answers with the JSON that is there, these fields replaced."""
    return rewritten(lambda found: found | fields)


def not_isolating(route):
    """A route's handler that answers as a host that sends no headers of isolation."""
    answer = route.fetch()
    headers = {k: v for k, v in answer.headers.items() if not k.startswith("cross-origin")}
    route.fulfill(response=answer, headers=headers)


def prefixed(script):
    """A route's handler that puts a script in front of the one that was asked for."""

    def answer(route):
        response = route.fetch()
        route.fulfill(response=response, body=script + response.body())

    return answer
