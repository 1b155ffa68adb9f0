"""What each part of a CMFR model contributes, measured on real sequences: one table a part.

For those who design and train: a part that does nothing shows here before it costs a week of
training. PSNR-Y of predictions, PSNR-YUV (6:1:1) of frames, at the network's 4:4:4, unrounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmfr.analysis.diagnosis_table import DiagnosedSequence, Table
from cmfr.config import QUALITIES
from cmfr.models.cmfr.inter import CMFR
from cmfr.models.cmfr.latent import CMFRLatentCoder, calibrate
from cmfr.models.cmfr.residual_modes import FeatureResidual
from cmfr.models.state import FrameOutput, FrameSize, ReferenceState
from cmfr.models.video_model import VideoModel
from cmfr.nn.bit_estimator import BitEstimator, Unquantized
from cmfr.nn.layers import half_samples, resize_flow, warp
from cmfr.utils.device import exact_arithmetic
from cmfr.utils.errors import UserError

SOURCE_FRAMES = (1, 4, 7)  # predicted from the frame before, between source frames
MIDDLE = (21, 42)  # middle qualities


def diagnose(model: VideoModel, sequences: Sequence[DiagnosedSequence]) -> Iterable[Table]:
    """All tables, one after the other.

    model: a CMFR in eval mode.

    Raises ValueError for another family or sequences of fewer than 8 frames.
    """
    if not isinstance(model.inter, CMFR):
        raise UserError(f"{model.cfg.name} is no CMFR: its parts cannot be diagnosed")
    for sequence in sequences:
        if len(sequence.frames) < 8:
            raise UserError(f"{sequence.name}: 8 frames are needed, {len(sequence.frames)} given")
    with exact_arithmetic():
        yield motion_estimation(model, sequences)
        yield transforms(model, sequences)
        coded = code(model, sequences, (0, *MIDDLE, QUALITIES - 1))
        yield motion(sequences, coded)
        yield masks(sequences, coded)
        yield qualities(sequences, coded)
        yield drift(sequences, coded)
        yield bits(sequences, coded)
        yield counted_bits(model, sequences)
    yield untrained(model, sequences)


def motion_estimation(model: VideoModel, sequences: Sequence[DiagnosedSequence]) -> Table:
    """How well the estimated flow predicts one source frame from another."""
    rows = {}
    for sequence in sequences:
        pairs = [(sequence.frames[t], sequence.frames[t - 1]) for t in SOURCE_FRAMES]
        still = [sequence.psnr(x, reference)[0] for x, reference in pairs]
        moved = [sequence.psnr(x, _predict(model, x, reference))[0] for x, reference in pairs]
        rows[sequence.name] = (_mean(still), _mean(moved))
    title = f"motion estimation: PSNR-Y of predictions, source frames {SOURCE_FRAMES}"
    return Table(title, ("no motion", "estimated flow"), rows)


def _index(sequence: DiagnosedSequence, quality: int) -> Tensor:
    """A quality as the networks take it [1], where the frames are."""
    return torch.full((1,), quality, device=sequence.frames[0].device)


def _predict(model: VideoModel, x: Tensor, reference: Tensor) -> Tensor:
    """The reference warped with the estimated flow."""
    flow = model.inter.motion_estimation(x, reference)  # type: ignore[operator]
    return warp(half_samples(reference), resize_flow(flow, x.shape[3] / flow.shape[3]), 2)


def transforms(model: VideoModel, sequences: Sequence[DiagnosedSequence]) -> Table:
    """The quality that remains when nothing is quantized, of I-frames and of P-frames after it."""
    rows = {}
    for sequence in sequences:
        first, top = sequence.frames[0], _index(sequence, QUALITIES - 1)
        size = FrameSize(first.shape[2], first.shape[3])
        output = model.intra(first, top, size, Unquantized())
        intra = sequence.psnr(output.x_hat, first)[1]
        inter = []
        for x in sequence.frames[1:8]:
            past = model.refreshed(output.state)
            output = model.inter(x, top, past, Unquantized())
            inter.append(sequence.psnr(output.x_hat, x)[1])
        rows[sequence.name] = (intra, _mean(inter))
    return Table("transforms: PSNR-YUV, nothing quantized", ("I", "P, mean of 7"), rows)


@dataclass(frozen=True)
class _Coded:
    """One frame: number; dB; bits by name; mask means by region (NaN where there is none)."""

    intra: bool
    psnr: float
    predictions: tuple[float, float, float]  # PSNR-Y: estimated, decoded, refined flow
    bits: dict[str, float]
    mask: tuple[float, float, float]


def _code(model: VideoModel, sequence: DiagnosedSequence, quality: int) -> list[_Coded]:
    """All frames of a sequence after one I-frame."""
    index = _index(sequence, quality)
    coded: list[_Coded] = []
    past: ReferenceState | None = None
    for x in sequence.frames:
        if past is None:
            output = model.code_intra(x, index)
            predictions, mask = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
        else:
            output = model.code_inter(x, index, past)
            predictions = _predictions(model, sequence, x, past, output)
            mask = _mask_by_region(sequence, x, past, output)
        bits = {name: float(value) for name, value in output.bits.items()}
        psnr = sequence.psnr(output.x_hat, x)[1]
        coded.append(_Coded(past is None, psnr, predictions, bits, mask))
        past = output.state
    return coded


def _predictions(
    model: VideoModel,
    sequence: DiagnosedSequence,
    x: Tensor,
    past: ReferenceState,
    output: FrameOutput,
) -> tuple[float, float, float]:
    assert output.motion is not None
    pictures = (_predict(model, x, past.frame), output.motion.warped, output.motion.prediction)
    estimated, decoded, refined = (sequence.psnr(picture, x)[0] for picture in pictures)
    return estimated, decoded, refined


def _mask_by_region(
    sequence: DiagnosedSequence, x: Tensor, past: ReferenceState, output: FrameOutput
) -> tuple[float, float, float]:
    """Mean mask where nothing moves (less than 1/4 pixel), where something does, and where the
    prediction fails though (luma error over 0.05: uncovered, or not to be predicted)."""
    motion = output.motion
    if motion is None or motion.mask is None:
        return (float("nan"),) * 3
    height, width = sequence.size
    scale = x.shape[3] / motion.refined.shape[3]
    length = resize_flow(motion.refined, scale).square().sum(1).sqrt()[0, :height, :width]
    error = (motion.prediction - x)[0, 0].abs()
    error = torch.nn.functional.avg_pool2d(error[None, None], 5, 1, 2)[0, 0, :height, :width]
    mask = motion.mask.mean(1, keepdim=True)
    mask = torch.nn.functional.interpolate(mask, size=x.shape[2:])[0, 0, :height, :width]
    failed = error > 0.05
    regions = (~failed & (length < 0.25), ~failed & (length >= 0.25), failed)
    static, moving, uncovered = (
        float(mask[region].mean()) if region.any() else float("nan") for region in regions
    )
    return static, moving, uncovered


Results = dict[tuple[str, int], list[_Coded]]  # by sequence and quality


def code(
    model: VideoModel, sequences: Sequence[DiagnosedSequence], qualities: Sequence[int]
) -> Results:
    """All sequences at all qualities, one I-frame each, estimated bits."""
    with exact_arithmetic():
        return {
            (sequence.name, quality): _code(model, sequence, quality)
            for sequence in sequences
            for quality in qualities
        }


def motion(sequences: Sequence[DiagnosedSequence], coded: Results) -> Table:
    """What motion codec and Motion Refiner do on the codec's own reconstructions."""
    rows = {}
    for sequence in sequences:
        row: list[float] = []
        for quality in MIDDLE:
            frames = [frame for frame in coded[sequence.name, quality] if not frame.intra]
            row += (_mean([frame.predictions[i] for frame in frames]) for i in range(3))
            spent = [frame.bits["motion_y"] + frame.bits.get("motion_z", 0) for frame in frames]
            row.append(_mean(spent) / sequence.pixels)
        rows[sequence.name] = tuple(row)
    columns = tuple(
        f"{name} q{quality}" for quality in MIDDLE for name in ("est.", "decoded", "refined", "bpp")
    )
    return Table("motion: PSNR-Y of predictions by each flow, motion bits", columns, rows, 3)


