"""Videos, streams and images on stdin, made here and read through the `edge-demo` command."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from helpers import BIN, PATHS, until
from network_camera import Camera, RtspCamera, encoded, jpeg

from edge_demo.errors import UserError
from edge_demo.sources import image_stream
from edge_demo.sources.live import Clock

av = pytest.importorskip("av")


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def clip(tmp_path_factory, digits):
    """A video of 20 digits, 64x64, and its decoded frames as PNG files."""
    folder = tmp_path_factory.mktemp("clip")
    path = folder / "digits.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for picture in digits[0][:20]:
            frame = av.VideoFrame.from_image(picture.resize((64, 64)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (folder / "frames").mkdir()
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(folder / "frames" / f"{number:02}.png")
    return path


@pytest.fixture
def camera():
    found = Camera()
    yield found
    found.stop()


def test_a_video_is_its_frames(edge_cli, int8, clip):
    video = rows(edge_cli(int8, "--source", clip, "--json", "--top", 10).out)
    files = rows(edge_cli(int8, "--source", clip.parent / "frames", "--json", "--top", 10).out)
    assert [row["top"] for row in video] == [row["top"] for row in files]
    assert [row["frame"] for row in video] == list(range(20))
    assert [row["seconds"] for row in video] == pytest.approx(np.arange(20) / 10)
    assert len({row["label"] for row in video}) > 3


@pytest.mark.parametrize("kind", [Camera, RtspCamera])
def test_a_stream_that_goes_away_and_comes_back_goes_on(int8, kind):
    camera = kind()
    running = subprocess.Popen(
        [BIN / "edge-demo", int8, "--source", camera.address, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    found = [json.loads(running.stdout.readline()) for _ in range(30)]
    port = camera.server_address[1]
    camera.stop()
    time.sleep(0.3)
    again = kind(port)
    try:
        before = found[-1]["frame"]
        found += [json.loads(running.stdout.readline()) for _ in range(30)]
    finally:
        again.stop()
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    assert found[-1]["frame"] > before
    assert "trying again in" in errors and "back" in errors and "secret" not in errors
    assert "Traceback" not in errors
    frames = [row["frame"] for row in found]
    assert frames == sorted(set(frames))
    ages = [row["milliseconds"]["age"] for row in found]  # its time away is no age of its frames
    assert np.median(ages[:30]) < 500 and np.median(ages[30:]) < 500
    assert all("secret" not in row["source"] for row in found)


def test_the_frames_of_an_rtsp_camera_are_its_pictures():
    from edge_demo.sources.source import open_source

    camera = RtspCamera()
    with open_source(camera.address) as opened:
        found = list(itertools.islice(opened.frames, 20))
    camera.stop()
    levels = np.array([frame.image.astype(float).mean() for frame in found])
    assert found[0].image.shape == (64, 64, 3)
    assert levels == pytest.approx(np.round(levels), abs=0.6)
    steps = np.diff([frame.number for frame in found])
    assert np.diff(levels) == pytest.approx(steps, abs=1.1)  # one grey level a frame


def test_empty_and_damaged_frames_of_a_stream_are_passed_over():
    from edge_demo.sources.source import open_source

    broken = {1: b"", 2: b"\xff\xd8\xff", 3: b"no picture", 4: jpeg(9)[:200]}
    camera = Camera(picture=lambda number: broken.get(number % 6, jpeg(number)))
    said = []
    with open_source(camera.address, say=said.append) as opened:
        found = list(itertools.islice(opened.frames, 10))
    camera.stop()
    assert all(frame.image.shape == (64, 64, 3) for frame in found) and not said
    assert [frame.number for frame in found] == sorted({frame.number for frame in found})


def test_a_stream_that_falls_silent_is_named_and_tried_again(monkeypatch):
    from edge_demo.sources import feeds
    from edge_demo.sources.source import open_source

    monkeypatch.setattr(feeds, "OPENING", 2.0)
    monkeypatch.setattr(feeds, "READING", 1.0)

    def picture(number):
        if number == 30:
            camera.stopped.wait(60)
        return jpeg(number)

    camera, said = Camera(picture=picture), []
    with open_source(camera.address, say=said.append) as opened:
        frames = iter(opened.frames)
        while not any(line.endswith(": back") for line in said):
            next(frames)
    camera.stop()
    assert "video.mjpeg: nothing came for 1 s; trying again in 0.5 s" in said[0], said
    camera = Camera(rate=0.01)  # a first frame alone is not enough to know what is in it
    with open_source(camera.address) as opened, pytest.raises(UserError, match="for 2 s"):
        next(iter(opened.frames))
    camera.stop()


PICAMERA2 = """
import itertools, time
import numpy as np

