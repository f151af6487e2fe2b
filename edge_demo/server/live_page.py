"""A live page: the newest picture and what is in it, for people, programs and Prometheus."""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.outputs import render
from edge_demo.outputs.sinks import Draw, Take
from edge_demo.pipeline import Pipeline
from edge_demo.results import Result
from edge_demo.server import metrics
from edge_demo.server.bounded_http import Server
from edge_demo.server.http_messages import Refused, Reply, Request, json_reply, table
from edge_demo.sources.frames import Frame
from edge_demo.sources.source import Source

STALE = 10.0  # seconds without a frame, after which a camera or stream counts as gone
RECENT = 5.0  # seconds that the rate is of
VIEWERS = 8  # of /stream at a time
UPLOADS = 4  # pictures that are received or wait for the model at a time
SIDE, QUALITY = 1280, 80  # of the JPEGs: pixels of the longer side at most
INTERVAL = 1 / 30  # seconds between two frames of /stream at least
REPEAT = 5.0  # seconds after which a frame is sent once more, to learn who is gone
BOUNDARY = b"frame"
PAGE = Path(__file__).with_name("page.html")


class Board:
    """The newest result and its JPEG, which is made once for all who look, and only if someone does.

    draw: makes the picture of a result.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._changed, self._drawing = threading.Condition(), threading.Lock()
        self._times: collections.deque[float] = collections.deque(maxlen=1000)
        self._drawn = (0, b"")  # of which result, the JPEG
        self._closed = False
        self.count, self.result = 0, None

    def put(self, result: Result) -> None:
        """Makes this the newest result; waits for nobody. The first is drawn: UserError if it cannot be."""
        if not self.count:
            self._draw(result)
        with self._changed:
            self.result, self.count = result, self.count + 1
            self._times.append(time.monotonic())
            self._changed.notify_all()

    def close(self) -> None:
        """Lets go of everybody who waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def jpeg(self, after: int, timeout: float = 0.0) -> tuple[int, bytes] | None:
        """(number, JPEG) of a result after the one of this number, or after `timeout` seconds the newest.

        None where there is no result, or it is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.count > after or self._closed, timeout)
            if self._closed or not self.result:
                return None
        with self._drawing:
            if self._drawn[0] <= after:
                with self._changed:
                    number, result = self.count, self.result
                if number != self._drawn[0]:
                    self._drawn = number, encoded(self._draw(result))
            return self._drawn

    def age(self) -> float | None:
        """Seconds since the newest picture was taken, or came, if it is not live."""
        with self._changed:
            if not self.result:
                return None
            live = self.result.age is not None
            return time.monotonic() - (self.result.frame.time if live else self._times[-1])

    def rate(self) -> float:
        """Results a second lately; 0 where there were none."""
        with self._changed:
            since = time.monotonic() - RECENT
            times = [moment for moment in self._times if moment > since]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0


class Site:
    """What each address answers; `routes` is the table of them."""

    def __init__(
        self,
        pipeline: Pipeline,
        board: Board,
        top: int,
        model: str,
        source: Source | None,
        unreadable: Callable[[], int],
    ) -> None:
        self._pipeline, self._board, self._top, self._model = pipeline, board, top, model
        self._source, self._unreadable = source, unreadable
        self._started, self._started_at = time.monotonic(), time.time()
        self._lock, self._one_upload = threading.Lock(), threading.Lock()
        self._uploads = threading.BoundedSemaphore(UPLOADS)
        self._viewers = self._unreadable_uploads = 0
        self._replies, self._labels = collections.Counter(), collections.Counter()
        self._inference = metrics.Histogram()
        self._page, self._policy = page()
        self.routes = {
            "/": {"GET": self._front},
            "/stream": {"GET": self._stream},
            "/snapshot.jpg": {"GET": self._snapshot},
            "/result.json": {"GET": self._result},
            "/classify": {"POST": self._classify},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
        }

    def take(self, result: Result) -> None:
        """Publishes a result of the source; UserError if it cannot be drawn."""
        with self._lock:
            self._labels[result.label] += 1
            self._inference.add(result.milliseconds["inference"] / 1e3)
        self._board.put(result)

    def counted(self, path: str, code: int) -> None:
        """Counts a reply."""
        with self._lock:
            self._replies[path, code] += 1

    def _front(self, request: Request) -> Reply:
        policy = {"Content-Security-Policy": self._policy}
        return Reply(self._page, "text/html; charset=utf-8", headers=policy)

    def _stream(self, request: Request) -> Reply:
        self._newest()
        with self._lock:
            if self._viewers >= VIEWERS:
                raise _busy(f"{VIEWERS} are watching; /snapshot.jpg is for everybody")
            self._viewers += 1
        kind = f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}"
        return Reply(self._frames(), kind, after=self._leave)

    def _leave(self) -> None:
        with self._lock:
            self._viewers -= 1

    def _frames(self) -> Iterator[bytes]:
        """Browsers show a part when they see the next one's boundary, so that comes with it."""
        yield b"--%s\r\n" % BOUNDARY
        seen = self._board.count - 1
        while True:
            start = time.monotonic()
            found = self._board.jpeg(seen, REPEAT)
            if not found:
                return
            seen, data = found
            head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            yield head + data + b"\r\n--%s\r\n" % BOUNDARY
            time.sleep(max(0.0, INTERVAL - (time.monotonic() - start)))

    def _snapshot(self, request: Request) -> Reply:
        self._newest()
        found = self._board.jpeg(self._board.count - 1)
        if not found:
            raise _busy("ending")
        return Reply(found[1], "image/jpeg")

    def _result(self, request: Request) -> Reply:
        return json_reply(render.fields(self._newest(), self._top))

    def _newest(self) -> Result:
        if not self._source:
            raise Refused(404, "there is no source; POST a picture to /classify")
        if not self._board.result:
            raise _busy("no picture yet")
        return self._board.result

    def _classify(self, request: Request) -> Reply:
        classes = len(self._pipeline.classifier.labels)
        asked = request.query.get("top", str(self._top))
        if not re.fullmatch("[1-9][0-9]{0,5}", asked):
            raise Refused(400, f"top is a number from 1 to {classes}")
        if not self._uploads.acquire(blocking=False):
            raise _busy("busy with other pictures")
        try:
            data = request.body()
            with self._one_upload:  # a large picture takes much memory to decode
                result = self._pipeline.result(Frame(data, "upload"))
        except UserError:
            with self._lock:
                self._unreadable_uploads += 1
            raise
        finally:
            self._uploads.release()
        with self._lock:
            self._inference.add(result.milliseconds["inference"] / 1e3)
        found = render.fields(result, int(asked))
        del found["source"]
        return json_reply(found)

    def _health(self, request: Request) -> Reply:
        age, uptime = self._board.age(), time.monotonic() - self._started
        silent = uptime if age is None else age
        status = "ok" if age is not None or not self._source else "starting"
        if self._source and self._source.is_live and silent > STALE:
            status = "stale"
        found = {
            "status": status,
            "model": self._model,
            "source": self._board.result.frame.source if age is not None else None,
            "age_seconds": None if age is None else round(age, 3),
            "results": self._board.count,
            "results_per_second": round(self._board.rate(), 2),
            "viewers": self._viewers,
            "uptime_seconds": round(uptime, 3),
        }
        return json_reply(found, 503 if status == "stale" else 200)

    def _metrics(self, request: Request) -> Reply:
        board, single = self._board, metrics.single
        with self._lock:
            unreadable = self._unreadable() + self._unreadable_uploads
            labels = [("", {"label": k}, n) for k, n in sorted(self._labels.items())]
            inference = self._inference.samples()
            replies = [
                ("", {"path": path, "code": str(code)}, n)
                for (path, code), n in sorted(self._replies.items())
            ]
        number = board.result.frame.number if board.result else None
        frames = board.count if number is None else number + 1
        families: list[metrics.Family] = [
            ("edge_demo_info", "gauge", "The model.", [("", {"model": self._model}, 1)]),
            ("edge_demo_frames_total", "counter", "Frames that the source gave.", single(frames)),
            ("edge_demo_results_total", "counter", "Frames classified.", single(board.count)),
            ("edge_demo_labels_total", "counter", "Frames by their label.", labels),
            ("edge_demo_unreadable_total", "counter", "Unreadable pictures.", single(unreadable)),
            ("edge_demo_frame_age_seconds", "gauge", "Of the newest frame.", single(board.age())),
            ("edge_demo_inference_seconds", "histogram", "Time in the model.", inference),
            ("edge_demo_http_requests_total", "counter", "Requests answered.", replies),
            ("edge_demo_viewers", "gauge", "Viewers of /stream.", single(self._viewers)),
            (
                "process_resident_memory_bytes",
                "gauge",
                "Memory in RAM.",
                single(metrics.resident_bytes()),
            ),
            (
                "process_start_time_seconds",
                "gauge",
                "When this began, since 1970.",
                single(self._started_at),
            ),
        ]
        return Reply(metrics.text(families).encode(), metrics.CONTENT_TYPE)