def masks(sequences: Sequence[DiagnosedSequence], coded: Results) -> Table:
    """The mask where the picture rests, moves, and cannot be predicted."""
    rows = {}
    for sequence in sequences:
        row: list[float] = []
        for quality in MIDDLE:
            frames = [frame for frame in coded[sequence.name, quality] if not frame.intra]
            for i in range(3):
                seen = [frame.mask[i] for frame in frames if frame.mask[i] == frame.mask[i]]
                row.append(_mean(seen))
        rows[sequence.name] = tuple(row)
    regions = ("static", "moving", "uncovered")
    columns = tuple(f"{region} q{quality}" for quality in MIDDLE for region in regions)
    return Table("mask: mean by region", columns, rows, 3)


def qualities(sequences: Sequence[DiagnosedSequence], coded: Results) -> Table:
    """The range of one set of weights."""
    rows = {}
    for sequence in sequences:
        means = [
            _mean([frame.psnr for frame in coded[sequence.name, quality]])
            for quality in (0, *MIDDLE, QUALITIES - 1)
        ]
        rows[sequence.name] = (*means, means[-1] - means[0])
    columns = (*(f"q{quality}" for quality in (0, *MIDDLE, QUALITIES - 1)), "range")
    return Table("qualities: PSNR-YUV, all frames", columns, rows)


