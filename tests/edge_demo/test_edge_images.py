import io
import os
import random
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from edge_demo import UserError
from edge_demo.images import EXTENSIONS, FORMATS, decode, find, read_rgb, to_rgb

ORIENTATION = 0x0112
# EXIF orientation -> how the pixels of an upright picture are stored under it
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}
# format -> how to save it as exactly as it can, and the largest mean error that leaves
SAVED = {
    "JPEG": ({"quality": 95, "subsampling": 0}, 2.0),
    "PNG": ({}, 0.0),
    "WEBP": ({"lossless": True}, 0.0),
    "BMP": ({}, 0.0),
}


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG written by hand. color: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    content = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(content) + chunk(b"IEND", b"")


def mean_difference(image: Image.Image, expected) -> float:
    assert image.mode == "RGB"
    values, expected = np.asarray(image, np.float32), np.asarray(expected, np.float32)
    assert values.shape == expected.shape
    return float(np.abs(values - expected).mean())


@pytest.fixture(scope="module")
def photo(sample_photos) -> Image.Image:
    return sample_photos["china"].resize((160, 107))


# --- formats


def test_the_tables_here_cover_every_format():
    assert set(SAVED) == set(FORMATS)


@pytest.mark.parametrize("form", SAVED)
def test_a_photo_in_each_format_is_the_photo(sample_photos, form):
    options, limit = SAVED[form]
    for photo in sample_photos.values():
        image = decode(encoded(photo, form, **options))
        assert image.size == photo.size
        assert mean_difference(image, photo) <= limit


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 40}, {"subsampling": 2}])
def test_jpeg_of_any_kind_is_close_to_the_photo(photo, options):
    assert mean_difference(decode(encoded(photo, "JPEG", **options)), photo) < 8


@pytest.mark.parametrize("form", ["MPO", "PNG", "WEBP"])
def test_of_several_frames_the_first_counts(photo, form):
    other = Image.new("RGB", photo.size, (0, 255, 0))
    several = encoded(photo, form, save_all=True, append_images=[other])
    assert mean_difference(decode(several), photo) < 8


def test_a_file_is_read_whatever_it_is_called(photo, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo, "PNG"))
    for argument in (path, str(path)):
        assert mean_difference(read_rgb(argument), photo) == 0


# --- orientation


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_gives_the_same_upright_picture(photo, form, orientation):
    options, limit = SAVED[form]
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(photo))))
    image = decode(encoded(stored, form, exif=exif(orientation), **options))
    assert image.size == photo.size
    assert mean_difference(image, photo) <= limit


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_leaves_the_picture(photo, form, orientation):
    options, limit = SAVED[form]
    image = decode(encoded(photo, form, exif=exif(orientation), **options))
    assert mean_difference(image, photo) <= limit


