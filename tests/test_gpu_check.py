"""scripts/gpu_check.py without a GPU: what it does there, and what it would do on one, in small."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import lively

from cmfr.codec.checkpoint import save_weights
from cmfr.models.presets import PRESETS
from cmfr.nn.densities import weights_of
from cmfr.training.config import load_train_config
from cmfr.training.setup import open_data_sets, stage_samplers

CPU = torch.device("cpu")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    import gpu_check

    return gpu_check


def short(path, overrides=()):
    """A configuration whose stages have two steps, and that loads fast."""
    cfg = load_train_config(path, [*overrides, "validation=null", "data.train.count=2"])
    stages = tuple(stage.model_copy(update={"steps": 2}) for stage in cfg.stages)
    return cfg.model_copy(update={"stages": stages, "log_every": 1})


def test_without_a_gpu_it_trains_and_codes_and_says_what_it_leaves_out(
    script, tmp_path, monkeypatch, capsys
):
    model = lively(PRESETS["cmfr-nano"])
    save_weights(tmp_path / "nano.safetensors", weights_of(model), model.cfg)
    monkeypatch.setattr(script, "load_train_config", short)
    command = ["gpu_check.py", "--device", "cpu", "--model", str(tmp_path / "nano.safetensors")]
    monkeypatch.setattr(sys, "argv", command)
    assert script.main() == 0
    out, err = capsys.readouterr()
    rows = dict(line.strip("| ").split(" | ") for line in out.splitlines() if " | " in line)
    assert rows["device"].startswith("a CPU, no GPU; torch")
    assert rows["training stages intra, flow, motion, inter, cascade"].startswith("10 steps in")
    assert "encode" in rows["cmfr-nano, 10 frames of 416x240 by file"]
    assert rows["portable stream made on cpu, decoded on cpu"] == "4 of 4 frames are the encoder's"
    assert "no GPU, so left out: samples per second of training, 1080p" in err


def test_what_it_measures_on_a_gpu_runs(script, monkeypatch):
    """Here on the CPU, with the smallest model."""
    cfg = short("smoke")
    times = iter([False, False, False, True])
    rows = dict(
        script.training_speed(cfg, cfg.stages[-1], CPU, lambda: next(times), (2, 4, 6), steps=1)
    )
    assert list(rows.values())[-1] == "left out: the time is up" and len(rows) == 4
    assert all("samples/s, peak" in result for result in list(rows.values())[:3])
    assert [name.rpartition(" 64x64, ")[2] for name in rows] == [
        "batch 2", "batch 2, CUDA graphs", "batch 4", "batch 6",
    ]  # fmt: skip
    speeds = dict(script.coding_speed(lively(PRESETS["cmfr-nano"]), CPU, (64, 48), 3))
    assert list(speeds) == [
        f"cmfr-nano {kind}, {side} 64x48 of noise"
        for kind in ("intra", "inter")
        for side in ("encode", "decode")
    ]
    assert all("fps; ms: " in result and "rANS" in result for result in speeds.values())


def test_its_training_finds_clips_that_are_long_enough(script):
    cfg, stage = script.training()
    assert stage.frames == 7 and stage.crop == 256
    cfg = cfg.model_copy(update={"stages": (stage,), "validation": None})
    (sampler,) = stage_samplers(cfg, open_data_sets(cfg, CPU))
    assert len(sampler.batch(0)) == stage.batch
