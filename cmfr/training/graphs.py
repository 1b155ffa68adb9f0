"""Forward and backward of a step as CUDA graphs, launched as one where there were thousands of
kernels. Used on a GPU alone, where `cuda_graphs: true` asks for it; not measured yet.

A graph repeats the same kernels on the same memory. What differs from step to step is therefore
either copied into buffers that stay (clips, qualities, the reference, the weight of R), or has a
graph of its own: which frames are refreshed, which adaptor reads the reference, the offsets and
weights of qualities, and the accumulator's share follow from where a clip lies in the hierarchical
pattern (`pattern`).
Gradients are kept in buffers too. Clipping, the optimizer and averaging stay outside.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cmfr.models.state import FrameOutput, MotionPictures, ReferenceState
from cmfr.models.video_model import refreshes
from cmfr.training.config import StageConfig, TrainConfig
from cmfr.training.distributed import Team
from cmfr.training.stage import Result, StageModel


def obstacle(cfg: TrainConfig, stage: StageConfig, module: StageModel, team: Team) -> str | None:
    """Why a stage cannot be captured, in a phrase; None where it can."""
    if team.device.type != "cuda":
        return f"they need a GPU, and this is {team.device.type}"
    if team.size > 1:
        return "several processes average gradients inside the backward pass"
    if cfg.compile:
        return "compile: true launches graphs of its own"
    if stage.checkpoint_activations:
        return "checkpoint_activations keeps the state of random numbers, which a graph cannot"
    if any(stage.lead):
        return "clips have a lead, so that what lies before them differs"
    if cfg.loss.distortion.needs_ms_ssim:
        return "MS-SSIM fetches its window from the host"
    if len(module.updates(stage.frames)) > 1:
        return "a step has several updates (cascaded: true has one)"
    return None


def pattern(module: StageModel, position: int) -> tuple[Any, ...]:
    """All that the position of a clip changes about what is computed: where two positions have
    equal patterns, one graph serves both."""
    stage, cfg = module.stage, module.codec.cfg
    if stage.objective not in ("motion", "inter"):
        return ()
    hierarchy, found = cfg.hierarchy, []
    for t in range(position + 1, position + stage.frames):
        place = t % hierarchy.period
        reads_frame = t == position + 1 or refreshes(t - 1, cfg.refresh_period)
        found.append(
            (
                place if getattr(cfg, "accumulates", False) else None,  # its accumulator's share
                hierarchy.quality_offsets[place],
                None if reads_frame else hierarchy.adaptors[place],
                module.weights[t % len(module.weights)],
            )
        )
    return tuple(found)


class Recorder(Protocol):
    """How work is captured."""

    def warm_up(self, work: Callable[[], Result]) -> None:
        """Run it once, so that what is chosen or made at first use is there."""

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        """Capture it: what does it again, and its result, which that fills anew."""


class CudaRecorder:
    """Captures on a stream of its own; all graphs share their memory."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Callable[[], Result]) -> None:
        # On the stream that captures: gradients remember the stream that they were first made on.
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            work()
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, work: Callable[[], Result]) -> tuple[Callable[[], None], Result]:
        graph = torch.cuda.CUDAGraph()
        # The data path's threads pin memory meanwhile, which the usual mode takes for a fault.
        with torch.cuda.graph(
            graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
        ):
            result = work()
        return graph.replay, result


@dataclass(frozen=True)
class _Captured:
    replay: Callable[[], None]
    result: Result
    learnt: list[nn.Parameter]  # which get a gradient


