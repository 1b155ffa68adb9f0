"""scripts/drift.py: changes of the PSNR along sequences, beside those of others at equal PSNR."""

import sys
from pathlib import Path

import pytest

from cmfr.evaluation.conditions import CodingConditions
from cmfr.evaluation.records import FrameResult, Record, write_results


@pytest.fixture
def run(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import drift

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["drift.py", *map(str, arguments)])
        code = drift.main()
        shown = capsys.readouterr()
        rows = [line.strip("| ").split(" | ") for line in shown.out.splitlines()[2:]]
        return code, rows, shown.err

    return run


def record(sequence, rate, psnr):
    frames = [FrameResult("P", 1000 * (rate + 1), {"psnr_yuv": value}) for value in psnr]
    conditions = CodingConditions("yuv420", intra_period=-1, frames=len(frames), rounding="8bit")
    return Record("set", sequence, "any", rate, rate, 64, 48, None, conditions, frames)


def test_beside_others_at_equal_psnr(tmp_path, run):
    """Eight frames: the second quarter is 2 and 3, the last one 6 and 7."""
    falling = [34.0, 34, 34, 34, 30, 30, 30, 30]  # mean 32, 4 less
    flat = [36.0] * 8
    ours, other = tmp_path / "ours.json", tmp_path / "other.json"
    write_results(ours, [record("a", 0, falling), record("b", 0, falling)])
    low = [31.0, 31, 31, 31, 29, 29, 29, 29]  # mean 30, 2 less; halfway to 34: 1 less
    write_results(other, [record("a", 0, low), record("a", 1, [34.0] * 8)])
    code, rows, _ = run(ours, other)
    assert code == 0
    assert rows == [["a", "32.00", "-4.00", "-1.00"], ["b", "32.00", "-4.00", "n/a"]]
    write_results(ours, [record("a", 0, flat)])
    assert run(ours, other)[1] == [["a", "36.00", "+0.00", "n/a"]]  # outside of the other's range


def test_what_has_no_frames_is_told(tmp_path, run):
    short = tmp_path / "short.json"
    write_results(short, [record("a", 0, [30.0, 31, 32])])
    code, _, err = run(short)
    assert code == 1 and "short.json: a has no psnr_yuv of four frames and more" in err
    write_results(short, [record("a", 0, [30.0] * 4)])
    assert "no psnr_y of" in run(short, "--metric", "psnr_y")[2]
