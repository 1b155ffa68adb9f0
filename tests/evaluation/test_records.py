"""Records, their files in DCVC's shape, curves, comparability."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest

from cmfr.evaluation.conditions import (
    Conditions,
    DifferentConditions,
    Measurement,
    check_comparable,
    not_stated,
)
from cmfr.evaluation.published import read_any
from cmfr.evaluation.records import (
    Average,
    FrameResult,
    Record,
    Times,
    class_curve,
    read_results,
    write_results,
)
from cmfr.report.collect import CodecResults


def yuv_frame(kind, bits, y, **more):
    return FrameResult(kind, bits, {"psnr_y": y, "psnr_u": 40.0, "psnr_v": 42.0, **more})


def record(rate=0, sequence="a", frames=None, codec="ours", **changes):
    """64x48, one I-frame and two P-frames, better and larger with the rate."""
    frames = frames or (
        yuv_frame("I", 3072 * (rate + 1), 30.123456789 + rate, ms_ssim_y=0.9),
        yuv_frame("P", 307 * (rate + 1), 29.0 + rate, ms_ssim_y=0.8),
        yuv_frame("P", 614 * (rate + 1), 28.0 + rate, ms_ssim_y=0.7),
    )
    conditions = Conditions("yuv420", intra_period=-1, frames=len(frames), rounding="8bit")
    values = {
        "dataset": "set", "sequence": sequence, "codec": codec, "rate_index": rate, "label": 20,
        "width": 64, "height": 48, "frame_rate": Fraction(30000, 1001), "conditions": conditions,
        "frames": frames,
    }  # fmt: skip
    return Record(**{**values, **changes})


def full_record():
    return record(
        label=21.5,
        frames=[replace(f, estimated_bits=f.bits - 0.125) for f in record().frames],
        metadata={"commit": "c0ffee", "model": "cmfr-s", "parameters": {"preset": ["a", 1, None]}},
        times=Times(0.5, 0.25, {"network": 0.4, "entropy": 0.1}, {"network": 0.25}, 3.0),
        peak_memory=123456789,
    )


# --- records


def test_means_are_over_frames_and_bits_over_pixels():
    r = record()
    assert r.bpp == pytest.approx((3072 + 307 + 614) / (3 * 64 * 48), abs=1e-15)
    assert r.mean("psnr_y") == pytest.approx((30.123456789 + 29 + 28) / 3, abs=1e-12)
    assert r.average("I") == Average(1, 1.0, r.average("I").quality)
    assert r.average("P").frames == 2 and r.mean("psnr_y", "P") == 28.5
    # 6:1:1 of the planes, where no psnr_yuv was given
    assert r.mean("psnr_yuv") == pytest.approx((6 * r.mean("psnr_y") + 40 + 42) / 8, abs=1e-12)
    assert r.average().estimated_bpp is None
    estimated = full_record().average().estimated_bpp
    assert estimated == pytest.approx(r.bpp - 0.125 / (64 * 48), abs=1e-15)


def test_what_was_not_measured_on_all_frames_has_no_mean():
    first, *rest = record().frames
    r = record(frames=[first, *(replace(f, quality={"psnr_y": 30.0}) for f in rest)])
    with pytest.raises(ValueError, match="ours on a has no ms_ssim_y, only psnr_y$"):
        r.mean("ms_ssim_y")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"width": 0}, "ours on a: the size 0x48 has no pixels"),
        ({"conditions": Conditions("rgb", frames=7)}, "3 frames, the conditions say 7"),
        ({"frames": ()}, "neither frames nor averages"),
    ],
)
def test_records_that_cannot_be_are_refused(changes, reason):
    values = {**record().__dict__, **changes}
    with pytest.raises(ValueError, match=reason):
        Record(**values)


# --- files


def test_files_give_back_equal_records(tmp_path):
    averages = {"all": Average(3, 0.1, {"psnr_rgb": 1 / 3})}
    known = Conditions("rgb", "bt709", "full", 32, None, "float", "a note")
    means_only = replace(
        record(1), frames=(), averages=averages, conditions=known, label=None, frame_rate=None
    )
    records = [full_record(), means_only, record(0, "b"), record(11, "b")]
    write_results(tmp_path / "r.json", records[::-1])
    read = read_results(tmp_path / "r.json")
    assert sorted(read, key=lambda r: (r.sequence, r.rate_index)) == records
    assert read_any(tmp_path / "r.json") == read
    assert {r.codec for r in read_any(tmp_path / "r.json", codec="new")} == {"new"}


# What DCVC's compare_bd_rate.py reads of a record, for one metric. Whatever else is in a record it
# ignores, so "cmfr" may be there; another key at the top would be taken for a data set.
NEEDED = {"i_frame_num", "p_frame_num"} | {
    f"ave_{kind}_frame_{value}" for kind in ("i", "p", "all") for value in ("bpp", "psnr", "msssim")
}
PLANES = {
    f"ave_{kind}_frame_{metric}_{plane}"
    for kind in ("i", "p", "all")
    for metric in ("psnr", "msssim")
    for plane in "yuv"
}
FRAME_LISTS = {"frame_bpp", "frame_psnr", "frame_msssim", "frame_type"}
PLANE_LISTS = {f"frame_{metric}_{plane}" for metric in ("psnr", "msssim") for plane in "yuv"}
ABOUT = {"frame_pixel_num", "test_time", "ds_name", "video_path", "rate_idx", "cmfr"}
SECONDS = {"avg_frame_encoding_time", "avg_frame_decoding_time"}


def written(tmp_path, *records):
    write_results(tmp_path / "r.json", records)
    return json.loads((tmp_path / "r.json").read_text())


def test_files_have_exactly_dcvcs_keys(tmp_path):
    content = written(tmp_path, full_record())
    assert list(content) == ["set"] and list(content["set"]) == ["a"]
    assert list(content["set"]["a"]) == ["000"]
    common = NEEDED | FRAME_LISTS | ABOUT
    assert set(content["set"]["a"]["000"]) == common | PLANES | PLANE_LISTS | SECONDS
    rgb = record(
        frames=[FrameResult("I", 99, {"psnr_rgb": 30.0, "ms_ssim_rgb": 0.5})],
        conditions=Conditions("rgb", frames=1),
    )
    assert set(written(tmp_path, rgb)["set"]["a"]["000"]) == common


def test_dcvcs_values_have_6_decimals_and_its_meaning(tmp_path):
    point = written(tmp_path, full_record())["set"]["a"]["000"]
    r = full_record()
    assert (point["i_frame_num"], point["p_frame_num"], point["frame_pixel_num"]) == (1, 2, 3072)
    assert point["ave_i_frame_bpp"] == 1.0
    assert point["ave_all_frame_bpp"] == round(r.bpp, 6) != r.bpp
    assert point["ave_all_frame_psnr"] == round(r.mean("psnr_yuv"), 6)  # 6:1:1, not luma
    assert point["ave_all_frame_psnr_y"] == round(r.mean("psnr_y"), 6)
    assert point["ave_all_frame_msssim_y"] == 0.8
    assert point["ave_all_frame_msssim"] == 0  # the other planes were not computed
    assert point["frame_type"] == [0, 1, 1]
    assert point["frame_psnr_y"] == [30.123457, 29.0, 28.0]
    assert point["frame_bpp"] == [1.0, 0.099935, 0.19987]
    assert (point["test_time"], point["avg_frame_encoding_time"]) == (3.0, 0.5)
    assert (point["ds_name"], point["video_path"], point["rate_idx"]) == ("set", "a", 0)


def test_where_types_are_unknown_all_frames_are_booked_as_intra(tmp_path):
    r = replace(record(), frames=(), averages={"all": Average(9, 0.25, {"psnr_y": 31.0})})
    point = written(tmp_path, r)["set"]["a"]["000"]
    assert (point["i_frame_num"], point["p_frame_num"]) == (9, 0)
    assert point["ave_i_frame_bpp"] == point["ave_all_frame_bpp"] == 0.25
    assert point["ave_p_frame_bpp"] == 0


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "is to hold one codec, not none"),
        ([record(), record(1, codec="b")], "one codec, not b and ours"),
        ([record(), record()], "a is there twice at rate index 000"),
        ([record(frames=[yuv_frame("I", 1, math.nan)])], "not written: ValueError Out of range"),
        ([record(metadata={"x": object()})], "not written: .*Unable to serialize"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, records, reason):
    path = tmp_path / "r.json"
    path.write_text("old")
    with pytest.raises(ValueError, match=reason):
        write_results(path, records)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent to write r.json"):
        write_results(tmp_path / "absent" / "r.json", [record()])
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder'$"):
        write_results(tmp_path / "folder", [record()])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no JSON file"),
        ("[1]", "no results file of cmfr"),
        ('{"set": {"a": {"000": {}}}}', "KeyError 'cmfr'"),
        ('{"set": {"a": {"000": {"cmfr": {"codec": "x"}}}}}', "label: Field required"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, text, reason):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        read_results(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="no results file"):
        read_results(tmp_path / "other.json")


def test_torch_is_not_needed():
    modules = "cmfr.evaluation.records, cmfr.evaluation.published, cmfr.cli.evaluation"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- curves


def test_curves_are_by_codec_and_sequence_in_order_of_rate():
    records = [record(rate, name) for rate in (2, 0, 1) for name in ("a", "b")]
    places = CodecResults.of("ours", records).places
    assert list(places) == [("set", "a"), ("set", "b")]
    points = class_curve(places["set", "a"], "psnr_y")
    assert points == sorted(points) and len(points) == 3
    assert points == class_curve(places["set", "a"][::-1], "psnr_y")
    assert points[0] == pytest.approx((records[2].bpp, records[2].mean("psnr_y")), rel=1e-15)
    db = class_curve(places["set", "a"], "ms_ssim_y", db=True)[0][1]
    assert db == pytest.approx(-10 * math.log10(1 - 0.8), abs=1e-9)
    with pytest.raises(ValueError, match="ours on a is there twice at rate 0"):
        class_curve([record(), record()], "psnr_y")


def test_class_curve_weighs_sequences_by_their_frames():
    short = record(0, "short", [yuv_frame("I", 3072, 40.0)])
    long = record(0, "long")  # three frames
    [(bpp, value)] = class_curve([short, long], "psnr_y")
    assert bpp == pytest.approx((short.bpp + 3 * long.bpp) / 4, rel=1e-12)
    assert value == pytest.approx((40 + 3 * long.mean("psnr_y")) / 4, rel=1e-12)
    with pytest.raises(ValueError, match="only 1 of 2 sequences have a rate index 1"):
        class_curve([short, long, record(1, "long")], "psnr_y")


# --- conditions

RGB = Conditions("rgb", "bt709", "full", 32, 96, "float", source="0" * 64, chroma="linear")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"matrix": "bt601"}, "the color matrix is bt709 for one and bt601 for two"),
        ({"range": "limited"}, "the color range is full for one and limited for two"),
        ({"intra_period": -1}, "the intra period is 32 for one and -1 for two"),
        ({"intra_period": None}, "the intra period is 32 for one and not stated for two"),
        ({"frames": 60}, "the number of frames is 96 for one and 60 for two"),
        ({"rounding": "8bit"}, "the rounding is float for one and 8bit for two"),
        ({"chroma": "repeated"}, "the chroma is linear for one and repeated for two"),
        ({"source": "a" * 64}, "the source is 000000000000... for one and aaaaaaaaaaaa... for two"),
        ({"color": "yuv420"}, "the color of the measurement is rgb for one and yuv420 for two"),
    ],
)
def test_unequal_conditions_are_refused_in_words_unless_forced(change, words):
    means = {"all": Average(96, 0.1, {"psnr_rgb": 30.0})}
    one = replace(record(codec="one"), frames=(), averages=means, conditions=RGB)
    two = replace(one, codec="two", conditions=replace(RGB, **change))
    with pytest.raises(DifferentConditions, match=f"^a: .*{words}"):
        check_comparable(one, two)
    assert words in "; ".join(check_comparable(one, two, force=True))


def test_what_is_not_stated_is_not_taken_for_equal():
    """But within one publication, and where nothing but rounding is missing, which is told."""
    one = replace(record(codec="one"), conditions=replace(RGB, frames=3, range=None))
    two = replace(one, codec="two")
    words = "the color range is not stated for one and not stated for two"
    assert check_comparable(one, two, force=True) == [words]
    both = [replace(r, conditions=replace(r.conditions, publication="P")) for r in (one, two)]
    assert check_comparable(*both) == not_stated(*both) == []
    other = replace(two, conditions=replace(one.conditions, publication="Q"))
    assert check_comparable(both[0], other, force=True) == [words]
    rounded = [replace(r, conditions=replace(RGB, frames=3, rounding=None)) for r in (one, two)]
    assert check_comparable(*rounded) == []
    assert not_stated(*rounded) == [f"not stated for {n}: rounding" for n in ("one", "two")]
    earlier = replace(two, conditions=replace(RGB, frames=3, chroma=None))
    new = replace(one, conditions=replace(RGB, frames=3))
    assert check_comparable(new, earlier) == []
    assert not_stated(new, earlier) == ["not stated for two: chroma"]
    native = [replace(r, conditions=replace(r.conditions, matrix="rgb")) for r in (new, earlier)]
    assert not_stated(*native) == []


def test_matrix_does_not_matter_to_yuv():
    one = record()
    two = replace(one, conditions=replace(one.conditions, matrix="bt601"))
    assert check_comparable(one, two) == []
    with pytest.raises(DifferentConditions, match="the size is 64x48 for ours and 32x96 for ours"):
        check_comparable(one, replace(one, width=32, height=96))
    with pytest.raises(DifferentConditions, match="the frame rate is 30000/1001 for ours and 25"):
        check_comparable(one, replace(one, frame_rate=Fraction(25)))


def test_a_refusal_says_the_options_that_match_a_published_curve():
    mine = replace(record(codec="mine"), conditions=replace(RGB, frames=3, intra_period=-1))
    there = Conditions("rgb", "bt601", "limited", 32, 96, publication="a paper")
    paper = replace(record(codec="paper"), frames=(), conditions=there,
                    averages={"all": Average(96, 0.1, {"psnr_rgb": 30.0})})  # fmt: skip
    options = "--matrix bt601 --range limited --frames 96 --intra-period 32"
    for pair in ((mine, paper), (paper, mine)):
        with pytest.raises(DifferentConditions) as refusal:
            check_comparable(*pair)
        assert str(refusal.value).endswith(f"(measure with {options} to match paper)")
    yuv = replace(paper, conditions=Conditions("yuv420", intra_period=-1, publication="a paper"))
    with pytest.raises(DifferentConditions, match=r"\(measure with --color yuv420 to match paper"):
        check_comparable(mine, yuv)
    other = replace(mine, codec="other", conditions=replace(mine.conditions, matrix="bt601"))
    with pytest.raises(DifferentConditions, match="bt601 for other$"):
        check_comparable(mine, other)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"color": "rgb", "matrix": "bt600"}, "color matrix 'bt600' is not one of bt709, bt601"),
        ({"color": "rgb", "range": "tv"}, "color range 'tv' is not one of full, limited"),
        ({"matrix": "bt601"}, "--matrix, --range and --round-8bit are for --color rgb"),
        ({"round_8bit": True}, "are for --color rgb"),
    ],
)
def test_measurements_that_cannot_be(options, reason):
    with pytest.raises(ValueError, match=reason):
        Measurement(**options)
