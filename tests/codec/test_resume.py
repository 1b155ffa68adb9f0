"""`encode --resume`: what was interrupted is gone on with, to the same bytes."""

import os
from pathlib import Path

import pytest
from conftest import write_yuv

from cmfr.codec.codec import load_codec
from cmfr.codec.rate_control import Target
from cmfr.codec.request import check_resume
from cmfr.utils import files
from cmfr.utils.errors import UserError
from cmfr.utils.signals import Terminated

WEIGHTS = Path(__file__).parents[1] / "data" / "version1.safetensors"
FRAMES = 11


@pytest.fixture(scope="module")
def codec():
    return load_codec(WEIGHTS, "cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "moving_48x32_25.yuv"
    write_yuv(path, FRAMES, 32, 48)
    return path


def interrupted(codec, source, target, after, **options):
    """An encoder that is ended when it has coded so many frames; what it leaves is kept."""

    def end(coded):
        if coded.number == after - 1:
            raise Terminated("SIGTERM")

    with pytest.raises(Terminated):
        codec.encode_video(source, target, on_frame=end, resume=True, **options)
    assert not target.exists() and len(list(target.parent.iterdir())) >= 1


def resumed(codec, source, target, **options):
    """Frames that were coded, and the report."""
    coded = []
    report = codec.encode_video(
        source, target, resume=True, on_frame=lambda c: coded.append(c.number), **options
    )
    return coded, report


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aim": Target(bitrate=10e3)},
        {"start": 1, "frames": 9},
        {"refresh_period": 2},
        {"refine": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("after", [1, 3, 4, 6, 9])
def test_the_same_bytes(codec, source, tmp_path, after, options):
    options = {"intra_period": 3, **options}
    out, whole = tmp_path / "resumed" / "a.cmfr", tmp_path / "a.cmfr"
    out.parent.mkdir()
    frames = codec.encode_video(source, whole, **options).frames
    interrupted(codec, source, out, after, **options)
    coded, report = resumed(codec, source, out, **options)
    kept = (after - 1) // 3 * 3
    assert coded == list(range(kept, frames)) and (report.frames, report.kept) == (frames, kept)
    assert out.read_bytes() == whole.read_bytes() and report.bytes == whole.stat().st_size
    assert list(out.parent.iterdir()) == [out]
    said = f"went on from frame {kept}" if kept else "has no intra frame but its first"
    assert said in report.notes[0]


def test_interrupted_again_and_at_its_very_end(codec, source, tmp_path, monkeypatch):
    """The longest of what was left counts; complete but for its name is complete enough."""
    out, whole = tmp_path / "a.cmfr", tmp_path / "whole.cmfr"
    codec.encode_video(source, whole, intra_period=2)
    interrupted(codec, source, out, 8, intra_period=2)
    interrupted(codec, source, out, 7, intra_period=2)  # goes on from 6, ends at once
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        codec.encode_video(source, out, intra_period=2, resume=True)
    monkeypatch.setattr(os, "replace", rename)
    coded, _ = resumed(codec, source, out, intra_period=2)
    assert coded == [10] and out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.cmfr", "whole.cmfr"]


def test_what_a_killed_encoder_without_resume_left_will_do(codec, source, tmp_path, monkeypatch):
    """As long as no other command has cleared the folder; from then on it is kept."""
    out, whole = tmp_path / "a.cmfr", tmp_path / "whole.cmfr"
    codec.encode_video(source, whole, intra_period=2)
    with monkeypatch.context() as patch:  # as if killed: nothing is tidied up
        patch.setattr(files.Part, "discard", files.Part.leave)
        with pytest.raises(Terminated):
            codec.encode_video(
                source, out, intra_period=2,
                on_frame=lambda c: (_ for _ in ()).throw(Terminated("x")) if c.number == 5 else 0,
            )  # fmt: skip
    with pytest.raises(UserError, match="was made with other settings .* quality is '32"):
        codec.encode_video(source, out, intra_period=2, quality=33, resume=True)
    files.remove_leftovers(tmp_path)
    coded, _ = resumed(codec, source, out, intra_period=2)
    assert coded[0] == 4 and out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quality": 40}, "its quality is '32; .*, this is '40; "),
        ({"intra_period": 4}, "its intra period is '3 frames', this is '4 frames'"),
        ({"refresh_period": 1}, "its refresh period is"),
        ({"frame_rate": 50}, "its frame rate is '25 "),
        ({"frames": 5}, "it has 7 frames or more, this source has fewer"),
        ({"start": 1}, "frame 0 of this source gives other bytes"),
        ({"refine": 3}, "its producer is '.*', this is '.*, refine 3'"),
        ({"aim": Target(bitrate=25e3)}, "(its quality is|its target is another)"),
    ],
)  # fmt: skip
def test_other_settings_are_refused(codec, source, tmp_path, changes, why):
    options, out = {"intra_period": 3}, tmp_path / "a.cmfr"
    if "aim" in changes:
        options["aim"] = Target(bitrate=10e3)
    interrupted(codec, source, out, 8, **options)
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=f"unfinished output .*: {why}.*leave out --resume") as e:
        codec.encode_video(source, out, resume=True, **{**options, **changes})
    assert len(str(e.value).splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == left
    codec.encode_video(source, out, **{**options, **changes})
    assert list(tmp_path.iterdir()) == [out]


def test_refined_motion_on_a_gpu_is_not_resumed(tmp_path):
    with pytest.raises(UserError, match="refined motion on a GPU, where that is not the same each"):
        check_resume(tmp_path / "a.cmfr", None, True, varies=True)


def test_another_source_is_refused(codec, source, tmp_path):
    """It differs at the frame to go on from; the first one is the same."""
    out, other = tmp_path / "a.cmfr", tmp_path / "other_48x32_25.yuv"
    interrupted(codec, source, out, 8, intra_period=3)
    size = 48 * 32 * 3 // 2
    data = bytearray(source.read_bytes())
    data[6 * size : 6 * size + 999] = bytes(999)
    other.write_bytes(data)
    with pytest.raises(UserError, match="frame 6 of this source gives other bytes"):
        codec.encode_video(other, out, intra_period=3, resume=True)


def test_damage_in_what_was_left_is_left_out(codec, source, tmp_path):
    out, whole = tmp_path / "a.cmfr", tmp_path / "whole" / "a.cmfr"
    whole.parent.mkdir()
    codec.encode_video(source, whole, intra_period=2)
    for place, kept in ((-1, 6), (0.5, 2), (0.01, 0)):
        interrupted(codec, source, out, 8, intra_period=2)
        [part] = [path for path in tmp_path.iterdir() if path.name.endswith(".kept.cmfr")]
        data = bytearray(part.read_bytes())
        data[int(place * len(data)) if place > 0 else place] ^= 1
        part.write_bytes(data)
        coded, report = resumed(codec, source, out, intra_period=2)
        assert coded[0] <= kept and (kept < 6 or coded[0] == 6)
        assert out.read_bytes() == whole.read_bytes()
        assert len(list(tmp_path.iterdir())) == 2
        out.unlink()


def test_what_cannot_be_resumed_is_said(codec, source, tmp_path):
    with pytest.raises(UserError, match="target PSNR does not go with resuming"):
        codec.encode_video(source, tmp_path / "a.cmfr", aim=Target(psnr=30), resume=True)
    with pytest.raises(UserError, match="/dev/null is a pipe or a device: nothing can go on"):
        codec.encode_video(source, "/dev/null", resume=True)
    _, report = resumed(codec, source, tmp_path / "a.cmfr", frames=1)
    assert "there is no unfinished output to go on from" in report.notes[0]
