"""What `edge-demo` leaves behind: annotated pictures and videos, pictures to be labelled, the live view."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time

import numpy as np
import pytest
from helpers import BIN, until
from network_camera import Camera
from PIL import Image

from edge_demo import Classifier, UserError
from edge_demo.outputs import terminal
from edge_demo.outputs.annotate import draw
from edge_demo.pipeline import Pipeline, box_of
from edge_demo.results import Result
from edge_demo.sources.frames import Frame
from edge_demo.sources.source import Source

av = pytest.importorskip("av")


def rows(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, digits):
    """Six digits as PNG files of 120x90, two of one name in two folders."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "deep").mkdir()
    for name, picture in zip(("a", "b", "c", "d", "e", "deep/a"), digits[0]):
        picture.resize((120, 90)).save(root / f"{name}.png")
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory, digits):
    """A video of 12 digits at 5 frames a second, 121x91 as far as its codec can tell."""
    path = tmp_path_factory.mktemp("clip") / "digits.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height = 122, 90
        for picture in digits[0][:12]:
            container.mux(stream.encode(av.VideoFrame.from_image(picture.resize((122, 90)))))
        container.mux(stream.encode())
    return path


# --- the part that is looked at


def test_a_region_is_what_a_picture_of_that_part_would_be(edge_cli, int8, sample_photos, tmp_path):
    photo = sample_photos["china"]
    photo.save(tmp_path / "whole.png")
    photo.crop((160, 0, 480, 213)).save(tmp_path / "part.png")
    part = rows(edge_cli(int8, "--source", tmp_path / "part.png", "--json").out)[0]
    for region in ("160,0,480,213", "0.25,0,0.75,0.499"):
        whole = edge_cli(int8, "--source", tmp_path / "whole.png", "--region", region, "--json")
        assert rows(whole.out)[0]["top"] == part["top"]
    assert box_of((500.0, 100.0, 900.0, 900.0), photo.size, "x") == (500, 100, 640, 427)


@pytest.mark.parametrize("region", ["0,0,1", "a,b,c,d", "0.5,0,0.2,1", "-1,0,1,1", "0,0,nan,1"])
def test_what_is_no_region_is_refused(edge_cli, int8, pictures, region):
    done = edge_cli(int8, "--source", pictures / "a.png", "--region", region)
    assert (done.code, done.out) == (2, "")
    assert "0.25,0,0.75,1" in done.err and done.err.count("\n") == 1


def test_a_region_outside_of_the_picture_is_said(edge_cli, int8, pictures, clip):
    for source in (pictures / "a.png", clip):
        done = edge_cli(int8, "--source", source, "--region", "200,0,300,50")
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert "outside" in done.err


def test_every_nth_frame_up_to_a_limit(edge_cli, int8, clip):
    def frames(*options):
        return [
            row["frame"] for row in rows(edge_cli(int8, "--source", clip, "--json", *options).out)
        ]

    assert frames("--every", 5) == [0, 5, 10]
    assert frames("--every", 5, "--limit", 2) == [0, 5]
    assert frames("--limit", 3) == [0, 1, 2]


def test_frames_are_prepared_one_ahead_and_no_more(int8, digits):
    taken = []

    def frames():
        for number, picture in enumerate(digits[0][:6]):
            taken.append(number)
            yield Frame(np.asarray(picture), "digits", number)

    results = Pipeline(Classifier(int8)).results(Source(frames()))
    for number, result in enumerate(results):
        assert result.frame.number == number
        assert set(result.milliseconds) == {"decode", "resize", "inference"}
        assert all(0 < ms < 60_000 for ms in result.milliseconds.values())
        time.sleep(0.05)
        assert taken[-1] <= number + 1
    assert number == 5


def test_results_that_are_left_half_way_leave_no_thread(int8, digits):
    frames = [Frame(np.asarray(picture), "digits", n) for n, picture in enumerate(digits[0][:9])]

    def fail():
        yield from frames[:3]
        raise UserError("the disk is gone")

    pipeline = Pipeline(Classifier(int8))
    for _ in range(20):
        assert next(pipeline.results(Source(iter(frames)))).frame.number == 0
        with pytest.raises(UserError, match="gone"):
            list(pipeline.results(Source(fail())))
    until(lambda: "ahead" not in {t.name for t in threading.enumerate()})


# --- annotated pictures and videos


