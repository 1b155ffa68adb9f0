"""`cmfr report`: its files, and the numbers in them against cmfr.evaluation.bd_rate."""

from __future__ import annotations

import argparse
import csv
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean

import pytest
from conftest import bd_rates

from cmfr.cli.main import main
from cmfr.cli.report import add_commands
from cmfr.evaluation.bd_rate import NotComparable, bd_rate
from cmfr.evaluation.conditions import Conditions, DifferentConditions
from cmfr.evaluation.published import published
from cmfr.evaluation.records import (
    DATASET_MEAN,
    Average,
    FrameResult,
    Record,
    Times,
    class_curve,
    write_results,
)
from cmfr.report.collect import CodecResults, metric_title
from cmfr.report.comparison import build
from cmfr.report.text import MEAN

SETS = {"class_d": ["Pass_416x240", "Bubbles_416x240"], "talk": ["Four & <People>_%"]}
QPS = (37, 32, 27, 22, 17)
ANCHOR, GOOD, FOLDED, HIGH = "x265 <medium> & co_50%", "cmfr-s", "folded", "high-rate"


def record(codec, dataset, sequence, index, rate=1.0, shift=0.0, frames=12, period=-1, **other):
    """One rate of a made-up codec: `rate` times the bits and `shift` dB more than the rule."""
    place = 1 + 0.3 * sum(map(ord, sequence)) % 1
    if codec == GOOD:  # else the BD-rates of all sequences and of their class curve are one number
        rate *= 1 + 0.01 * len(sequence)
    bits = rate * place * 99840 * 0.02 * 1.9**index
    results = []
    for number in range(frames):
        intra = number == 0 or (period > 0 and number % period == 0)
        psnr = 29 + place + 2.2 * index + shift - 0.04 * number
        quality = {"psnr_y": psnr, "psnr_u": psnr + 3, "psnr_v": psnr + 4}
        quality |= {"psnr_yuv": psnr + 7 / 8, "ms_ssim_y": 1 - 10 ** (-psnr / 20)}
        results.append(FrameResult("I" if intra else "P", bits * (4 if intra else 0.7), quality))
    return Record(
        dataset, sequence, codec, index, QPS[index], 416, 240, Fraction(50),
        Conditions("yuv420", intra_period=period, frames=frames, rounding="8bit"), results, **other,
    )  # fmt: skip


def make(codec, rates=range(5), sets=SETS, **options):
    return [
        record(codec, dataset, sequence, index, **options)
        for dataset, sequences in sets.items()
        for sequence in sequences
        for index in rates
    ]


def folded():
    """Its third point is worse than its second on every sequence."""
    return [
        record(FOLDED, dataset, sequence, index, 0.95, -4.0 if index == 2 else 0.0)
        for dataset, sequences in SETS.items()
        for sequence in sequences
        for index in range(5)
    ]


@pytest.fixture(scope="session")
def results(tmp_path_factory) -> dict[str, Path]:
    """Files of four codecs; `GOOD` states times, memory, complexity and versions."""
    folder = tmp_path_factory.mktemp("results")
    told = {
        "git": "abc1234", "weights_sha256": "f" * 64, "device": "cpu", "torch": "2.9.1",
        "model": {"name": "cmfr-s", "residual": True},
        "complexity": {"decode_kmac_per_pixel": 56.25, "parameters_m": 5.98},
    }  # fmt: skip
    times = Times(0.5, 0.25, {"network": 0.4, "entropy": 0.1}, {"network": 0.2}, 9.0)
    written = {}
    for name, records in {
        ANCHOR: make(ANCHOR, metadata={"parameters": "<script>alert(1)</script></script>"}),
        GOOD: make(GOOD, rate=0.8, shift=0.1, metadata=told, times=times, peak_memory=2**30),
        FOLDED: folded(),
        HIGH: make(HIGH, shift=40.0),
    }.items():
        written[name] = folder / f"{len(written)}.json"
        write_results(written[name], records)
    return written


def report(*arguments) -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(["report", *map(str, arguments)])
    args.run(args)


