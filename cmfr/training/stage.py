"""What one training stage computes: a clip in, a loss out.

A step of a stage is a list of updates; each runs some consecutive frames of the clip forward, then
backward, then moves the weights. Cascaded stages have one update for the whole clip, others one
for each P-frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmfr.models.base import MotionInterCodec
from cmfr.models.cmfr.motion_estimation import MotionEstimation
from cmfr.models.state import FrameOutput, ReferenceState, detached
from cmfr.models.video_model import VideoModel
from cmfr.nn.bit_estimator import BitEstimator, TrainingNoise
from cmfr.training.config import LossConfig, StageConfig
from cmfr.training.flow_loss import flow_loss
from cmfr.training.losses import FrameLoss, FrameNumbers
from cmfr.utils.errors import UserError


@dataclass(frozen=True)
class Result:
    """What some frames of a clip gave. Only `loss` (a scalar) has gradients.

    output: of the last frame, its state among it.
    scalars: for the log, means over the frames, still on the device.
    """

    loss: Tensor
    output: FrameOutput
    scalars: dict[str, Tensor]


class StageModel(nn.Module):
    """The codec as a stage trains it: freezes what does not learn, computes losses.

    Its `forward` is all that has gradients, so that data parallelism can wrap it.
    """

    def __init__(self, codec: VideoModel, loss: LossConfig, stage: StageConfig, bf16: bool) -> None:
        super().__init__()
        self.codec, self.stage, self.bf16 = codec, stage, bf16
        self.loss = FrameLoss(loss, stage, codec.cfg.color)
        self.noise = TrainingNoise()
        if stage.objective == "motion" and not isinstance(codec.inter, MotionInterCodec):
            raise UserError(f"stage {stage.name}: {codec.cfg.name} codes no motion")
        estimation = getattr(codec.inter, "motion_estimation", None)
        if stage.objective == "flow" and not isinstance(estimation, MotionEstimation):
            raise UserError(f"stage {stage.name}: {codec.cfg.name} has no motion estimation for it")
        self.weights = stage.frame_weights or codec.cfg.hierarchy.weights
        for name, parameter in codec.named_parameters():
            parameter.requires_grad_(learns(stage, name))
        self.intra_learns = any(p.requires_grad for p in codec.intra.parameters())
        if self.intra_learns and any(stage.lead):
            raise UserError(f"stage {stage.name}: I-frames cannot learn after a lead")
        self.train()

    def train(self, mode: bool = True) -> StageModel:
        super().train(mode)
        self.codec.intra.train(mode and self.intra_learns)  # a frozen one rounds, as in coding
        return self

    def learning(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that the stage trains, by name."""
        return [(n, p) for n, p in self.codec.named_parameters() if p.requires_grad]

    @property
    def positions(self) -> range:
        """Where in the hierarchical pattern clips may begin. Refreshes fall inside some, after
        frames that left latents behind."""
        cfg = self.codec.cfg
        period = math.lcm(cfg.hierarchy.period, cfg.refresh_period or 1)
        return range(period if self.stage.random_position else 1)

    def updates(self, frames: int) -> list[slice]:
        """Which frames of a clip each weight update codes."""
        if self.stage.objective == "intra":
            return [slice(0, 1)]
        # An I-frame that learns is part of the first update; otherwise it is only a reference.
        if self.stage.objective == "flow":
            return [slice(t, t + 1) for t in range(1, frames)]
        first = 0 if self._codes_intra else 1
        if self.stage.cascaded:
            return [slice(first, frames)]
        return [slice(first, 2), *(slice(t, t + 1) for t in range(2, frames))]

    @property
    def _codes_intra(self) -> bool:
        return self.stage.start == "intra" and self.intra_learns

    def set_noise(self, first: int, total: int) -> None:
        """The next batch is samples `first`, ... of a global batch of `total`."""
        self.noise = TrainingNoise(self.stage.quantization == "noise", first, total)

    @torch.no_grad()
    def reference(self, frames: Tensor, quality: Tensor, position: int) -> ReferenceState | None:
        """What the first update starts from, or None where that update codes the I-frame.

        frames [B, 1 + lead, 3, H, W]: the first coded or as it is, the lead coded after it.
        position: where in the hierarchical pattern the first counts as.
        """
        x = frames[:, 0]
        if self.stage.objective == "intra" or self._codes_intra:
            return None
        if self.stage.start == "source" or self.stage.objective == "flow":
            return ReferenceState(x, position=position)
        with self._autocast(x):
            state = replace(self.codec.code_intra(x, quality).state, position=position)
            for x in frames[:, 1:].unbind(1):
                state = self._code(x, quality, state).state
        return detached(state)

    def forward(
        self,
        frames: Tensor,
        quality: Tensor,
        past: ReferenceState | None,
        rate_weight: float | Tensor,
        position: int,
    ) -> Result:
        """frames [B, n, 3, H, W] after `past`; None: the first is an I-frame at `position`."""
        if self.stage.objective == "flow":
            assert past is not None
            return self._flow(frames[:, 0], past)
        losses: list[Tensor] = []
        numbers: dict[str, list[FrameNumbers]] = {}  # by prefix
        with self._autocast(frames):  # around all frames: each weight is cast once
            for x in frames.unbind(1):
                intra = past is None
                output = self._checkpointed(self._code, x, quality, past)
                state = replace(output.state, position=position) if intra else output.state
                weight = 1.0 if intra else self.weights[state.position % len(self.weights)]
                past = state
                with torch.autocast(x.device.type, enabled=False):
                    terms = self.loss(output, x, quality, weight, intra, rate_weight)
                losses.append(terms.total)
                prefix = "i_frame_" if intra and self.stage.objective != "intra" else ""
                numbers.setdefault(prefix, []).append(FrameNumbers.of(terms, output.bits))
        loss = torch.stack(losses).mean()
        scalars = {"loss": loss.detach()}
        for prefix, seen in numbers.items():
            means = FrameNumbers.means(seen, frames.shape[3] * frames.shape[4])
            scalars |= {prefix + name: value for name, value in means.items()}
        return Result(loss, detached(replace(output, state=state)), scalars)

    def _flow(self, x: Tensor, past: ReferenceState) -> Result:
        estimation = self.codec.inter.motion_estimation
        assert isinstance(estimation, MotionEstimation)
        with self._autocast(x):
            loss, prediction = flow_loss(estimation, x, past.frame, self.stage.smoothness)
        psnr = self.loss.distortion(prediction, x).psnr.mean()
        output = detached(FrameOutput(prediction, replace(past, frame=x)))
        return Result(loss, output, {"loss": loss.detach(), "psnr": psnr})

    def _code(self, x: Tensor, quality: Tensor, past: ReferenceState | None) -> FrameOutput:
        inter = self.codec.inter
        coder = BitEstimator((self.codec.intra if past is None else inter).training, self.noise)
        if past is None:
            return self.codec.code_intra(x, quality, coder)
        if self.stage.objective == "motion":
            assert isinstance(inter, MotionInterCodec)
            frame_quality_index = self.codec.frame_quality_index(quality, past.position + 1)
            return inter.estimate_motion(x, frame_quality_index, past, coder)
        return self.codec.code_inter(x, quality, past, coder)

    def _checkpointed(self, code: Callable[..., FrameOutput], *arguments: object) -> FrameOutput:
        """`code`, computed again in the backward pass where the stage asks for that."""
        if self.stage.checkpoint_activations:
            return checkpoint(code, *arguments, use_reentrant=False)
        return code(*arguments)

    def _autocast(self, x: Tensor) -> torch.autocast:
        return torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16)