def drift(sequences: Sequence[DiagnosedSequence], coded: Results) -> Table:
    """Last quarter of a sequence against its second quarter, dB."""
    rows = {}
    levels = (0, *MIDDLE, QUALITIES - 1)
    for sequence in sequences:
        row = []
        for quality in levels:
            row.append(drift_of([frame.psnr for frame in coded[sequence.name, quality]]))
        rows[sequence.name] = tuple(row)
    title = "drift: mean PSNR-YUV of the last quarter less that of the second"
    return Table(title, tuple(f"q{quality}" for quality in levels), rows)


def drift_of(psnr: Sequence[float]) -> float:
    """Mean of the last quarter of the frames less that of the second, dB; nan below four frames."""
    quarter = len(psnr) // 4
    return _mean(psnr[len(psnr) - quarter :]) - _mean(psnr[quarter : 2 * quarter])


def bits(sequences: Sequence[DiagnosedSequence], coded: Results) -> Table:
    """Bits per pixel of P-frames by latent, mean of the sequences; rows: qualities."""
    rows = {}
    for quality in sorted({quality for _, quality in coded}):
        totals: dict[str, list[float]] = {}
        for sequence in sequences:
            for frame in coded[sequence.name, quality]:
                for name, value in frame.bits.items() if not frame.intra else ():
                    totals.setdefault(name, []).append(value / sequence.pixels)
        names = tuple(sorted(totals))
        rows[f"q{quality}"] = tuple(_mean(totals[name]) for name in names)
    return Table("bits per pixel of P-frames by latent", names, rows, 4)


def counted_bits(model: VideoModel, sequences: Sequence[DiagnosedSequence]) -> Table:
    """What training counts over what coding writes, in percent, 8 frames."""
    rows = {}
    levels = (0, *MIDDLE, QUALITIES - 1)
    for sequence in sequences:
        row = []
        for quality in levels:
            index, past = _index(sequence, quality), None
            counted = written = 0.0
            for x in sequence.frames[:8]:
                trained = BitEstimator(training=True)
                if past is None:
                    size = FrameSize(x.shape[2], x.shape[3])
                    counted += float(model.intra(x, index, size, trained).total_bits)
                else:
                    frame_quality_index = model.frame_quality_index(index, past.position + 1)
                    seen = model.inter(x, frame_quality_index, model.refreshed(past), trained)
                    counted += float(seen.total_bits)
                payload, _, output = model.encode_frame(x, quality, past)
                written += 8 * len(payload)
                past = output.state
            row.append(100 * (counted / written - 1))
        rows[sequence.name] = tuple(row)
    title = "training's estimate against the payload, percent"
    return Table(title, tuple(f"q{quality}" for quality in levels), rows, 1)


def untrained(model: VideoModel, sequences: Sequence[DiagnosedSequence]) -> Table:
    """The same configuration before any training but that of motion estimation: prediction on
    source frames by the estimated and by the decoded flow, features of equal frames left over
    (dB below the features), bits of a P-frame at quality 42."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = VideoModel(model.cfg).eval().to(sequences[0].frames[0].device)
    estimation = model.inter.motion_estimation
    assert isinstance(estimation, torch.nn.Module) and isinstance(fresh.inter, CMFR)
    fresh.inter.motion_estimation.load_state_dict(estimation.state_dict())
    quality = _index(sequences[0], 42)

    def run() -> None:
        for sequence in sequences:
            fresh(torch.stack(sequence.frames[:3], 1), quality)

    coders = [part for part in fresh.modules() if isinstance(part, CMFRLatentCoder)]
    calibrate(coders, run)
    rows = {}
    with exact_arithmetic():
        for sequence in sequences:
            x, reference = sequence.frames[1], sequence.frames[0]
            output = fresh.inter(x, quality, ReferenceState(reference))
            assert output.motion is not None
            rows[sequence.name] = (
                sequence.psnr(_predict(fresh, x, reference), x)[0],
                sequence.psnr(output.motion.warped, x)[0],
                _equal_features(fresh.inter, x),
                float(output.total_bits) / sequence.pixels,
            )
    columns = ("est. flow", "decoded flow", "equal features", "bpp q42")
    return Table("untrained, calibrated", columns, rows)


def _equal_features(inter: CMFR, x: Tensor) -> float:
    """How far below the features of a frame is what is left of them when the same frame predicts
    them, dB; NaN where no feature residual is coded."""
    mode = inter.residual_mode
    if not isinstance(mode, FeatureResidual):
        return float("nan")
    target = inter.feature_extractor(x)
    left = target - mode.predicted_features(x, inter.adaptor.of_frame(x))
    return float(10 * (target.square().mean() / left.square().mean().clamp(min=1e-20)).log10())


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else float("nan")