@pytest.fixture(scope="session")
def folder(results, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    options = ("--anchor", ANCHOR, "--metric", "psnr_yuv", "ms_ssim_y", "ms_ssim_y_db")
    report(*results.values(), *options, "--title", "A <b> & C", "-o", out)
    return out


def table(folder, metric="psnr_yuv", of="class curve") -> dict[str, dict[str, str]]:
    with (folder / "bd_rate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {r["codec"]: r for r in rows if (r["metric"], r["bd_rate_of"]) == (metric, of)}


def points(records, metric="psnr_yuv"):
    return [(r.bpp, r.mean(metric)) for r in sorted(records, key=lambda r: r.rate_index)]


# --- numbers


def test_class_curves_and_means_of_sequences_are_those_of_bd_rate(folder):
    anchor, good = make(ANCHOR), make(GOOD, rate=0.8, shift=0.1)
    whole, means = table(folder), table(folder, of="mean of sequences")
    for dataset, sequences in SETS.items():
        base, test = ([r for r in rs if r.dataset == dataset] for rs in (anchor, good))
        expected = bd_rate(class_curve(base, "psnr_yuv"), class_curve(test, "psnr_yuv"))
        assert float(whole[GOOD][dataset]) == pytest.approx(expected.percent, abs=1e-4)
        each = [
            bd_rate(*(points([r for r in rs if r.sequence == s]) for rs in (base, test))).percent
            for s in sequences
        ]
        assert float(means[GOOD][dataset]) == pytest.approx(fmean(each), abs=1e-4)
    for rows in (whole, means):
        average = fmean(float(rows[GOOD][d]) for d in SETS)
        assert float(rows[GOOD]["average"]) == pytest.approx(average, abs=1e-4)
        assert {float(rows[ANCHOR][d]) for d in (*SETS, "average")} == {0}
    assert len({rows[GOOD][d] for rows in (whole, means) for d in ("class_d", "average")}) == 4


def test_sequences_csv_has_every_number_with_its_overlap(folder):
    with (folder / "bd_rate_sequences.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["codec"] == GOOD]
    assert len(rows) == 3 * (3 + 2)  # metrics x (sequences + class curves)
    row = next(r for r in rows if r["sequence"] == SETS["talk"][0])
    pair = (points([r for r in rs if r.dataset == "talk"]) for rs in (
        make(ANCHOR), make(GOOD, rate=0.8, shift=0.1)))  # fmt: skip
    expected = bd_rate(*pair)
    assert float(row["bd_rate_percent"]) == pytest.approx(expected.percent, abs=1e-4)
    assert float(row["overlap"]) == pytest.approx(expected.overlap, abs=1e-4)
    assert float(row["quality_low"]) == pytest.approx(expected.low, abs=1e-4)


def test_curves_without_a_bd_rate_are_refused_with_the_reason(folder):
    whole = table(folder)
    for codec, reason in ((FOLDED, "does not rise strictly"), (HIGH, "do not overlap")):
        assert {whole[codec][d] for d in (*SETS, "average")} == {"n/a"}
        assert reason in whole[codec]["notes"]
        for name in ("bd_rate.md", "bd_rate.tex", "index.html"):
            assert reason in (folder / name).read_text(), (codec, name)


def test_the_unit_of_ms_ssim_is_said_and_matters(folder):
    linear, db = (table(folder, m)[GOOD]["class_d"] for m in ("ms_ssim_y", "ms_ssim_y_db"))
    assert linear != db
    assert metric_title("ms_ssim_y") == "MS-SSIM-Y, linear"
    assert "MS-SSIM-Y, dB" in (folder / "bd_rate.md").read_text()


def test_the_method_is_passed_on(results, tmp_path):
    report(results[GOOD], results[ANCHOR], "--anchor", ANCHOR, "--method", "cubic", "-o",
           tmp_path / "out")  # fmt: skip
    pair = (points([r for r in rs if r.dataset == "talk"]) for rs in (
        make(ANCHOR), make(GOOD, rate=0.8, shift=0.1)))  # fmt: skip
    found = table(tmp_path / "out")[GOOD]["talk"]
    assert float(found) == pytest.approx(bd_rate(*pair, "cubic").percent, abs=1e-4)
    assert "cubic interpolation" in (tmp_path / "out" / "index.html").read_text()


# --- what is compared


def test_a_part_of_a_set_is_named_as_a_part(tmp_path, results):
    """The reader has one of two sequences: everything says so, and there is no class curve of it
    unless it is forced."""
    one = make(GOOD, rate=0.8, sets={"class_d": SETS["class_d"][:1]})
    write_results(tmp_path / "one.json", one)
    arguments = (tmp_path / "one.json", "--anchor", results[ANCHOR], "--metric", "psnr_yuv", "-o",
                 tmp_path / "out")  # fmt: skip
    base = [r for r in make(ANCHOR) if r.sequence == one[0].sequence]
    expected = bd_rate(points(base), points(one)).percent
    for forced in (False, True):
        report(*arguments, *["--force"] * forced)
        whole, means = table(tmp_path / "out"), table(tmp_path / "out", of="mean of sequences")
        assert "talk" not in whole[GOOD]
        assert float(means[GOOD]["class_d"]) == pytest.approx(expected, abs=1e-4)
        assert "over 1 of 2 sequences, without Bubbles_416x240" in means[GOOD]["notes"]
        for rows in (whole, means):
            assert "1 of 2 sequences of class_d" in rows[GOOD]["notes"]
        if forced:
            assert float(whole[GOOD]["class_d"]) == pytest.approx(expected, abs=1e-4)
        else:
            assert whole[GOOD]["class_d"] == "n/a" and "needs all of them" in whole[GOOD]["notes"]
        texts = {n: (tmp_path / "out" / n).read_text() for n in ("bd_rate.md", "index.html")}
        assert "class\\_d (1 of 2 sequences)" in texts["bd_rate.md"]
        assert "class\\_d (1 of 2 sequences)" in (tmp_path / "out" / "bd_rate.tex").read_text()
        assert "1 sequence (only 1 of 2 sequences of class_d)" in texts["index.html"]
        assert '<th scope="col">class_d (1 of 2 sequences)</th>' in texts["index.html"]
        with (tmp_path / "out" / "bd_rate_sequences.csv").open(newline="") as file:
            [row] = [r for r in csv.DictReader(file)
                     if (r["codec"], r["sequence"]) == (GOOD, "(class curve)")]  # fmt: skip
        assert "1 of 2 sequences of class_d" in row["note"]
        plot = tmp_path / "out" / "rd_class_d.svg"
        assert plot.exists() == forced
        if forced:
            assert "<!-- class_d (1 of 2 sequences) -->" in plot.read_text()


def test_the_mean_is_over_what_there_is_and_says_so(tmp_path, results):
    part = make("part", rate=0.9, sets={"class_d": SETS["class_d"][:1], "talk": SETS["talk"]})
    write_results(tmp_path / "part.json", part)
    report(tmp_path / "part.json", results[GOOD], "--anchor", results[ANCHOR], "-o",
           tmp_path / "out")  # fmt: skip
    whole, means = table(tmp_path / "out"), table(tmp_path / "out", of="mean of sequences")
    assert whole["part"]["class_d"] == "n/a" and SETS["class_d"][1] in whole["part"]["notes"]
    assert float(whole["part"]["average"]) == float(whole["part"]["talk"]) < 0
    assert "over 1 of 2 data sets, without class_d" in whole["part"]["notes"]
    assert float(means["part"]["class_d"]) == pytest.approx(-10, abs=1e-3)
    assert "over 1 of 2 sequences, without Bubbles_416x240" in means["part"]["notes"]
    assert "see what is noted on class_d" in means["part"]["notes"]
    assert "without" not in means[GOOD]["notes"] and float(means[GOOD]["average"]) < 0


def test_bdrate_and_report_have_one_mean(tmp_path, results):
    """Of the same curves, of which one has no BD-rate."""
    mine = make("mine", rate=0.9, sets={"class_d": SETS["class_d"]})
    mine += [record("mine", "class_d", "far", i, shift=40.0) for i in range(5)]
    base = make(ANCHOR, sets={"class_d": [*SETS["class_d"], "far"]})
    for name, records in (("mine", mine), ("base", base)):
        write_results(tmp_path / f"{name}.json", records)
    report(tmp_path / "mine.json", "--anchor", tmp_path / "base.json", "--metric", "psnr_yuv",
           "-o", tmp_path / "out")  # fmt: skip
    in_report = table(tmp_path / "out", of="mean of sequences")["mine"]
    [row] = [r for r in bd_rates(base, mine, "psnr_yuv") if r.sequence == MEAN]
    assert float(in_report["class_d"]) == pytest.approx(row.bd_rate, abs=1e-4)
    assert "over 2 of 3 sequences" in in_report["notes"] and row.note == "over 2 of 3 sequences"


def test_means_are_over_the_sequences_that_have_a_number():
    """What of each is told, also of a codec that is not measured at all, and of a bad anchor."""

    def curves(name, of):
        quality = {"ms_ssim_y": 0.5}
        return CodecResults.of(name, [
            Record("set", sequence, name, i, None, 64, 48, None, Conditions(
                "yuv420", intra_period=-1, frames=2, rounding="8bit"), averages={"all": Average(
                    2, factor * 2.0**i, {**quality, "psnr_yuv": 30 + 2.0 * i + shift})})
            for sequence, (factor, shift, points) in of.items() for i in range(points)
        ])  # fmt: skip

    a = curves("a", {"x": (1, 0, 4), "y": (1, 0, 4), "z": (1, 0, 4)})
    b = curves("b", {"x": (0.9, 0, 4), "y": (0.8, 0, 4), "z": (0.5, 5, 4)})
    c = curves("c", {"x": (1.1, 0, 4), "y": (1, 0, 3), "z": (1.2, 4, 4)})
    d = curves("d", {})
    found = build([a, b, c, d], ["psnr_yuv"]).tables["psnr_yuv"]
    means = {name: cell for (name, _), cell in found.means.items()}
    assert {name: cell.over for name, cell in means.items()} == {
        "a": "3 of 3 sequences", "b": "2 of 3 sequences", "c": "2 of 3 sequences",
        "d": "0 of 3 sequences",
    }  # fmt: skip
    assert means["b"].value == pytest.approx(-15) and means["d"].value is None
    cells = {(name, sequence): cell for (name, _, sequence), cell in found.sequences.items()}
    assert cells["b", "y"].value == pytest.approx(-20) and cells["c", "y"].value is None
    assert cells["c", "y"].note == "c on y has 3 points, and BD-rate needs 4"
    assert cells["d", "z"].note == "d is not measured on z"
    assert "overlap by 16.7% of the shorter one only" in cells["b", "z"].note
    assert cells["c", "z"].value is not None and cells["c", "z"].result.overlap < 0.34
    assert "less than 50% of the shorter curve's quality range" in cells["c", "z"].note
    other = build([c, a, b, d], ["psnr_yuv"]).tables["psnr_yuv"]
    reasons = {name: other.sequences[name, "set", "y"] for name in "abcd"}
    assert {cell.value for cell in reasons.values()} == {None}
    assert reasons["a"].note == cells["c", "y"].note and "d is not" in reasons["d"].note


def test_ms_ssim_of_luma_is_shown_by_default(tmp_path, results):
    """Also where one sequence is too small for it."""

    def without(frame):
        return replace(frame, quality={k: v for k, v in frame.quality.items() if k[:2] != "ms"})

    for name, codec, rate in (("a", "one", 0.9), ("b", "two", 1.0)):
        records = [
            replace(r, frames=[*map(without, r.frames)]) if r.dataset == "talk" else r
            for r in make(codec, rate=rate)
        ]
        write_results(tmp_path / f"{name}.json", records)
    report(tmp_path / "a.json", tmp_path / "b.json", "--anchor", "two", "-o", tmp_path / "out")
    rows = table(tmp_path / "out", "ms_ssim_y")
    assert float(rows["one"]["class_d"]) < 0 and rows["one"]["talk"] == "n/a"
    assert "has no ms_ssim_y, only psnr_y" in rows["one"]["notes"]
    assert float(table(tmp_path / "out", "psnr_yuv")["one"]["talk"]) < 0


def test_speeds_come_from_bench_alone(tmp_path, results):
    """In evaluations they are those of a machine under any load."""
    arguments = (results[GOOD], results[ANCHOR], "--anchor", ANCHOR, "-o", tmp_path / "out")
    report(*arguments)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "encode, frames/s" not in page and "<td>500</td>" not in page
    assert "<td>1024 (cpu)</td>" in page  # peak memory is not a matter of load
    bench = tmp_path / "bench.json"
    run = ["bench", "--model", "cmfr-nano,dcvc-dc-nano", "--size", "64x48", "--frames", "3",
           "--device", "cpu", "--json", str(bench)]  # fmt: skip
    assert main(run) == 0
    report(*arguments, "--bench", bench)
    page = (tmp_path / "out" / "index.html").read_text()
    speed = json.loads(bench.read_text())["speed"]
    assert len(speed) == 4
    for row in speed:
        cells = f"<td>{row['frame']} 64x48</td><td>{row['encode_fps']:.3g}</td>"
        assert f'<th scope="row">{row["model"]}</th>{cells}' in page
    assert "Speed: 3 frames at quality 32 on cpu" in page
    for text, reason in (("{}", "no file of cmfr bench --json"), ("[", "no JSON file")):
        bench.write_text(text)
        with pytest.raises(ValueError, match=reason):
            report(*arguments, "--bench", bench)


def test_different_conditions_are_refused_unless_forced(tmp_path, results):
    other = make("other", rate=0.9, period=4)
    write_results(tmp_path / "other.json", other)
    arguments = (tmp_path / "other.json", results[ANCHOR], "--anchor", ANCHOR, "-o",
                 tmp_path / "out")  # fmt: skip
    with pytest.raises(DifferentConditions, match="intra period is -1 .* and 4 .*--force"):
        report(*arguments)
    assert not (tmp_path / "out").exists()
    report(*arguments, "--force")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "were not measured alike" in page and "the intra period is -1 for x265" in page
    words = "COMPARED IN SPITE OF A DIFFERENCE: the intra period is -1"
    tables = 2 * 2  # of two metrics, class curves and means
    assert (tmp_path / "out" / "bd_rate.md").read_text().count(words) == tables + 1
    latex = (tmp_path / "out" / "bd_rate.tex").read_text()
    shown = [line for line in latex.splitlines() if not line.startswith("%")]
    assert sum(words in line for line in shown) == tables
    for name in ("bd_rate.csv", "bd_rate_sequences.csv"):
        lines = (tmp_path / "out" / name).read_text().splitlines()[1:]
        assert lines and all(words in line for line in lines), name
    for plot in (tmp_path / "out").glob("rd_*.svg"):
        drawn = " ".join(re.findall("<!-- (.*?) -->", plot.read_text()))
        assert words in drawn, plot.name


def test_a_difference_within_one_codec_is_found_too(tmp_path, results):
    mixed = make("mixed", rates=range(4)) + make("mixed", rates=[4], frames=6)
    write_results(tmp_path / "mixed.json", mixed)
    with pytest.raises(DifferentConditions, match="number of frames is 12 .* and 6"):
        report(tmp_path / "mixed.json", "--anchor", results[ANCHOR], "-o", tmp_path / "out")


def test_a_published_mean_needs_force_and_gets_a_note(tmp_path):
    own = [
        Record("uvg", s, "mine", i, None, 1920, 1080, None, Conditions("rgb", "bt709", "full"),
               averages={"all": Average(600, 0.02 * 2**i, {"psnr_rgb": 34 + 1.8 * i})})
        for s in ("Beauty", "Jockey") for i in range(5)
    ]  # fmt: skip
    write_results(tmp_path / "mine.json", own)
    arguments = (tmp_path / "mine.json", "--anchor", "vtm-15", "-o", tmp_path / "out")
    with pytest.raises(DifferentConditions, match="color matrix"):
        report(*arguments)
    report(*arguments, "--force")
    mean = [r for r in published("vtm-15") if r.sequence == DATASET_MEAN]
    expected = bd_rate(points(mean, "psnr_rgb"), class_curve(own, "psnr_rgb")).percent
    row = table(tmp_path / "out", "psnr_rgb")["mine"]
    assert float(row["uvg"]) == pytest.approx(expected, abs=1e-4)
    assert "is not checked" in row["notes"]


def test_published_curves_stand_beside_measured_ones_and_are_marked(tmp_path):
    own = [
        Record(r.dataset, r.sequence, "mine", r.rate_index, r.label, r.width, r.height,
               r.frame_rate, r.conditions, averages={"all": Average(
                   96, 0.9 * r.bpp, dict(r.average().quality))})
        for r in published("vtm") if r.dataset == "hevc_d"
    ]  # fmt: skip
    write_results(tmp_path / "mine.json", own)
    report(tmp_path / "mine.json", "--anchor", "vtm", "--published", "dcvc-dc", "--metric",
           "psnr_rgb", "ms_ssim_rgb", "--paper-table", "-o", tmp_path / "out")  # fmt: skip
    rows = table(tmp_path / "out", "psnr_rgb")
    assert float(rows["mine"]["hevc_d"]) == pytest.approx(-10, abs=1e-3)
    assert float(rows["dcvc-dc (published)"]["hevc_d"]) == pytest.approx(-27.7, abs=0.05)
    assert (rows["mine"]["kind"], rows["dcvc-dc (published)"]["kind"]) == ("measured", "published")
    assert "cmfr" not in rows
    printed = table(tmp_path / "out", "ms_ssim_rgb", "not stated")["cmfr"]
    assert (printed["hevc_d"], printed["kind"]) == ("-68.9600", "published BD-rate")
    markdown = (tmp_path / "out" / "bd_rate.md").read_text()
    assert "| dcvc-dc (published) † |" in markdown and "| cmfr ‡ | -69.0 |" in markdown
    assert "EsakaK/USTC-TD" in markdown and "matrix bt601" in markdown
    latex = (tmp_path / "out" / "bd_rate.tex").read_text()
    assert "dcvc-dc (published)\\textsuperscript{\\dag} & $-$27.7" in latex


def test_made_up_curves_are_what_they_claim():
    """The fixtures' refusals come from bd_rate itself."""
    anchor = [r for r in make(ANCHOR) if r.dataset == "talk"]
    for records in (folded(), make(HIGH, shift=40.0)):
        with pytest.raises(NotComparable):
            bd_rate(points(anchor), points([r for r in records if r.dataset == "talk"]))
