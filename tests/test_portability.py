"""scripts/portability.py with the smallest model, in processes of other arithmetic."""

import re
import sys
from pathlib import Path

import pytest
from conftest import lively, write_yuv

from cmfr.codec.checkpoint import save_weights
from cmfr.models.presets import PRESETS
from cmfr.nn.densities import weights_of


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import portability

    model = lively(PRESETS["cmfr-nano"])
    save_weights(tmp_path / "nano.safetensors", weights_of(model), model.cfg)

    def run(frames, *settings):
        write_yuv(tmp_path / "clip_80x48_25.yuv", frames, 48, 80)
        command = ["portability.py", str(tmp_path / "clip_80x48_25.yuv"), "--frames", str(frames),
                   "--model", str(tmp_path / "nano.safetensors")]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command + (["--settings", *settings] if settings else []))
        code = portability.main()
        return code, capsys.readouterr().out

    return run


def test_a_portable_stream_decodes_without_simd_and_with_other_libraries(run):
    code, out = run(4, "all of these")
    assert code == 0
    assert re.search(r"\| all of these \| .* \| 4 of 4 frames, 1 of 1 streams \|", out)
    assert re.search(r"\| clip_80x48_25, 4 frames \| 32 \| \d+ \| \d+ \| [+-]\d\.\d\d % \| ", out)


@pytest.mark.slow
def test_chains_of_96_frames(run):
    code, out = run(96)
    assert code == 0 and out.count("96 of 96 frames, 1 of 1 streams |\n") == out.count(" |\n") - 3
