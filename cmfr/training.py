"""Training: `setup` -> `Trainer.run` -> `_stage` -> `_step`. One process (step 2 adds more)."""

from __future__ import annotations

import contextlib
import json
import math
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
import yaml
from torch import Tensor
from tqdm import tqdm

from cmfr.checkpoint import (
    load_training_state,
    load_weights,
    read_weights,
    save_training_state,
    save_weights,
    weights_of,
)
from cmfr.data import ClipSource, CutPlan, batches
from cmfr.device import pick_device
from cmfr.losses import LossTerms, frame_loss
from cmfr.spynet import load_spynet
from cmfr.state import FrameOutput, ReferenceState
from cmfr.train_config import StageConfig, TrainConfig
from cmfr.train_log import TrainLog
from cmfr.video_codec import VideoCodec

# Keys that may change between the start of a run and its resumption.
_FREE_KEYS = (
    "time_limit_minutes", "threads", "device", "log_every", "image_every", "save_every", "run_dir",
)  # fmt: skip
_FREE_DATA_KEYS = ("root", "workers", "preload")


def _fixed_part(config: dict[str, Any]) -> dict[str, Any]:
    """What must not change when a run is resumed."""
    kept = {key: value for key, value in config.items() if key not in _FREE_KEYS}
    kept["data"] = {k: v for k, v in config["data"].items() if k not in _FREE_DATA_KEYS}
    return kept


@dataclass
class Progress:
    """Where a run stands."""

    stage: int = 0
    step: int = 0  # steps done within the stage
    total_steps: int = 0
    skipped: int = 0  # steps whose gradient was not finite


@dataclass(frozen=True)
class StepResult:
    """Loss terms of a step's last frame and means for the log."""

    terms: LossTerms
    output: FrameOutput
    grad_norm: float
    loss: float


