import copy
import os
import threading
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import lively, lively_dcvc, write_yuv

from cmfr.codec.bitstream import BitstreamReader, BitstreamWriter, DamagedFrame
from cmfr.codec.codec import Codec, load_codec
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.presets import PRESETS
from cmfr.nn.entropy_coder import BitReader
from cmfr.utils.device import arithmetic
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec(lively(PRESETS["cmfr-nano"]), bytes(8), torch.device("cpu"))


def frames_of(path, **options):
    with open_video(path, **options) as reader:
        return [frame.planes for frame in reader]


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(p, q) for x, y in zip(a, b, strict=True) for p, q in zip(x, y, strict=True)
    )


def test_a_stream_is_the_same_with_and_without_threads_beside_the_networks(
    codec, yuv_file, tmp_path
):
    codec.encode_video(yuv_file, tmp_path / "a.cmfr", frames=4, intra_period=3)
    with open_video(yuv_file, frames=4) as reader, (tmp_path / "b.cmfr").open("w+b") as file:
        header = codec.header(reader.info, 32, 3)
        writer = BitstreamWriter(file, header)
        coded = list(codec.encode_frames(reader, reader.info, header, writer, beside=True))
        writer.close()
    assert (tmp_path / "a.cmfr").read_bytes() == (tmp_path / "b.cmfr").read_bytes()
    assert [frame.number for frame in coded] == [0, 1, 2, 3]


@pytest.mark.parametrize(("width", "height"), [(80, 48), (16, 16), (37, 51), (65, 16)])
@pytest.mark.parametrize("intra_period", [-1, 1, 3])
def test_decoded_video_is_the_encoders_reconstruction(codec, tmp_path, width, height, intra_period):
    source = tmp_path / f"clip_{width}x{height}_25.yuv"
    write_yuv(source, 4, height, width)
    shown, intra = [], []

    def on_frame(coded):
        shown.append(coded.reconstruction.planes)
        intra.append(coded.intra)

    stream, decoded = tmp_path / "a.cmfr", tmp_path / f"out_{width}x{height}.yuv"
    report = codec.encode_video(
        source, stream, quality=40, intra_period=intra_period, on_frame=on_frame
    )
    assert report.frames == 4 and report.bytes == stream.stat().st_size
    assert intra == [i == 0 or (intra_period > 0 and i % intra_period == 0) for i in range(4)]
    back = codec.decode_video(stream, decoded)
    assert back.frames == 4
    assert same(frames_of(decoded), shown)


def test_the_stream_says_when_features_are_refreshed(codec, tmp_path, yuv_file):
    """Another period than the model's decodes without being told again, and changes the stream."""
    payloads = []
    for period in (None, 0, 2):
        shown, path = [], tmp_path / f"{period}.cmfr"
        codec.encode_video(
            yuv_file, path, refresh_period=period,
            on_frame=lambda coded, shown=shown: shown.append(coded.reconstruction.planes),
        )  # fmt: skip
        back = tmp_path / f"back_{period}_80x48.yuv"
        codec.decode_video(path, back)
        assert same(frames_of(back), shown)
        with path.open("rb") as file:
            reader = BitstreamReader(file)
            assert reader.header.refresh_period == (32 if period is None else period)
            payloads.append([packet.payload for packet in reader])
    assert payloads[0] == payloads[1] != payloads[2]
    with pytest.raises(ValueError, match="refresh period 70000"):
        codec.encode_video(yuv_file, tmp_path / "x.cmfr", refresh_period=70000)


