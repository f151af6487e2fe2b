"""Where results go: each output is a context that gives a function to call with every result."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import click
from PIL import Image

from edge_demo import images
from edge_demo.errors import UserError
from edge_demo.outputs import render
from edge_demo.results import Result
from edge_demo.smoothing import UNKNOWN
from edge_demo.sources.frames import Frame

Take = Callable[[Result], None]
Draw = Callable[[Result], Image.Image]
QUALITY, LONGEST = 90, 65500  # of JPEG files; pixels of a side that they can have
# A video's name ends in -> FFmpeg's codec
CODECS = {".mp4": "libx264", ".mkv": "libx264", ".mov": "libx264", ".webm": "libvpx-vp9"}
TICK = Fraction(1, 1000)  # seconds: what a video's frames are timed in
KEPT = "kept_*.jpg"


@contextlib.contextmanager
def lines(form: str, top: int) -> Iterator[Take]:
    """Lines on stdout in a form of `render.FORMATS`."""
    show, head = render.FORMATS[form], render.HEADS.get(form)

    def take(result: Result) -> None:
        nonlocal head
        if head:
            click.echo(head)
            head = None
        click.echo(show(result, top))

    yield take


def annotated(path: Path, draw: Draw) -> contextlib.AbstractContextManager[Take]:
    """Annotated pictures: a video if the name ends like one, else JPEG files in a folder.

    Raises UserError where neither can be written.
    """
    return video(path, draw) if path.suffix.lower() in CODECS else folder(path, draw)


@contextlib.contextmanager
def folder(path: Path, draw: Draw) -> Iterator[Take]:
    """A JPEG file for each result, named by the picture's own name or its number in the source.

    Raises UserError where it would replace a file among the pictures of the source.
    """
    used: set[str] = set()

    def take(result: Result) -> None:
        frame = result.frame
        name = _plain(Path(frame.source).stem)
        if frame.number is not None:
            name += f"_{frame.number:06}"
        unique, copies = name, 1
        while frame.number is None and unique in used:
            copies += 1
            unique = f"{name}_{copies}"
        if frame.number is None:
            used.add(unique)
        target = path / f"{unique}.jpg"
        if isinstance(frame.image, Path) and target.exists():
            above = frame.image.absolute().parents
            if target.samefile(frame.image) or any(map(path.samefile, above)):
                raise UserError(
                    f"{target}: is there already, among the pictures of the source; name another --out"
                )
        save(draw(result), target)

    _make(path)
    yield take


@contextlib.contextmanager
def video(path: Path, draw: Draw) -> Iterator[Take]:
    """A video in which each result stays until the next, a second where pictures have no times.

    It is there under its name when the context ends, unless it could not be written. Raises UserError
    then, and where it would replace the video that the results are of.
    """
    from edge_demo.sources.feeds import need_av, words

    need_av(str(path))
    import av

    container = stream = None
    began, stamp = 0.0, -1000
    temporary = path.with_name(f".{path.stem}.partial{path.suffix}")

    @contextlib.contextmanager
    def writing() -> Iterator[None]:
        nonlocal container
        try:
            yield
        except (OSError, av.error.FFmpegError) as error:
            if container:
                with contextlib.suppress(OSError, av.error.FFmpegError):
                    container.close()
            container = None
            temporary.unlink(missing_ok=True)
            raise UserError(f"{path}: {words(error)}") from None

    def take(result: Result) -> None:
        picture = draw(result)
        with writing():
            put(picture, result.frame)

    def put(picture: Image.Image, of: Frame) -> None:
        nonlocal container, stream, began, stamp
        if stream is None:
            if path.exists() and os.path.exists(of.source) and path.samefile(of.source):
                raise UserError(f"{path}: is the source itself; name another --out")
            if min(picture.size) < 2:
                raise UserError(
                    f"{path}: no video can be of {picture.width}x{picture.height} pixels"
                )
            container = av.open(str(temporary), "w")
            stream = container.add_stream(CODECS[path.suffix.lower()], rate=30)
            stream.width, stream.height = (length // 2 * 2 for length in picture.size)
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = TICK
            began = of.time or 0.0
        size = stream.width, stream.height
        if picture.width - size[0] in (0, 1) and picture.height - size[1] in (0, 1):
            picture = picture.crop((0, 0, *size))  # an odd row is one too many for its colours
        else:
            picture = picture.resize(size)
        frame = av.VideoFrame.from_image(picture)
        due = stamp + 1000 if of.time is None else (of.time - began) / TICK
        stamp = max(stamp + 1, 0, round(due))
        frame.pts, frame.time_base = stamp, TICK
        container.mux(stream.encode(frame))

    _make(path.parent)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, and a video's name")
    try:
        yield take
    finally:
        if container:
            with writing():
                container.mux(stream.encode())
                container.close()
                os.replace(temporary, path)


@contextlib.contextmanager
def kept(path: Path, below: float, most: int, pause: float = 1.0) -> Iterator[Take]:
    """Pictures that the model was not sure of, to be labelled later; the oldest give way to new ones.

    below: the score under which a picture is kept; so is what is unknown. most: files in the folder;
    others there are not touched. pause: seconds between two, because neighbours in a video are alike.
    """
    last = -float("inf")

    def take(result: Result) -> None:
        nonlocal last
        if result.score >= below and result.label != UNKNOWN:
            return
        now = result.frame.time
        if now is not None and 0 <= now - last < pause:
            return
        last = -float("inf") if now is None else now
        when = datetime.datetime.fromtimestamp(time.time()).strftime("%Y%m%d_%H%M%S_%f")
        best, score = result.ranked[0]
        save(result.picture, path / f"kept_{when}_{_plain(best)}_{score:.2f}.jpg", quality=95)
        for old in sorted(path.glob(KEPT))[:-most]:
            old.unlink(missing_ok=True)

    _make(path)
    yield take


def save(picture: Image.Image, path: Path, quality: int = QUALITY) -> None:
    """A JPEG file, there under its name when it is complete; UserError if the disk refuses.

    A picture that is too long for one is made smaller.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        images.within(picture, LONGEST).save(temporary, "JPEG", quality=quality)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: {error.strerror or error}") from None


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def _plain(text: str) -> str:
    """Letters, digits, dots and dashes of a text: part of a file name that leads nowhere."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".-")[:60] or "picture"
