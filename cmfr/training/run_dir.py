"""A run directory: the resolved configuration, the training state, the weights.

config.yaml            what is trained, all keys
versions.json          git revision, torch, numpy, Python, arithmetic, and from which step on; what
                       was taken from weights files, as hashes
state.pt               to resume from: progress, weights, averaged weights
optimizer-N.pt         the optimizer's state after N steps, which goes with state.pt. May be left
                       out where files must be small: a resumed run then has new moments
weights.safetensors    averaged weights, for every command that takes --model
best.safetensors       the same, of the best validation so far
log.jsonl, validation.jsonl, events.out.*
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from pydantic import ValidationError
from torch import Tensor

from cmfr.codec.checkpoint import (
    load_training_state,
    save_training_state,
    save_weights,
)
from cmfr.models.registry import ModelConfig, with_present_names
from cmfr.training.config import TrainConfig
from cmfr.training.data.config import DATA_KINDS
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write_text, remove_leftovers
from cmfr.utils.locks import lock_folder
from cmfr.utils.versions import versions
from cmfr.utils.yaml_config import differences, plain, read_tree

STATE, WEIGHTS, BEST = "state.pt", "weights.safetensors", "best.safetensors"
VERSIONS = "versions.json"

# Keys that may change between the start of a run and its resumption.
_FREE_KEYS = (
    "run_dir",
    "time_limit_minutes",
    "threads",
    "device",
    "bf16",
    "compile",
    "cuda_graphs",
    "log_every",
    "image_every",
    "save_every",
)
_FREE_DATA_KEYS = ("root", "workers", "preload")


def fixed_part(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change when a run is resumed. Of weights files to start from, their names:
    folders may have moved, as those of data may."""
    kept = {key: value for key, value in cfg.items() if key not in _FREE_KEYS}
    kept["init"] = _names(cfg.get("init", ()))
    kept["stages"] = [{**stage, "init": _names(stage.get("init", ()))} for stage in cfg["stages"]]
    kept["data"] = {
        name: {key: value for key, value in data.items() if key not in _FREE_DATA_KEYS}
        for name, data in cfg["data"].items()
    }
    return kept


def _names(inits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**init, "file": Path(init["file"]).stem} for init in inits]


def _with_present_keys(theirs: dict[str, Any]) -> dict[str, Any]:
    """A configuration as it was written, with the keys that there were not yet, and without those
    of data sets that had no effect."""
    data = {
        name: {k: v for k, v in values.items() if k in DATA_KINDS[values["kind"]].model_fields}
        for name, values in theirs["data"].items()
    }
    theirs = {**theirs, "data": data}
    try:
        return plain(TrainConfig.model_validate(theirs))
    except ValidationError:  # it has keys that are no more
        return theirs


def _trained(cfg: TrainConfig) -> ModelConfig:
    """The model's configuration with the lambdas that its weights are trained for; as it is where
    these do not weigh squared errors."""
    loss, d = cfg.loss, cfg.loss.distortion
    if d.needs_ms_ssim:
        return cfg.model
    weight = d.mse_yuv + d.mse_rgb
    lambdas = (weight * loss.lambda_min, weight * loss.lambda_max)
    return cfg.model.model_copy(update={"lambda_range": lambdas})


def read_versions(folder: Path) -> list[dict[str, Any]]:
    """What a run was trained with: an entry for each call whose versions are not those of the one
    before it, valid from its "from_step" on. Raises ValueError where the file is damaged."""
    file = folder / VERSIONS
    if not file.is_file():
        return []
    try:
        read = json.loads(file.read_text())
        entries = [read] if isinstance(read, dict) else read  # once only the last call was noted
        return [{"from_step": 0, **entry} for entry in entries]
    except (ValueError, TypeError):
        raise UserError(f"{file} is damaged; training goes on where it is deleted") from None


