"""The commands `cmfr train` and `cmfr ablate`; what they use is imported when they run."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from cmfr.cli.options import tell

if TYPE_CHECKING:
    from cmfr.cli.parser import Commands


def add_commands(commands: Commands) -> None:
    """Add the commands to the parser's subparsers."""
    train = commands.add_parser(
        "train", help="train from a YAML configuration; the same command resumes"
    )
    train.add_argument("config", help="YAML file, or the name of a shipped one, e.g. smoke")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. stages.0.steps=100")
    train.add_argument("--dry-run", action="store_true", help="print the resolved configuration")
    train.set_defaults(run=run_train)

    ablate = commands.add_parser(
        "ablate", help="train and compare variants of a model; the same command resumes"
    )
    ablate.add_argument("config", help="YAML file, or the name of a shipped one, e.g. smoke")
    ablate.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="e.g. parallel=4; base.KEY=value changes the training configuration",
    )
    ablate.add_argument("--dry-run", action="store_true", help="print variants, runs, what is done")
    ablate.add_argument(
        "--report-only", action="store_true", help="tables and plots of what is done"
    )
    ablate.set_defaults(run=run_ablate)


def run_train(args: argparse.Namespace) -> None:
    """Raises UserError or OSError with one sentence."""
    from cmfr.training.config import load_train_config

    cfg = load_train_config(args.config, args.overrides)
    if args.dry_run:
        print(cfg.model_dump_json(indent=1))
        return
    from cmfr.training.trainer import train

    if summary := train(cfg):
        print(summary)


def run_ablate(args: argparse.Namespace) -> int:
    """1 where a run failed. Raises UserError or OSError with one sentence."""
    from cmfr.ablation.config import load_ablation
    from cmfr.ablation.report import describe, write_report
    from cmfr.ablation.run import run

    cfg = load_ablation(args.config, args.overrides)
    if args.dry_run:
        print(describe(cfg))
        return 0
    failures = {} if args.report_only else run(cfg, tell)
    print(write_report(cfg))
    print(f"written to {cfg.run_dir / 'report'}")
    for name, reason in failures.items():
        print(f"cmfr ablate: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0