def test_start_and_frames_choose_a_part(codec, tmp_path, yuv_file):
    codec.encode_video(yuv_file, tmp_path / "a.cmfr", start=2, frames=3)
    part = tmp_path / "part_80x48_25.yuv"
    part.write_bytes(yuv_file.read_bytes()[2 * 80 * 48 * 3 // 2 : 5 * 80 * 48 * 3 // 2])
    codec.encode_video(part, tmp_path / "b.cmfr")
    assert (tmp_path / "a.cmfr").read_bytes() == (tmp_path / "b.cmfr").read_bytes()


def test_color_and_rate_survive(codec, tmp_path):
    info = VideoInfo(
        64, 48, Fraction(30000, 1001), ColorInfo("bt709", "limited", 1, 1, 1), "420", 8, 2
    )
    source = tmp_path / "a.mkv"
    rng = np.random.default_rng(0)
    with open_writer(source, info) as writer:
        for _ in range(2):
            planes = [rng.integers(0, 256, s, dtype=np.uint8) for s in info.plane_shapes]
            writer.write(Frame((planes[0], planes[1], planes[2])))
    codec.encode_video(source, tmp_path / "a.cmfr")
    codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.mkv")
    with open_video(tmp_path / "b.mkv") as reader:
        assert reader.info.color == info.color
        assert reader.info.frame_rate == info.frame_rate


@pytest.mark.parametrize(("chroma", "depth"), [("444", 8), ("420", 10), ("rgb", 8)])
def test_other_sample_formats(codec, tmp_path, chroma, depth):
    color = ColorInfo("rgb", "full", matrix_code=0) if chroma == "rgb" else ColorInfo()
    info = VideoInfo(48, 32, Fraction(25), color, chroma, depth, 2)
    source = tmp_path / "a.mkv"
    with open_writer(source, info) as writer:
        for t in range(2):
            planes = [
                np.full(s, 40 * (i + 1) + t, info.dtype) for i, s in enumerate(info.plane_shapes)
            ]
            writer.write(Frame((planes[0], planes[1], planes[2])))
    shown = []
    codec.encode_video(
        source, tmp_path / "a.cmfr", on_frame=lambda c: shown.append(c.reconstruction.planes)
    )
    codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.mkv")
    assert same(frames_of(tmp_path / "b.mkv"), shown)


def test_rgb_network_codes_yuv_of_known_color(tmp_path, yuv_file):
    cfg = CMFRConfig.model_validate({**PRESETS["cmfr-nano"].model_dump(), "color": "rgb"})
    rgb = Codec(lively(cfg), bytes(8), torch.device("cpu"))
    with pytest.raises(ValueError, match="does not say its color matrix and range"):
        rgb.encode_video(yuv_file, tmp_path / "a.cmfr")
    assert not (tmp_path / "a.cmfr").exists()
    rgb.encode_video(yuv_file, tmp_path / "a.cmfr", matrix="bt601", range="limited")
    rgb.decode_video(tmp_path / "a.cmfr", tmp_path / "b_80x48.yuv")
    assert len(frames_of(tmp_path / "b_80x48.yuv")) == 6


def test_streams_of_version_1_still_decode(tmp_path):
    """Made by revision 9c58098, with weights of its own: six frames, intra period 4. Another
    processor may round a sample to the next code."""
    codec = load_codec(DATA / "version1.safetensors", "cpu")
    report = codec.decode_video(DATA / "version1.cmfr", tmp_path / "back_64x48_25.yuv")
    assert report.frames == 6
    then = np.fromfile(DATA / "version1_64x48_25.yuv", np.uint8).astype(int)
    now = np.fromfile(tmp_path / "back_64x48_25.yuv", np.uint8)
    assert np.abs(now - then).max() <= 1 and np.mean(now != then) < 0.001


@pytest.mark.parametrize("version", [2, 3, 4])
def test_streams_of_later_versions_still_decode(tmp_path, version):
    """Version 2 made by revision 8c11280 of the same source, with the same weights; version 3 by
    9d89631 of what version 1 decodes to, with a checksum of pictures, which must be right; version
    4 by ed12de1 likewise, in portable arithmetic."""
    codec, path = load_codec(DATA / "version1.safetensors", "cpu"), DATA / f"version{version}.cmfr"
    with path.open("rb") as file:
        producer = BitstreamReader(file).header.producer
    if version == 3 and producer != arithmetic(codec.device):
        pytest.skip(f"made by {producer}: another arithmetic, as an error would say")
    assert codec.decode_video(path, tmp_path / "back_64x48_25.yuv").frames == 6
    then = np.fromfile(DATA / f"version{version}_64x48_25.yuv", np.uint8).astype(int)
    now = np.fromfile(tmp_path / "back_64x48_25.yuv", np.uint8)
    assert np.abs(now - then).max() <= 1 and np.mean(now != then) < 0.001


def altered(model):
    """The same weights in another memory layout."""
    other = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    return Codec(other, bytes(8), torch.device("cpu"))


@pytest.mark.parametrize("name", ["cmfr-nano", "dcvc-dc-nano", "dcvc-fm-nano"])
def test_portable_streams_decode_alike_in_other_arithmetic(tmp_path, yuv_file, name):
    """Of every family; and the first picture is about what the default arithmetic shows."""
    make = lively if name == "cmfr-nano" else lively_dcvc
    codec, shown, sizes = Codec(make(PRESETS[name]), bytes(8), torch.device("cpu")), {}, {}
    for portable in (False, True):
        shown[portable] = []
        sizes[portable] = codec.encode_video(
            yuv_file, tmp_path / f"{portable}.cmfr", quality=40, intra_period=4, portable=portable,
            on_frame=lambda c, to=shown[portable]: to.append(c.reconstruction.planes),
            matrix="bt709", range="full",
        ).bytes  # fmt: skip
    assert not same(shown[True], shown[False])  # it is another arithmetic
    first = zip(shown[True][0], shown[False][0], strict=True)
    assert max(np.abs(p.astype(int) - q).mean() for p, q in first) < 0.1
    assert abs(sizes[True] / sizes[False] - 1) < 0.05

    codec.decode_video(tmp_path / "True.cmfr", tmp_path / "back_80x48.yuv")
    assert same(frames_of(tmp_path / "back_80x48.yuv"), shown[True])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 - threads)
        with torch.backends.mkldnn.flags(enabled=False):
            altered(codec.model).decode_video(tmp_path / "True.cmfr", tmp_path / "other_80x48.yuv")
    finally:
        torch.set_num_threads(threads)
    assert same(frames_of(tmp_path / "other_80x48.yuv"), shown[True])


def test_the_header_says_that_a_stream_is_portable(codec, tmp_path, yuv_file):
    """A decoder follows it; in another arithmetic the stream does not decode."""
    codec.encode_video(yuv_file, tmp_path / "a.cmfr", portable=True, frames=2)
    with (tmp_path / "a.cmfr").open("rb") as file:
        reader = BitstreamReader(file)
        assert reader.header.portable and reader.version == 5
        packets = list(reader)
    with (tmp_path / "b.cmfr").open("w+b") as file:
        writer = BitstreamWriter(file, replace(reader.header, portable=False))
        for packet in packets:
            writer.write_frame(packet.intra, packet.quality, packet.payload)
        writer.close()
    with pytest.raises(DamagedFrame, match="encode with --portable"):
        codec.decode_video(tmp_path / "b.cmfr", tmp_path / "b.yuv")


@pytest.mark.parametrize(("intra", "frame"), [(True, 0), (False, 1)])
def test_other_arithmetic_is_an_error_that_names_the_frame(
    codec, tmp_path, yuv_file, monkeypatch, intra, frame
):
    """One sample of a picture is one code away, and no symbol is."""
    codec.encode_video(yuv_file, tmp_path / "a.cmfr")
    part = codec.model.intra if intra else codec.model.inter
    shown = part._clamped

    def other(x):
        x = shown(x)
        x[0, 0, 20, 30] += 1 / 255
        return x

    monkeypatch.setattr(part, "_clamped", other)
    here = arithmetic(codec.device)
    with pytest.raises(
        DamagedFrame, match=f"frame {frame} is damaged: .* is not the encoder's"
    ) as e:
        codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.yuv")
    assert f"made by: {here}; this is: {here}" in str(e.value)
    assert str(e.value).endswith("; to decode a stream anywhere, encode with --portable)")
    assert f"torch {torch.__version__}" in here and "thread" in here
    if not intra:
        report = codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.yuv", keep_going=True)
        assert report.damaged == [1, 2, 3, 4, 5]


def test_the_checksum_is_of_what_was_encoded_not_of_what_is_said_of_it_now(tmp_path, yuv_file):
    cfg = CMFRConfig.model_validate({**PRESETS["cmfr-nano"].model_dump(), "color": "rgb"})
    rgb = Codec(lively(cfg), bytes(8), torch.device("cpu"))
    rgb.encode_video(yuv_file, tmp_path / "a.cmfr", matrix="bt601", range="limited", frames=3)
    pictures = []
    for matrix in ("bt601", "bt709"):
        rgb.decode_video(tmp_path / "a.cmfr", tmp_path / "b_80x48.yuv", matrix=matrix)
        pictures.append((tmp_path / "b_80x48.yuv").read_bytes())
    assert pictures[0] != pictures[1]


def test_a_p_frame_costs_few_bytes_besides_its_symbols(tmp_path):
    """Length, checksums, and what the last byte has left; I-frames likewise."""
    codec = load_codec(DATA / "version1.safetensors", "cpu")
    besides = []
    codec.encode_video(
        DATA / "version1_64x48_25.yuv", tmp_path / "a.cmfr", quality=40, intra_period=4,
        estimate=True, on_frame=lambda c: besides.append((c.bits - float(c.output.total_bits)) / 8),
    )  # fmt: skip
    # 3 of length and checksum, 2 of the other one, up to 1 of the last byte; tables are rounded.
    assert len(besides) == 6 and 3 < min(besides) and max(besides) < 6.5
    assert sum(besides) / 6 < 6


def test_wrong_weights_are_refused(codec, tmp_path, yuv_file):
    codec.encode_video(yuv_file, tmp_path / "a.cmfr", frames=1)
    other = Codec(codec.model, b"otherone", torch.device("cpu"))
    with pytest.raises(ValueError, match="was coded with weights 0000000000000000 of model"):
        other.decode_video(tmp_path / "a.cmfr", tmp_path / "b.yuv")
    assert not (tmp_path / "b.yuv").exists()


def damaged_stream(codec, tmp_path, yuv_file, frame):
    stream = tmp_path / "a.cmfr"
    codec.encode_video(yuv_file, stream, intra_period=3)
    with stream.open("rb") as file:
        packets = list(BitstreamReader(file))
    data = bytearray(stream.read_bytes())
    data[packets[frame].offset + packets[frame].size // 2] ^= 1
    stream.write_bytes(data)
    return stream


def test_damage_is_an_error_and_leaves_nothing(codec, tmp_path, yuv_file):
    stream = damaged_stream(codec, tmp_path, yuv_file, 1)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DamagedFrame, match="frame 1 is damaged"):
        codec.decode_video(stream, tmp_path / "b.yuv")
    assert sorted(tmp_path.iterdir()) == before


def test_keep_going_resumes_at_the_next_intra_frame(codec, tmp_path, yuv_file):
    codec.encode_video(yuv_file, tmp_path / "whole.cmfr", intra_period=3)
    codec.decode_video(tmp_path / "whole.cmfr", tmp_path / "whole_80x48.yuv")
    whole = frames_of(tmp_path / "whole_80x48.yuv")
    stream = damaged_stream(codec, tmp_path, yuv_file, 1)
    report = codec.decode_video(stream, tmp_path / "b_80x48.yuv", keep_going=True)
    assert report.damaged == [1, 2]
    assert same(frames_of(tmp_path / "b_80x48.yuv"), [whole[i] for i in (0, 0, 0, 3, 4, 5)])


def test_keep_going_fills_frames_lost_at_the_start(codec, tmp_path, yuv_file):
    stream = damaged_stream(codec, tmp_path, yuv_file, 0)
    report = codec.decode_video(stream, tmp_path / "b_80x48.yuv", keep_going=True)
    assert report.damaged == [0, 1, 2]
    frames = frames_of(tmp_path / "b_80x48.yuv")
    assert len(frames) == 6 and same(frames[:3], [frames[3]] * 3)


@pytest.mark.parametrize("index", ["intact", "lost"])
def test_keep_going_names_what_is_lost_where_the_header_has_no_count(
    codec, tmp_path, yuv_file, index
):
    """As of a stream that was written into a pipe."""
    path = forged(codec, tmp_path, yuv_file, frame_count=None)
    with path.open("rb") as file:
        packet = list(BitstreamReader(file))[2]
    data = bytearray(path.read_bytes())
    data[packet.offset + packet.size // 2] ^= 1
    path.write_bytes(data if index == "intact" else data[:-1])
    report = codec.decode_video(path, tmp_path / "b_80x48.yuv", keep_going=True)
    if index == "intact":
        assert (report.damaged, report.frames, report.fault) == ([2, 3, 4, 5], 6, None)
    else:
        assert report.damaged == [2] and "index or the trailer" in report.fault


@pytest.mark.parametrize("size", [1026, 4098, 1000002])
def test_a_hostile_payload_is_a_damaged_frame(codec, tmp_path, yuv_file, size):
    """All checksums of the file are right; the payload is one that no encoder writes."""
    with open_video(yuv_file) as reader, (tmp_path / "a.cmfr").open("w+b") as file:
        writer = BitstreamWriter(file, codec.header(reader.info, 40, -1))
        writer.write_frame(True, 40, b"\xff" * size)
        writer.close()
    with pytest.raises(DamagedFrame, match="frame 0 is damaged"):
        codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.yuv")
    assert not (tmp_path / "b.yuv").exists()


def forged(codec, tmp_path, yuv_file, **changes):
    """A stream of six frames whose header says something else, with a right checksum."""
    path = tmp_path / "forged.cmfr"
    codec.encode_video(yuv_file, path)
    with path.open("rb") as file:
        header = BitstreamReader(file).header
    data = path.read_bytes()
    path.write_bytes(replace(header, **changes).to_bytes() + data[len(header.to_bytes()) :])
    return path


@pytest.mark.parametrize("size", [(65535, 65535), (12000, 12000)])
def test_a_size_is_believed_as_far_as_payloads_go(codec, tmp_path, yuv_file, size, monkeypatch):
    path = forged(codec, tmp_path, yuv_file, width=size[0], height=size[1])
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels, .* give --max-pixels"):
        codec.decode_video(path, tmp_path / "a.yuv")
    monkeypatch.setattr(BitReader, "_decode", lambda *_: pytest.fail("decoding was tried"))
    with pytest.raises(DamagedFrame, match="frame 0 .* cannot hold a frame of this size"):
        codec.decode_video(path, tmp_path / "a.yuv", max_pixels=2**32)


def test_a_frame_count_is_believed_as_far_as_the_file_goes(codec, tmp_path, yuv_file):
    path = forged(codec, tmp_path, yuv_file, frame_count=2**32 - 2)
    with pytest.raises(DamagedFrame, match=r"frame 6 is missing: .* \(6 of 4294967294 frames\)"):
        codec.decode_video(path, tmp_path / "a.yuv")
    report = codec.decode_video(path, tmp_path / "a_80x48.yuv", keep_going=True)
    assert report.damaged == [6] and report.frames == 7


@pytest.mark.parametrize("rate", [Fraction(2**32 - 1), Fraction(1, 2**32 - 1)])
def test_frame_rates_that_a_container_cannot_hold(codec, tmp_path, yuv_file, rate):
    path = forged(codec, tmp_path, yuv_file, frame_rate=rate)
    for suffix in (".mkv", ".mp4"):
        with pytest.raises(ValueError, match="cannot hold .* frames per second: write .y4m"):
            codec.decode_video(path, tmp_path / f"a{suffix}")
    assert codec.decode_video(path, tmp_path / "a.y4m").frames == 6


def test_the_input_is_never_overwritten(codec, tmp_path, yuv_file):
    before = yuv_file.read_bytes()
    with pytest.raises(ValueError, match=r"is a \.cmfr file, not a video"):
        codec.encode_video(yuv_file, yuv_file)
    same_file = tmp_path / "same.cmfr"
    same_file.symlink_to(yuv_file)
    with pytest.raises(ValueError, match="same.cmfr is the input"):
        codec.encode_video(yuv_file, same_file)
    with pytest.raises(ValueError, match="is a folder"):
        codec.encode_video(yuv_file, tmp_path)
    codec.encode_video(yuv_file, tmp_path / "stream.mkv.cmfr", frames=1)
    stream = (tmp_path / "stream.mkv.cmfr").rename(tmp_path / "stream.mkv")
    coded = stream.read_bytes()
    (tmp_path / "hard.mkv").hardlink_to(stream)
    for name in ("stream.mkv", "hard.mkv"):
        with pytest.raises(ValueError, match=f"{name} is the input"):
            codec.decode_video(stream, tmp_path / name)
    assert stream.read_bytes() == coded
    assert yuv_file.read_bytes() == before


def test_streams_through_pipes_and_into_devices(codec, tmp_path, yuv_file):
    codec.encode_video(yuv_file, tmp_path / "a.cmfr", frames=2)
    codec.decode_video(tmp_path / "a.cmfr", tmp_path / "a.y4m")
    for name, make in {
        "pipe": lambda path: codec.encode_video(yuv_file, path, frames=2),
        "pipe.y4m": lambda path: codec.decode_video(tmp_path / "a.cmfr", path),
    }.items():
        pipe, got = tmp_path / name, []
        os.mkfifo(pipe)
        reader = threading.Thread(target=lambda pipe=pipe, got=got: got.append(pipe.read_bytes()))
        reader.start()
        report = make(pipe)
        reader.join()
        whole = (tmp_path / ("a.y4m" if name == "pipe.y4m" else "a.cmfr")).read_bytes()
        assert len(got[0]) == len(whole) and pipe.is_fifo()
        if name == "pipe.y4m":
            assert got[0] == whole
        else:
            assert report.bytes == len(whole)
            (tmp_path / "b.cmfr").write_bytes(got[0])
            assert codec.decode_video(tmp_path / "b.cmfr", tmp_path / "b.yuv").frames == 2
    assert codec.encode_video(yuv_file, "/dev/null", frames=1).bytes > 0
    assert Path("/dev/null").is_char_device()
    os.mkfifo(tmp_path / "pipe.mkv")
    for target in ("/dev/null", tmp_path / "pipe.mkv"):
        with pytest.raises(ValueError, match="only one called .y4m or .yuv takes a video"):
            codec.decode_video(tmp_path / "a.cmfr", target)
    with pytest.raises(ValueError, match="pipe.mkv is a pipe or a device; a video is read from"):
        codec.encode_video(tmp_path / "pipe.mkv", tmp_path / "c.cmfr")


def test_untagged_video_to_pngs_by_the_users_word(codec, tmp_path, yuv_file):
    codec.encode_video(yuv_file, tmp_path / "a.cmfr", frames=2)
    with pytest.raises(ValueError, match="give --matrix .* and --range"):
        codec.decode_video(tmp_path / "a.cmfr", tmp_path / "pngs")
    codec.decode_video(tmp_path / "a.cmfr", tmp_path / "pngs", matrix="bt601", range="limited")
    assert len(list((tmp_path / "pngs").glob("*.png"))) == 2


def test_truncated_file_keeps_what_is_whole(codec, tmp_path, yuv_file):
    codec.encode_video(yuv_file, tmp_path / "a.cmfr")
    data = (tmp_path / "a.cmfr").read_bytes()
    (tmp_path / "a.cmfr").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError):
        codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.yuv")
    assert not (tmp_path / "b.yuv").exists()
    report = codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b_80x48.yuv", keep_going=True)
    assert report.damaged and report.frames == 6
    assert len(frames_of(tmp_path / "b_80x48.yuv")) == 6


def test_a_failing_disk_leaves_nothing(codec, tmp_path, yuv_file, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cmfr.codec.encoder.BitstreamWriter.write_frame", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        codec.encode_video(yuv_file, tmp_path / "a.cmfr")
    assert sorted(tmp_path.iterdir()) == before


def test_pictures_of_a_frame_are_gone_when_the_next_one_is_coded(
    codec, tmp_path, yuv_file, monkeypatch
):
    """They take as much memory as all that the next frame needs of it."""
    stream, back = tmp_path / "a.cmfr", tmp_path / "b.yuv"
    for work, run in (
        ("begin_frame", lambda seen: codec.encode_video(yuv_file, stream, on_frame=seen)),
        ("decode_frame", lambda seen: codec.decode_video(stream, back, on_frame=seen)),
    ):
        pictures, alive = [], []
        code = getattr(codec.model, work)

        def coding(*args, code=code, pictures=pictures, alive=alive):
            alive.append([picture() is not None for picture in pictures])
            return code(*args)

        def seen(coded, pictures=pictures):
            if not coded.intra:
                pictures.append(weakref.ref(coded.output.motion.prediction))

        monkeypatch.setattr(codec.model, work, coding)
        run(seen)
        assert len(pictures) == 5 and not any(map(any, alive))


def test_memory_does_not_grow_with_the_number_of_frames(codec, tmp_path):
    import resource

    def peak(frames):
        source = tmp_path / f"long{frames}_96x64.yuv"
        source.write_bytes(bytes(96 * 64 * 3 // 2) * frames)
        codec.encode_video(source, tmp_path / "a.cmfr")
        codec.decode_video(tmp_path / "a.cmfr", tmp_path / "b.yuv")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    short = peak(20)
    # 200 frames of tensors of one state would be over 100 MB
    assert peak(200) - short < 30_000


@pytest.mark.parametrize("quality", [-1, 64])
def test_quality_out_of_range(codec, tmp_path, yuv_file, quality):
    with pytest.raises(ValueError, match=r"quality -?\d+ is not in 0..63"):
        codec.encode_video(yuv_file, tmp_path / "a.cmfr", quality=quality)


def test_sizes_that_cannot_be_coded(codec, tmp_path):
    source = tmp_path / "tiny_12x12.yuv"
    source.write_bytes(bytes(12 * 12 * 3 // 2))
    with pytest.raises(ValueError, match="sides of 16 to"):
        codec.encode_video(source, tmp_path / "a.cmfr")
