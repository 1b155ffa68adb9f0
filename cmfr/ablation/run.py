"""Ablations: variants of one model, trained alike and measured alike.

Every part is a file, and what is there and still true is not made again:

run_dir/common             a training run: the intra codec that all variants share
run_dir/variants/NAME      a training run each: train.yaml, train.log, and what training leaves
run_dir/sequences          generated videos
run_dir/results/NAME.json  the records of a variant, as `cmfr evaluate` writes them
run_dir/parts/NAME.json    what its parts do

Of a finished variant the state and the weights may be thrown away (`thinned`): it is neither
trained nor measured again, and its results stay in the report.

report.py makes the report of them.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import torch
import yaml

from cmfr.ablation.config import AblationConfig, common_run, resolve
from cmfr.ablation.parts import PartsTask, measure_parts
from cmfr.ablation.thinned import parts_file, results_file, thinned
from cmfr.codec.checkpoint import load_training_state, read_weights
from cmfr.evaluation.measure import SequenceTask
from cmfr.evaluation.records import Record, write_results
from cmfr.evaluation.run import Outcome, Run, measure
from cmfr.training.config import TrainConfig
from cmfr.training.data.generated import generated_clip
from cmfr.training.progress import Progress
from cmfr.training.run_dir import RunDir, read_versions
from cmfr.training.setup import init_hashes
from cmfr.utils.device import all_devices
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text
from cmfr.utils.locks import lock_folder
from cmfr.utils.parallel import outcomes
from cmfr.utils.signals import end_with_parent, on_signals
from cmfr.utils.yaml_config import differences, plain
from cmfr.video.writer import write_clip

LOG, FINISHED = "train.log", "finished"


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
    """Where a run stands.

    changed: when; state files are large, and this is asked often.
    """
    return Progress(**load_training_state(state, torch.device("cpu"))["progress"])


def _train(cfg: AblationConfig, runs: dict[str, TrainConfig], lock: int) -> dict[str, str]:
    """Train what is not finished, `parallel` runs at a time, each by `cmfr train` in a process of
    its own with its output in train.log. Returns why runs failed, by name.

    lock: a file descriptor that the processes hold too.

    SIGTERM and Ctrl-C let the runs save, then raise KeyboardInterrupt.
    """
    waiting = [name for name, run in runs.items() if standing(run) != FINISHED]
    running: dict[str, subprocess.Popen[bytes]] = {}
    gpus, taken = visible_gpus(), dict[str, str]()
    failures: dict[str, str] = {}
    interrupted = threading.Event()
    with on_signals(lambda *_: interrupted.set()):
        try:
            while (running or waiting) and not interrupted.is_set():
                while waiting and len(running) < cfg.parallel:
                    name = waiting.pop(0)
                    if gpus:
                        taken[name] = idlest(gpus, [taken[other] for other in running])
                    running[name] = _start(runs[name], cfg.threads, taken.get(name), lock)
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


def _check_beginnings(cfg: AblationConfig, runs: dict[str, TrainConfig]) -> None:
    """Variants begin with the same weights, or they do not compare. Raises ValueError where one
    has begun with others than those of `runs` that have not would."""
    waiting = [name for name, run in runs.items() if standing(run) == "not begun"]
    if not waiting:
        return
    wanted = init_hashes(runs[waiting[0]])
    for name in [name for name in cfg.variants if name not in waiting]:
        for entry in read_versions(cfg.run_dir / "variants" / name)[:1]:
            there = entry.get("init", wanted)  # at first, it was not noted
            for key in [key for key in wanted if there.get(key) != wanted[key]]:
                raise UserError(
                    f"variant {name} began with other weights than {waiting[0]} would ({key}: "
                    f"{there.get(key)} there, {wanted[key]} here), so they would not compare; give "
                    "base.init the former file, or choose another run_dir"
                )


def visible_gpus() -> list[str]:
    """The GPUs that runs can be spread over, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def idlest(gpus: list[str], used: list[str]) -> str:
    """The first of those that the fewest runs use."""
    return min(gpus, key=used.count)


