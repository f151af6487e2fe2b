"""What a `--source` is, and its frames: pictures, videos, cameras, streams, the screen, stdin."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edge_demo import image_stream, images
from edge_demo.errors import UserError
from edge_demo.frames import Frame, pixels
from edge_demo.live import Feed, Newest, words

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mjpeg")
STREAMS = ("rtsp://", "rtsps://", "http://", "https://", "rtmp://", "udp://", "tcp://")
NETWORK = {"fflags": "nobuffer", "flags": "low_delay"}
# scheme -> options of FFmpeg: nothing is held back, and RTSP loses no packets
OPTIONS = {
    "rtsp": NETWORK | {"rtsp_transport": "tcp"},
    "rtsps": NETWORK | {"rtsp_transport": "tcp"},
}
# platform -> (FFmpeg's format, the address of camera N), and the same of the screen
CAMERAS = {
    "linux": ("v4l2", "/dev/video{}"),
    "darwin": ("avfoundation", "{}:none"),
    "win32": ("dshow", "video={}"),
}
SCREENS = {
    "linux": ("x11grab", "{DISPLAY}"),
    "darwin": ("avfoundation", "Capture screen 0:none"),
    "win32": ("gdigrab", "desktop"),
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a camera or screen is asked for; None leaves it as it is.

    size: (width, height). rate: frames a second. pixel_format: as FFmpeg calls it, "mjpeg" or "yuyv422".
    """

    size: tuple[int, int] | None = None
    rate: float | None = None
    pixel_format: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """frames: an iterator.

    is_live: whether frames are skipped to be up to date.
    at_hand: whether they are there when they are asked for.
    separate: whether one that cannot be read says nothing of the others.
    """

    frames: Iterator[Frame]
    is_live: bool = False
    at_hand: bool = True
    separate: bool = False


@contextlib.contextmanager
def open_source(
    name: str,
    wanted: Wanted = Wanted(),
    *,
    stdin: BinaryIO | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[Source]:
    """The frames of a source; the context closes it.

    name: an image, a folder or a glob of images, a video, "-" for images on stdin, a camera (0, 1 or
        /dev/video0), a stream (rtsp://, http://...), or "screen".
    say: is told when a camera or stream goes away and comes back.
    Raises UserError if it is not there or PyAV is needed and missing; frames raise it, too.
    """
    feed = live_feed(name, wanted)
    if feed:
        need_av(name)
        with Newest(feed, say) as newest:
            yield Source(iter(newest), is_live=True, at_hand=False)
    elif name == "-":
        pictures = image_stream.split(stdin or sys.stdin.buffer)
        frames = (Frame(data, "stdin", n) for n, data in enumerate(pictures))
        yield Source(frames, at_hand=False, separate=True)
    elif name.lower().endswith(VIDEOS) and Path(name).is_file():
        need_av(name)
        yield Source(video(name))
    else:
        files = images.find(name)
        yield Source((Frame(file, str(file)) for file in files), separate=len(files) > 1)


def live_feed(name: str, wanted: Wanted) -> Feed | None:
    """How FFmpeg opens a camera, stream or the screen; None if the source is nothing of these."""
    asked = {
        "video_size": wanted.size and "{}x{}".format(*wanted.size),
        "framerate": wanted.rate and f"{wanted.rate:g}",
        "input_format" if sys.platform == "linux" else "pixel_format": wanted.pixel_format,
    }
    options = {key: value for key, value in asked.items() if value}
    if name.lower().startswith(STREAMS):
        scheme = name.partition(":")[0].lower()
        return Feed(_without_password(name), name, None, OPTIONS.get(scheme, NETWORK))
    if name == "screen":
        kind, address = _of_platform(SCREENS, name)
        options.pop("input_format", None)
        return Feed(name, address.format_map(_Environment()), kind, options)
    if re.fullmatch(r"\d+|/dev/video\d+", name):
        kind, address = _of_platform(CAMERAS, name)
        if sys.platform == "win32":  # DirectShow knows cameras by name alone
            found = cameras()
            if int(name) >= len(found):
                raise UserError(f"camera {name}: there are {len(found)}; see --list-cameras")
            name = found[int(name)][0]
        return Feed(name, name if name.startswith("/") else address.format(name), kind, options)
    return None


def cameras() -> list[tuple[str, str]]:
    """(what --source takes, its name) of every camera; UserError if PyAV is missing."""
    need_av("cameras")
    if sys.platform == "linux":
        entries = sorted(Path("/sys/class/video4linux").glob("video*"), key=_number)
        return [(f"/dev/{e.name}", (e / "name").read_text().strip()) for e in entries]
    from av.device import enumerate_input_devices

    kind, _ = _of_platform(CAMERAS, "cameras")
    found = [d for d in enumerate_input_devices(kind) if "video" in d.media_types]
    return [(str(n), device.description) for n, device in enumerate(found)]


def video(path: str) -> Iterator[Frame]:
    """All frames of a video file in order; UserError if it is none or damaged before its first frame."""
    import av

    number = 0
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise UserError(f"{path}: no picture in it")
            container.streams.video[0].thread_type = "AUTO"
            for raw in container.decode(video=0):
                yield Frame(pixels(raw), path, number, raw.time)
                number += 1
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: damaged after {number} frames ({words(error)})") from None
    if not number:
        raise UserError(f"{path}: no picture in it")


def need_av(name: str) -> None:
    """Imports PyAV, and silences what FFmpeg says by itself; UserError, naming `name`, if it is missing."""
    try:
        import av

        av.logging.set_level(None)
    except ImportError:
        raise UserError(f"{name}: needs PyAV: pip install 'tfvit[camera]'") from None


def _of_platform(table: dict[str, tuple[str, str]], name: str) -> tuple[str, str]:
    if sys.platform not in table:
        raise UserError(f"{name}: not known how to open it on {sys.platform}")
    return table[sys.platform]


def _without_password(address: str) -> str:
    return re.sub(r"//[^/@]*@", "//", address)


def _number(path: Path) -> int:
    return int(path.name.removeprefix("video"))


class _Environment(dict):
    def __missing__(self, name: str) -> str:
        if name not in os.environ:
            raise UserError(f"screen: {name} is not set; there is none to see")
        return os.environ[name]
