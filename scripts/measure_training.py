"""Samples per second of training with and without what makes it fast, as ratios from one run.

    .venv/bin/python scripts/measure_training.py CONFIG [key=value ...]
        [--stage NAME] [--steps 10] [--rounds 3]

Every variant runs one stage of the configuration in a process of its own, in turn, so that a busy
machine disturbs all alike; the best round of each counts. Prints a Markdown table, with peak
memory where there is a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cmfr.cli.main import guarded
from cmfr.training.config import StageConfig, TrainConfig, load_train_config
from cmfr.training.data.sampler import batches
from cmfr.training.distributed import init_team
from cmfr.training.setup import data_name, open_data_sets, stage_samplers
from cmfr.training.trainer import train
from cmfr.utils.errors import UserError, unknown

# What each variant changes: in the run, in the stage, in its data.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "as configured, preloaded": ({}, {}, {}),
    "without channels_last": ({"channels_last": False}, {}, {}),
    "with bf16: true": ({"bf16": True}, {}, {}),
    "with bf16: false": ({"bf16": False}, {}, {}),
    "without channels_last, bf16: false": ({"channels_last": False, "bf16": False}, {}, {}),
    "without preloading": ({}, {}, {"preload": False}),
    "with compile": ({"compile": True}, {}, {}),
    "with activation checkpointing": ({}, {"checkpoint_activations": True}, {}),
    "data path alone, preloaded": ({}, {}, {}),
    "data path alone, read by workers": ({}, {}, {"preload": False}),
}


def measure(args: argparse.Namespace) -> dict[str, float]:
    """The log record of `args.steps` steps, after as many that warm up."""
    cfg = load_train_config(args.config, args.overrides)
    stages = {stage.name: stage for stage in cfg.stages}
    name = args.stage or cfg.stages[-1].name
    if name not in stages:
        raise UserError(unknown(f"{args.config}: no stage is called", name, stages))
    of_run, of_stage, of_data = VARIANTS[args.one]
    stage = stages[name].model_copy(update={"steps": 2 * args.steps, **of_stage})
    data = {n: d.model_copy(update={"preload": True, **of_data}) for n, d in cfg.data.items()}
    cfg = cfg.model_copy(update={"data": data, **of_run})
    if args.one.startswith("data path"):
        return {"samples_per_second": data_rate(alone(cfg, stage, Path("nowhere"), args.steps))}
    return record_of(cfg, stage, args.steps)


def alone(cfg: TrainConfig, stage: StageConfig, folder: Path, steps: int) -> TrainConfig:
    """The configuration with this stage alone, which logs every so many steps and saves nothing."""
    changes = {
        "stages": (stage,), "validation": None, "run_dir": folder, "log_every": steps,
        "save_every": 10**9, "image_every": 10**9, "time_limit_minutes": None,
        "schedule_clock": False,
    }  # fmt: skip
    return cfg.model_copy(update=changes)


def record_of(cfg: TrainConfig, stage: StageConfig, steps: int) -> dict[str, float]:
    """The last record of the log of a stage: of `steps` steps after as many that warm up."""
    stage = stage.model_copy(update={"steps": 2 * steps})
    with tempfile.TemporaryDirectory() as folder:
        train(alone(cfg, stage, Path(folder), steps))
        return json.loads((Path(folder) / "log.jsonl").read_text().splitlines()[-1])


def data_rate(cfg: TrainConfig) -> float:
    """Samples per second that the data path delivers when nothing waits for it."""
    team = init_team(cfg.device)
    data = open_data_sets(cfg, team.device)
    (sampler,), (stage,) = stage_samplers(cfg, data), cfg.stages
    times = [time.monotonic()]
    for _ in batches(data[data_name(cfg, stage)], sampler, 0, team, cfg.model.color):
        times.append(time.monotonic())
    half = stage.steps // 2
    return (stage.steps - half) * stage.batch / (times[-1] - times[half])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--stage", help="name of the stage to run (default: the last)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--one", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return 0
    best: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for name in args.variants:
            command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            if result["samples_per_second"] > best.get(name, {}).get("samples_per_second", 0):
                best[name] = result
    if not best:
        return 1
    first = next(iter(best.values()))
    print("| variant | samples/s | ratio | peak GiB |\n|---|---|---|---|")
    for name, result in best.items():
        rate, peak = result["samples_per_second"], result.get("peak_gib")
        ratio = rate / first["samples_per_second"]
        print(f"| {name} | {rate:.2f} | {ratio:.2f} | {f'{peak:.2f}' if peak else '-'} |")
    return 0 if len(best) == len(args.variants) else 1


if __name__ == "__main__":
    raise SystemExit(guarded("measure_training", main))
