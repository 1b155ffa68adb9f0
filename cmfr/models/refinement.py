"""Motion latents refined by the encoder, frame by frame.

A motion encoder learns one rule for all frames. Gradient steps on what it made of this frame, on
rate + lambda * distortion through the whole codec, find motion that costs fewer bits and predicts
better; decoders do as always, and need not know (after Lu et al., "Content adaptive and error
propagation aware deep video compression", ECCV 2020, and Tang et al., "Offline and online optical
flow enhancement for deep video compression", AAAI 2024, which refine the encoder and the flow).
Residual and I-frame latents gain little in as many steps (measured: checkpoints/TRAINING_LOG.md,
session 14).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cmfr.config import CodecConfig, by_quality
from cmfr.models.base import InterCodec
from cmfr.models.state import FrameOutput, ReferenceState, without_history
from cmfr.nn.bit_estimator import BitEstimator, TrainingNoise
from cmfr.nn.portable import encoder_only

STEP = 0.05  # of Adam at first, in quantization steps


class Rounding(TrainingNoise):
    """What rounding adds: the rate's gradient is taken at symbols, and repeats."""

    def like(self, x: Tensor) -> Tensor:
        return (x.round() - x).detach()


def refined_motion(
    codec: InterCodec,
    x: Tensor,
    quality: Tensor,
    past: ReferenceState,
    cfg: CodecConfig,
    steps: int,
) -> list[Tensor] | None:
    """What to add to a frame's motion latents, for `FrameCodec.begin`; None where that would
    not help.

    x: [1, 3, H, W].
    quality: [1] on the host, the frame's own.
    steps: at least 1; three take about as long as coding the frame ten times.
    """
    weight = by_quality(*cfg.lambda_range, int(quality))

    def cost(output: FrameOutput) -> Tensor:
        distortion = (output.x_hat - x).square().mean()
        return output.total_bits.sum() / x[0, 0].numel() + weight * distortion

    moves: list[Tensor] = []
    # What inference made cannot be part of a gradient; a copy can.
    with torch.inference_mode(False), encoder_only():
        x, past, index = x.clone(), without_history(past), quality.to(x.device)
        with torch.no_grad():
            before = cost(codec(x, index, past, BitEstimator(False), moves))
        if not moves:  # a codec without motion
            return None
        optimizer = torch.optim.Adam(moves, STEP)
        with torch.enable_grad():
            for step in range(steps):
                optimizer.param_groups[0]["lr"] = STEP * min(1.0, 2 * (1 - step / steps))
                optimizer.zero_grad()
                estimator = BitEstimator(True, Rounding())
                cost(codec(x, index, past, estimator, moves)).backward(inputs=moves)
                optimizer.step()
        moves = [move.detach() for move in moves]
        with torch.no_grad():
            after = cost(codec(x, index, past, BitEstimator(False), moves))
        return moves if after < before else None
