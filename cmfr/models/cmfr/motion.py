"""Motion codec and Motion Refiner. Flows are [B, 2, h, w] in pixels of their resolution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import log, log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmfr.models.cmfr.blocks import block
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.latent import CMFRLatentCoder
from cmfr.models.state import LatentReference
from cmfr.nn.coder import EntropyCoder
from cmfr.nn.encoder_network import encoder_network
from cmfr.nn.init import SMALL_GAIN, analysis_start, haar_bands, identity_start, synthesis_start
from cmfr.nn.layers import conv, resize_flow, upsample, warp

# Initial gains of motion latents at quality 0 and 63: Haar coefficients of flows in pixels.
MOTION_GAINS = (0.1, 2.0)
# How much the frame before the reference usually counts, and how large a difference between two
# predictions (squared, samples in [0, 1]) is nothing to learn from.
USUAL_SHARE, NO_STEP = 0.05, 2e-5


class MotionCodec(nn.Module):
    """Codes the flow given the previous motion latent and feature.

    Both transforms meet the motion feature at 1/4 resolution; the latent is at 1/S, S its stride.
    They start as a Haar pyramid of the flow, keeping its lowest frequencies, and its transpose.
    """

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        width, latent = cfg.motion.channels, cfg.motion.latent
        levels = int(log2(4 // cfg.feature_stride))  # between the flow's resolution and 1/4
        self.analysis_head = nn.Sequential(
            conv(2, width), *(conv(width, width, stride=2) for _ in range(levels))
        )
        below = int(log2(cfg.motion.latent_stride // 4))  # halvings from the feature to the latent
        analysis = [conv(2 * width, width, 1), block(cfg, width)]
        for _ in range(below - 1):
            analysis += [conv(width, width, stride=2), block(cfg, width)]
        self.analysis = nn.Sequential(*analysis, conv(width, latent, stride=2))
        self.latent = CMFRLatentCoder(cfg, "motion", cfg.motion, latent, MOTION_GAINS)
        synthesis = [conv(latent, width, 1), block(cfg, width)]
        for _ in range(below):
            synthesis += [upsample(width, width), block(cfg, width)]
        self.synthesis = nn.Sequential(*synthesis)
        ups = [upsample(width, width) for _ in range(levels)]
        self.synthesis_tail = nn.Sequential(*ups, conv(width, 2))
        self._start([*self.analysis_head[1:], *self.analysis[2::2]], [*self.synthesis[2::2], *ups])

    def _start(self, downs: list[nn.Module], ups: list[nn.Module]) -> None:
        """Initial weights.

        downs, ups: the layers that halve and double, in their order.
        """
        first, middle = self.analysis_head[0], self.analysis[0]
        head, last = self.synthesis[0], self.synthesis_tail[-1]
        count = 2
        for layer, channels in ((first, 2), (last, 2), (middle, first.out_channels)):
            identity_start(layer, channels)  # type: ignore[arg-type]
        for down, up in zip(downs, ups[::-1], strict=True):
            bands = haar_bands(count, down.out_channels)  # type: ignore[arg-type]
            analysis_start(down, bands)  # type: ignore[arg-type]
            synthesis_start(up, bands)  # type: ignore[arg-type]
            count = len(bands)
        identity_start(head, count)  # type: ignore[arg-type]

    def forward(
        self,
        coder: EntropyCoder,
        flow: Tensor | None,
        quality: Tensor,
        previous_latent: Tensor,
        previous_feature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Code a flow [B, 2, H/s, W/s] (None when decoding), given the previous latent
        [B, Cm, H/S, W/S] and feature [B, C, H/4, W/4]: decoded flow, and the new ones of both."""
        y = None
        if flow is not None:
            with encoder_network():
                y = self.analysis(torch.cat([self.analysis_head(flow), previous_feature], 1))
        size = (previous_latent.shape[2], previous_latent.shape[3])
        y_hat = self.latent(coder, y, [previous_latent], size, quality)
        feature = self.synthesis(y_hat)
        return self.synthesis_tail(feature).float(), y_hat, feature