BAD_EXIF = {
    "text": b"garbage",
    "nothing": b"",
    "no offset": b"II*\0",
    "offset beyond the end": b"II*\0\xff\xff\xff\xff",
    "more tags than bytes": b"II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 30,
    "cut within a tag": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01",
    "orientation is text": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
    "a loop of directories": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x01\0\0\0\0\0\x08",
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tags", BAD_EXIF.values(), ids=BAD_EXIF)
def test_damaged_exif_does_not_cost_the_picture_nor_a_warning(photo, form, tags):
    options, limit = SAVED[form]
    data = encoded(photo, form, exif=b"Exif\0\0" + tags, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert mean_difference(decode(data), photo) <= limit
    assert not [str(warning.message) for warning in caught]


def test_a_tag_of_the_wrong_type_does_not_cost_a_turned_picture(photo):
    # orientation 6 as it must be; the x resolution, a fraction, holds text
    tags = b"MM\0*\0\0\0\x08\0\x02" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    tags += b"\x01\x1a\0\x02\0\0\0\x04six\0" + bytes(4)
    stored = photo.transpose(Image.Transpose.ROTATE_90)
    data = encoded(stored, "PNG", exif=b"Exif\0\0" + tags)
    assert mean_difference(decode(data), photo) == 0


# --- modes


@pytest.mark.parametrize("form", SAVED)
def test_grey_is_the_same_in_three_channels(photo, form):
    options, limit = SAVED[form]
    grey = photo.convert("L")
    options = {k: v for k, v in options.items() if k != "subsampling"}
    if form == "WEBP":
        options["exact"] = True
    expected = np.repeat(np.asarray(grey)[..., np.newaxis], 3, axis=2)
    assert mean_difference(decode(encoded(grey, form, **options)), expected) <= limit


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_one_bit_is_black_and_white(photo, form):
    bits = photo.convert("1")
    expected = np.repeat(255 * np.asarray(bits, np.uint8)[..., np.newaxis], 3, axis=2)
    assert {0, 255} == set(np.unique(expected))
    assert mean_difference(decode(encoded(bits, form)), expected) == 0


@pytest.mark.parametrize("form", ["PNG", "BMP"])
@pytest.mark.parametrize("colours", [2, 16, 256])
def test_a_palette_is_looked_up(photo, form, colours):
    indexed = photo.quantize(colours)
    palette = np.uint8(indexed.getpalette()).reshape(-1, 3)
    expected = palette[np.asarray(indexed)]
    assert mean_difference(decode(encoded(indexed, form)), expected) == 0


@pytest.mark.parametrize("clear", [0, 5, 15])
def test_a_transparent_palette_entry_is_white(photo, clear):
    indexed = photo.quantize(16)
    index = np.asarray(indexed)
    expected = np.uint8(indexed.getpalette()).reshape(-1, 3)[index]
    expected[index == clear] = 255
    assert (index == clear).any()
    assert mean_difference(decode(encoded(indexed, "PNG", transparency=clear)), expected) == 0


def test_palette_entries_may_be_half_transparent():
    palette = chunk(b"PLTE", bytes([200, 0, 0, 0, 100, 0, 0, 0, 50]))
    alpha = chunk(b"tRNS", bytes([255, 128, 0]))
    image = decode(png(3, 1, 8, 3, b"\0\0\1\2", palette, alpha))
    blended = [255 * 127 / 255, (100 * 128 + 255 * 127) / 255, 255 * 127 / 255]
    expected = [[[200, 0, 0], blended, [255, 255, 255]]]
    assert np.abs(np.asarray(image, float) - expected).max() <= 1


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., np.newaxis].astype(float) / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_blended_with_white(photo, form, mode):
    alpha = np.tile(np.linspace(0, 255, photo.width).round().astype(np.uint8), (photo.height, 1))
    image = photo.convert(mode[:-1])
    colours = np.asarray(image.convert("RGB"), float)
    image.putalpha(Image.fromarray(alpha))
    assert image.mode == mode
    options = {"lossless": True, "exact": True} if form == "WEBP" else {}
    result = np.asarray(decode(encoded(image, form, **options)), float)
    assert np.abs(result - on_white(colours, alpha)).max() <= 1
    assert (result[:, 0] == 255).all()  # transparent
    assert np.array_equal(result[:, -1], colours[:, -1])  # opaque


def two(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


# A PNG of one row: depth, colour type, the row, the transparent colour, RGB expected
ROWS = {
    "grey 8": (8, 0, bytes([0, 128, 255]), b"", [[0] * 3, [128] * 3, [255] * 3]),
    "grey 16": (16, 0, two(65535, 32896, 0), b"", [[255] * 3, [128] * 3, [0] * 3]),
    "grey 16, dark": (16, 0, two(257, 257 * 7, 257 * 254), b"", [[1] * 3, [7] * 3, [254] * 3]),
    "grey 16, rounded": (16, 0, two(300, 200, 128 * 257 + 200), b"", [[1] * 3, [1] * 3, [129] * 3]),
    "grey 16 and alpha": (16, 4, two(0, 65535, 65535, 65535, 0, 0), b"", [[0] * 3, [255] * 3, [255] * 3]),
    "RGB 16": (16, 2, two(65535, 32896, 257, 0, 0, 0), b"", [[255, 128, 1], [0, 0, 0]]),
    "RGBA 16": (16, 6, two(65535, 32896, 0, 65535, 0, 0, 0, 0), b"", [[255, 128, 0], [255] * 3]),
    "grey 8, one clear": (8, 0, bytes([7, 8, 9]), two(8), [[7] * 3, [255] * 3, [9] * 3]),
    "grey 1, one clear": (1, 0, bytes([0b10100000]), two(0), [[255] * 3, [255] * 3, [255] * 3]),
    "grey 16, one clear": (16, 0, two(0, 257, 514), two(257), [[0] * 3, [255] * 3, [2] * 3]),
    "RGB 8, one clear": (8, 2, bytes([1, 2, 3, 1, 2, 4]), two(1, 2, 3), [[255] * 3, [1, 2, 4]]),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_png_written_by_hand_has_these_colours(row):
    depth, color, values, clear, expected = ROWS[row]
    chunks = [chunk(b"tRNS", clear)] if clear else []
    image = decode(png(len(expected), 1, depth, color, b"\0" + values, *chunks))
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == expected


def test_sixteen_bit_grey_is_scaled_not_cut():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = np.asarray(decode(encoded(Image.fromarray(levels), "PNG")))
    expected = np.round(levels / 257)
    assert np.abs(image - expected[..., np.newaxis]).max() == 0


def test_a_cmyk_jpeg_looks_like_its_rgb_original(sample_photos):
    photo = sample_photos["flower"]
    data = encoded(photo.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert mean_difference(decode(data), photo) < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I"])
def test_to_rgb_takes_any_mode(photo, mode):
    image = to_rgb(photo.convert(mode) if mode != "LAB" else Image.new("LAB", photo.size))
    assert (image.mode, image.size) == ("RGB", photo.size)


# --- smaller decoding for training


AT_LEAST = [(70, 50), (160, 104), (200, 100), (320, 208), (321, 60), (60, 300), (640, 416)]


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("at_least", AT_LEAST)
def test_a_smaller_jpeg_is_at_least_as_large_as_asked(sample_photos, at_least, orientation):
    photo = sample_photos["china"].crop((0, 0, 640, 416))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(photo))))
    data = encoded(stored, "JPEG", quality=95, exif=exif(orientation))
    image = decode(data, at_least=at_least)
    assert image.width >= at_least[0]
    assert image.height >= at_least[1]
    assert mean_difference(image, photo.resize(image.size, Image.Resampling.BOX)) < 4


def test_a_large_jpeg_is_indeed_decoded_smaller(sample_photos):
    photo = sample_photos["china"].crop((0, 0, 640, 416))
    for at_least, size in {(320, 208): (320, 208), (70, 50): (80, 52)}.items():
        assert decode(encoded(photo, "JPEG"), at_least=at_least).size == size
        assert decode(encoded(photo, "PNG"), at_least=at_least).size == photo.size


# --- bad input


NO_IMAGE = {  # what is in a file called photo.jpg, and what must be said of it
    "empty": (lambda photo: b"", "empty file"),
    "text": (lambda photo: b"These are words, not pixels.\n" * 40, "not a JPEG, PNG, WebP or BMP"),
    "zeros": (lambda photo: bytes(4096), "not a JPEG, PNG, WebP or BMP"),
    "noise": (lambda photo: random.Random(0).randbytes(4096), "not a JPEG, PNG, WebP or BMP"),
    "GIF": (lambda photo: encoded(photo.quantize(16), "GIF"), "not a JPEG, PNG, WebP or BMP"),
    "TIFF": (lambda photo: encoded(photo, "TIFF"), "not a JPEG, PNG, WebP or BMP"),
    "PPM": (lambda photo: encoded(photo, "PPM"), "not a JPEG, PNG, WebP or BMP"),
    "PDF": (lambda photo: encoded(photo, "PDF"), "not a JPEG, PNG, WebP or BMP"),
    "no width": (lambda photo: png(0, 5, 8, 2, b""), "photo.jpg: "),
    "no height": (lambda photo: png(5, 0, 8, 2, b""), "photo.jpg: "),
    "no pixels": (lambda photo: png(5, 5, 8, 2, b""), "damaged"),
    "a bad colour type": (lambda photo: png(5, 5, 8, 5, bytes(80)), "photo.jpg: "),
    "no end mark": (lambda photo: encoded(photo, "JPEG")[:-2], "damaged"),
}


@pytest.mark.parametrize("name", NO_IMAGE)
def test_what_is_no_image_is_one_line(photo, tmp_path, name):
    content, words = NO_IMAGE[name]
    path = tmp_path / "photo.jpg"
    path.write_bytes(content(photo))
    with pytest.raises(UserError, match=words) as caught:
        read_rgb(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message) > len(f"{path}: ") + 5
    assert "\n" not in message


@pytest.mark.parametrize("cut", [1, 2, 8, 20, 100, 0.1, 0.5, 0.9, -100])
@pytest.mark.parametrize("form", SAVED)
def test_a_truncated_image_is_one_line_at_every_cut(photo, form, cut):
    data = encoded(photo, form, **SAVED[form][0])
    end = int(cut * len(data)) if isinstance(cut, float) else cut
    with pytest.raises(UserError, match=r"^photo\.jpg: ") as caught:
        decode(data[:end], "photo.jpg")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path):
    for path, words in ((tmp_path / "none.jpg", "[Nn]o such file"), (tmp_path, "directory|folder")):
        with pytest.raises(UserError, match=words) as caught:
            read_rgb(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\0b.jpg", "a" * 300 + ".jpg", "x/" * 3000 + "y.jpg"], ids=len)
def test_an_impossible_file_name_is_a_user_error(name):
    with pytest.raises(UserError):
        read_rgb(name)
    with pytest.raises(UserError):
        find(name)


def jpeg_of(photo, width: int, height: int) -> bytes:
    data = bytearray(encoded(photo, "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_of(photo, width: int, height: int) -> bytes:
    data = bytearray(encoded(photo, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


BOMBS = {
    "PNG of 50000x50000": lambda photo: png(50000, 50000, 8, 2, bytes(100)),
    "PNG of 1x2147483647": lambda photo: png(1, 2**31 - 1, 8, 2, bytes(100)),
    "PNG of 2147483647x2147483647": lambda photo: png(2**31 - 1, 2**31 - 1, 16, 6, bytes(100)),
    "PNG just over the limit": lambda photo: png(10001, 10000, 8, 0, bytes(100)),
    "one-bit PNG just over the limit": lambda photo: png(10001, 10000, 1, 0, bytes(100)),
    "JPEG of 65000x65000": lambda photo: jpeg_of(photo, 65000, 65000),
    "JPEG just over the limit": lambda photo: jpeg_of(photo, 20000, 5001),
    "BMP of 50000x50000": lambda photo: bmp_of(photo, 50000, 50000),
    "BMP of 50000x-50000": lambda photo: bmp_of(photo, 50000, -50000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_header_of_too_many_pixels_is_refused_before_decoding(monkeypatch, photo, bomb):
    def load(self):
        raise AssertionError(f"decoding {self.size} began")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    data = BOMBS[bomb](photo)
    start = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match=r"^big: .*100 megapixels"):
            decode(data, "big")
    assert time.process_time() - start < 1
    assert not caught


def test_a_photo_of_many_megapixels_below_the_limit_is_read():
    rows = bytes(1 + 9500 // 8 + 1) * 9500
    assert decode(png(9500, 9500, 1, 0, rows)).size == (9500, 9500)


def test_compressed_text_that_would_fill_the_memory_is_refused(photo):
    data = encoded(photo, "PNG")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80_000_000), 1))
    try:
        assert mean_difference(decode(data[:33] + bomb * 2 + data[33:]), photo) == 0
    except UserError as error:
        assert "\n" not in str(error)


# --- random damage


def corrupt(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    reach = min(len(data), 700) if rng.random() < 0.5 else len(data)  # headers as often as pixels
    at = rng.randrange(reach)
    match rng.randrange(4):
        case 0:
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(reach)] = rng.randrange(256)
        case 1:
            del changed[at : at + rng.randint(1, 64)]
        case 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 64))
        case 3:
            del changed[at:]
    return bytes(changed)


def corrupt_chunk(data: bytes, rng: random.Random) -> bytes:
    """One chunk of a PNG damaged under a checksum that is right, so that decoders go on."""
    chunks, at = [], 8
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    which = rng.randrange(len(chunks))
    kind, content = chunks[which]
    chunks[which] = (kind, corrupt(content, rng) if content else rng.randbytes(9))
    if rng.random() < 0.2:
        rng.shuffle(chunks)
    return data[:8] + b"".join(chunk(*each) for each in chunks)


def photo_with_tags(photo, form: str, **options) -> bytes:
    tags = exif(6)
    tags[0x010F] = "Maker"
    tags[0x011A] = 72.0
    return encoded(photo, form, exif=tags, **options)


FUZZED = {
    "JPEG": (lambda photo: photo_with_tags(photo, "JPEG"), corrupt),
    "progressive JPEG": (lambda photo: encoded(photo, "JPEG", progressive=True), corrupt),
    "CMYK JPEG": (lambda photo: encoded(photo.convert("CMYK"), "JPEG"), corrupt),
    "PNG": (lambda photo: photo_with_tags(photo, "PNG"), corrupt),
    "PNG of right checksums": (lambda photo: photo_with_tags(photo, "PNG"), corrupt_chunk),
    "palette PNG": (
        lambda photo: photo_with_tags(photo.quantize(16), "PNG", transparency=3),
        corrupt_chunk,
    ),
    "WEBP": (lambda photo: photo_with_tags(photo, "WEBP"), corrupt),
    "BMP": (lambda photo: encoded(photo, "BMP"), corrupt),
}


@pytest.mark.parametrize("name", FUZZED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_gives_a_picture_or_a_user_error(photo, name):
    make, damage = FUZZED[name]
    data = make(photo.resize((64, 43)))
    decode(data)  # it is good before
    outcomes = {"picture": 0, "user error": 0}
    for seed in range(300):
        changed = damage(data, random.Random(seed))
        try:
            image = decode(changed)
            assert image.mode == "RGB"
            assert len(image.tobytes()) == image.width * image.height * 3
            outcomes["picture"] += 1
        except UserError as error:
            assert str(error).startswith("image: ")
            assert "\n" not in str(error)
            outcomes["user error"] += 1
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
    assert outcomes["user error"] > 10, outcomes


# --- find


@pytest.fixture()
def album(tmp_path):
    """A folder of images, of files that are none, and of traps."""
    names = ["b.jpg", "a.png", "sub/c.JPEG", "sub/deep/d.webp", "sub/deep/e.Bmp", "zoo.jpg/f.jpg"]
    for name in [*names, "notes.txt", "sub/labels.csv", "movie.gif", "noextension", "jpg"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def names(root, found) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found]


def test_find_takes_one_file_whatever_it_is_called(album):
    assert find(str(album / "notes.txt")) == [album / "notes.txt"]


def test_find_searches_a_folder_in_depth_and_sorts(album):
    expected = ["a.png", "b.jpg", "sub/c.JPEG", "sub/deep/d.webp", "sub/deep/e.Bmp"]
    expected += ["zoo.jpg/f.jpg"]
    assert names(album, find(str(album))) == expected
    assert names(album, find(f"{album}/")) == expected


def test_find_leaves_links_to_nothing_out(album):
    os.symlink(album / "gone.jpg", album / "link.jpg")
    os.symlink(album / "a.png", album / "other.png")
    found = names(album, find(str(album)))
    assert "link.jpg" not in found
    assert "other.png" in found


GLOBS = {
    "*.jpg": ["b.jpg"],
    "*": ["a.png", "b.jpg", "jpg", "movie.gif", "noextension", "notes.txt"],
    "?.*": ["a.png", "b.jpg"],
    "[a-c].*": ["a.png", "b.jpg"],
    "**/*.webp": ["sub/deep/d.webp"],
    "**/[c-e].*": ["sub/c.JPEG", "sub/deep/d.webp", "sub/deep/e.Bmp"],
    "sub/*.JPEG": ["sub/c.JPEG"],
    "*/*.jpg": ["zoo.jpg/f.jpg"],
}


@pytest.mark.parametrize("pattern", GLOBS)
def test_find_takes_a_glob_and_leaves_folders_out(album, pattern):
    assert names(album, find(f"{album}/{pattern}")) == GLOBS[pattern]


def test_find_takes_names_that_look_like_globs(album):
    folder = album / "album [2020]"
    folder.mkdir()
    (folder / "photo*.jpg").write_bytes(b"")
    assert find(str(folder)) == [folder / "photo*.jpg"]
    assert find(str(folder / "photo*.jpg")) == [folder / "photo*.jpg"]


NOT_FOUND = {
    "nowhere": "no such file or folder",
    "nowhere.jpg": "no such file or folder",
    "*.tga": "no file matches",
    "**/*.tga": "no file matches",
    "empty": "no images",
}


@pytest.mark.parametrize("name", NOT_FOUND)
def test_finding_nothing_is_one_line_with_the_source(album, name, monkeypatch):
    (album / "empty").mkdir()
    (album / "empty" / "readme.txt").write_bytes(b"")
    monkeypatch.chdir(album)
    with pytest.raises(UserError, match=NOT_FOUND[name]) as caught:
        find(name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_an_empty_source_is_not_the_current_folder(album, monkeypatch):
    monkeypatch.chdir(album)
    with pytest.raises(UserError):
        find("")
    assert find(".")


def test_extensions_are_those_of_the_formats():
    assert sorted(EXTENSIONS) == [".bmp", ".jpeg", ".jpg", ".png", ".webp"]
