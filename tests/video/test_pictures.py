import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cmfr.video.pictures import numbered_pictures, picture_size, read_picture


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_pictures_have_eight_bits(tmp_path):
    ramp = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 40
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert picture_size(tmp_path / "deep.png") == (32, 48)
    with pytest.raises(ValueError, match=r"deep\.png is not an 8-bit picture: it has 16 bits"):
        read_picture(tmp_path / "deep.png")
    Image.new("L", (48, 32), 7).save(tmp_path / "gray.png")
    assert (read_picture(tmp_path / "gray.png") == 7).all()


def test_a_damaged_picture_is_named(tmp_path):
    """Whatever Pillow raises: OSError, SyntaxError or ValueError."""
    path = tmp_path / "a.png"
    Image.new("RGB", (48, 32)).save(path)
    whole = path.read_bytes()
    short_header = whole[:8] + chunk(b"IHDR", whole[16:24]) + whole[33:]
    for data in (b"no picture", whole[:60], whole[:12] + b"\xff" + whole[13:], short_header):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"a\.png is not a picture that can be read"):
            read_picture(path)


def test_what_is_no_folder_of_numbered_pictures_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "cover.png")
    with pytest.raises(ValueError, match=r"holds no numbered pictures \(\.png\)"):
        numbered_pictures(tmp_path, (".png",))
    for name in ("a2.png", "a10.png", "a6.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert [p.name for p in numbered_pictures(tmp_path)] == ["a2.png", "a6.jpg", "a10.png"]
    Image.new("RGB", (8, 8)).save(tmp_path / "b6.png")
    with pytest.raises(ValueError, match=r"two pictures 6: a6\.jpg and b6\.png"):
        numbered_pictures(tmp_path)
