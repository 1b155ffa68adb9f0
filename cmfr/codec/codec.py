"""Whole videos: file in, `.cmfr` out, and back. Frames stream; memory does not grow with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cmfr.codec.decoder import Decoder
from cmfr.codec.encoder import Encoder
from cmfr.codec.model_files import build_model, read_model
from cmfr.utils.device import pick_device


class Codec(Encoder, Decoder):
    """A model with weights, on a device, that codes videos. Made by `load_codec`."""


def load_codec(
    model: str | Path = "cmfr-s",
    device: str = "auto",
    weights: Sequence[str | Path] | None = None,
) -> Codec:
    """Load a codec by the name of shipped weights or from a weights file.

    weights: a weights file, or the published checkpoints of the `model` dcvc-dc or dcvc-fm
    (I-frame and P-frame). Raises FileNotFoundError or ValueError with one sentence.
    """
    cfg, tensors, weights_id, where = read_model(model, weights)
    return Codec(build_model(cfg, tensors, where), weights_id, pick_device(device))
