"""Models by name or file: where the weights are, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from cmfr.checkpoint import read_weights, weights_hash, weights_id_of
from cmfr.config import AnyModelConfig
from cmfr.models.dcvc_weights import read_official
from cmfr.presets import PRESETS


def read_model(
    model: str | Path, weights: Sequence[str | Path] | None = None
) -> tuple[AnyModelConfig, dict[str, Tensor], bytes, str]:
    """Configuration, weights, their id and where they are from; arguments and errors as of
    `coding.load_codec`."""
    paths = [Path(path) for path in weights or ()]
    if not paths:
        paths = [find_weights(model)]
    elif any(path.suffix != ".safetensors" for path in paths):
        published, tensors = read_official(paths, str(model))
        return published, tensors, weights_hash(tensors), str(paths[0])
    if len(paths) > 1:
        raise ValueError(f"{paths[1]}: a weights file holds a whole model; give one")
    cfg, tensors, metadata = read_weights(paths[0])
    if weights and str(model) != cfg.name:
        raise ValueError(f"{paths[0]} holds {cfg.name}, not {model}")
    return cfg, tensors, weights_id_of(metadata), str(paths[0])


def find_weights(model: str | Path) -> Path:
    """A file as it is; a name: NAME.safetensors in the package or in the repository."""
    path = Path(model)
    if path.suffix == ".safetensors" or path.is_file():
        return path
    package = Path(__file__).parent
    for folder in (package / "weights", package.parent / "checkpoints"):
        if (folder / f"{model}.safetensors").is_file():
            return folder / f"{model}.safetensors"
    hint = "it has to be trained first" if str(model) in PRESETS else "give a file or a model name"
    if model in ("dcvc-dc", "dcvc-fm"):
        hint = "give its published checkpoints with --weights, or convert them (cmfr convert)"
    if path.suffix:
        raise FileNotFoundError(f"no weights file {path}")
    raise FileNotFoundError(f"no weights are shipped for {model}: {hint}")
