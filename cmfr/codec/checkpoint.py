"""Weights files and training state.

A weights file is safetensors with the model's config as JSON and the id that streams are bound to
in its metadata: the model is built from the file alone. Training state is a `torch.save` of tensors
and plain values, read with ``weights_only=True``. Nothing is ever unpickled. Both are written to a
temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from cmfr.models.registry import FAMILIES, ModelConfig, parse_model, with_present_names
from cmfr.nn.densities import drop_tables, weights_of
from cmfr.utils.errors import UserError
from cmfr.utils.files import atomic_write, atomic_write_bytes
from cmfr.utils.yaml_config import faults

FORMAT = "cmfr-weights-1"
# Of a training state: the learned weights and their mean, and what else a run goes on from.
STATE_KEYS = frozenset({"progress", "model", "ema", "optimizer", "means"})
WEIGHTS_ID = "weights_id"  # in the metadata: 16 hex digits


@contextlib.contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """torch reports a full disk as an error of its own."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"{path} cannot be written: {error}") from error


def check_fit(expected: dict[str, Tensor], weights: dict[str, Tensor], where: str) -> None:
    """Every weight is there, of the right shape, and no other. Raises ValueError.

    expected: a model's weights, of which only the shapes are read.
    """
    missing = sorted(expected.keys() - weights.keys())
    surplus = sorted(weights.keys() - expected.keys())
    if missing or surplus:
        raise UserError(
            f"{where} does not fit the model: {len(missing)} weights missing "
            f"({', '.join(missing[:3])}), {len(surplus)} unknown ({', '.join(surplus[:3])})"
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise UserError(
                f"{where}: {name} has shape {tuple(value.shape)}, "
                f"the model needs {tuple(expected[name].shape)}"
            )


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Into the model, strictly: what fits it, finite numbers, not all of them 0. Raises
    ValueError."""
    expected = weights_of(model)
    check_fit(expected, weights, where)
    for name, value in weights.items():
        if value.is_complex() or not value.float().isfinite().all():
            raise UserError(f"{where}: {name} has values that are no finite numbers")
    if not any(value.any() for value in weights.values()):
        raise UserError(f"{where}: all weights are zero")
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(weights[name])
    drop_tables(model)


def save_weights(
    path: Path,
    weights: dict[str, Tensor],
    cfg: ModelConfig,
    metadata: dict[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
    weights_id: bytes | None = None,
) -> None:
    """Write a weights file; `metadata` (strings) goes beside the config.

    weights_id: of a file that is written again, so that its streams stay decodable (default: the
    hash of what is written).
    """
    tensors = {name: value.to(dtype).contiguous() for name, value in weights.items()}
    head = {"format": FORMAT, "config": cfg.model_dump_json(), **(metadata or {})}
    head[WEIGHTS_ID] = (weights_id or weights_hash(tensors)).hex()
    atomic_write_bytes(path, save(tensors, head))


def read_weights(path: Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, str]]:
    """Config, tensors and metadata of a weights file. Raises ValueError with one clear sentence.

    The metadata always has the id that streams are bound to, `weights_id_of` gives it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is safetensors, but not a cmfr weights file (no {FORMAT} mark)")
    try:
        cfg = parse_model(json.loads(metadata["config"]))
    except ValidationError as error:
        told = faults(error, ModelConfig, FAMILIES)
        raise UserError(f"{path}: its model configuration cannot be read: {told}") from error
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: its model configuration cannot be read: {error}") from error
    # Files from before the id was stored are known by the hash of what they hold, under the names
    # that they hold it by: they get their present names after this.
    metadata.setdefault(WEIGHTS_ID, weights_hash(weights).hex())
    if not re.fullmatch("[0-9a-f]{16}", metadata[WEIGHTS_ID]):
        raise UserError(f"{path}: {metadata[WEIGHTS_ID]!r} is no weights id of 16 hex digits")
    return cfg, with_present_names(weights, cfg.family), metadata


def weights_id_of(metadata: dict[str, str]) -> bytes:
    """What a stream is bound to, from the metadata that `read_weights` gives."""
    return bytes.fromhex(metadata[WEIGHTS_ID])


def weights_hash(weights: dict[str, Tensor]) -> bytes:
    """First 8 bytes of a SHA-256 over names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # On the CPU and in order, whatever device and memory format the weights are in.
        flat = torch.empty(value.numel(), dtype=value.dtype).copy_(value.flatten())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.digest()[:8]


def save_training_state(path: Path, state: dict[str, Any]) -> None:
    with _as_os_error(path):
        atomic_write(path, lambda temporary: torch.save(state, temporary))


def load_training_state(
    path: Path, device: torch.device, keys: frozenset[str] = STATE_KEYS
) -> dict[str, Any]:
    """Raises UserError when the file is damaged, holds more than tensors and plain values, or not
    these keys."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds here
        raise UserError(f"{path} is no readable training state: {error}") from error
    if not isinstance(state, dict) or not state.keys() >= keys:
        missing = keys - state.keys() if isinstance(state, dict) else keys
        raise UserError(f"{path} is no training state: it has no {', '.join(sorted(missing))}")
    return state
