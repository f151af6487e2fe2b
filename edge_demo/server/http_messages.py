"""What the server of bounded_http.py is asked and answers, and how it finds who answers what."""

from __future__ import annotations

import dataclasses
import email.message
import json
from collections.abc import Callable, Iterable


@dataclasses.dataclass(frozen=True)
class Request:
    """query: the last value of each name. body: reads it, and raises Refused where it is unfit."""

    query: dict[str, str]
    headers: email.message.Message
    body: Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Reply:
    """body: bytes, or parts that are sent as they come. after: is called when all is over."""

    body: bytes | Iterable[bytes]
    type: str
    code: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    after: Callable[[], None] = lambda: None


class Refused(Exception):
    """A request that gets no answer but an HTTP status and one line."""

    def __init__(self, code: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.reply = json_reply({"error": message}, code, headers)


Methods = dict[str, Callable[[Request], Reply]]
Find = Callable[[str], Methods]  # of a path; Refused where there is nothing


def table(routes: dict[str, Methods]) -> Find:
    """Finds the paths of a table, and tells strangers which these are."""

    def find(path: str) -> Methods:
        if path not in routes:
            raise Refused(404, "there is " + " ".join(routes))
        return routes[path]

    return find


def json_reply(found: dict, code: int = 200, headers: dict[str, str] | None = None) -> Reply:
    """A line of JSON."""
    body = json.dumps(found, ensure_ascii=False).encode(errors="replace") + b"\n"
    return Reply(body, "application/json; charset=utf-8", code, headers or {})


def netloc(host: str, port: int) -> str:
    """Host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
