"""Streams of a given bit rate or PSNR: by the controller alone, and by a codec."""

import math
import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively_dcvc

from cmfr.cli.main import main
from cmfr.codec.bitstream import BitstreamReader
from cmfr.codec.codec import Codec, load_codec
from cmfr.codec.header import StreamHeader
from cmfr.codec.rate_control import RateControl, Target
from cmfr.models.presets import PRESETS
from cmfr.training.data.generated import generated_clip
from cmfr.utils.errors import UserError
from cmfr.video.info import ColorInfo, VideoInfo
from cmfr.video.reader import open_video
from cmfr.video.writer import write_clip

WEIGHTS = str(Path(__file__).parents[1] / "data" / "version1.safetensors")
RATE = 25
OFFSETS = (-7, 2, -7, -1)


def header(period=-1, offsets=OFFSETS):
    info = VideoInfo(416, 240, Fraction(RATE), ColorInfo(), "420", 8)
    return StreamHeader.of(
        info, quality=32, intra_period=period, refresh_period=0, model="x", weights=bytes(8),
        quality_offsets=offsets,
    )  # fmt: skip


class Source:
    """A video as an encoder sees it: log2 of bits, and dB, over the quality, with noise.

    motion: bits of a P-frame over those of the I-frame at equal quality, log2, by frame number.
    """

    def __init__(self, complexity=0.0, motion=lambda n: -3.0, slope=(0.06, 0.09), period=-1):
        self.complexity, self.motion, self.slope, self.period = complexity, motion, slope, period

    def frame(self, number, quality, noise=0.0):
        position = number % self.period if self.period > 0 else number
        if position:
            quality = min(max(quality + OFFSETS[position % 4], 0), 63)
        level = 14.5 + self.complexity + (self.motion(number) if position else 0)
        bits = 2 ** (level + self.slope[position > 0] * quality + noise) + 60
        return int(bits), 30 + 0.24 * quality + 2 * noise


def coded(target, source, frames, known=True, noise=0.15, seed=0):
    """Qualities, bits and dB of every frame; what is said of a miss."""
    rng = random.Random(seed)
    control = RateControl(target, header(source.period), frames if known else None)
    control.start(lambda q: [source.frame(n, q) for n in range(min(2, frames))])
    rows = []
    for n in range(frames):
        quality = control.quality()
        bits, db = source.frame(n, quality, rng.gauss(0, noise))
        control.coded(bits, db)
        rows.append((quality, bits, db))
    total = sum(bits for _, bits, _ in rows) + 8 * 150
    return rows, total / frames * RATE, control.missed(total // 8)


SOURCES = {
    "usual": Source(),
    "moving": Source(motion=lambda n: -1.5),
    "simple": Source(complexity=-3),
    "detailed": Source(complexity=2),
    "steep": Source(slope=(0.1, 0.14)),
    "flat": Source(slope=(0.04, 0.06)),
    "cut": Source(motion=lambda n: 0.0 if n in (20, 45) else -3.0),
    "starts": Source(motion=lambda n: -6.0 if n < 25 else -2.0),
    "stops": Source(motion=lambda n: -2.0 if n < 40 else -6.0),
    "periodic": Source(period=16),
    "long period": Source(period=32),
    "intra only": Source(period=1),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("frames", [64, 96, 500])
@pytest.mark.parametrize("name", SOURCES)
def test_the_rate_is_met_within_five_percent(name, frames, known):
    """Or what it is instead is said: where a short video changes so much that the lowest quality,
    or the highest, from then on does not make up for it."""
    source = SOURCES[name]
    level = 2 ** (14.5 + source.complexity + source.slope[0] * 32)
    asked = RATE * level / (1 if source.period == 1 else 6)  # quality 15 to 45 or so
    _, rate, missed = coded(Target(bitrate=asked), source, frames, known)
    hard = name in ("starts", "stops") or (name == "cut" and not known)
    if hard and frames < 500:
        assert rate == pytest.approx(asked, rel=0.2)
        assert (missed is None) == (abs(rate / asked - 1) < 0.05)
    else:
        assert rate == pytest.approx(asked, rel=0.05) and missed is None


@pytest.mark.parametrize("name", SOURCES)
def test_the_psnr_is_met(name):
    rows, _, missed = coded(Target(psnr=37), SOURCES[name], 64)
    assert sum(db for *_, db in rows) / 64 == pytest.approx(37, abs=0.1) and missed is None


def test_quality_is_steady_where_the_video_is():
    rows, *_ = coded(Target(bitrate=400e3), SOURCES["usual"], 300, noise=0)
    assert len({quality for quality, *_ in rows[40:-40]}) <= 3


def test_a_short_video_is_close():
    for frames in (1, 2, 5, 12):
        asked = 3e6 / frames**0.5
        _, rate, _ = coded(Target(bitrate=asked), SOURCES["usual"], frames, noise=0.05)
        assert rate == pytest.approx(asked, rel=0.15)


@pytest.mark.parametrize(
    ("target", "source", "said"),
    [
        (Target(bitrate=100.0), "usual", r"0\.1 kbit/s were asked for, .*: 0 is the lowest"),
        (Target(bitrate=1e9), "usual", r"1e\+06 kbit/s .*: 63 is the highest quality there is"),
        (Target(psnr=80), "usual", r"80 dB were asked for, the stream has 4\d\.\d+: 63 is the hi"),
        (Target(psnr=12.5), "usual", r"12\.5 dB were asked for, the stream has 3\d\.\d+: 0 is the"),
    ],
)
def test_what_cannot_be_is_said(target, source, said):
    _, _, missed = coded(target, SOURCES[source], 64)
    assert re.match(said, missed), missed


def test_a_still_video_is_said_to_need_no_more():
    still = Source(motion=lambda n: -60.0)  # 60 bits a frame, whatever the quality
    rows, rate, missed = coded(Target(bitrate=2e6), still, 100)
    assert rate < 1.9e6 and rows[-1][0] == 63 and "63 is the highest" in missed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "either a target bit rate or"), ({"bitrate": 1, "psnr": 30}, "either"),
        ({"bitrate": 0.0}, "must be positive, not 0"), ({"bitrate": math.nan}, "not nan"),
        ({"bitrate": math.inf}, "not inf"), ({"psnr": 0.0}, "between 0 and 100 dB, not 0"),
        ({"psnr": math.nan}, "not nan"),
    ],
)  # fmt: skip
def test_targets_that_make_no_sense(options, said):
    with pytest.raises(UserError, match=said):
        Target(**options)


