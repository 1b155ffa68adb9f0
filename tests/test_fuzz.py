"""The first cases of scripts/fuzz.py; `make fuzz` has 20000."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import fuzz


def test_damaged_and_forged_files_are_decoded_or_refused_in_a_sentence():
    counts, faults = fuzz.run(300)
    assert not faults
    assert sum(counts.values()) == 300 and {kind for kind, _ in counts} == set(fuzz.KINDS)
    assert {"same pictures", "refused", "frames named"} <= {end for _, end in counts}
    assert "| forged payload |" in fuzz.table(counts)


def test_frames_that_are_not_decoded_again_change_no_outcome(monkeypatch):
    fuzz.codec.cache_clear()
    known = [fuzz.outcome(number) for number in range(30)]
    assert [fuzz.outcome(number) for number in range(30)] == known
    monkeypatch.setattr(fuzz, "REMEMBERED", 0)
    assert [fuzz.outcome(number) for number in range(30)] == known


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), TimeoutError("not done")])
def test_anything_else_is_a_fault(monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(fuzz, "_decoded", lambda *_: (b"", False))
    fuzz.seeds.cache_clear()
    fuzz.seeds()
    monkeypatch.setattr(fuzz, "_decoded", broken)
    kind, end = fuzz.outcome(0)
    assert kind in fuzz.KINDS and end not in fuzz.FINE
    fuzz.seeds.cache_clear()


def test_damage_that_nobody_names_is_a_fault(monkeypatch):
    def silent(data, keep_going):
        if not keep_going:
            raise fuzz.DamagedFrame(0, "x")
        return b"", False

    monkeypatch.setattr(fuzz, "seeds", list)
    monkeypatch.setattr(fuzz, "_decoded", silent)
    assert fuzz._decode(b"") not in fuzz.FINE
