"""Latents that an encoder moves before they are quantized; decoders need not know of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cmfr.nn.coder import EntropyCoder


class MovedLatents(EntropyCoder):
    """Hands latents on to another coder, some of them moved.

    coder: what codes them.
    prefix: what the names of the latents that are moved begin with.
    moves: added to them, in the order in which they are coded; for those without one, zeros that
    can learn are appended. In quantization steps.
    """

    def __init__(self, coder: EntropyCoder, prefix: str, moves: list[Tensor]) -> None:
        self.coder, self.prefix, self.moves = coder, prefix, moves
        self._next = 0

    def _moved(self, name: str, values: Tensor | None) -> Tensor | None:
        if values is None or not name.startswith(self.prefix):
            return values
        if self._next == len(self.moves):
            self.moves.append(torch.zeros_like(values, requires_grad=True))
        move = self.moves[self._next]
        self._next += 1
        return values + move

    def code_latent(self, name: str, values: Tensor | None, *rest: Any) -> Tensor:
        return self.coder.code_latent(name, self._moved(name, values), *rest)

    def code_factorized(self, name: str, values: Tensor | None, *rest: Any) -> Tensor:
        return self.coder.code_factorized(name, self._moved(name, values), *rest)