def test_annotated_pictures_have_the_name_of_their_file(edge_cli, int8, pictures, tmp_path):
    out = tmp_path / "new" / "annotated"
    done = edge_cli(int8, "--source", pictures, "--out", out, "--top", 2)
    assert done.code == 0, done.err
    names = sorted(path.name for path in out.iterdir())
    assert names == ["a.jpg", "a_2.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    for name in "bcde":
        before = np.asarray(Image.open(pictures / f"{name}.png").convert("RGB"), float)
        after = np.asarray(Image.open(out / f"{name}.jpg"), float)
        assert after.shape == before.shape
        changed = np.abs(after - before).mean(axis=(1, 2))
        assert changed[-30:].mean() > 5 * changed[:20].mean()  # the labels are at the bottom


def test_an_annotated_video_has_the_frames_and_the_times(edge_cli, int8, clip, tmp_path):
    for name in ("seen.mp4", "seen.webm"):
        done = edge_cli(int8, "--source", clip, "--out", tmp_path / name, "--json")
        assert done.code == 0, done.err
        with av.open(str(tmp_path / name)) as container:
            frames = list(container.decode(video=0))
        assert [frame.time for frame in frames] == pytest.approx(np.arange(12) / 5, abs=2e-3)
        assert (frames[0].width, frames[0].height) == (122, 90)
    assert {path.name for path in tmp_path.iterdir()} == {"seen.mp4", "seen.webm"}


def test_pictures_of_different_sizes_become_one_video(edge_cli, int8, digits, tmp_path):
    for number, size in enumerate([(64, 48), (65, 49), (200, 100)]):
        digits[0][number].resize(size).save(tmp_path / f"{number}.png")
    done = edge_cli(int8, "--source", tmp_path, "--out", tmp_path / "all.mp4")
    assert done.code == 0, done.err
    with av.open(str(tmp_path / "all.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [(f.time, f.width, f.height) for f in frames] == [(n, 64, 48) for n in range(3)]


@pytest.mark.parametrize("name", ["file/out", "file/out.mp4", "file"])
def test_where_nothing_can_be_written_it_says_so(edge_cli, int8, pictures, tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    for option in ("--out", "--keep"):
        done = edge_cli(int8, "--source", pictures / "a.png", option, tmp_path / name)
        if (option, name) == ("--keep", "file/out.mp4"):
            continue
        assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert (tmp_path / "file").read_text() == "not a folder"


# pictures in a folder, in the order in which they are read, that would be annotated in that folder
OWN = [["a.jpg"], ["a.bmp", "a.jpg"], ["A/a.png", "a.jpg"]]


@pytest.mark.parametrize("names", OWN, ids=" ".join)
def test_the_pictures_of_the_source_are_not_replaced(edge_cli, int8, digits, tmp_path, names):
    for name, picture in zip(names, digits[0]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    done = edge_cli(int8, "--source", tmp_path, "--out", tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1, done.err
    assert "a.jpg: is there already, among the pictures of the source" in done.err
    assert {name: (tmp_path / name).read_bytes() for name in names} == before


def test_what_was_annotated_before_is_replaced_where_no_picture_of_the_source_is(
    edge_cli, int8, digits, tmp_path
):
    digits[0][0].resize((64, 64)).save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.jpg").write_text("of the last run")
    for out in (tmp_path, tmp_path / "out"):
        assert edge_cli(int8, "--source", tmp_path / "a.png", "--out", out).code == 0
        assert Image.open(out / "a.jpg").size == (64, 64)


def test_a_video_is_not_replaced_by_its_annotated_copy(edge_cli, int8, clip, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "link.mp4").symlink_to("clip.mp4")
    for name in ("clip.mp4", "link.mp4"):
        done = edge_cli(int8, "--source", tmp_path / "clip.mp4", "--out", tmp_path / name)
        assert (done.code, done.err) == (
            2,
            f"error: {tmp_path / name}: is the source itself; name another --out\n",
        )
        assert (tmp_path / "clip.mp4").read_bytes() == clip.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "link.mp4"}


# size of a picture, words of the message
NO_VIDEOS = {
    "a pixel": ((1, 1), "no video can be of 1x1 pixels"),
    "a row": ((70_000, 1), "no video can be of 70000x1 pixels"),
    "a column": ((1, 40), "no video can be of 1x40 pixels"),
    "too long for the codec": ((70_000, 2), "thin.mp4: "),
}


@pytest.mark.parametrize("size, words", NO_VIDEOS.values(), ids=NO_VIDEOS)
def test_a_picture_of_no_size_for_a_video_is_one_line(edge_cli, int8, tmp_path, size, words):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    done = edge_cli(int8, "--source", tmp_path / "thin.png", "--out", tmp_path / "thin.mp4")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"thin.png"}


def test_a_folder_of_a_videos_name_is_said_before_anything_is_done(
    edge_cli, int8, pictures, tmp_path
):
    (tmp_path / "seen.mp4").mkdir()
    done = edge_cli(int8, "--source", pictures, "--out", tmp_path / "seen.mp4")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "seen.mp4: is a folder" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"seen.mp4"}


@pytest.mark.skipif(os.name != "posix", reason="limits of this kind")
def test_a_full_disk_leaves_nothing_of_a_video(int8, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    arguments = [BIN / "edge-demo", int8, "--source", "noise.png", "--out", "full.mp4"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "error: full.mp4: File too large\n")
    assert {path.name for path in tmp_path.iterdir()} == {"noise.png"}


@pytest.mark.parametrize("size", [(70_000, 1), (2, 70_000)], ids=str)
def test_a_picture_too_long_for_jpeg_is_made_smaller(edge_cli, int8, digits, tmp_path, size):
    (tmp_path / "in").mkdir()
    digits[0][0].resize(size).save(tmp_path / "in/a.png")
    digits[0][1].save(tmp_path / "in/b.png")
    options = ("--out", tmp_path / "out", "--keep", tmp_path / "kept", "--keep-below", 1)
    done = edge_cli(int8, "--source", tmp_path / "in", *options)
    assert done.code == 0, done.err
    for folder in ("out", "kept"):
        first, second = (Image.open(path) for path in sorted((tmp_path / folder).iterdir()))
        assert max(first.size) == 65_500 and min(first.size) == min(size)
        assert second.size == (8, 8)


def result(picture, **changes):
    ranked = [("rose", 0.7), ("tulip", 0.2), ("daisy", 0.1)]
    values = {"region": None, "ranked": ranked, "label": "rose", "milliseconds": {"inference": 1.0}}
    return Result(Frame(b"", "x"), picture, **(values | changes))


def test_the_attention_is_bright_where_the_model_looked(sample_photos):
    grey = Image.new("RGB", (200, 100), (90, 90, 90))
    attention = np.zeros((4, 8), np.float32)
    attention[1, 6] = 1
    plain, drawn = (
        np.asarray(draw(result(grey, attention=attention), 1, overlay), float).mean(axis=-1)
        for overlay in (False, True)
    )
    brighter = (drawn - plain)[:60]
    brightest = np.argwhere(brighter == brighter.max()).mean(axis=0)
    assert brightest == pytest.approx([37, 162], abs=5)  # the middle of its patch
    assert np.abs(brighter[:, :120]).max() < 12
    inside = np.asarray(draw(result(grey, attention=attention, region=(0, 0, 100, 60)), 1, True))
    outside = np.asarray(draw(result(grey, region=(0, 0, 100, 60)), 1))
    assert (inside[:60, 110:] == outside[:60, 110:]).all()
    assert (np.asarray(grey) == 90).all()
    with pytest.raises(UserError, match="--with-attention"):
        draw(result(grey), 1, True)


def test_labels_that_are_long_or_strange_stay_on_the_picture():
    for size in ((30, 20), (64, 64), (300, 1000), (1000, 40)):
        grey = Image.new("RGB", size, (90, 90, 90))
        for name in ("x" * 500, "naïve цветок 花", "\u202e<b>", ""):
            drawn = draw(result(grey, ranked=[(name, 1.0)], label=name), 3)
            assert drawn.size == size
            assert drawn.tobytes() != grey.tobytes()


def test_overlay_of_a_model_that_tells_no_attention_is_refused(edge_cli, int8, pictures, tmp_path):
    done = edge_cli(
        *(int8, "--source", pictures / "a.png", "--json"),
        *("--out", tmp_path / "out", "--overlay", "attention"),
    )
    assert done.code == 2
    assert "--with-attention" in done.err and done.err.count("\n") == 1
    done = edge_cli(int8, "--source", pictures / "a.png", "--overlay", "attention")
    assert done.code == 2
    assert "--overlay needs --out or --serve" in done.err and done.err.count("\n") == 1


# --- pictures to be labelled


def test_pictures_that_are_not_sure_are_kept_as_they_were(edge_cli, int8, pictures, tmp_path):
    found = rows(edge_cli(int8, "--source", pictures, "--json").out)
    scores = sorted(row["score"] for row in found)
    below = (scores[2] + scores[3]) / 2
    done = edge_cli(int8, "--source", pictures, "--keep", tmp_path, "--keep-below", below)
    assert done.code == 0, done.err
    kept = {}
    for path in tmp_path.iterdir():
        label, score = re.fullmatch(r"kept_[\d_]+_(\d)_(0\.\d\d)\.jpg", path.name).groups()
        kept[path] = label, float(score)
    unsure = [row for row in found if row["score"] < below]
    expected = [(row["label"], pytest.approx(row["score"], abs=0.0051)) for row in unsure]
    assert [kept[path] for path in sorted(kept)] == expected
    for path, row in zip(sorted(kept), unsure):
        before, after = (
            np.asarray(Image.open(name).convert("RGB"), float) for name in (row["source"], path)
        )
        assert np.abs(after - before).mean() < 4


def test_the_folder_of_kept_pictures_is_bounded_and_what_else_is_there_stays(
    edge_cli, int8, pictures, tmp_path
):
    (tmp_path / "aaa.jpg").write_text("mine")
    (tmp_path / "kept.txt").write_text("mine too")
    options = ("--keep", tmp_path, "--keep-below", 1, "--keep-most", 2, "--json")
    done = edge_cli(int8, "--source", pictures, *options)
    kept = sorted(tmp_path.glob("kept_*.jpg"))
    assert len(kept) == 2 and len(list(tmp_path.iterdir())) == 4
    last = [row["label"] for row in rows(done.out)][-2:]
    assert [path.stem.split("_")[-2] for path in kept] == last


def test_of_a_video_at_most_one_a_second_is_kept(edge_cli, int8, clip, tmp_path):
    edge_cli(int8, "--source", clip, "--keep", tmp_path, "--keep-below", 1)
    assert len(list(tmp_path.iterdir())) == 3  # of 2.4 seconds


def test_a_label_is_no_way_out_of_the_folder(digits, tmp_path):
    from edge_demo.outputs.sinks import kept

    (tmp_path / "in").mkdir()
    with kept(tmp_path / "in", 1.0, 9) as take:
        for label in ("../../x", "/etc/passwd", "..", "a/b\\c:d", "\n", "é花"):
            take(result(digits[0][0], ranked=[(label, 0.4)], label=label))
    names = [path.name for path in (tmp_path / "in").iterdir()]
    assert len(names) == 6 and len(list(tmp_path.iterdir())) == 1
    assert all(re.fullmatch(r"kept_[\d_]+_[\w-][\w.-]*_0\.40\.jpg", name) for name in names)


# --- the live view


@pytest.fixture
def in_terminal():
    """in_terminal(model, limit, columns): starts a live view; its process, the terminal, the camera."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    camera = Camera()

    def start(model, limit, columns):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        running = subprocess.Popen(
            [BIN / "edge-demo", model, "--source", camera.address, "--top", "3", "--limit", limit],
            env=os.environ | {"COLUMNS": "200"},  # of the shell that was there first
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(theirs)
        return running, ours, camera

    yield start
    camera.stop()


def test_in_a_terminal_the_newest_result_stays_in_place(in_terminal, int8):
    running, ours, camera = in_terminal(int8, "40", 200)
    shown = os.read(ours, 1 << 16)
    began, sent = time.monotonic(), camera.sent
    shown += rest(ours)
    took, sent = time.monotonic() - began, camera.sent - sent
    assert running.wait(60) == 0, running.stderr.read()
    first, *drawings = shown.decode().replace("\r\n", "\n").split("\x1b[5A\x1b[J")
    assert 5 < len(drawings) <= took / terminal.REDRAW + 2  # of 40 frames at 30 a second
    for drawing in (first, *drawings):
        head, label, *bars = drawing.removesuffix("\n").split("\n")
        assert re.fullmatch(
            r"http:\S+  \d+\.\d of \d+\.\d frames/s  decode \d+\.\d  resize \d+\.\d  "
            r"inference \d+\.\d  age -?\d+ ms",
            head,
        )
        assert re.match(r"  (\d) +\d+\.\d %", bars[0])[1] == label
        assert len(bars) == 3
    rate, arriving = re.search(r"  (\S+) of (\S+) frames/s", drawings[-1]).groups()
    assert float(arriving) == pytest.approx(sent / took, rel=0.3)
    assert 0 < float(rate) <= float(arriving)


def test_in_a_narrow_terminal_no_line_wraps(in_terminal, int8, split_model, join_model, tmp_path):
    graph, _, description = split_model(int8)
    labels = "".join(f"{'花' * 45}{n}\n" for n in range(10))  # each letter is two columns wide
    model = tmp_path / "named.tflite"
    model.write_bytes(join_model(graph, {"labels.txt": labels, "tfvit.json": description}))
    running, ours, _ = in_terminal(model, "20", 80)
    shown = rest(ours).decode().replace("\r\n", "\n")
    assert running.wait(60) == 0, running.stderr.read()
    drawings = [drawing.split("\n") for drawing in shown.split("\x1b[5A\x1b[J")]
    assert len(drawings) > 2
    for drawing in drawings:
        head, label, *bars, after = (len(line) + line.count("花") for line in drawing)
        assert (head, label, bars, after) == (79, 78, [78] * 3, 0)


def rest(terminal):
    """All that is still written to a terminal."""
    shown = b""
    try:
        while True:
            shown += os.read(terminal, 1 << 16)
    except OSError:  # how it says that nobody writes any more
        return shown
