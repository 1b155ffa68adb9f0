"""A rehearsal of training on a GPU, without one: a step of every kind of stage with `cmfr-nano`,
operator by operator. Nothing in a step may wait for the device, and the number of kernels that it
launches may not grow: small models are as slow on a GPU as their launches are many.
"""

import warnings
from collections import Counter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.training.config import TrainConfig
from cmfr.training.distributed import Team
from cmfr.training.log import Means
from cmfr.training.progress import Progress
from cmfr.training.stage import StageModel
from cmfr.training.step import StageStep

# A GPU is waited for where its numbers decide what is done next: `.item()`, `float(x)`, `if x`,
# sizes that depend on values; and where numbers of the host are sent to it outside of the data
# path: `torch.tensor([...], device=...)` begins with lift_fresh, on every device.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "lift_fresh")
# No kernels: memory is reserved, or seen another way (views are found by their schema).
FREE = ("empty", "detach", "_unsafe_view", "lift", "is_same_size", "_has_same", "reshape_alias")


class Watch(TorchDispatchMode):
    """Counts kernels, and remembers what a GPU would wait for."""

    def __init__(self):
        super().__init__()
        self.kernels = Counter()
        self.waits = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        name = operator.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        result = operator(*args, **(kwargs or {}))
        by_mask = name.startswith(("index", "_index", "_unsafe_index")) and any(
            x.dtype == torch.bool for x in given[1:]
        )
        sent = name == "_to_copy" and given[0].device != result.device
        if by_mask or sent or name.startswith(WAITS):
            self.waits.append(str(operator))
        if not operator.is_view and not name.startswith(FREE):
            self.kernels[name] += 1
        return result


PREDICTED = {"warp_weight": 0.1, "prediction_weight": 0.1, "prediction_loss": "bits"}
INTER = {"objective": "inter", "trainable": ("inter",), "frozen": ("inter.motion_estimation",),
         "random_position": True, **PREDICTED}  # fmt: skip
# The kinds of stages that the shipped configurations have, and how many kernels a step launched
# when this was written. Fewer is better: lower the number then.
STAGES = {
    "intra": ({"objective": "intra", "trainable": ("intra",), "frames": 1}, 1309),
    "flow": ({"objective": "flow", "trainable": ("inter.motion_estimation",), "frames": 2}, 209),
    "motion": (
        {"objective": "motion", "start": "source", "frames": 2, **PREDICTED,
         "trainable": ("inter.motion_codec", "inter.motion_refiner")}, 1238,
    ),
    "inter": ({**INTER, "frames": 2}, 3606),
    "cascade": ({**INTER, "frames": 3, "cascaded": True}, 6810),
    "joint": (
        {**INTER, "trainable": ("intra", "inter"), "frames": 2, "cascaded": True,
         "accumulate": 2, "checkpoint_activations": True}, 12201,
    ),
}  # fmt: skip
MARGIN = 1.05  # of other versions of PyTorch


def step_of(changes, model, device="cpu"):
    """A step of this stage, and a batch for it."""
    stage = {"name": "s", "crop": 32, "batch": 2, "steps": 10, "lr": 1e-3, **changes}
    cfg = TrainConfig.model_validate({
        "model": "cmfr-nano", "run_dir": "nowhere", "data": {"none": {"kind": "generated"}},
        "stages": [stage], "loss": {"balance": 0.4}, "optimizer": {"kind": "muon"},
    })  # fmt: skip
    module = StageModel(model.to(device), cfg.loss, cfg.stages[0], bf16=False)
    live = dict(model.named_parameters())
    ema = {name: value.detach().clone() for name, value in live.items()}
    team = Team(0, 1, torch.device(device))
    step = StageStep(cfg, 0, module, team, Means(), ema, live)
    clip = torch.rand(2, cfg.stages[0].frames, 3, 32, 32, device=device)
    return step, clip, torch.full((2,), 30, device=device)


@pytest.mark.parametrize("name", STAGES)
def test_a_step_never_waits_for_a_gpu_and_launches_no_more_kernels(name):
    changes, bound = STAGES[name]
    step, clip, quality = step_of(changes, VideoModel(PRESETS["cmfr-nano"]))
    step(clip, quality, Progress(), 30)  # what is made once and kept is made here
    with Watch() as seen:
        step(clip, quality, Progress(step=1, total_steps=1), 30)
    assert not seen.waits, Counter(seen.waits)
    launched, most = seen.kernels.total(), seen.kernels.most_common(12)
    assert launched <= MARGIN * bound, (launched, most)


@pytest.mark.parametrize("name", ["intra", "flow", "motion", "cascade"])
def test_no_devices_are_mixed_on_a_gpu(name):
    """Shapes, types and devices as on a GPU, without numbers: operators refuse to mix devices.
    Forward and the optimizer; the backward pass makes no tensors of its own."""
    changes = {**STAGES[name][0], "batch": 1}
    changes["frames"] = min(2, changes["frames"])
    model = VideoModel(PRESETS["cmfr-nano"])
    with FakeTensorMode(allow_non_fake_inputs=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no GPU for autocast
        try:
            torch.zeros(1, device="cuda").add(1)
        except (RuntimeError, AssertionError) as error:
            pytest.skip(f"this PyTorch cannot pretend to have a GPU: {error}")
        step, clip, quality = step_of(changes, model, "cuda")
        frames = step.module.updates(clip.shape[1])[0]

        def forward():
            step.module.set_noise(0, 1)
            past = step.module.reference(clip[:, :1], quality, 30)
            return step.module(clip[:, frames], quality, past, 1.0, 30)

        forward()  # what is made once and kept is made here
        with Watch() as seen:
            result = forward()
            for parameter in step.optimizer.parameters:
                parameter.grad = torch.zeros_like(parameter)
            step.means.add(result.scalars)
            step.update(1e-3, total_steps=0)
        assert {x.device.type for x in result.scalars.values()} == {"cuda"}
    assert not seen.waits, Counter(seen.waits)
