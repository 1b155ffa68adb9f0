"""Planes <-> tensors, against numbers computed here with numpy alone; names and rates."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED, dcvc_png
from PIL import Image

from cmfr.video.color import (
    downsample_chroma,
    planes_to_tensor,
    rgb_picture,
    rgb_to_ycbcr,
    tensor_to_planes,
    upsample_chroma,
    ycbcr_to_rgb,
    yuv_to_rgb,
)
from cmfr.video.info import (
    RGB_COLOR,
    ColorInfo,
    Frame,
    RawName,
    VideoInfo,
    parse_frame_rate,
    parse_raw_name,
    resolve_color,
)
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114), "bt2020": (0.2627, 0.0593)}


def make_info(chroma: str = "420", depth: int = 8, size: tuple[int, int] = (6, 4)) -> VideoInfo:
    color = RGB_COLOR if chroma == "rgb" else ColorInfo()
    return VideoInfo(*size, Fraction(25), color, chroma, depth)


def noise(info: VideoInfo, seed: int = 0) -> Frame:
    rng = np.random.default_rng(seed)
    top = 2**info.bit_depth
    y, u, v = (rng.integers(0, top, shape).astype(info.dtype) for shape in info.plane_shapes)
    return Frame((y, u, v))


def assert_same(a: Frame, b: Frame) -> None:
    for left, right in zip(a.planes, b.planes, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def codes_to_rgb(yuv: np.ndarray, matrix: str, range: str, depth: int) -> np.ndarray:
    """Integer codes [3, ...] to R'G'B' in 0..1, float64: H.273 by the book for limited range, and
    for full range with the chroma center that DCVC has, half a code lower."""
    kr, kb = WEIGHTS[matrix]
    y, u, v = yuv.astype(np.float64)
    scale = 2 ** (depth - 8)
    if range == "limited":
        y, u, v = (y / scale - 16) / 219, (u / scale - 128) / 224, (v / scale - 128) / 224
    else:
        top = 2**depth - 1
        y, u, v = y / top, u / top - 0.5, v / top - 0.5
    forward = np.array(
        [
            [kr, 1 - kr - kb, kb],
            np.array([-kr, -(1 - kr - kb), 1 - kb]) / (2 * (1 - kb)),
            np.array([1 - kr, -(1 - kr - kb), -kb]) / (2 * (1 - kr)),
        ]
    )
    return np.tensordot(np.linalg.inv(forward), np.stack([y, u, v]), axes=1)


@pytest.mark.parametrize("size", [(6, 4), (7, 5), (1, 1), (5, 4)])
@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("chroma", ["420", "444"])
def test_yuv_is_taken_as_it_is(chroma: str, depth: int, size: tuple[int, int]) -> None:
    info = make_info(chroma, depth, size)
    frame = noise(info)
    for color in (ColorInfo(), ColorInfo("bt709", "limited"), ColorInfo("bt601", "full")):
        x = planes_to_tensor(frame, replace(info, color=color), "ycbcr")
        assert x.shape == (1, 3, size[1], size[0]) and x.dtype == torch.float32
        luma = frame.planes[0] / (2**depth - 1)
        np.testing.assert_allclose(x[0, 0].numpy(), luma, atol=1e-7)
        assert_same(tensor_to_planes(x, info, "ycbcr"), frame)


@pytest.mark.parametrize("depth", [8, 10])
def test_every_code_survives(depth: int) -> None:
    info = make_info("444", depth, (2 ** (depth // 2), 2 ** (depth // 2)))
    plane = np.arange(2**depth, dtype=info.dtype).reshape(info.plane_shapes[0])
    frame = Frame((plane, plane[::-1], plane.T))
    assert_same(tensor_to_planes(planes_to_tensor(frame, info, "ycbcr"), info, "ycbcr"), frame)


@pytest.mark.parametrize("space", ["ycbcr", "rgb"])
def test_rgb_round_trip(space: str) -> None:
    info = make_info("rgb", size=(64, 64))
    frame = noise(info)
    assert_same(tensor_to_planes(planes_to_tensor(frame, info, space), info, space), frame)


def test_rgb_source_in_ycbcr_is_bt709_full() -> None:
    info = make_info("rgb", size=(2, 1))
    r, g, b = (np.array([row], np.uint8) for row in ([255, 10], [0, 20], [0, 30]))
    x = planes_to_tensor(Frame((r, g, b)), info, "ycbcr")[0, :, 0].numpy()
    y = (0.2126 * 10 + 0.7152 * 20 + 0.0722 * 30) / 255
    expected = [y, (30 / 255 - y) / 1.8556 + 0.5, (10 / 255 - y) / 1.5748 + 0.5]
    np.testing.assert_allclose(x[:, 1], expected, atol=1e-6)
    np.testing.assert_allclose(x[:, 0], [0.2126, 0.5 - 0.2126 / 1.8556, 1.0], atol=1e-6)


@pytest.mark.parametrize("depth", [8, 10])
@pytest.mark.parametrize("range", ["full", "limited"])
@pytest.mark.parametrize("matrix", list(WEIGHTS))
def test_yuv_source_in_rgb(matrix: str, range: str, depth: int) -> None:
    """Clamped; and as a network gets it, of 8 bit."""
    info = resolve_color(make_info("444", depth, (8, 8)), matrix, range)
    frame = noise(info)
    expected = codes_to_rgb(np.stack(frame.planes), matrix, range, depth).clip(0, 1)
    np.testing.assert_allclose(yuv_to_rgb(frame, info)[0].numpy(), expected, atol=2e-6)
    x = planes_to_tensor(frame, info, "rgb")[0]
    np.testing.assert_allclose(x.numpy(), expected, atol=0.5 / 255 + 2e-6)
    assert torch.equal(x, (x * 255).round() / 255)


@pytest.mark.parametrize("size", [(64, 48), (2, 2), (130, 18)])
def test_rgb_of_generated_420_is_dcvcs_png(size: tuple[int, int]) -> None:
    info = resolve_color(make_info("420", 8, size), "bt709", "full")
    for seed in range(3):
        frame = noise(info, seed)
        np.testing.assert_array_equal(np.stack(rgb_picture(frame, info).planes), dcvc_png(frame))


CLIPS = ("carphone_qcif_176x144", "davis_parkour_416x240", "vid4_foliage_704x480")


@pytest.mark.parametrize("name", CLIPS)
def test_rgb_of_real_420_is_dcvcs_png(name: str) -> None:
    path = SHARED / "data" / "devtest" / f"{name}.mp4"
    if not path.is_file():
        pytest.skip("no development sequences here")
    with open_video(path, frames=3, matrix="bt709", range="full") as reader:
        for frame in reader:
            picture = np.stack(rgb_picture(frame, reader.info).planes)
            np.testing.assert_array_equal(picture, dcvc_png(frame))


def test_yuv_comes_back_from_rgb_but_for_its_roundings() -> None:
    """4:4:4; of 4:2:0 also what its chroma loses when it is interpolated and averaged again."""
    info = resolve_color(make_info("444", 8, (16, 12)), "bt601", "limited")
    rng = np.random.default_rng(1)
    y, u, v = (rng.integers(110, 140, s).astype(info.dtype) for s in info.plane_shapes)
    back = tensor_to_planes(planes_to_tensor(Frame((y, u, v)), info, "rgb"), info, "rgb")
    for plane, other in zip((y, u, v), back.planes, strict=True):
        assert np.abs(plane.astype(int) - other).max() <= 1
    info = resolve_color(make_info("420", 8, (7, 5)), "bt709", "full")
    colors = zip(info.plane_shapes, (90, 80, 170), strict=True)
    flat = Frame(tuple(np.full(shape, code, np.uint8) for shape, code in colors))
    back = tensor_to_planes(planes_to_tensor(flat, info, "rgb"), info, "rgb")
    for plane, other in zip(flat.planes, back.planes, strict=True):
        assert plane.shape == other.shape and np.abs(plane.astype(int) - other).max() <= 1


def test_limited_white_and_black() -> None:
    white_and_black = torch.tensor([[235.0, 16], [128, 128], [128, 128]])[:, None] / 255
    rgb = ycbcr_to_rgb(white_and_black, "bt601", "limited")
    np.testing.assert_allclose(rgb[:, 0].numpy(), [[1, 0]] * 3, atol=1e-6)


@pytest.mark.parametrize("depth", [None, 8, 10])
@pytest.mark.parametrize("range", ["full", "limited"])
@pytest.mark.parametrize("matrix", list(WEIGHTS))
def test_conversions_invert_each_other(matrix: str, range: str, depth: int | None) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    there = rgb_to_ycbcr(x, matrix, range, depth)
    assert (ycbcr_to_rgb(there, matrix, range, depth) - x).abs().max() < 1e-6


def test_chroma_resampling() -> None:
    small = torch.arange(6.0).reshape(1, 1, 2, 3)
    large = upsample_chroma(small, 3, 5)
    expected = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert large[0, 0].tolist() == expected
    assert torch.equal(downsample_chroma(large), small)
    assert downsample_chroma(torch.tensor([[[[0.0, 1], [2, 3]]]])).item() == 1.5


def test_values_are_clamped_and_rounded() -> None:
    info = make_info("444", size=(3, 1))
    x = torch.tensor([-1.0, 2.0, 100.4 / 255]).expand(1, 3, 1, 3)
    assert tensor_to_planes(x, info, "ycbcr").planes[1].tolist() == [[0, 255, 100]]


@pytest.mark.parametrize(
    ("color", "words"),
    [
        (ColorInfo(), "matrix and range"),
        (ColorInfo("bt709"), "color range,.*--range .limited or full"),
        (ColorInfo(range="full"), "color matrix,.*--matrix .bt709"),
    ],
)
def test_unspecified_color_is_not_guessed(color: ColorInfo, words: str) -> None:
    info = replace(make_info(), color=color)
    with pytest.raises(ValueError, match=words):
        planes_to_tensor(noise(info), info, "rgb")
    with pytest.raises(ValueError, match=words):
        tensor_to_planes(torch.zeros(1, 3, 4, 6), info, "rgb")


def test_resolve_color() -> None:
    info = make_info()
    assert resolve_color(info) == info
    assert resolve_color(info, "bt2020", "full").color == ColorInfo("bt2020", "full", 2, 2, 9)
    bt470bg = replace(info, color=ColorInfo("bt601", "limited", 5, 4, 5))
    assert resolve_color(bt470bg, "bt601").color == bt470bg.color
    with pytest.raises(ValueError, match="bt7"):
        resolve_color(info, "bt7")
    with pytest.raises(ValueError, match="'tv'"):
        resolve_color(info, range="tv")
    with pytest.raises(ValueError, match="RGB samples"):
        resolve_color(make_info("rgb"), "bt709")


def test_unknown_names() -> None:
    info = make_info()
    with pytest.raises(ValueError, match="'hsv'"):
        planes_to_tensor(noise(info), info, "hsv")
    with pytest.raises(ValueError, match="unspecified"):
        rgb_to_ycbcr(torch.zeros(3, 1, 1), "unspecified", "full")
    with pytest.raises(ValueError, match="unspecified"):
        ycbcr_to_rgb(torch.zeros(3, 1, 1), "bt709", "unspecified")


def test_yuv_becomes_png_by_its_own_matrix(tmp_path: Path) -> None:
    info = resolve_color(make_info("444", 10, (48, 32)), "bt709", "limited")
    red = [np.full((32, 48), code, info.dtype) for code in (250, 409, 960)]
    with open_writer(tmp_path / "out", info) as writer:
        writer.write(Frame((red[0], red[1], red[2])))
    pixels = np.asarray(Image.open(tmp_path / "out" / "im00001.png"))
    np.testing.assert_allclose(pixels[0, 0], [255, 0, 0], atol=1)
    unknown = replace(info, color=ColorInfo())
    with pytest.raises(ValueError, match="--matrix .bt709.* and --range .limited"):
        open_writer(tmp_path / "more", unknown)
    with pytest.raises(ValueError, match="not empty"):
        open_writer(tmp_path / "out/", info)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("BlowingBubbles_416x240_50", RawName((416, 240), "50", None, None)),
        ("Beauty_1920x1080_120fps_420_8bit_YUV", RawName((1920, 1080), "120", "420", 8)),
        ("X_832x480_30_10bit", RawName((832, 480), "30", None, 10)),
        ("a_64x48_29.97_yuv444p10le", RawName((64, 48), "29.97", "444", 10)),
        ("a_64x48_p10le", RawName((64, 48), None, None, 10)),
        ("a_64x48_444", RawName((64, 48), None, "444", None)),
        ("plain_2", RawName(None, None, None, None)),
    ],
)
def test_raw_names(stem: str, expected: RawName) -> None:
    assert parse_raw_name(stem) == expected


def test_frame_rate_words() -> None:
    assert parse_frame_rate("29.97") == parse_frame_rate(29.97) == Fraction(30000, 1001)
    assert parse_frame_rate("23.976") == Fraction(24000, 1001)
    assert parse_frame_rate(25) == parse_frame_rate("25/1") == 25
    for wrong in ("fast", "0", "-3", "1/0", float("nan")):
        with pytest.raises(ValueError, match="frame rate"):
            parse_frame_rate(wrong)