class Trainer:
    """One run: everything that `setup` made, and the loop over stages and steps."""

    def __init__(self, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.device = pick_device(cfg.device)
        if cfg.threads:
            torch.set_num_threads(cfg.threads)
        torch.manual_seed(cfg.seed)
        self.model = VideoCodec(cfg.model)
        if cfg.spynet:
            load_spynet(self.model, cfg.spynet)
        for init in cfg.init:
            _, weights, _ = read_weights(init.file)
            merged = weights_of(self.model)
            chosen = {k: v for k, v in weights.items() if k.startswith(init.modules)}
            if not all(any(k.startswith(m) for k in chosen) for m in init.modules):
                raise ValueError(f"init: {init.file} has no modules called {init.modules}")
            merged |= chosen
            load_weights(self.model, merged, str(init.file))
        layout = torch.channels_last if cfg.channels_last else torch.contiguous_format
        self.model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self.ema = {name: value.clone() for name, value in weights_of(self.model).items()}
        self.progress = Progress()
        self.optimizer: torch.optim.Optimizer | None = None
        self.started = time.monotonic()
        self.stop = False

        cfg.run_dir.mkdir(parents=True, exist_ok=True)
        self.state_file = cfg.run_dir / "state.pt"
        self._check_or_write_config()
        self.source = ClipSource(cfg.data)
        if cfg.data.preloads:
            self.source.preload(self.device)
        clips = [self.source[i] for i in range(len(self.source))] if cfg.data.preloads else None
        # Without preloading the first clip stands for all: Vimeo-90k septuplets are of one size.
        sample = clips or [self.source[0]] * len(self.source)
        lengths, sizes = [len(c) for c in sample], [c.size for c in sample]
        # All stages are checked now: a mistake in the last must not wait for it.
        self.plans = [
            CutPlan(lengths, sizes, cfg.data, stage, (cfg.seed, index))
            for index, stage in enumerate(cfg.stages)
        ]
        names = [name for name, _ in self.model.named_parameters()]
        for stage in cfg.stages:
            for prefix in stage.trainable:
                if not any(name.startswith(prefix) for name in names):
                    raise ValueError(f"stage {stage.name}: no module is called {prefix}")
        self.log = TrainLog(cfg.run_dir, cfg.model.color)

    # -- files ---------------------------------------------------------------------------------

    def _check_or_write_config(self) -> None:
        """Refuse a run directory of another configuration; otherwise leave the resolved one."""
        path = self.cfg.run_dir / "config.yaml"
        mine = json.loads(self.cfg.model_dump_json())
        if path.is_file() and self.state_file.is_file():
            theirs = yaml.safe_load(path.read_text())
            there, here = _fixed_part(theirs), _fixed_part(mine)
            differing = [
                f"{key}: {there.get(key)} there, {here.get(key)} here"
                for key in sorted(here.keys() | there.keys())
                if here.get(key) != there.get(key)
            ]
            if differing:
                raise ValueError(
                    f"{self.cfg.run_dir} holds a run of another configuration "
                    f"({'; '.join(differing)}); choose another run_dir"
                )
        path.write_text(yaml.safe_dump(mine, sort_keys=False))

    def save(self) -> None:
        """Training state (for resuming) and the averaged weights (for coding)."""
        save_weights(
            self.cfg.run_dir / "weights.safetensors", self.ema, self.cfg.model,
            {"steps": str(self.progress.total_steps)},
        )  # fmt: skip
        assert self.optimizer is not None
        save_training_state(
            self.state_file,
            {
                "progress": vars(self.progress),
                "model": weights_of(self.model),
                "ema": self.ema,
                "optimizer": self.optimizer.state_dict(),
            },
        )

    def _resume(self) -> dict[str, Any] | None:
        if not self.state_file.is_file():
            return None
        # Read to the CPU: a GPU would take the optimizer's step counts along, and then wait for
        # each of them in every step.
        state = load_training_state(self.state_file, torch.device("cpu"))
        load_weights(self.model, state["model"], str(self.state_file))
        self.ema = {name: value.to(self.device) for name, value in state["ema"].items()}
        self.progress = Progress(**state["progress"])
        # At the start of a stage the optimizer is new; what is stored is the last stage's.
        return state["optimizer"] if self.progress.step else None

    # -- loop ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Train all stages, or what is left of them; saves before it returns."""
        optimizer_state = self._resume()
        with _on_terminate(self):
            while self.progress.stage < len(self.cfg.stages) and not self.stop:
                self._stage(self.cfg.stages[self.progress.stage], optimizer_state)
                optimizer_state = None
                self.save()
                if not self.stop:
                    self.progress.stage, self.progress.step = self.progress.stage + 1, 0
                    self.save()
        self.log.close()

    def _stage(self, stage: StageConfig, optimizer_state: dict[str, Any] | None) -> None:
        trainable = []
        for name, parameter in self.model.named_parameters():
            learns = name.startswith(stage.trainable) and not name.endswith("quantiles")
            parameter.requires_grad_(learns)
            if learns:
                trainable.append(parameter)
        self.model.train()
        self.model.intra.noise = self.model.inter.noise = stage.quantization == "noise"
        if not any(p.requires_grad for p in self.model.intra.parameters()):
            self.model.intra.eval()
        self.optimizer = torch.optim.AdamW(
            trainable, lr=stage.lr, weight_decay=self.cfg.weight_decay, eps=1e-8
        )
        if optimizer_state is not None:
            self.optimizer.load_state_dict(optimizer_state)
        index, first = self.progress.stage, self.progress.step
        plan = self.plans[index]
        stream = batches(self.source, plan, first, self.cfg.data, self.device, self.cfg.model.color)
        bar = tqdm(
            stream, stage.name, total=stage.steps, initial=first, dynamic_ncols=True, mininterval=5
        )
        for clip, quality in bar:
            step = self.progress.step
            torch.manual_seed(hash((self.cfg.seed, index, step)) % 2**63)
            result = self._step(stage, step, clip, quality)
            self.progress.step += 1
            self.progress.total_steps += 1
            if self.progress.step % self.cfg.log_every == 0:
                self._log_step(stage, result, bar)
            if self.progress.step % self.cfg.image_every == 0:
                source = clip[0, 0 if stage.objective == "intra" else -1]
                self.log.pictures(stage.objective, self.progress.total_steps, source, result.output)
            limit = self.cfg.time_limit_minutes
            if limit and time.monotonic() - self.started > 60 * limit:
                self.stop = True
            if self.stop:
                break
            if self.progress.step % self.cfg.save_every == 0:
                self.save()

    def _step(self, stage: StageConfig, step: int, clip: Tensor, quality: Tensor) -> StepResult:
        """One batch: one optimizer step, or one per P-frame when the stage is not cascaded."""
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(stage, step)
        pending: list[LossTerms] = []
        total, norm = 0.0, 0.0
        if stage.objective == "intra":
            output = self._forward(lambda: self.model.code_intra(clip[:, 0], quality))
            rate = rate_weight(stage, step)
            terms = frame_loss(
                self.cfg.loss, output, clip[:, 0], quality, intra=True, rate_weight=rate
            )
            norm = self._update(terms.total)
            return StepResult(terms, output, norm, float(terms.total.detach()))

        state, intra_terms = self._first_reference(stage, clip[:, 0], quality)
        if intra_terms is not None:
            pending.append(intra_terms)
        weights = self.cfg.model.hierarchy.weights
        if stage.random_position:
            start = int(torch.randint(len(weights), ()))  # seeded by the step
            state = replace(state, position=start)
        count = clip.shape[1] - 1
        for t in range(1, count + 1):
            x = clip[:, t]
            output = self._forward(self._inter, stage, x, quality, state)
            weight = weights[(state.position + 1) % len(weights)]
            terms = frame_loss(
                self.cfg.loss, output, x, quality, weight, stage.warp_weight,
                rate_weight=rate_weight(stage, step),
            )  # fmt: skip
            pending.append(terms)
            if not stage.cascaded or t == count:
                loss = torch.stack([p.total for p in pending]).mean()
                norm = self._update(loss)
                total += float(loss.detach()) / (1 if stage.cascaded else count)
                pending = []
            state = output.state if stage.cascaded else output.state.detach()
        return StepResult(terms, output, norm, total)

    def _first_reference(
        self, stage: StageConfig, x: Tensor, quality: Tensor
    ) -> tuple[ReferenceState, LossTerms | None]:
        if stage.start == "source":
            return ReferenceState(x), None
        if self.model.intra.training:
            output = self._forward(lambda: self.model.code_intra(x, quality))
            return output.state, frame_loss(self.cfg.loss, output, x, quality, intra=True)
        with torch.no_grad():
            return self._forward(lambda: self.model.code_intra(x, quality)).state, None

    def _inter(
        self, stage: StageConfig, x: Tensor, quality: Tensor, state: ReferenceState
    ) -> FrameOutput:
        if stage.objective == "motion":
            frame_quality = self.model.frame_quality(quality, state.position + 1)
            return self.model.inter.estimate_motion(x, frame_quality, state)
        return self.model.code_inter(x, quality, state)

    def _forward(self, function: Any, *arguments: Any) -> FrameOutput:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cfg.bf16):
            return function(*arguments)

    def _update(self, loss: Tensor) -> float:
        """Backward and optimizer step; a step whose gradient is not finite is skipped, counted."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = self.optimizer.param_groups[0]["params"]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.cfg.grad_clip))
        if not math.isfinite(norm):
            self.progress.skipped += 1
            return norm
        self.optimizer.step()
        # Short runs would never leave the initial weights with the full decay.
        decay = min(
            self.cfg.ema_decay, (1 + self.progress.total_steps) / (10 + self.progress.total_steps)
        )
        with torch.no_grad():
            live = weights_of(self.model)
            torch._foreach_lerp_(list(self.ema.values()), list(live.values()), 1 - decay)
        return norm

    def _log_step(self, stage: StageConfig, result: StepResult, bar: Any) -> None:
        values = {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": learning_rate(stage, self.progress.step),
            "skipped": self.progress.skipped,
        }
        record = self.log.scalars(
            stage.name, stage.objective, self.progress.step, self.progress.total_steps, values,
            result.terms, result.output,
        )  # fmt: skip
        shown = {"loss": 3, "psnr": 2, "bpp": 3}
        bar.set_postfix({name: f"{record[name]:.{digits}f}" for name, digits in shown.items()})


def rate_weight(stage: StageConfig, step: int) -> float:
    """Weight of R: rises linearly to 1 over the stage's `rate_warmup` steps."""
    return min(1.0, (step + 1) / stage.rate_warmup) if stage.rate_warmup else 1.0


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, then a cosine from lr to lr_end."""
    warmup = min(stage.warmup, stage.steps // 10)
    if step < warmup:
        return stage.lr * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, stage.steps - warmup))
    return stage.lr_end + (stage.lr - stage.lr_end) * 0.5 * (1 + math.cos(math.pi * progress))


@contextlib.contextmanager
def _on_terminate(trainer: Trainer) -> Any:
    """SIGTERM and Ctrl-C finish the step, save and return."""

    def request(*_: Any) -> None:
        trainer.stop = True

    kinds = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(kind, request) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, previous, strict=True):
            signal.signal(kind, handler)


def train(cfg: TrainConfig) -> None:
    """Run the configuration to its end, or to its time limit."""
    Trainer(cfg).run()
