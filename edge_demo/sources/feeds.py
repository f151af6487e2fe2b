"""Cameras, streams and screens: what they are called, and their frames as they come."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from edge_demo.errors import UserError

Frames = Iterator[
    tuple[object, float | None]
]  # a frame (`frames.Pixels` reads it), its own time in s
OPENING, READING = 10.0, 5.0  # seconds without anything, after which a source counts as gone
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
PICAMERA, PICAMERA_SIZE = "picamera", (640, 480)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a camera or screen is asked for; None leaves it as it is.

    size: (width, height). rate: frames a second. pixel_format: as FFmpeg calls it, "mjpeg" or "yuyv422".
    """

    size: tuple[int, int] | None = None
    rate: float | None = None
    pixel_format: str | None = None


@dataclasses.dataclass(frozen=True)
class Feed:
    """name: for people. read: opens it, and gives its frames until it ends or fails."""

    name: str
    read: Callable[[], Frames]


def find(name: str, wanted: Wanted) -> Feed | None:
    """The camera, stream or screen of that name; None if the source is nothing of these.

    Raises UserError if what reads it is not installed, or it cannot be on this machine.
    """
    asked = {
        "video_size": wanted.size and "{}x{}".format(*wanted.size),
        "framerate": wanted.rate and f"{wanted.rate:g}",
        "input_format" if sys.platform == "linux" else "pixel_format": wanted.pixel_format,
    }
    options = {key: value for key, value in asked.items() if value}
    pi = re.fullmatch(rf"{PICAMERA}:?(\d*)", name)
    if pi:
        if not importlib.util.find_spec("picamera2"):
            raise UserError(f"{name}: needs picamera2: apt install python3-picamera2")
        return Feed(name, functools.partial(picamera, int(pi[1] or 0), wanted))
    if name.lower().startswith(STREAMS):
        scheme = name.partition(":")[0].lower()
        return _ffmpeg(_without_password(name), name, None, OPTIONS.get(scheme, NETWORK))
    if name == "screen":
        kind, address = _of_platform(SCREENS, name)
        options.pop("input_format", None)
        return _ffmpeg(name, address.format_map(_Environment()), kind, options)
    if re.fullmatch(r"\d+|/dev/video\d+", name):
        kind, address = _of_platform(CAMERAS, name)
        if sys.platform == "win32":  # DirectShow knows cameras by name alone
            found = cameras()
            if int(name) >= len(found):
                raise UserError(f"camera {name}: there are {len(found)}; see --list-cameras")
            name = found[int(name)][1]
        return _ffmpeg(name, name if name.startswith("/") else address.format(name), kind, options)
    return None


def cameras() -> list[tuple[str, str]]:
    """(what --source takes, its name) of every camera; UserError if PyAV is missing."""
    found = []
    if importlib.util.find_spec("picamera2"):
        from picamera2 import Picamera2

        for camera in Picamera2.global_camera_info():
            found.append((f"{PICAMERA}:{camera['Num']}", camera["Model"]))
    need_av("cameras")
    if sys.platform == "linux":
        entries = sorted(Path("/sys/class/video4linux").glob("video*"), key=_number)
        return found + [(f"/dev/{e.name}", (e / "name").read_text().strip()) for e in entries]
    from av.device import enumerate_input_devices

    kind, _ = _of_platform(CAMERAS, "cameras")
    devices = [d for d in enumerate_input_devices(kind) if "video" in d.media_types]
    return found + [(str(n), device.description) for n, device in enumerate(devices)]


def need_av(name: str) -> None:
    """Imports PyAV, and silences what FFmpeg says by itself; UserError, naming `name`, if it is missing."""
    try:
        import av

        av.logging.set_level(None)
    except ImportError:
        raise UserError(f"{name}: needs PyAV: pip install 'tfvit[camera]'") from None


def words(error: Exception) -> str:
    """What FFmpeg says went wrong, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def ffmpeg(address: str, kind: str | None, options: dict[str, str]) -> Frames:
    """Frames of what FFmpeg opens; kind: its format, None for what it finds."""
    import av

    limit = OPENING
    try:
        with av.open(
            address, format=kind, timeout=(OPENING, READING), options=options
        ) as container:
            limit = READING
            if not container.streams.video:
                raise UserError("no picture in it")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # threads for frames would each hold one back
            # MJPEG has no times: FFmpeg makes them up, 25 frames a second
            timed = not container.format.flags & av.format.Flags.no_timestamps.value
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    # damaged on its way, or empty; the next one may be whole
                    continue
                for frame in frames:
                    yield frame, frame.time if timed else None
    except av.error.ExitError:  # FFmpeg's name for a time that is over
        raise UserError(f"nothing came for {limit:g} s") from None


def picamera(number: int, wanted: Wanted) -> Frames:
    """Frames of a Raspberry Pi's own camera through picamera2 (libcamera)."""
    from picamera2 import Picamera2

    with Picamera2(number) as camera:
        main = {
            "size": wanted.size or PICAMERA_SIZE,
            "format": "BGR888",
        }  # which is R, G, B in memory
        controls = {"FrameRate": wanted.rate} if wanted.rate else {}
        camera.configure(camera.create_video_configuration(main=main, controls=controls))
        camera.start()
        while True:
            request = camera.capture_request()
            try:
                array, metadata = request.make_array("main"), request.get_metadata()
            finally:
                request.release()
            yield array, metadata["SensorTimestamp"] / 1e9


def _ffmpeg(name: str, address: str, kind: str | None, options: dict[str, str]) -> Feed:
    need_av(name)
    return Feed(name, functools.partial(ffmpeg, address, kind, options))


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