@dataclass(frozen=True)
class BlendedMotion:
    """Several flows for every position, and how much each counts.

    flows [B, K, 2, h, w] in pixels of their resolution; logits [B, K, h, w] of the softmax weights
    (None where K is 1).
    older_flows: how many of them, the last, point to the frame before the reference.
    """

    flows: Tensor
    logits: Tensor | None = None
    older_flows: int = 0

    @cached_property
    def to_reference(self) -> BlendedMotion:
        """Those that point to the reference, as if there were no others."""
        return self._part(slice(None, self._nearer)) if self.older_flows else self

    @cached_property
    def to_older(self) -> BlendedMotion:
        """Those that point to the frame before it, as if there were no others."""
        return self._part(slice(self._nearer, None))

    @property
    def _nearer(self) -> int:
        return self.flows.shape[1] - self.older_flows

    def _part(self, part: slice) -> BlendedMotion:
        assert self.logits is not None
        return BlendedMotion(self.flows[:, part], self.logits[:, part])

    @cached_property
    def older_share(self) -> Tensor:
        """How much the frame before the reference counts [B, 1, h, w]."""
        assert self.weights is not None
        return self.weights[:, self._nearer :].sum(1, keepdim=True)

    @cached_property
    def weights(self) -> Tensor | None:
        """[B, K, h, w], sum 1."""
        return None if self.logits is None else self.logits.softmax(1)

    @cached_property
    def mean(self) -> Tensor:
        """The flow that they are on average [B, 2, h, w]."""
        if self.weights is None:
            return self.flows[:, 0]
        return (self.flows * self.weights[:, :, None]).sum(1)

    def resized(self, factor: int) -> BlendedMotion:
        """At `factor` times the resolution."""
        if factor == 1:
            return self
        flows = resize_flow(self.flows.flatten(0, 1), factor).unflatten(0, self.flows.shape[:2])
        logits = self.logits
        if logits is not None:
            logits = F.interpolate(
                logits.float(), scale_factor=factor, mode="bilinear", align_corners=False
            )
        return BlendedMotion(flows, logits, self.older_flows)

    def predict(
        self, samples: Tensor, older_samples: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The predicted frame [B, 3, h, w]; and what each of the two frames it was predicted from
        says alone, [B, 3, h, w] each, None where there is but one.

        samples, older_samples: `half_samples` of the reference, and of the frame before it (None:
        not looked at), [B, 3, 2h, 2w].
        """
        prediction = self.to_reference.warp(samples, 2)
        if older_samples is None:
            return prediction, None
        older = self.to_older.warp(older_samples, 2)
        return prediction + (older - prediction) * self.older_share, (prediction, older)

    def warp(self, x: Tensor, finer: int = 1) -> Tensor:
        """x [B, C, finer h, finer w] moved by every flow, blended -> [B, C, h, w] of x's type."""
        if self.weights is None:
            return warp(x, self.flows[:, 0], finer)
        # One by one: together they take the memory of all, which counts at 4K.
        blended: Tensor | float = 0.0
        for flow, weight in zip(self.flows.unbind(1), self.weights.split(1, 1), strict=True):
            blended = blended + warp(x.float(), flow, finer) * weight
        assert isinstance(blended, Tensor)
        return blended.to(x.dtype)


@torch.no_grad()
def best_older_share(x: Tensor, nearer: Tensor, older: Tensor) -> Tensor:
    """How much `older` should have counted in the prediction of the decoded x, least squares in
    windows of 40x40: all [B, 3, H, W], H and W multiples of 8 -> [B, 1, H/8, W/8] in [0, 1].

    What was best in a frame tells much about the next one (measured: docs/architecture.md).
    """
    step = older.float() - nearer
    wanted = (step * (x - nearer)).sum(1, keepdim=True)
    power = step.square().sum(1, keepdim=True)
    means = F.avg_pool2d(torch.cat([wanted, power], 1), 8)
    for dim, padding in ((3, (2, 2, 0, 0)), (2, (0, 0, 2, 2))):
        padded, size = F.pad(means, padding, mode="replicate"), means.shape[dim]
        means = padded.narrow(dim, 0, size)
        for shift in range(1, 5):
            means = means + padded.narrow(dim, shift, size)
    wanted, power = means.split(1, 1)  # sums of 25
    return ((wanted + 25 * NO_STEP * USUAL_SHARE) / (power + 25 * NO_STEP)).clamp(0, 1)


class MotionRefiner(nn.Module):
    """Improves the decoded flow at the decoder, at no bits (paper: claim 4; the network is ours).

    It makes several flows of the decoded one, each with a correction, and says how much each
    counts at every position; the prediction is the blend of what they point to. One flow alone
    cannot be improved much by what the decoder has; several do what overlapped block motion
    compensation does, and more (measured: docs/architecture.md).

    Some may point to the frame before the reference: where the decoded flow leads to, the previous
    frame's refined flow leads on. Two frames sample a fine pattern at different places, and their
    quantization errors differ. How much these count starts from what was best in the previous frame
    (`best_older_share`), moved along.

    It sees the decoded flow, the previous frame's refined flow moved along with it, the reference,
    what the decoded flow makes of the reference (and the flow that leads on of the frame before
    it), and the reference feature; works at half the flow's resolution. Starts near the decoded
    flow, the corrections apart by a fraction of a pixel.
    """

    def __init__(self, cfg: CMFRConfig) -> None:
        super().__init__()
        refiner, stride = cfg.motion.refiner, cfg.feature_stride
        width, self.older_flows, self.stride = refiner.width, refiner.older, stride
        self.count = refiner.hypotheses + refiner.older
        inputs = 4 + 6 * stride * stride + cfg.context_channels[0]
        if self.older_flows:
            inputs += 3 * stride * stride + 1
        self.head = conv(inputs, width, stride=2)
        self.body = nn.Sequential(*(block(cfg, width) for _ in range(refiner.blocks)))
        self.tail = upsample(width, 3 * self.count if self.count > 1 else 2)
        last = self.tail[0]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.normal_(last.weight, std=SMALL_GAIN)
        if self.count > 1:  # equal hypotheses would stay equal
            bias = torch.zeros(3 * self.count, 4)
            bias[: 2 * self.count] = torch.randn(2 * self.count, 1) * 0.05
            if self.older_flows:
                share = log(refiner.hypotheses / self.older_flows)
                bias[3 * self.count - self.older_flows :] = share
            with torch.no_grad():
                last.bias.copy_(bias.flatten())

    def forward(
        self,
        flow: Tensor,
        previous: LatentReference,
        frames: tuple[Tensor, ...],
        older_samples: Tensor | None,
        reference_feature: Tensor,
    ) -> BlendedMotion:
        """Flows around the decoded one, and how much each counts.

        flow: decoded, [B, 2, h, w].
        previous: of the previous P-frame.
        frames: the reference, and what the decoded flow makes of it, [B, 3, H, W] each.
        older_samples: `half_samples` of the frame before the reference, [B, 3, 2H, 2W], or None
        where it has no flows.
        reference_feature: [B, C0, h, w].
        """
        moved = warp(previous.flow, flow)
        bases, share = [flow] * (self.count - self.older_flows), None
        if older_samples is not None:
            on = flow + moved  # to the frame before the reference
            bases += [on] * self.older_flows
            frames = (*frames, warp(older_samples, resize_flow(on, self.stride), 2))
            share = self._moved_share(previous.older_share, flow)
        pixels = torch.cat(frames, 1) - 0.5
        if self.stride > 1:
            pixels = F.pixel_unshuffle(pixels, self.stride)
        seen = [flow, moved - flow, pixels, reference_feature]
        if share is not None:
            seen.append(share)
        out = self.tail(self.body(self.head(torch.cat(seen, 1)))).float()
        corrections, logits = out.split([2 * self.count, out.shape[1] - 2 * self.count], 1)
        flows = torch.stack(bases, 1) + corrections.unflatten(1, (self.count, 2))
        if self.count == 1:
            return BlendedMotion(flows)
        if share is not None:
            nearer, farther = logits.split([self.count - self.older_flows, self.older_flows], 1)
            share = share.clamp(0.02, 0.98)
            logits = torch.cat([nearer, farther + torch.log(share / (1 - share))], 1)
        return BlendedMotion(flows, logits, self.older_flows)

    def _moved_share(self, share: Tensor | None, flow: Tensor) -> Tensor:
        """The previous frame's, at the flow's resolution [B, 1, h, w] and moved along with it."""
        if share is None:
            return torch.zeros_like(flow[:, :1]) + USUAL_SHARE
        scale = 8 // self.stride
        finer = F.interpolate(share, scale_factor=scale, mode="bilinear", align_corners=False)
        return warp(finer, flow)
