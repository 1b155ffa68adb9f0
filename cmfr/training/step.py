"""One step of a stage: a batch forward and backward, update by update, and the weights moved."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmfr.models.state import ReferenceState
from cmfr.training.config import TrainConfig
from cmfr.training.distributed import Team
from cmfr.training.graphs import Pass
from cmfr.training.log import Means
from cmfr.training.optimizer import StageOptimizer
from cmfr.training.progress import Progress
from cmfr.training.stage import Result, StageModel, learning_rate, rate_weight


class StageStep:
    """Calling it trains on one batch.

    Nothing in it waits for the device: what a GPU computes is read when it is logged
    (tests/training/test_rehearsal.py holds it to that).

    index: of the stage.
    module: the codec as the stage trains it.
    means: where the log's scalars go.
    ema: averaged weights by name.
    live: what they follow.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        index: int,
        module: StageModel,
        team: Team,
        means: Means,
        ema: dict[str, Tensor],
        live: dict[str, Tensor],
    ) -> None:
        self.cfg, self.index, self.module, self.team, self.means = cfg, index, module, team, means
        self.stage = module.stage
        self.wrapped = team.wrap(module)
        self.optimizer = StageOptimizer(cfg.optimizer, module.learning(), self.stage.lr)
        share = team.share(self.stage.batch)
        part = (share.stop - share.start) // self.stage.accumulate
        self.offsets = list(range(share.start, share.stop, part))  # of the parts of a batch
        self.run = Pass(cfg, module, self.wrapped, team, self.offsets)
        self.ema, self.live = list(ema.values()), list(live.values())

    def position(self, step: int) -> int:
        """Where in the hierarchical pattern the clips of a step begin."""
        if len(self.module.positions) == 1:
            return 0
        rng = torch.Generator().manual_seed(seed_of(self.cfg.seed, self.index, step))
        return int(torch.randint(len(self.module.positions), (), generator=rng))

    def __call__(self, clip: Tensor, quality: Tensor, progress: Progress, position: int) -> Result:
        """One batch: one optimizer step for each of the stage's updates.

        clip [b, lead + T, 3, H, W]: this process's share of the batch, coded in `accumulate` parts.
        """
        stage, step = self.stage, progress.step
        lead = clip.shape[1] - stage.frames
        clips, qualities = (x.chunk(stage.accumulate) for x in (clip, quality))
        states: list[ReferenceState | None] = []
        for x, q, offset in zip(clips, qualities, self.offsets, strict=True):
            self.module.set_noise(offset, stage.batch)
            torch.manual_seed(seed_of(self.cfg.seed, self.index, step))
            states.append(self.module.reference(x[:, : 1 + lead], q, position))
        for number, frames in enumerate(self.module.updates(stage.frames)):
            seed = seed_of(self.cfg.seed, self.index, step, number)
            weight = rate_weight(stage, step)
            for i, (x, q, offset) in enumerate(zip(clips, qualities, self.offsets, strict=True)):
                self.module.set_noise(offset, stage.batch)
                with _no_sync(self.wrapped, i + 1 < stage.accumulate):
                    # The same seed: every part draws the noise of the whole batch.
                    result = self.run(x[:, lead:][:, frames], q, states[i], weight, position, seed)
                states[i] = result.output.state
                self.means.add(result.scalars)
            self.update(learning_rate(stage, step, progress.clock(self.cfg)), progress.total_steps)
        return result

    def update(self, lr: float, total_steps: int) -> None:
        """Optimizer step and averaging; a gradient that is not finite changes nothing."""
        norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, self.cfg.grad_clip)
        skip = (~norm.isfinite()).float()
        self.optimizer.step(lr, skip)
        self.optimizer.zero_grad()
        self.means.add({"grad_norm": norm.nan_to_num(0, 0, 0), "skipped": skip})
        # Short runs would never leave the initial weights with the full decay.
        decay = min(self.cfg.ema_decay, (1 + total_steps) / (10 + total_steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.live, 1 - decay)


def seed_of(*numbers: int) -> int:
    """One seed of several numbers, the same on every machine."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _no_sync(module: Any, wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients stay in this process (DDP) until the last part of a batch."""
    return module.no_sync() if wanted and hasattr(module, "no_sync") else contextlib.nullcontext()