class Request:
    def __init__(self, number, size):
        self.number, self.size = number, size
        self.taken = time.monotonic_ns() + 10**15
    def make_array(self, stream):
        assert stream == "main"
        array = np.zeros((self.size[1], self.size[0], 3), np.uint8)
        array[..., 0] = self.number
        return array
    def get_metadata(self):
        return {"SensorTimestamp": self.taken}
    def release(self):
        Picamera2.held -= 1

class Picamera2:
    held = 0
    @staticmethod
    def global_camera_info():
        return [{"Num": 0, "Model": "imx708"}, {"Num": 1, "Model": "ov5647"}]
    def __init__(self, number):
        assert number == 1
        self.numbers = itertools.count()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def create_video_configuration(self, main, controls):
        assert main["format"] == "BGR888" and controls == {"FrameRate": 20.0}
        return main
    def configure(self, configuration):
        self.size = configuration["size"]
    def start(self):
        pass
    def capture_request(self):
        time.sleep(1 / 30)
        Picamera2.held += 1
        assert Picamera2.held == 1
        return Request(next(self.numbers), self.size)
"""


def test_the_camera_of_a_raspberry_pi_through_a_module_like_picamera2(int8, process, tmp_path):
    (tmp_path / "picamera2.py").write_text(PICAMERA2)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *PATHS])}
    listed = process("edge-demo", "--list-cameras", env=environment)
    assert listed.out.splitlines()[:2] == ["picamera:0  imx708", "picamera:1  ov5647"]
    options = ("--size", "96x64", "--rate", "20", "--limit", "20", "--json")
    done = process("edge-demo", int8, "--source", "picamera:1", *options, env=environment)
    assert done.code == 0, done.err
    found = rows(done.out)
    assert len(found) == 20 and {row["source"] for row in found} == {"picamera:1"}
    ages = [row["milliseconds"]["age"] for row in found]  # by a clock that is eleven days ahead
    assert np.median(ages) < 500


def test_without_picamera2_it_says_what_to_install(edge_cli, int8):
    done = edge_cli(int8, "--source", "picamera")
    assert (done.code, done.out) == (2, "")
    assert "python3-picamera2" in done.err and done.err.count("\n") == 1


def test_only_the_newest_frame_is_taken(camera):
    from edge_demo.sources.source import open_source

    with open_source(camera.address) as opened:
        assert opened.is_live and not opened.at_hand
        levels, numbers, ages, sent = [], [], [], []
        for frame, _ in zip(opened.frames, range(6)):
            levels.append(float(frame.image.mean()))
            numbers.append(frame.number)
            ages.append(time.monotonic() - frame.time)
            sent.append(camera.sent)
            until(lambda: camera.sent >= sent[-1] + 7)
    passed = sent[-1] - sent[1]
    assert levels[-1] - levels[1] > passed / 2 and numbers[-1] - numbers[1] > passed / 2
    assert min(ages[1:]) < 0.2  # of each one more a quarter of a second, were they kept


def test_a_slow_camera_is_not_taken_for_a_late_one(int8, process):
    camera = Camera(rate=8)  # MJPEG has no times of its own
    done = process("edge-demo", int8, "--source", camera.address, "--json", "--limit", "20")
    camera.stop()
    ages = [row["milliseconds"]["age"] for row in rows(done.out)]
    assert (
        np.median(ages) < 500
    )  # at the usual 25 a second each would be 85 later than the one before


@pytest.mark.parametrize(
    "kinds", [("JPEG",), ("PNG",), ("WEBP",), ("BMP",), ("JPEG", "PNG", "WEBP", "BMP")]
)
def test_images_behind_each_other_are_taken_apart(sample_photos, kinds):
    files = [
        encoded(photo.resize((97, 61)), kind) for kind in kinds for photo in sample_photos.values()
    ]
    files.append(encoded_progressive(sample_photos["china"]))
    stream = io.BufferedReader(Slow(b"".join(files)))
    assert list(image_stream.split(stream)) == files
    cut = list(image_stream.split(io.BytesIO(b"".join(files)[:-20])))
    assert cut == [*files[:-1], files[-1][:-20]]


def encoded_progressive(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xd9" * 50)
    return buffer.getvalue()


class Slow(io.RawIOBase):
    """A pipe that gives 1,000 bytes at a time."""

    def __init__(self, data):
        self._data = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, target):
        found = self._data.read(min(1000, len(target)))
        target[: len(found)] = found
        return len(found)


def test_images_on_stdin_through_the_command(int8, digits):
    pictures = [encoded(picture.resize((32, 32)), "PNG") for picture in digits[0][:3]]
    command = [BIN / "edge-demo", int8, "--source", "-", "--json"]
    done = subprocess.run(command, input=b"".join(pictures), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [row["frame"] for row in rows(done.stdout.decode())] == [0, 1, 2]
    for data, message in ((b"", "nothing came on stdin"), (b"text", "stdin#0: not a JPEG")):
        done = subprocess.run(command, input=data, capture_output=True, check=False)
        assert done.returncode == 2 and done.stderr.decode().count("\n") == 1
        assert message in done.stderr.decode()


def test_what_is_no_video_or_not_there_is_one_line(edge_cli, int8, tmp_path, clip):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mkv").write_bytes(b"")
    cases = {
        tmp_path / "text.mp4": "damaged after 0 frames",
        tmp_path / "empty.mkv": "damaged after 0 frames",
        "http://127.0.0.1:9/none.mjpeg": "Connection refused",
        "/dev/video99": "/dev/video99: ",
    }
    for source, message in cases.items():
        done = edge_cli(int8, "--source", source)
        assert done.code == 2 and message in done.err, done.err
        assert len(done.err.splitlines()) == 1
    done = edge_cli(int8, "--source", "0", "--size", "640")
    assert done.code == 2 and "'640' is not like 640x480" in done.err


def test_csv_threshold_and_smoothing_through_the_command(edge_cli, int8, clip):
    plain = rows(edge_cli(int8, "--source", clip, "--json").out)
    table = list(csv.DictReader(edge_cli(int8, "--source", clip, "--csv").out.splitlines()))
    assert [row["label"] for row in table] == [row["label"] for row in plain]
    assert [float(row["time"]) for row in table] == [row["seconds"] for row in plain]
    assert [int(row["frame"]) for row in table] == list(range(20))
    least = np.median([row["score"] for row in plain])
    cut = rows(edge_cli(int8, "--source", clip, "--json", "--threshold", least).out)
    expected = [row["label"] if row["score"] >= least else "unknown" for row in plain]
    assert [row["label"] for row in cut] == expected and len(set(expected)) > 2
    smooth = rows(edge_cli(int8, "--source", clip, "--json", "--smooth", "1").out)
    changes = [
        sum(a["label"] != b["label"] for a, b in itertools.pairwise(r)) for r in (smooth, plain)
    ]
    assert changes[0] < changes[1] / 2
    assert "unknown" in edge_cli(int8, "--source", clip, "--threshold", "1", "--limit", "1").out


def test_a_file_name_of_two_lines_is_one_field_of_csv(edge_cli, int8, digits, tmp_path):
    paths = [tmp_path / name for name in ("a\nb.png", "c\rd.png", 'e,"f.png')]
    for path in paths:
        digits[0][0].save(path)
    text = edge_cli(int8, "--source", tmp_path, "--csv").out
    table = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["source"] for row in table] == [str(path) for path in paths]
    assert all(re.fullmatch(r"\d\.\d{3,}", row["inference_ms"]) for row in table)


def test_limit_ends_after_so_many(edge_cli, int8, clip):
    assert len(rows(edge_cli(int8, "--source", clip, "--json", "--limit", 4).out)) == 4


def test_the_clock_sees_delay_and_not_drift():
    clock = Clock()
    for n in range(1000):  # a source 50 ppm slow, ten seconds a frame
        stamp = 10.0 * n
        arrived = 5 + stamp * (1 + 5e-5)
        assert arrived - clock.taken(stamp, arrived) < 0.01
    late = [5 + stamp * (1 + 5e-5) + 2 - clock.taken(stamp, 5 + stamp * (1 + 5e-5) + 2)]
    assert late[0] == pytest.approx(2, abs=0.1)
    assert clock.taken(0.0, 20_000.0) == 20_000.0  # its clock begins anew
    assert clock.taken(None, 7.0) == 7.0


def test_cameras_are_listed(edge_cli):
    done = edge_cli("--list-cameras")
    assert done.code == 0 and (done.out or done.err == "no camera\n")
