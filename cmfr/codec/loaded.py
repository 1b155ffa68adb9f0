"""A model that is ready to code, and the arithmetic that it codes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from cmfr.codec.header import StreamHeader
from cmfr.models.video_model import VideoModel
from cmfr.nn.densities import make_tables
from cmfr.nn.encoder_network import coding_arithmetic
from cmfr.nn.portable import PortableArithmetic
from cmfr.utils.device import full_precision


class LoadedModel:
    """A model with weights, on a device.

    weights_id: 8 bytes, which streams name.
    """

    def __init__(self, model: VideoModel, weights_id: bytes, device: torch.device) -> None:
        self.model = model.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.requires_grad_(False)
        with full_precision():
            make_tables(self.model)
        self.name, self.weights_id, self.device = model.cfg.name, weights_id, device
        self._portable = PortableArithmetic()

    @contextmanager
    def _arithmetic(self, header: StreamHeader) -> Iterator[None]:
        """That in which frames of a stream are coded."""
        portable = self._portable if header.portable else nullcontext()
        with coding_arithmetic(self.device), portable:
            yield
