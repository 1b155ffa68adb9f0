import torch

from cmfr.complexity import count, time_frames
from cmfr.config import PRESETS
from cmfr.video_codec import VideoCodec


def measured(name):
    return count(VideoCodec(PRESETS[name]))


def test_budget_of_the_small_model():
    intra, inter = measured("cmfr-s")
    assert intra.parameters_m + inter.parameters_m <= 6
    assert inter.encode_kmac_per_pixel <= 100 and inter.decode_kmac_per_pixel <= 60
    assert intra.encode_kmac_per_pixel <= 100 and intra.decode_kmac_per_pixel <= 60


def test_budget_of_the_paper_scale_model():
    _, inter = measured("cmfr")
    # DCVC-DC: 1336 / 910 kMAC per pixel
    assert inter.encode_kmac_per_pixel <= 1336 and inter.decode_kmac_per_pixel <= 910


def test_counter_agrees_with_a_hand_count(nano):
    from torch.utils.flop_counter import FlopCounterMode

    layer = nano.inter.feature_extractor.stem.conv
    x = torch.rand(1, layer.in_channels, 16, 16)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 9 * layer.in_channels * layer.out_channels * 256


def test_timing_covers_both_frame_types(nano):
    rows = time_frames(nano, [torch.rand(1, 3, 64, 64) for _ in range(4)])
    assert [row.frame for row in rows] == ["intra", "inter"]
    assert all(row.encode_fps > 0 and row.decode_fps > 0 for row in rows)
