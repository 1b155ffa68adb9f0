"""Training: `Trainer` sets up, `run` goes through the stages, `_stage` through the steps of one.

One process or many (`torchrun`); the global batch, the data and the noise are the same for any
number of them. What a stage computes is in stage.py, a step of it in step.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cmfr.codec.checkpoint import load_weights
from cmfr.models.cmfr.latent import CMFRLatentCoder, calibrate
from cmfr.nn.densities import weights_of
from cmfr.training.config import StageConfig, TrainConfig
from cmfr.training.data.datasets import ClipSet
from cmfr.training.data.sampler import Sampler, batches
from cmfr.training.distributed import Team, init_team, leave
from cmfr.training.log import Means, TrainLog
from cmfr.training.optimizer import StageOptimizer
from cmfr.training.progress import Progress, hours, outcome
from cmfr.training.run_dir import BEST, RunDir
from cmfr.training.setup import (
    bfloat16_wanted,
    build_model,
    check_stages,
    data_name,
    init_from,
    init_hashes,
    open_data_sets,
    stage_samplers,
)
from cmfr.training.stage import Result, StageModel
from cmfr.training.step import StageStep
from cmfr.training.validation import Validation, averaged
from cmfr.utils.device import fastest_convolutions
from cmfr.utils.signals import on_signals


class Trainer:
    """One run: everything that was set up, and the loop over stages and steps.

    Mistakes in any stage are found here, before the first step. Raises ValueError or OSError.
    clock: seconds since whenever.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        team: Team | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cfg, self.clock, self.started = cfg, clock, clock()
        self.team = team or init_team(cfg.device)
        self.device = self.team.device
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        self.bf16, self.arithmetic = bfloat16_wanted(cfg, self.device)
        self.model = build_model(cfg, self.device)
        check_stages(cfg, self.model, self.team.size)
        self.run_dir = RunDir(cfg, self.team.is_main)
        self.run_dir.claim()
        self.data = open_data_sets(cfg, self.device)
        self.samplers = stage_samplers(cfg, self.data)
        self.validation = None
        if cfg.validation:
            self.validation = Validation(
                cfg.validation, self.data[cfg.validation.data], cfg.loss, cfg.model, self.team
            )
        self.live = weights_of(self.model)
        self.ema = {name: value.clone() for name, value in self.live.items()}
        self.progress = Progress()
        self.trained_before = 0.0  # seconds of the calls before this one
        self.means = Means()
        self.optimizer: StageOptimizer | None = None
        self.log: TrainLog | None = None
        self.requested = self.stop = False  # by a signal; by all processes alike
        self.shown: dict[str, str] = {}  # beside the progress bar

    # -- saving and resuming -------------------------------------------------------------------

    def save(self) -> None:
        """Training state (for resuming) and the averaged weights (for coding)."""
        assert self.optimizer is not None
        self.run_dir.save(
            {
                "progress": asdict(self.progress),
                "model": self.live,
                "ema": self.ema,
                "optimizer": self.optimizer.state_dict(),
                "means": self.means.state(),
            }
        )

    def _resume(self) -> dict[str, Any] | None:
        """Take up a saved run; returns the optimizer's state when a stage is under way."""
        state = self.run_dir.load()
        if state is None:
            return None
        load_weights(self.model, state["model"], str(self.run_dir.state_file))
        self.ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self.progress = Progress(**state["progress"])
        self.trained_before = self.progress.seconds
        self.means.restore(state["means"], self.device)
        # At the start of a stage the optimizer is new; what is stored is the last stage's.
        if not self.progress.step:
            return None
        if state["optimizer"] is None and self.team.is_main:
            told = "without the optimizer's state, which is not there: moments start anew"
            print(f"{self.cfg.run_dir}: resumed {told}", file=sys.stderr)
        return state["optimizer"]

    # -- loop ----------------------------------------------------------------------------------

    def run(self) -> str:
        """Train all stages, or what is left of them; saves before it returns.

        Returns what to tell: where the run stands, and where its weights are.
        """
        try:
            return self._run()
        finally:
            self.run_dir.release()

    def _run(self) -> str:
        optimizer_state = self._resume()
        before = self.progress.total_steps
        self.team.barrier()  # all have read before one writes
        if self.team.is_main and not self.progress.finished(self.cfg):
            self.log = TrainLog(self.cfg.run_dir, self.cfg.model.color, before)
            taken = {} if before else {"init": init_hashes(self.cfg)}
            self.run_dir.note_versions(before, {"arithmetic": self.arithmetic, **taken})
            print(f"{self.device}, {self.arithmetic}", file=sys.stderr)
        with on_signals(self._request_stop), fastest_convolutions(self.device):
            while not (self.stop or self.progress.finished(self.cfg)):
                self._stage(self.cfg.stages[self.progress.stage], optimizer_state)
                optimizer_state = None
                if not self.stop:
                    self.progress.stage, self.progress.step = self.progress.stage + 1, 0
                    self.progress.stage_began = self.progress.seconds
                    self.means = Means()
                self.save()
        if self.log:
            self.log.close()
        self.team.barrier()
        return outcome(self.cfg, self.progress, before, self.requested)

    def _request_stop(self, *_: Any) -> None:
        """SIGTERM and Ctrl-C: finish the step, save and return."""
        self.requested = True

    def _stage(self, stage: StageConfig, optimizer_state: dict[str, Any] | None) -> None:
        index, first = self.progress.stage, self.progress.step
        if stage.init and first == 0:
            init_from(self.model, stage.init)
            for name, value in self.live.items():
                self.ema[name].copy_(value)
        step = self.step_of(index)
        if optimizer_state is not None:
            step.optimizer.load_state_dict(optimizer_state)
        clips = self.data[data_name(self.cfg, stage)]
        if stage.calibrate and first == 0:
            self._calibrate(step.module, clips, index)
        stream = batches(clips, self.samplers[index], first, self.team, self.model.cfg.color)
        bar = tqdm(
            total=stage.steps * stage.batch,
            initial=first * stage.batch,
            desc=stage.name,
            unit="sample",
            dynamic_ncols=True,
            mininterval=5,
            disable=None if self.team.is_main else True,  # None: where it is no terminal
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} "
            "[{elapsed}, {rate_fmt}{postfix}]",
        )
        self._since = (time.monotonic(), self.progress.total_steps)
        if bar.disable and self.team.is_main:
            print(f"stage {stage.name}: {stage.steps - first} steps to do", file=sys.stderr)
        began, work = time.monotonic(), self.progress.work_left(self.cfg)
        with bar:
            for clip, quality in stream:
                result = self._step(step, clip, quality)
                self.progress.step += 1
                self.progress.total_steps += 1
                left = self.progress.time_left(self.cfg, time.monotonic() - began, work)
                bar.set_postfix({"run": f"{hours(left)} left", **self.shown}, refresh=False)
                bar.update(stage.batch)
                self._after_step(stage, clip, result)
                if self.stop:
                    break

    def step_of(self, index: int) -> StageStep:
        """What trains a stage, with a new optimizer, which `save` saves from here on."""
        module = StageModel(self.model, self.cfg.loss, self.cfg.stages[index], self.bf16)
        step = StageStep(self.cfg, index, module, self.team, self.means, self.ema, self.live)
        self.optimizer = step.optimizer
        return step

    def _calibrate(self, module: StageModel, clips: ClipSet, index: int) -> None:
        """Start entropy models at what some batches of the stage have."""
        stage = module.stage.model_copy(update={"steps": 4})
        sampler = Sampler(
            self.samplers[index].shapes, self.samplers[index].data, stage, (self.cfg.seed, index, 2)
        )
        everyone = Team(0, 1, self.device)  # all processes measure the same
        frames = 1 if stage.objective == "intra" else 3

        def run() -> None:
            for clip, quality in batches(clips, sampler, 0, everyone, self.model.cfg.color):
                self.model(clip[:, :frames], quality)

        coders = [
            part
            for name, part in self.model.named_modules()
            if isinstance(part, CMFRLatentCoder) and name.startswith(stage.calibrate)
        ]
        module.eval()
        calibrate(coders, run)
        module.train()
        for name, value in self.live.items():
            if name.endswith("log_spread"):
                self.ema[name].copy_(value)

    def _after_step(self, stage: StageConfig, clip: Tensor, result: Result) -> None:
        """Log, validate, save and stop where it is time to."""
        now, limit = self.clock() - self.started, self.cfg.time_limit_minutes
        late = limit is not None and not self.cfg.schedule_clock and now > 60 * limit
        self.progress.seconds, stop = self.team.most(
            self.trained_before + now, float(self.requested or late)
        )
        time_is_up = self.progress.time_is_up(self.cfg)
        self.stop = bool(stop) or time_is_up
        step = self.progress.step
        last = step == stage.steps or time_is_up
        if step % self.cfg.log_every == 0 or last:
            self._log(stage)
        if step % self.cfg.image_every == 0 and self.log:
            source = clip[0, 0 if stage.objective == "intra" else -1]
            self.log.pictures(stage.objective, self.progress.total_steps, source, result.output)
        if self.validation and stage.objective in ("intra", "inter"):
            assert self.cfg.validation is not None
            if step % self.cfg.validation.every == 0 or last:
                self._validate(stage)
        if step % self.cfg.save_every == 0 and not self.stop and not last:
            self.save()

    def _step(self, step: StageStep, clip: Tensor, quality: Tensor) -> Result:
        return step(clip, quality, self.progress, step.position(self.progress.step))

    # -- what is looked at ---------------------------------------------------------------------

    def _head(self, stage: StageConfig) -> dict[str, Any]:
        return {
            "stage": stage.name,
            "step": self.progress.step,
            "total": self.progress.total_steps,
        }

    def _log(self, stage: StageConfig) -> None:
        values = self.means.read(self.team)
        if not self.log:
            return
        now, (then, steps) = time.monotonic(), self._since
        samples = (self.progress.total_steps - steps) * stage.batch
        self._since = (now, self.progress.total_steps)
        assert self.optimizer is not None
        values |= {
            "lr": self.optimizer.lr,
            "epoch": self.samplers[self.progress.stage].epoch(self.progress.step),
            "samples_per_second": samples / (now - then),
        }
        if self.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        self.log.scalars(stage.objective, self._head(stage), values)
        digits = {"loss": 3, "psnr": 2, "bpp": 3}
        self.shown = {n: f"{values[n]:.{count}f}" for n, count in digits.items() if n in values}

    def _validate(self, stage: StageConfig) -> None:
        """An RD curve of the averaged weights; the best of an objective are kept."""
        assert self.validation is not None
        intra = stage.objective == "intra"
        with averaged(self.model, self.ema):
            curve = self.validation.run(self.model, intra)
        score = self.validation.score(curve, intra)
        if self.log:
            self.log.validation(stage.objective, self._head(stage), score, curve)
        best = self.progress.best
        if best.get("objective") != stage.objective or score < best["score"]:
            self.progress.best = {
                "objective": stage.objective,
                "score": score,
                "total_steps": self.progress.total_steps,
            }
            self.run_dir.save_weights(BEST, self.ema, self.progress.total_steps)


def train(cfg: TrainConfig) -> str | None:
    """Run the configuration to its end, or to its time limit. Returns what to tell of it; None in
    all but one of several processes."""
    try:
        trainer = Trainer(cfg)
        result = trainer.run()
        return result if trainer.team.is_main else None
    finally:
        leave()