def _start(
    run: TrainConfig, threads: int | None, gpu: str | None, lock: int
) -> subprocess.Popen[bytes]:
    run.run_dir.mkdir(parents=True, exist_ok=True)
    config = run.run_dir / "train.yaml"
    atomic_write_text(config, yaml.safe_dump(plain(run), sort_keys=False))
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    environment |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    with (run.run_dir / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cmfr", "train", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=(lock,),
            preexec_fn=end_with_parent,
        )


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
    processes keep open: they outlive a command that was killed, until they have saved."""
    waiting = f"{folder}: waiting for the training of a killed ablation to save"
    refused = f"{folder} is used by another ablation or its training"
    with lock_folder(folder, waiting, refused, _alive) as file:
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _alive(lock: TextIO) -> bool:
    """Whether the command that had the lock is still there, for all that is known."""
    lock.seek(0)
    command = lock.read()
    return not command.isdigit() or Path(f"/proc/{command}").exists() or not Path("/proc").exists()


# --- everything


def run(cfg: AblationConfig, tell: Callable[[str], None] = lambda line: None) -> dict[str, str]:
    """Train and measure what is not there yet. Returns what failed and why; the rest is done.
    `tell` gets a line for each sequence of a test set.

    Raises ValueError or OSError, before anything is trained, for a configuration that is wrong or
    that its run_dir was not made with.
    """
    runs, common = resolve(cfg), common_run(cfg)
    done = {name for name in runs if cfg.variants[name].weights} | thinned(cfg, runs)
    trained = {name: run for name, run in runs.items() if name not in done}
    for run in (*trained.values(), *([common] if common else [])):
        standing(run)
    tasks_of(cfg, runs, tell)  # a missing video or weights file must not wait for the training
    with _locked(cfg.run_dir) as lock:
        failures = _train(cfg, {"common": common}, lock) if common and trained else {}
        if not failures:
            _check_beginnings(cfg, trained)
            failures = _train(cfg, trained, lock)
        _render(cfg)
        tasks = tasks_of(cfg, runs)
        failures |= _measure(cfg, tasks)
        failures |= _measure_parts(cfg, parts_of(cfg, tasks))
    return failures


def _measure(cfg: AblationConfig, tasks: dict[str, list[SequenceTask]]) -> dict[str, str]:
    """Write the results of every variant that has all of them; returns why others have not."""
    names = {task: name for name, found in tasks.items() for task in found}
    failures: dict[str, str] = {}

    def tell(task: SequenceTask, outcome: Outcome) -> None:
        where = f"{names[task]} on {task.sequence.name} at quality {task.quality}"
        if not isinstance(outcome, Record):
            failures[where] = " ".join(str(outcome).split())
        print(f"{where}: {failures.get(where, 'measured')}", flush=True)

    measure(list(names), cfg.parallel, cfg.threads, tell)
    for name, found in tasks.items():
        output, title = results_file(cfg, name), cfg.variants[name].title
        records = [replace(r, codec=title) for task in found if (r := task.finished())]
        if len(records) == len(found):
            write_results(output, records)
        else:
            output.unlink(missing_ok=True)  # of other weights, perhaps
    return failures


def _measure_parts(cfg: AblationConfig, tasks: dict[str, PartsTask]) -> dict[str, str]:
    """Measure the parts that are not there yet; returns why some could not be."""
    missing = {task: name for name, task in tasks.items() if not task.finished()}
    failures = {}
    for task, outcome in outcomes(measure_parts, list(missing), cfg.parallel, cfg.threads):
        name = f"parts of {missing[task]}"
        if isinstance(outcome, Exception):
            failures[name] = " ".join(str(outcome).split())
        print(f"{name}: {failures.get(name, 'measured')}", flush=True)
    return failures


def weights_of(cfg: AblationConfig, name: str, run: TrainConfig) -> Path | None:
    """The trained weights of a variant; None before they are there."""
    given = cfg.variants[name].weights
    if given is None:
        return run.run_dir / "weights.safetensors" if standing(run) == FINISHED else None
    model, _, _ = read_weights(given)
    free = ("name", "lambda_range")  # what decides nothing of the network
    found = differences(plain(run.model), plain(model))
    differing = [d for d in found if d[0].split(".")[0] not in free]
    if differing:
        key, wanted, there = differing[0]
        raise UserError(f"variant {name}: {key} is {wanted}, but {there} in {given}")
    return given


def _render(cfg: AblationConfig) -> None:
    """Write generated videos that are not there yet."""
    folder, made = cfg.run_dir / "sequences", cfg.evaluation.generated
    if made is not None:
        folder.mkdir(exist_ok=True)
        for number, (_, path) in enumerate(made.found(folder).sequences, made.first):
            if not path.is_file():
                write_clip(path, generated_clip(number, made.frames, made.size))


def tasks_of(
    cfg: AblationConfig,
    runs: dict[str, TrainConfig],
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, list[SequenceTask]]:
    """What to measure of every variant that has weights. Raises ValueError or OSError where a
    video or a variant's own weights are not what they are to be."""
    tasks, measured = {}, cfg.evaluation
    sets = measured.found(cfg.run_dir / "sequences", tell)
    for name, run in runs.items():
        weights = weights_of(cfg, name, run)
        if weights is not None:
            devices = all_devices(run.device)
            tasks[name] = [
                task
                for found in sets
                for task in Run(weights, found, measured.qualities, measured.conditions()).tasks(
                    devices, results_file(cfg, name)
                )
            ]
    return tasks


def parts_of(cfg: AblationConfig, tasks: dict[str, list[SequenceTask]]) -> dict[str, PartsTask]:
    """The parts to measure of every variant that has curves to measure, on the same sequences."""
    return {
        name: PartsTask(
            curves[0].weights,
            curves[0].device,
            tuple(dict.fromkeys((task.sequence, task.source) for task in curves)),
            cfg.evaluation.part_frames,
            parts_file(cfg, name),
        )
        for name, curves in tasks.items()
    }