@contextlib.contextmanager
def serve(
    address: tuple[str, int],
    pipeline: Pipeline,
    top: int,
    draw: Draw,
    *,
    model: str,
    source: Source | None,
    unreadable: Callable[[], int] = lambda: 0,
    say: Callable[[str], None],
) -> Iterator[Take]:
    """A live page of the newest result and its `top` best labels, until the context ends.

    address: (host, port); port 0 picks one. draw: makes the picture of a result.
    model: its name, for people. source: where results come from; None, only pictures that are posted.
    unreadable: how many of its pictures could not be read. say: is told the address, and of errors.
    Raises UserError where it cannot listen.
    """
    board = Board(draw)
    site = Site(pipeline, board, top, model, source, unreadable)
    server = Server(address, table(site.routes), say, site.counted)
    say(server.url)
    if not server.only_here:
        say("whoever reaches this machine sees it: there is no password")
    try:
        yield site.take
    finally:
        board.close()
        server.end()


def encoded(picture: Image.Image) -> bytes:
    """A picture as JPEG, of SIDE pixels at most."""
    buffer = io.BytesIO()
    images.within(picture, SIDE).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def page() -> tuple[bytes, str]:
    """The page, and the Content-Security-Policy that lets its own style and script through, and no other."""
    html = PAGE.read_text(encoding="utf-8")

    def digest(tag: str) -> str:
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)[1]
        found = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        return f"{tag}-src 'sha256-{found}'"

    policy = [
        "default-src 'none'",
        digest("style"),
        digest("script"),
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return html.encode(), "; ".join(policy)


def _busy(message: str) -> Refused:
    return Refused(503, message, **{"Retry-After": "1"})
