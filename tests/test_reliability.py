"""A few kills of scripts/reliability.py; `make reliability` has 50 of each command."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "reliability.py"


def killed(kills: int, *commands: str) -> list[str]:
    """The rows of the table; in a process of its own, whose forks must be free of threads."""
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(kills), *commands], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.splitlines()[2:]


def test_killed_encoders_and_decoders():
    rows = killed(2, "encode", "encode --resume", "decode")
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| `decode`", "2"], ["| `encode`", "2"], ["| `encode --resume`", "2"],
    ]  # fmt: skip
    assert all(row.endswith(" | 0 |") for row in rows)


@pytest.mark.slow
def test_killed_training_evaluation_and_ablation():
    assert len(killed(3, "train", "evaluate", "ablate")) == 3


def test_what_is_half_or_left_is_seen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import reliability

    (tmp_path / "results.json").write_text('{"a": 1, "seconds": 3}')
    (tmp_path / "out.cmfr").write_bytes(b"whole")
    whole = reliability.results(tmp_path)
    assert whole == {"results.json": {"a": 1}, "out.cmfr": b"whole"}
    assert reliability.half(tmp_path, whole) is None
    (tmp_path / ".out.part.cmfr").write_bytes(b"wh")
    assert reliability.half(tmp_path, whole) is None
    assert "left: ['.out.part.cmfr']" in reliability._apart(reliability.results(tmp_path), whole)
    (tmp_path / "out.cmfr").write_bytes(b"wh")
    assert reliability.half(tmp_path, whole) == "out.cmfr is another one"
    (tmp_path / "out.cmfr").unlink()
    (tmp_path / "results.json").write_text('{"a": 1, "sec')
    assert "results.json is half: JSONDecodeError" in reliability.half(tmp_path, whole)
    table = reliability.table({("encode", "unfinished"): 3}, {"encode, killed after 0.1 s": "x"})
    assert table.splitlines()[-1] == "| `encode` | 3 | 0 | 3 | 0 | 1 |"


def test_kills_in_a_row_are_spread_over_the_work(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import reliability

    command = reliability.Command([], "", in_a_row=5)
    rows = command.rows(12, 10.0, random.Random(0))
    assert sorted(map(len, rows)) == [4, 4, 4] and max(map(max, rows)) <= 4