class GraphedPass:
    """Forward and backward of the one update of a step.

    offsets: the first samples of the parts that a batch is coded in (`set_noise`).
    recorder: of tests; CUDA's where there is none.
    """

    def __init__(
        self,
        module: StageModel,
        offsets: list[int],
        device: torch.device,
        recorder: Recorder | None = None,
    ) -> None:
        self.module, self.offsets = module, offsets
        self.recorder = recorder or CudaRecorder(device)
        self.captured: dict[tuple[Any, ...], _Captured] = {}
        self.kept: dict[nn.Parameter, Tensor] = {}  # gradients
        self.frames = self.quality = self.rate_weight = torch.empty(0)
        self.past: ReferenceState | None = None

    def __call__(
        self,
        frames: Tensor,
        quality: Tensor,
        past: ReferenceState | None,
        rate_weight: float,
        position: int,
        seed: int,
    ) -> Result:
        """As `StageModel.forward`, with gradients afterwards (of the mean over the parts); those
        of earlier parts are added to. The result is gone with the next call; of its output there
        is the first sample alone.

        seed: of the noise.
        """
        noise = self.module.noise
        if not self.captured:
            self._capture_all(frames, quality, past, noise.total or len(frames))
        graph = self.captured[pattern(self.module, position), noise.first]
        self._fill(frames, quality, past, rate_weight)
        if any(p.grad is None for p in graph.learnt):  # the first part of a step
            torch._foreach_zero_([self.kept[p] for p in graph.learnt])
            for parameter in graph.learnt:
                parameter.grad = self.kept[parameter]
        torch.manual_seed(seed)
        graph.replay()
        return graph.result

    def _fill(
        self, frames: Tensor, quality: Tensor, past: ReferenceState | None, rate_weight: float
    ) -> None:
        self.frames.copy_(frames)
        self.quality.copy_(quality)
        self.rate_weight.fill_(rate_weight)
        if self.past is not None and past is not None:
            self.past.frame.copy_(past.frame)

    def _capture_all(
        self, frames: Tensor, quality: Tensor, past: ReferenceState | None, total: int
    ) -> None:
        """Every graph that the stage will need, now: later, what runs without a graph would want
        as much memory again."""
        assert past is None or (past.feature is None and past.latents is None)
        self.frames, self.quality = torch.empty_like(frames), torch.empty_like(quality)
        self.rate_weight = torch.empty((), device=frames.device)
        if past is not None:
            self.past = replace(past, frame=torch.empty_like(past.frame))
        self._fill(frames, quality, past, 1.0)
        learning = [p for _, p in self.module.learning()]
        self.kept = {p: torch.zeros_like(p) for p in learning}
        noise, captured = self.module.noise, {}
        try:
            for key, position in self.plan().items():
                self.module.set_noise(key[1], total)

                def work(position: int = position) -> Result:
                    return self._work(position)

                self._gradients(learning, {})
                self.recorder.warm_up(work)
                learnt = [p for p in learning if p.grad is not None]
                self._gradients(learning, {p: self.kept[p] for p in learnt})
                captured[key] = _Captured(*self.recorder.record(work), learnt)
        finally:
            self._gradients(learning, {})
            self.module.set_noise(noise.first, total)
        self.captured = captured

    def plan(self) -> dict[tuple[Any, ...], int]:
        """A stage's graphs, by pattern and first sample, each with a position that it serves."""
        places = {pattern(self.module, position): position for position in self.module.positions}
        return {(seen, offset): place for offset in self.offsets for seen, place in places.items()}

    @staticmethod
    def _gradients(parameters: list[nn.Parameter], gradients: dict[nn.Parameter, Tensor]) -> None:
        for parameter in parameters:
            parameter.grad = gradients.get(parameter)

    def _work(self, position: int) -> Result:
        past = None if self.past is None else replace(self.past, position=position)
        result = self.module(self.frames, self.quality, past, self.rate_weight, position)
        (result.loss / len(self.offsets)).backward()
        return Result(result.loss.detach(), _first_sample(result.output), result.scalars)


def _first_sample(output: FrameOutput) -> FrameOutput:
    """What the log's pictures need: each graph keeps its output."""
    x_hat, motion = output.x_hat[:1].clone(), output.motion
    if motion is not None:
        pictures = {n: None if v is None else v[:1].clone() for n, v in vars(motion).items()}
        motion = MotionPictures(**pictures)  # type: ignore[arg-type]
    return FrameOutput(x_hat, ReferenceState(x_hat), motion=motion)


class Pass:
    """Forward and backward of an update: captured where that is asked for and can be, otherwise
    kernel by kernel, which is said once.

    wrapped: the module, or what averages its gradients over the team.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        module: StageModel,
        wrapped: Callable[..., Result],
        team: Team,
        offsets: list[int],
        graphed: GraphedPass | None = None,
    ) -> None:
        self.stage, self.wrapped, self.parts = module.stage, wrapped, len(offsets)
        self.graphed, self.team = graphed, team
        if cfg.cuda_graphs and graphed is None:
            reason = obstacle(cfg, module.stage, module, team)
            if reason:
                self._tell(reason)
            else:
                self.graphed = GraphedPass(module, offsets, team.device)

    def __call__(
        self,
        frames: Tensor,
        quality: Tensor,
        past: ReferenceState | None,
        rate_weight: float,
        position: int,
        seed: int,
    ) -> Result:
        """Arguments of `StageModel.forward`, and the seed of the noise. Adds to the gradients."""
        if self.graphed is not None:
            try:
                return self.graphed(frames, quality, past, rate_weight, position, seed)
            except RuntimeError as error:  # CUDA's are among them
                if self.graphed.captured:
                    raise
                self.graphed = None
                self._tell(f"capturing failed: {str(error).splitlines()[0]}")
        torch.manual_seed(seed)
        result = self.wrapped(frames, quality, past, rate_weight, position)
        (result.loss / self.parts).backward()
        return result

    def _tell(self, reason: str) -> None:
        if self.team.is_main:
            print(f"stage {self.stage.name}: no CUDA graphs: {reason}", file=sys.stderr)
