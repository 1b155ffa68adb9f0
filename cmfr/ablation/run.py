"""Ablations: variants of one model, trained alike and measured alike.

Every part is a file, and what is there and still true is not made again:

run_dir/common               a training run: the intra codec that all variants share
run_dir/variants/NAME        a training run each: train.yaml, train.log, and what training leaves
run_dir/sequences            generated videos
run_dir/results/NAME/*.json  rate and distortion of a variant on a sequence

report.py makes the table of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import Field, ValidationError, model_validator

from cmfr.codec.checkpoint import load_training_state, read_weights
from cmfr.config import Strict
from cmfr.evaluation.videos import (
    CurveTask,
    EvaluationConfig,
    measure_curves,
    write_clip,
)
from cmfr.models.registry import FAMILIES, AnyModelConfig, parse_model
from cmfr.training.config import (
    InitConfig,
    StageConfig,
    TrainConfig,
    load_train_config,
)
from cmfr.training.data.generated import generated_clip
from cmfr.training.progress import Progress
from cmfr.training.run_dir import RunDir
from cmfr.utils.config_files import find_config
from cmfr.utils.device import pick_device
from cmfr.utils.errors import UserError
from cmfr.utils.signals import on_signals
from cmfr.utils.yaml_config import differences, faults, merged, plain, read_tree

# Model keys that the intra codec is built from or codes with.
INTRA_KEYS = {"intra", "color", "block", "bottleneck", "skip_scale", "generation", "unet",
              "quality_gains", "intra_channels", "intra_hyper", "intra_refine"}  # fmt: skip
LOG, FINISHED = "train.log", "finished"


class VariantConfig(Strict):
    """One model. changes: model keys, of the anchor against the base configuration's model, of
    every other variant against the anchor. weights: a file to take instead of training."""

    title: str = Field(min_length=1)
    changes: dict[str, Any] = {}
    weights: Path | None = None


class AblationConfig(Strict):
    """An ablation. base: a training configuration, relative to the ablation's own file; overrides:
    `key=value` changes to it, for all variants. anchor: the variant that BD-rates refer to.
    parallel: variants that train, or are measured, at the same time; threads: CPU threads each."""

    base: Path
    run_dir: Path
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], VariantConfig]
    anchor: str
    evaluation: EvaluationConfig
    overrides: tuple[str, ...] = ()
    parallel: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _has_anchor(self) -> AblationConfig:
        if self.anchor not in self.variants:
            raise UserError(
                f"anchor: no variant is called {self.anchor!r}; there are "
                f"{', '.join(self.variants)}"
            )
        return self


def load_ablation(path: str | Path, overrides: list[str] | None = None) -> AblationConfig:
    """Read a YAML file; ``key=value`` changes it, ``base.key=value`` the training configuration.

    Raises FileNotFoundError, or ValueError that names every offending key.
    """
    own = [text for text in overrides or [] if not text.startswith("base.")]
    training = [text.removeprefix("base.") for text in overrides or [] if text not in own]
    file = find_config("ablation", path)
    tree = read_tree(file, own)
    try:
        cfg = AblationConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {faults(error, AblationConfig, FAMILIES)}") from error
    return cfg.model_copy(
        update={"base": file.parent / cfg.base, "overrides": (*cfg.overrides, *training)}
    )


# --- which runs there are


def resolve(cfg: AblationConfig) -> dict[str, TrainConfig]:
    """The training run of every variant: alike but for the model and the run_dir.

    Writes nothing. Raises ValueError with one sentence for a variant that does not differ from the
    anchor by all that it says, or not from another one, or that could not share the intra codec.
    """
    base = load_train_config(cfg.base, list(cfg.overrides))
    common = common_run(cfg)
    stages = [stage for stage in base.stages if stage.objective != "intra"]
    if not stages:
        raise UserError(f"{cfg.base} has no stage that trains P-frames")
    for stage in stages:
        _check_keeps_intra(stage)
    shared = base.init
    if common:
        shared += (InitConfig(file=common.run_dir / "weights.safetensors", modules=("intra",)),)
    models = _models(cfg, base.model)
    return {
        name: _run(cfg, base, model, f"variants/{name}", stages, shared)
        for name, model in models.items()
    }


def common_run(cfg: AblationConfig) -> TrainConfig | None:
    """The run of the `intra` stages, which makes the intra codec of all variants; None where the
    base configuration has no such stage, or all variants come with their weights."""
    base = load_train_config(cfg.base, list(cfg.overrides))
    stages = [stage for stage in base.stages if stage.objective == "intra"]
    if not stages or all(variant.weights for variant in cfg.variants.values()):
        return None
    return _run(cfg, base, _models(cfg, base.model)[cfg.anchor], "common", stages, base.init)


def _run(
    cfg: AblationConfig, base: TrainConfig, model: AnyModelConfig, folder: str,
    stages: list[StageConfig], init: tuple[InitConfig, ...],
) -> TrainConfig:  # fmt: skip
    update: dict[str, Any] = {"model": model, "stages": tuple(stages), "init": init}
    update |= {"run_dir": cfg.run_dir / folder, "threads": cfg.threads or base.threads}
    return base.model_copy(update=update)


def _models(cfg: AblationConfig, base: AnyModelConfig) -> dict[str, AnyModelConfig]:
    anchor = _changed(base, cfg.variants[cfg.anchor], cfg.anchor)
    models: dict[str, AnyModelConfig] = {}
    for name, variant in cfg.variants.items():
        if name == cfg.anchor:
            models[name] = anchor
            continue
        model = _changed(anchor, variant, name)
        found = {key.split(".")[0] for key, _, _ in differences(plain(anchor), plain(model))}
        if idle := sorted(variant.changes.keys() - found):
            raise UserError(f"variant {name}: {idle[0]} is the same in the anchor {cfg.anchor}")
        if not found:
            raise UserError(f"variant {name} changes nothing, so it is the anchor {cfg.anchor}")
        if same := [other for other, theirs in models.items() if theirs == model]:
            raise UserError(f"variants {same[0]} and {name} are the same model")
        if (touched := sorted(found & INTRA_KEYS)) and variant.weights is None:
            raise UserError(
                f"variant {name} changes {touched[0]}, and with it the intra codec that all share"
            )
        models[name] = model
    return models


def _changed(model: AnyModelConfig, variant: VariantConfig, name: str) -> AnyModelConfig:
    if "name" in variant.changes:
        raise UserError(f"variant {name}: a model's name is no difference; leave it out")
    try:
        return parse_model(merged(plain(model), variant.changes))
    except ValidationError as error:
        raise UserError(f"variant {name}: {faults(error, AnyModelConfig, FAMILIES)}") from error


def _check_keeps_intra(stage: StageConfig) -> None:
    def within(prefixes: tuple[str, ...]) -> bool:
        return any(p.startswith("intra") or "intra.".startswith(p) for p in prefixes)

    frozen = any("intra.".startswith(prefix) for prefix in stage.frozen)
    if within(stage.trainable) and not frozen:
        raise UserError(f"stage {stage.name} trains the intra codec, which all variants share")
    if any(within(init.modules) for init in stage.init):
        raise UserError(f"stage {stage.name} loads an intra codec, but all variants share one")


# --- training


def standing(run: TrainConfig) -> str:
    """How far a run is; FINISHED at its end. ValueError where its folder holds another run."""
    folder = RunDir(run, writes=False)
    folder.claim()
    if not folder.state_file.is_file():
        return "not begun"
    try:
        progress = _progress(folder.state_file, folder.state_file.stat().st_mtime_ns)
    except ValueError:
        return "damaged"  # `cmfr train` will say how
    if progress.finished(run):
        return FINISHED
    return f"stopped after step {progress.step} of stage {run.stages[progress.stage].name}"


@functools.lru_cache
def _progress(state: Path, changed: int) -> Progress:
    """Where a run stands. changed: when; state files are large, and this is asked often."""
    return Progress(**load_training_state(state, torch.device("cpu"))["progress"])


def _train(cfg: AblationConfig, runs: dict[str, TrainConfig], lock: int) -> dict[str, str]:
    """Train what is not finished, `parallel` runs at a time, each by `cmfr train` in a process of
    its own with its output in train.log. Returns why runs failed, by name.

    SIGTERM and Ctrl-C let the runs save, then raise KeyboardInterrupt. lock: a file descriptor
    that the processes hold too.
    """
    waiting = [name for name, run in runs.items() if standing(run) != FINISHED]
    running: dict[str, subprocess.Popen[bytes]] = {}
    failures: dict[str, str] = {}
    interrupted = threading.Event()
    with on_signals(lambda *_: interrupted.set()):
        try:
            while (running or waiting) and not interrupted.is_set():
                while waiting and len(running) < cfg.parallel:
                    name = waiting.pop(0)
                    running[name] = _start(runs[name], cfg.threads, lock)
                    print(f"{name}: training, log in {runs[name].run_dir / LOG}", flush=True)
                for name in [name for name in running if running[name].poll() is not None]:
                    if reason := _failure(runs[name], running.pop(name).returncode):
                        failures[name] = reason
                    print(f"{name}: {reason or 'trained'}", flush=True)
                time.sleep(0.1)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()  # it saves
    if interrupted.is_set():
        raise KeyboardInterrupt
    return failures


def _start(run: TrainConfig, threads: int | None, lock: int) -> subprocess.Popen[bytes]:
    run.run_dir.mkdir(parents=True, exist_ok=True)
    config = run.run_dir / "train.yaml"
    config.write_text(yaml.safe_dump(plain(run), sort_keys=False))
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with (run.run_dir / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cmfr", "train", str(config)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, pass_fds=(lock,),
        )  # fmt: skip


def _failure(run: TrainConfig, code: int) -> str | None:
    """Why a run that ended is not finished."""
    if code == 0:
        where = standing(run)
        return None if where == FINISHED else f"{where}; the same command goes on"
    if code < 0:
        return f"ended by signal {-code}"
    lines = re.split(r"[\r\n]+", (run.run_dir / LOG).read_text(errors="replace").strip())
    return lines[-1] or f"training ended with code {code}"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """One command at a time writes to a run_dir. Yields the descriptor of the lock, which training
    processes keep open: they may outlive a command that was killed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is used by another ablation or its training") from None
        yield file.fileno()