def learns(stage: StageConfig, name: str) -> bool:
    """Whether the stage trains the parameter of this name."""
    # Quantiles serve the entropy tables, which solve for them (FactorizedDensity).
    chosen = name.startswith(stage.trainable) and not name.endswith("quantiles")
    return chosen and not (stage.frozen and name.startswith(stage.frozen))


def rate_weight(stage: StageConfig, step: int) -> float:
    """Weight of R: rises linearly to 1 over the stage's `rate_warmup` steps."""
    return min(1.0, (step + 1) / stage.rate_warmup) if stage.rate_warmup else 1.0


def learning_rate(stage: StageConfig, step: int, clock: float = 0.0) -> float:
    """Linear warm-up to lr, then the stage's schedule to lr_end.

    clock: how much of the stage's time has passed, 0..1; the schedule goes by it where it is ahead
    of the steps.
    """
    warmup = min(stage.warmup, stage.steps // 10)
    done = max(0, step - warmup) / max(1, stage.steps - warmup)
    done = min(1.0, max(done, clock))
    left = {
        "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        "linear": 1 - done,
        "constant": 1.0,
        "wsd": min(1.0, (1 - done) / stage.decay),
    }[stage.schedule]
    if step < warmup:
        return stage.lr * (step + 1) / warmup * left
    return stage.lr_end + (stage.lr - stage.lr_end) * left