class RunDir:
    """The directory of a run; only the process that leads a team writes, and that of one run at a
    time, from `claim` to `release`."""

    def __init__(self, cfg: TrainConfig, writes: bool) -> None:
        self.cfg, self.path, self.writes = cfg, cfg.run_dir, writes
        self.state_file, self.config_file = self.path / STATE, self.path / "config.yaml"
        self._lock: TextIO | None = None

    def claim(self) -> None:
        """Refuse a directory of another configuration; leave the resolved one.

        Raises ValueError that shows the difference, or that another run writes here and does not
        end.
        """
        if self.writes:
            waiting = f"{self.path}: waiting for another training here to save"
            refused = f"{self.path} is used by another training; choose another run_dir"
            self._lock = lock_folder(self.path, waiting, refused)
        if self.config_file.is_file() and self.state_file.is_file():
            self.check()
        if self.writes:
            remove_leftovers(self.path)
            text = yaml.safe_dump(plain(self.cfg), sort_keys=False)
            atomic_write_text(self.config_file, text)

    def release(self) -> None:
        """Let others write here."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def check(self) -> None:
        """Compare with the configuration that lies there. Raises as `claim` does, and where it is
        damaged."""
        try:
            theirs = fixed_part(_with_present_keys(read_tree(self.config_file, [])))
        except (KeyError, TypeError, AttributeError):
            told = "is damaged: it lacks keys of a training run"
            raise UserError(f"{self.config_file} {told}") from None
        differing = differences(theirs, fixed_part(plain(self.cfg)))
        if differing:
            shown = "; ".join(f"{key}: {a} there, {b} here" for key, a, b in differing[:8])
            more = f"; and {len(differing) - 8} more" if differing[8:] else ""
            raise UserError(
                f"{self.path} holds a run of another configuration ({shown}{more}); choose "
                "another run_dir"
            )

    def note_versions(self, total_steps: int, notes: dict[str, Any]) -> None:
        """Add what trains from here on to versions.json, where that is something new.

        notes: what it depends on beside libraries and machine.
        """
        if not self.writes:
            return
        # Of later steps, which a killed process left, there are no entries.
        entries = [e for e in read_versions(self.path) if e["from_step"] < total_steps]
        present = versions() | notes
        if not entries or not present.items() <= entries[-1].items():
            entries.append({"from_step": total_steps, **present})
        atomic_write_text(self.path / VERSIONS, json.dumps(entries, indent=1) + "\n")

    def save(self, state: dict[str, Any]) -> None:
        """`state` holds "ema", the weights that are written for coding too."""
        if not self.writes:
            return
        steps = state["progress"]["total_steps"]
        self.save_weights(WEIGHTS, state["ema"], steps)
        # In this order, so that a process killed anywhere in here leaves two that belong together.
        optimizer = self._optimizer_file(steps)
        save_training_state(optimizer, state["optimizer"])
        save_training_state(self.state_file, {**state, "optimizer": None})
        self._remove_but(optimizer)

    def _remove_but(self, optimizer: Path) -> None:
        for other in self.path.glob(self._optimizer_file("*").name):
            if other != optimizer and self.writes:
                other.unlink()

    def _optimizer_file(self, steps: int | str) -> Path:
        return self.path / f"optimizer-{steps}.pt"

    def save_weights(self, name: str, weights: dict[str, Tensor], steps: int) -> None:
        """Weights for coding, with the number of training steps in the metadata."""
        if self.writes:
            save_weights(self.path / name, weights, _trained(self.cfg), {"steps": str(steps)})

    def load(self) -> dict[str, Any] | None:
        """The state to resume from, on the CPU, or None at the start of a run. Its "optimizer" is
        None where that file was left out."""
        if not self.state_file.is_file():
            return None
        # Read to the CPU: a GPU would take the optimizer's step counts along, and then wait for
        # each of them in every step.
        cpu = torch.device("cpu")
        state = load_training_state(self.state_file, cpu)
        for part in ("model", "ema"):
            state[part] = with_present_names(state[part], self.cfg.model.family)
        if state["optimizer"] is None:  # files of before have it in one
            file = self._optimizer_file(state["progress"]["total_steps"])
            self._remove_but(file)  # of a save that was killed before or after its state.pt
            there = file.is_file()
            state["optimizer"] = load_training_state(file, cpu, frozenset()) if there else None
        return state