# --- everything


def run(cfg: AblationConfig) -> dict[str, str]:
    """Train and measure what is not there yet. Returns what failed and why; the rest is done.

    Raises ValueError or OSError, before anything is trained, for a configuration that is wrong or
    that its run_dir was not made with.
    """
    from cmfr.utils.versions import versions

    runs, common = resolve(cfg), common_run(cfg)
    trained = {name: run for name, run in runs.items() if not cfg.variants[name].weights}
    for run in (*trained.values(), *([common] if common else [])):
        standing(run)
    curve_tasks(cfg, runs)  # a missing video or weights file must not wait for the training
    with _locked(cfg.run_dir) as lock:
        failures = _train(cfg, {"common": common}, lock) if common else {}
        failures = failures or _train(cfg, trained, lock)
        _render(cfg)
        tasks = curve_tasks(cfg, runs)
        failures |= measure_curves(tasks, cfg.parallel, cfg.threads, versions())
    return failures


def weights_of(cfg: AblationConfig, name: str, run: TrainConfig) -> Path | None:
    """The trained weights of a variant; None before they are there."""
    given = cfg.variants[name].weights
    if given is None:
        return run.run_dir / "weights.safetensors" if standing(run) == FINISHED else None
    model, _, _ = read_weights(given)
    found = [d for d in differences(plain(run.model), plain(model)) if d[0] != "name"]
    if found:
        key, wanted, there = found[0]
        raise UserError(f"variant {name}: {key} is {wanted}, but {there} in {given}")
    return given


def _render(cfg: AblationConfig) -> None:
    """Write generated videos that are not there yet."""
    folder, made = cfg.run_dir / "sequences", cfg.evaluation.generated
    if made is not None:
        folder.mkdir(exist_ok=True)
        for number, path in enumerate(cfg.evaluation.sequences(folder).values(), made.first):
            if not path.is_file():
                write_clip(path, generated_clip(number, made.frames, made.size))


def curve_tasks(cfg: AblationConfig, runs: dict[str, TrainConfig]) -> dict[Path, CurveTask]:
    """What to measure, by result file, for the variants that have weights."""
    tasks, videos = {}, cfg.evaluation.sequences(cfg.run_dir / "sequences")
    for name, run in runs.items():
        weights, device = weights_of(cfg, name, run), pick_device(run.device).type
        if weights is not None:
            for video, path in videos.items():
                result = cfg.run_dir / "results" / name / f"{video}.json"
                tasks[result] = cfg.evaluation.task(weights, device, path)
    return tasks
