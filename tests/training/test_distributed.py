import json
import os
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import torch
import yaml

from cmfr.codec.checkpoint import load_training_state
from cmfr.training.config import load_train_config
from cmfr.training.distributed import Team
from cmfr.training.trainer import Trainer, train

ROOT = Path(__file__).parents[2]


def config(folder):
    """Every kind of stage, with a batch that two processes can share."""
    common = {"crop": 48, "batch": 4, "steps": 6, "lr": 2e-4, "warmup": 0}
    stages = [
        {"name": "intra", "objective": "intra", "trainable": ["intra"], "frames": 1},
        {"name": "motion", "objective": "motion", "start": "source", "frames": 2,
         "trainable": ["inter.motion_codec", "inter.motion_refiner"], "prediction_weight": 0.5},
        {"name": "inter", "objective": "inter", "trainable": ["inter"], "frames": 3,
         "random_position": True},
        {"name": "joint", "objective": "inter", "trainable": ["intra", "inter"], "frames": 3,
         "cascaded": True, "accumulate": 2, "checkpoint_activations": True},
    ]  # fmt: skip
    tree = {
        "model": "cmfr-nano", "run_dir": str(folder / "run"), "device": "cpu", "bf16": False,
        "data": {"train": {"kind": "generated", "count": 3, "frames": 5, "size": [64, 48]}},
        "validation": {"data": "train", "every": 100, "clips": 3, "frames": 2,
                       "qualities": [10, 50]},
        "stages": [{**common, **stage} for stage in stages], "log_every": 2,
    }  # fmt: skip
    folder.mkdir()
    (folder / "train.yaml").write_text(yaml.safe_dump(tree))
    return folder / "train.yaml"


def torchrun(*arguments):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(ROOT / "scripts" / "train.py"), *map(str, arguments),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500)


def records(folder, name):
    return [json.loads(line) for line in (folder / "run" / name).read_text().splitlines()]


def test_two_processes_train_like_one(tmp_path):
    """Same global batch, data and noise: the loss curves differ by float32 rounding alone, which
    training amplifies. Tolerance: a relative 1e-3 in the loss over 24 steps."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(load_train_config(config(one)))
    done = torchrun(config(two))
    assert done.returncode == 0, done.stderr[-2000:]
    for name, key in (("log.jsonl", "loss"), ("validation.jsonl", "score")):
        a, b = records(one, name), records(two, name)
        assert [(r["stage"], r["step"]) for r in a] == [(r["stage"], r["step"]) for r in b]
        assert [r[key] for r in a] == pytest.approx([r[key] for r in b], rel=1e-3)
    states = [load_training_state(f / "run" / "state.pt", torch.device("cpu")) for f in (one, two)]
    assert states[0]["progress"]["total_steps"] == states[1]["progress"]["total_steps"] == 24
    # A run of one process may go on with two.
    both = tmp_path / "both"
    halfway = load_train_config(config(both), ["time_limit_minutes=0.2"])
    Trainer(halfway, clock=count().__next__).run()  # a second a step
    state = load_training_state(both / "run" / "state.pt", torch.device("cpu"))
    assert state["progress"]["total_steps"] == 13
    resumed = torchrun(both / "train.yaml")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    a, b = records(one, "log.jsonl"), records(both, "log.jsonl")
    assert [r["total"] for r in a] == [r["total"] for r in b]
    assert [r["loss"] for r in a] == pytest.approx([r["loss"] for r in b], rel=1e-3)


def test_shares_are_equal_and_cover_the_batch():
    shares = [Team(rank, 4, torch.device("cpu")).share(12) for rank in range(4)]
    assert [i for share in shares for i in range(12)[share]] == list(range(12))


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path):
    cfg = load_train_config(config(tmp_path / "a"))
    with pytest.raises(ValueError, match="stage intra: batch 4 cannot be split over 3 processes"):
        Trainer(cfg, Team(0, 3, torch.device("cpu")))
