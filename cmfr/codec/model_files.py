"""Models by name or file: where the weights are, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmfr.codec.checkpoint import (
    check_fit,
    load_weights,
    read_weights,
    save_weights,
    weights_hash,
    weights_id_of,
)
from cmfr.models.presets import PRESETS
from cmfr.models.registry import FAMILIES, ModelConfig
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import weights_of
from cmfr.utils.errors import UserError, unknown


def read_model(
    model: str | Path, weights: Sequence[str | Path] | None = None
) -> tuple[ModelConfig, dict[str, Tensor], bytes, str]:
    """Configuration, weights, their id and where they are from; arguments and errors as of
    `codec.load_codec`."""
    paths = [Path(path) for path in weights or ()]
    if not paths:
        paths = [find_weights(model)]
    elif any(path.suffix != ".safetensors" for path in paths):
        published, tensors = read_published(paths, str(model))
        return published, tensors, weights_hash(tensors), str(paths[0])
    if len(paths) > 1:
        raise UserError(f"{paths[1]}: a weights file holds a whole model; give one")
    cfg, tensors, metadata = read_weights(paths[0])
    if weights and str(model) != cfg.name:
        raise UserError(f"{paths[0]} holds {cfg.name}, not {model}")
    return cfg, tensors, weights_id_of(metadata), str(paths[0])


def build_model(cfg: ModelConfig, tensors: dict[str, Tensor], where: str) -> VideoModel:
    """The model of a weights file. Raises UserError for weights that are not its, before memory is
    taken for it: the configuration may be anyone's."""
    if cfg not in PRESETS.values():
        check_fit(_shapes(cfg), tensors, where)
    model = VideoModel(cfg)
    load_weights(model, tensors, where)
    return model


def find_weights(model: str | Path) -> Path:
    """A file as it is; a name: NAME.safetensors in the package or in the repository.

    Raises FileNotFoundError or UserError; the message says what there is.
    """
    path = Path(model)
    if path.suffix == ".safetensors" or path.is_file():
        return path
    package, name = Path(__file__).parents[1], str(model)
    folders = (package / "weights", package.parent / "checkpoints")
    files = {file.stem: file for folder in folders for file in folder.glob("*.safetensors")}
    if name in files:
        return files[name]
    if path.suffix or path.parent != Path("."):
        raise FileNotFoundError(f"no weights file {path}")
    there = f"shipped weights are of {', '.join(files) or 'no model'}"
    if name in ("dcvc-dc", "dcvc-fm"):
        hint = "give its published checkpoints with --weights, or convert them (cmfr convert)"
    elif name in PRESETS:
        hint = f"it has to be trained first; {there}"
    else:
        raise UserError(f"{unknown('no model is called', name, PRESETS)}; {there}; or give a file")
    raise FileNotFoundError(f"no weights are shipped for {name}: {hint}")


def read_published(
    paths: list[Path], model: str, **changes: Any
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Checkpoints that the authors of a preset published -> configuration and weights.

    changes: to the configuration. Raises FileNotFoundError or UserError.
    """
    preset = PRESETS.get(model)
    reader = FAMILIES[preset.family].published if preset else None
    if reader is None:
        raise UserError(f"published checkpoints are of dcvc-dc and dcvc-fm, not of {model}")

    return reader(paths, preset, _shapes, **changes)


def _shapes(cfg: ModelConfig) -> dict[str, Tensor]:
    """The weights of a model of this configuration by name, on no device: shapes alone."""
    with torch.device("meta"):
        return weights_of(VideoModel(cfg))


def convert_files(
    paths: list[Path], model: str, output: Path, **changes: Any
) -> tuple[ModelConfig, int]:
    """`read_published` into a weights file, in float32 as published: the configuration and the
    number of parameters."""
    cfg, weights = read_published(paths, model, **changes)
    source = ", ".join(path.name for path in paths)
    save_weights(output, weights, cfg, {"source": source}, torch.float32)
    return cfg, sum(value.numel() for value in weights.values())
