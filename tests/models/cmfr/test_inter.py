from dataclasses import replace

import pytest
import torch
from conftest import lively, moving_clip

from cmfr.models.base import FrameSize
from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.residual_modes import RESIDUAL_MODES
from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel
from cmfr.nn.entropy_coder import DecodeMismatch
from cmfr.nn.layers import half_samples
from cmfr.utils.yaml_config import merged

HEIGHT, WIDTH = 208, 240  # 13 x 15 latent positions: odd, so that every crop is exercised

VARIANTS = [
    {},
    {"residual": "feature"},
    {"residual": "masked_pixel"},
    {"residual": "pixel"},
    {"residual": "none"},
    {"fusion": "concat"},
    {"motion_refiner": False},
    {"motion": {"refiner": {"older": 0}}},
    {"motion": {"accumulated": False}},
    {"motion": {"refiner": {"hypotheses": 1, "older": 2}}},
    {"reference": "frame"},
    {"residual": "none", "fusion": "concat", "motion_refiner": False},
    {"color": "rgb"},
    {"feature_stride": 1},
    {"feature_stride": 2},
    {"block": "depthwise"},
    {"refresh_period": 3},
    {"motion": {"latent_stride": 8}},
    {
        "feature_stride": 2,
        "intra": {"latent_stride": 8},
        "motion": {"latent_stride": 8},
        "residual_codec": {"latent_stride": 8},
    },
]


def variant(changes) -> CMFRConfig:
    return CMFRConfig.model_validate(merged(PRESETS["cmfr-nano"].model_dump(), changes))


def name_of(changes):
    return "-".join(f"{k}={v}" for k, v in changes.items()) or "nano"


@pytest.mark.parametrize("changes", VARIANTS, ids=name_of)
def test_forward_encode_and_decode_agree_bit_for_bit(changes):
    model = lively(variant(changes))
    clip = moving_clip(3, HEIGHT, WIDTH)
    encoder_past = decoder_past = None
    with torch.no_grad():
        estimates = model(clip, torch.tensor([40]))
    for t, estimate in enumerate(estimates):
        payload, quality, sent = model.encode_frame(clip[:, t], 40, encoder_past)
        received = model.decode_frame(payload, quality, decoder_past or FrameSize(HEIGHT, WIDTH))
        assert torch.equal(sent.x_hat, received.x_hat)
        assert torch.equal(sent.x_hat, estimate.x_hat)
        if t:
            assert torch.equal(sent.state.feature, received.state.feature)
        assert len(payload) > 1000
        assert float(estimate.total_bits) == pytest.approx(8 * len(payload), rel=0.01)
        encoder_past, decoder_past = sent.state, received.state
        assert encoder_past.position == decoder_past.position == t


@pytest.mark.parametrize("changes", VARIANTS, ids=name_of)
def test_gradients_reach_every_parameter(changes):
    model = lively(variant(changes)).train()
    # six frames: the last adaptor of the pattern is first used at position 5
    clip, quality = moving_clip(6, 64, 64), torch.tensor([31])
    loss = 0
    for q in (3, 12, 21, 31, 40, 49, 60):  # every anchor of the quality scalers
        outputs = model(clip, quality * 0 + q)
        loss = loss + sum(
            (o.x_hat - clip[:, t]).square().mean() + o.total_bits.mean() / 1e4
            for t, o in enumerate(outputs)
        )
    loss.backward()
    silent = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
    }
    assert not silent


def test_batched_estimate_is_the_mean_of_single_ones(nano):
    clips = torch.cat([moving_clip(3, 64, 64, seed) for seed in (1, 2)])
    quality = torch.tensor([10, 50])
    with torch.no_grad():
        together = nano(clips, quality)
        for i in range(2):
            alone = nano(clips[i : i + 1], quality[i : i + 1])
            for a, b in zip(together, alone, strict=True):
                assert torch.allclose(a.x_hat[i], b.x_hat[0], atol=1e-4)
                assert float(a.total_bits[i]) == pytest.approx(float(b.total_bits), rel=1e-2)


def test_quality_changes_the_rate_through_one_set_of_weights(nano):
    clip = moving_clip(2, 64, 64)
    sizes = []
    for quality in (0, 21, 42, 63):
        payload, _, output = nano.encode_frame(clip[:, 0], quality, None)
        second, _, _ = nano.encode_frame(clip[:, 1], quality, output.state)
        sizes.append(len(payload) + len(second))
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_decoder_needs_the_right_reference(nano):
    clip = moving_clip(3, 64, 64)
    _, _, first = nano.encode_frame(clip[:, 0], 40, None)
    payload, quality, second = nano.encode_frame(clip[:, 1], 40, first.state)
    with pytest.raises(DecodeMismatch):
        nano.decode_frame(payload, quality, second.state)


