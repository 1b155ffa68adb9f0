"""Where a run stands, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cmfr.training.config import TrainConfig
from cmfr.training.run_dir import BEST, STATE, WEIGHTS


@dataclass
class Progress:
    """Where a run stands: as it is stored, and what follows from it.

    stage: its number.
    step: steps done within it.
    total_steps: steps of the run.
    best: objective, score and total_steps of the best validation.
    seconds: trained, resumptions included.
    stage_began: of these, when the stage began.
    """

    stage: int = 0
    step: int = 0
    total_steps: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    stage_began: float = 0.0

    def finished(self, cfg: TrainConfig) -> bool:
        """Whether all stages are done, or the time of a run that goes by the clock is up."""
        return self.stage == len(cfg.stages) or self.time_is_up(cfg)

    def time_is_up(self, cfg: TrainConfig) -> bool:
        """Only where schedules go by the clock; otherwise the limit is of one call."""
        limit = cfg.time_limit_minutes
        return cfg.schedule_clock and limit is not None and self.seconds >= 60 * limit

    def clock(self, cfg: TrainConfig) -> float:
        """How much of the stage's time has passed, 0..1; a stage has what those before it left of
        the limit. 0 where schedules go by steps alone."""
        if not cfg.schedule_clock or cfg.time_limit_minutes is None:
            return 0.0
        has = 60 * cfg.time_limit_minutes - self.stage_began
        return min(1.0, (self.seconds - self.stage_began) / has)

    def work_left(self, cfg: TrainConfig) -> float:
        """Of the whole run, in pixels to code: about what its time is in proportion to."""
        done = [self.step, *[0] * len(cfg.stages)]
        return sum(
            (stage.steps - steps) * stage.batch * stage.frames * stage.crop**2
            for stage, steps in zip(cfg.stages[self.stage :], done, strict=False)
        )

    def time_left(self, cfg: TrainConfig, seconds: float, work: float) -> float:
        """Seconds that the whole run still takes, `seconds` after so much work was left."""
        left = self.work_left(cfg)
        estimate = seconds * left / (work - left)
        if cfg.schedule_clock and cfg.time_limit_minutes is not None:
            estimate = min(estimate, 60 * cfg.time_limit_minutes - self.seconds)
        return max(0.0, estimate)


def outcome(cfg: TrainConfig, progress: Progress, steps_before: int, requested: bool) -> str:
    """What to tell at the end of a call that began after so many steps.

    requested: by a signal.
    """
    folder = cfg.run_dir
    if not progress.finished(cfg):
        stage = cfg.stages[progress.stage]
        why = "asked to" if requested else f"{cfg.time_limit_minutes:g} minutes are over"
        return (
            f"{folder}: stopped after step {progress.step} of {stage.steps} of stage {stage.name} "
            f"({why}); saved in {folder / STATE}, weights so far in {folder / WEIGHTS}. The same "
            "command goes on."
        )
    new = progress.total_steps > steps_before
    lines = [
        f"{folder}: {'finished' if new else 'was finished before, nothing is left to do'}; "
        f"{progress.total_steps} steps, {hours(progress.seconds)} of training",
        f"weights: {folder / WEIGHTS} (for every command: --model {folder / WEIGHTS})",
        f"curves: tensorboard --logdir {folder} (the numbers: {folder / 'log.jsonl'})",
    ]
    if progress.best:
        lines.insert(2, f"best validation: {folder / BEST}")
    return "\n".join(lines)


def hours(seconds: float) -> str:
    """3725 -> "1:02:05"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
