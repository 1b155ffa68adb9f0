"""CUDA graphs, as far as they can be tested without a GPU: what is captured, how steps use it, and
what happens where it cannot be. Capturing itself needs a GPU."""

import pytest
import torch
from test_rehearsal import INTER, step_of

from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.training.config import TrainConfig, load_train_config
from cmfr.training.distributed import Team
from cmfr.training.graphs import GraphedPass, Pass, obstacle, pattern
from cmfr.training.progress import Progress
from cmfr.training.stage import StageModel
from cmfr.training.trainer import train

CPU = torch.device("cpu")
CASCADE = {**INTER, "frames": 3, "cascaded": True}


class Tape:
    """Captures like a GPU: what is recorded is not run, and replaying it writes into the tensors
    that recording gave."""

    def __init__(self, fails_at=None):
        self.fails_at, self.recorded, self.replayed = fails_at, 0, 0

    def warm_up(self, work):
        work()

    def record(self, work):
        if self.recorded == self.fails_at:
            raise RuntimeError("out of memory\nand more")
        self.recorded += 1
        result = work()

        def replay():
            self.replayed += 1
            again = work()
            pairs = [(result.loss, again.loss), (result.output.x_hat, again.output.x_hat)]
            pairs += [(result.scalars[name], again.scalars[name]) for name in result.scalars]
            for kept, new in pairs:
                kept.copy_(new)

        for parameter in self.parameters:  # recording computed gradients, capturing does not
            if parameter.grad is not None:
                parameter.grad.zero_()
        return replay, result


def graphed(step, tape):
    tape.parameters = step.optimizer.parameters
    passes = GraphedPass(step.module, step.offsets, CPU, tape)
    step.run = Pass(step.cfg, step.module, step.wrapped, step.team, step.offsets, passes)
    return step


def trained(changes, tape=None):
    """Weights and the log's means after three steps from the same start."""
    torch.manual_seed(0)
    step, clip, quality = step_of(changes, VideoModel(PRESETS["cmfr-nano"]))
    if tape:
        graphed(step, tape)
    for number, position in enumerate([0, 30, 1]):
        batch = (clip + number / 10).clamp(0, 1)
        step(batch, quality + number, Progress(step=number, total_steps=number), position)
    return dict(step.module.codec.named_parameters()), step.means.read(step.team)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "intra", "trainable": ("intra",), "frames": 1},
        {**CASCADE, "rate_warmup": 5},
        {**CASCADE, "trainable": ("intra", "inter"), "accumulate": 2, "quantization": "noise"},
    ],
    ids=["intra", "cascade", "joint"],
)
def test_captured_steps_learn_what_others_do(changes):
    tape = Tape()
    plain, captured = trained(changes), trained(changes, tape)
    assert tape.replayed == 3 * changes.get("accumulate", 1)
    assert captured[1] == plain[1]
    for name, value in plain[0].items():
        assert torch.equal(value, captured[0][name]), name


def module_of(model="cmfr-nano", **changes):
    stage = {"name": "s", "crop": 32, "batch": 2, "steps": 10, "lr": 1e-3, **CASCADE, **changes}
    cfg = TrainConfig.model_validate({
        "model": model, "run_dir": "nowhere", "data": {"none": {"kind": "generated"}},
        "stages": [stage],
    })  # fmt: skip
    torch.manual_seed(0)
    module = StageModel(VideoModel(cfg.model), cfg.loss, cfg.stages[0], bf16=False)
    return cfg, module


def test_equal_patterns_compute_the_same_and_others_do_not():
    check_patterns(module_of(frames=3)[1], 4, 16)


def test_an_accumulator_has_a_share_for_each_place():
    """Places of the hierarchy that are alike else: with it none of eight is another."""
    hierarchy = PRESETS["cmfr-s"].hierarchy
    model = PRESETS["cmfr-nano"].model_copy(update={"hierarchy": hierarchy})
    assert model.accumulates
    check_patterns(module_of(model=model, frames=3)[1], 7, 10)


def check_patterns(module, least, most):
    with torch.no_grad():  # all parts do something
        for parameter in module.codec.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    losses = {}
    clip, quality = torch.rand(1, 3, 3, 32, 32), torch.tensor([30])
    for position in module.positions:
        torch.manual_seed(1)
        module.set_noise(0, 1)
        past = module.reference(clip[:, :1], quality, position)
        loss = float(module(clip[:, 1:], quality, past, 1.0, position).loss.detach())
        losses.setdefault(pattern(module, position), set()).add(loss)
    assert len(module.positions) == 32 and least < len(losses) < most
    assert all(len(of_pattern) == 1 for of_pattern in losses.values())
    assert len(set.union(*losses.values())) == len(losses)


def test_every_graph_of_a_stage_is_captured_at_its_first_step():
    torch.manual_seed(0)
    step, clip, quality = step_of({**CASCADE, "accumulate": 2}, VideoModel(PRESETS["cmfr-nano"]))
    tape = Tape()
    passes = graphed(step, tape).run.graphed
    patterns = {pattern(step.module, position) for position in step.module.positions}
    assert set(passes.plan()) == {(seen, first) for seen in patterns for first in (0, 1)}
    step(clip, quality, Progress(), 0)
    assert tape.recorded == len(passes.plan())
    step(clip, quality, Progress(step=1, total_steps=1), 30)
    assert tape.recorded == len(passes.plan()) and tape.replayed == 4


@pytest.mark.parametrize("fails_at", [0, 2])
def test_where_capturing_fails_training_goes_on_without(fails_at, capsys):
    short = {**CASCADE, "frames": 2}
    plain, other = trained(short), trained(short, Tape(fails_at))
    assert capsys.readouterr().err.splitlines() == [
        "stage s: no CUDA graphs: capturing failed: out of memory"
    ]
    assert all(torch.equal(value, other[0][name]) for name, value in plain[0].items())


def test_what_cannot_be_captured_is_said():
    gpu = Team(0, 1, torch.device("cuda"))
    cfg, module = module_of()
    assert obstacle(cfg, module.stage, module, gpu) is None
    assert "this is cpu" in obstacle(cfg, module.stage, module, Team(0, 1, CPU))
    assert "processes" in obstacle(cfg, module.stage, module, Team(0, 2, gpu.device))
    compiled = cfg.model_copy(update={"compile": True})
    assert "compile" in obstacle(compiled, module.stage, module, gpu)
    for changes, expected in (
        ({"checkpoint_activations": True}, "checkpoint_activations"),
        ({"cascaded": False}, "several updates"),
        ({"lead": (0, 2)}, "a lead"),
    ):
        cfg, module = module_of(**changes)
        assert expected in obstacle(cfg, module.stage, module, gpu)


def test_a_run_that_asks_for_graphs_where_there_is_no_gpu_says_so_and_trains(tmp_path, capsys):
    overrides = ["cuda_graphs=true", "validation=null", "data.train.count=1"]
    smoke = load_train_config("smoke", [f"run_dir={tmp_path}", *overrides])
    train(smoke.model_copy(update={"stages": (smoke.stages[0].model_copy(update={"steps": 1}),)}))
    told = [line for line in capsys.readouterr().err.splitlines() if "CUDA graphs" in line]
    assert told == ["stage intra: no CUDA graphs: they need a GPU, and this is cpu"]