def test_refresh_mines_the_frame_alone():
    model = lively(variant({"refresh_period": 4}))
    with torch.no_grad():
        past = model(moving_clip(2, 64, 64), torch.tensor([30]))[1].state
        adaptor = model.inter.adaptor
        of_frame = adaptor.of_frame(past.frame)
        for position in range(1, 12):  # of the frame to code
            state = model.refreshed(replace(past, position=position - 1))
            assert torch.equal(adaptor(state, position), of_frame) == (position % 4 == 1)
            assert state.latents is past.latents
            never = model.refreshed(replace(past, position=position - 1), 0)
            assert never.feature is past.feature


@pytest.mark.parametrize("residual", RESIDUAL_MODES)
def test_the_features_of_the_decoded_frame_are_what_propagates(residual):
    """Whatever is subtracted: contexts mined from features of a residual alone predict little."""
    strides = {part: {"latent_stride": 8} for part in ("intra", "motion", "residual_codec")}
    torch.manual_seed(0)
    model = VideoModel(variant({"residual": residual, "feature_stride": 2, **strides})).eval()
    with torch.no_grad():
        state = model(moving_clip(2, 64, 64), torch.tensor([60]))[1].state
        features = model.inter.adaptor.of_frame(state.frame)
    assert (state.feature - features).square().mean() < 0.1 * features.square().mean()


def test_hierarchy_is_applied_by_position_with_the_intra_frame_at_zero(nano_config):
    model = VideoModel(nano_config)
    base = torch.tensor([30, 0, 63])
    assert model.frame_quality_index(base, 0).tolist() == [30, 0, 63]
    offsets = nano_config.hierarchy.quality_offsets
    assert offsets == (-7, 2, -7, -1)
    for position in range(1, 9):
        expected = [min(63, max(0, q + offsets[position % 4])) for q in base.tolist()]
        assert model.frame_quality_index(base, position).tolist() == expected


def test_motion_refiner_starts_near_the_decoded_flow():
    torch.manual_seed(0)
    model = VideoModel(variant({})).eval()
    model.inter.motion_codec.latent.gain.log_gain.data.fill_(5.0)
    clip = moving_clip(2, 64, 64)
    with torch.no_grad():
        motion = model(clip, torch.tensor([30]))[1].motion
    assert motion.decoded.abs().max() > 0.5
    assert (motion.decoded - motion.refined).abs().max() < 0.2


@pytest.mark.parametrize("older", [0, 1])
def test_the_frame_before_the_reference_counts_where_flows_point_to_it(older):
    model = lively(variant({"motion": {"refiner": {"older": older}, "accumulated": False}}))
    clip, quality = moving_clip(4, 64, 64), torch.tensor([30])
    with torch.no_grad():
        first, second, third = (output.state for output in model(clip[:, :3], quality))
        before = half_samples(second.frame)
        assert second.latents.samples is None
        if older:
            assert torch.equal(second.latents.older_samples, half_samples(first.frame))
            assert torch.equal(third.latents.older_samples, before)
        given = model.code_inter(clip[:, 3], quality, third)
        latents = replace(third.latents, older_samples=1 - before)
        other = model.code_inter(clip[:, 3], quality, replace(third, latents=latents))
    assert torch.equal(given.motion.prediction, other.motion.prediction) == (older == 0)
    assert torch.equal(given.motion.warped, other.motion.warped)
    assert torch.equal(given.motion.decoded, other.motion.decoded)


def test_the_first_p_frame_has_the_reference_in_place_of_the_frame_before_it():
    model = lively(variant({}))
    clip, quality = moving_clip(2, 64, 64), torch.tensor([30])
    seen = []
    model.inter.motion_refiner.register_forward_pre_hook(lambda _, given: seen.append(given[3]))
    with torch.no_grad():
        past = model.code_intra(clip[:, 0], quality).state
        model.code_inter(clip[:, 1], quality, past)
    assert torch.equal(seen[0], half_samples(past.frame))


def test_frames_are_predicted_from_what_was_accumulated():
    model = lively(variant({}))
    clip, quality = moving_clip(3, 64, 64), torch.tensor([30])
    with torch.no_grad():
        past = model(clip[:, :2], quality)[1].state
        given = model.code_inter(clip[:, 2], quality, past)
        alone = replace(past.latents, samples=half_samples(past.frame))
        other = model.code_inter(clip[:, 2], quality, replace(past, latents=alone))
    assert not torch.equal(past.latents.samples, alone.samples)
    assert torch.equal(given.motion.decoded, other.motion.decoded)
    assert not torch.equal(given.motion.warped, other.motion.warped)


@pytest.mark.parametrize("stride", [8, 16])
def test_the_bound_on_symbols_follows_from_the_config(stride):
    cfg = variant({"motion": {"latent_stride": stride}})
    model = VideoModel(cfg)
    assert model.padded_size(40, 70) == (48, 80)  # of the coarsest latent, the residual's
    symbols = 0
    for part in (cfg.motion, cfg.residual_codec):
        height, width = 48 // part.latent_stride, 80 // part.latent_stride
        symbols += part.latent * height * width + part.hyper * -(-height // 4) * -(-width // 4)
    assert model.inter.symbols(FrameSize(48, 80)) == symbols
