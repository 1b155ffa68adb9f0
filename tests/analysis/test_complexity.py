import pytest
import torch

from cmfr.analysis.complexity import attributed, count, count_parts
from cmfr.models.presets import PRESETS
from cmfr.models.video_model import VideoModel


def measured(name):
    return count(VideoModel(PRESETS[name]))


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


def test_parts_add_up_to_the_frame(nano):
    _, inter = count(nano)
    parts = count_parts(nano)
    assert sum(p.encode_kmac_per_pixel for p in parts) == pytest.approx(
        inter.encode_kmac_per_pixel, abs=0.1
    )
    assert sum(p.decode_kmac_per_pixel for p in parts) == pytest.approx(
        inter.decode_kmac_per_pixel, abs=0.1
    )
    by_name = {p.part: p for p in parts}
    assert by_name["motion_estimation"].decode_kmac_per_pixel == 0  # the encoder's alone
    total = sum(p.parameters_m for p in parts)
    assert total == pytest.approx(inter.parameters_m, abs=0.01)


def test_readings_are_attributed_without_what_is_within():
    inner, outer = torch.nn.Identity(), torch.nn.Identity()
    reading = 0.0

    def work(amount):
        nonlocal reading
        reading += amount

    outer.forward = lambda x: (work(1), inner(x), work(2))
    inner.forward = lambda x: work(10)
    with attributed({outer: "outer", inner: "inner"}, lambda: reading) as totals:
        outer(0)
        work(100)  # outside of both
        outer(0)
    assert totals == {"outer": 6, "inner": 20}
    outer(0)
    assert totals == {"outer": 6, "inner": 20}
