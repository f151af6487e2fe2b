"""What a `--source` is, and its frames: pictures, videos, cameras, streams, the screen, stdin."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.sources import feeds, image_stream
from edge_demo.sources.feeds import Wanted
from edge_demo.sources.frames import Frame, Pixels
from edge_demo.sources.live import Newest

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mjpeg")


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
        /dev/video0; picamera on a Raspberry Pi), a stream (rtsp://, http://...), or "screen".
    say: is told when a camera or stream goes away and comes back.
    Raises UserError if it is not there or PyAV is needed and missing; frames raise it, too.
    """
    feed = feeds.find(name, wanted)
    if feed:
        with Newest(feed, say) as newest:
            yield Source(iter(newest), is_live=True, at_hand=False)
    elif name == "-":
        pictures = image_stream.split(stdin or sys.stdin.buffer)
        frames = (Frame(data, "stdin", n) for n, data in enumerate(pictures))
        yield Source(frames, at_hand=False, separate=True)
    elif name.lower().endswith(VIDEOS) and Path(name).is_file():
        feeds.need_av(name)
        yield Source(video(name))
    else:
        files = images.find(name)
        yield Source((Frame(file, str(file)) for file in files), separate=len(files) > 1)


def video(path: str) -> Iterator[Frame]:
    """All frames of a video file in order; UserError if it is none or damaged before its first frame."""
    import av

    number, pixels = 0, Pixels()
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise UserError(f"{path}: no picture in it")
            container.streams.video[0].thread_type = "AUTO"
            for raw in container.decode(video=0):
                yield Frame(pixels(raw), path, number, raw.time)
                number += 1
    except av.error.FFmpegError as error:
        raise UserError(f"{path}: damaged after {number} frames ({feeds.words(error)})") from None
    if not number:
        raise UserError(f"{path}: no picture in it")