# --- with a codec


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """64 frames of a rendered scene, 48x32."""
    path = tmp_path_factory.mktemp("clip") / "scene.y4m"
    write_clip(path, generated_clip(3, 64, (48, 32)))
    return path


def test_a_codec_meets_a_rate(clip, tmp_path):
    """With an intra period; the stream is like any other."""
    codec, stream = load_codec(WEIGHTS, "cpu"), tmp_path / "a.cmfr"
    asked = 8 * codec.encode_video(clip, stream, quality=36, intra_period=16).bytes / 64 * 25
    shown = []
    report = codec.encode_video(
        clip, stream, aim=Target(bitrate=0.8 * asked), intra_period=16,
        on_frame=lambda coded: shown.append(coded.reconstruction),
    )  # fmt: skip
    assert not report.notes and report.frames == 64
    assert 8 * stream.stat().st_size / 64 * 25 == pytest.approx(0.8 * asked, rel=0.05)
    codec.decode_video(stream, tmp_path / "back.y4m")
    with open_video(tmp_path / "back.y4m") as reader:
        for frame, wanted in zip(reader, shown, strict=True):
            assert all(map(np.array_equal, frame.planes, wanted.planes))
    with stream.open("rb") as file:
        reader = BitstreamReader(file)
        packets = list(reader)
    assert reader.header.quality == packets[0].quality
    assert [p.number for p in packets if p.intra] == [0, 16, 32, 48]


def test_a_codec_meets_a_psnr(clip, tmp_path):
    """With the shipped weights: what was not trained has one PSNR at all qualities."""
    codec, values = load_codec("cmfr-s", "cpu"), []

    def keep(coded):
        planes = zip(coded.source.planes, coded.reconstruction.planes, strict=True)
        errors = [((a.astype(float) - b) ** 2).mean() for a, b in planes]
        y, u, v = (10 * math.log10(255**2 / error) for error in errors)
        values.append((6 * y + u + v) / 8)

    aim = Target(psnr=36)
    report = codec.encode_video(clip, tmp_path / "a.cmfr", aim=aim, frames=32, on_frame=keep)
    assert len(values) == 32 and not report.notes
    assert sum(values) / 32 == pytest.approx(36, abs=0.2)


def test_dcvc_meets_a_rate(clip, tmp_path):
    """Whose pattern has no offsets, and whose network wants RGB."""
    codec = Codec(lively_dcvc(PRESETS["dcvc-fm-nano"]), bytes(8), torch.device("cpu"))
    options = {"frames": 16, "intra_period": 8}
    middle = codec.encode_video(clip, tmp_path / "a.cmfr", quality=30, **options).bytes
    report = codec.encode_video(
        clip, tmp_path / "a.cmfr", aim=Target(bitrate=8 * middle / 16 * 25), **options
    )
    assert report.bytes == pytest.approx(middle, rel=0.1)


def test_the_command(tmp_path, yuv_file, capsys):
    command = ["encode", str(yuv_file), str(tmp_path / "a.cmfr"), "--model", WEIGHTS, "--quiet"]
    assert main([*command, "--target-bitrate", "0.001k"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("cmfr encode: 0.001 kbit/s were asked for, the stream has ")
    assert len(said.splitlines()) == 1
    for wrong, why in (
        (["--target-bitrate", "fast"], "'fast' is no bit rate, as 800k or 1.5M"),
        (["--target-bitrate", "1k", "--target-psnr", "30"], "not allowed with"),
        (["--target-bitrate", "1k", "--quality", "3"], "not allowed with"),
    ):
        with pytest.raises(SystemExit):
            main([*command, *wrong])
        assert why in capsys.readouterr().err
    assert main([*command, "--target-bitrate", "-5"]) == 1
    assert "must be positive, not -5" in capsys.readouterr().err
