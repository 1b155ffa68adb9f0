"""BD-rate against known values, and every refusal."""

import json
import math

import pytest
from conftest import SHARED

from cmfr.evaluation.bd_rate import NotComparable, bd_quality, bd_rate, mean_bd_rate

ANCHOR = [(0.02, 32.1), (0.045, 34.4), (0.09, 36.6), (0.2, 38.9)]
VECTORS = SHARED / "parity" / "bdrate_vectors.json"


def curve(rates, qualities):
    return list(zip(rates, qualities, strict=True))


def test_less_rate_at_equal_quality_is_exactly_that_much_less():
    result = bd_rate(ANCHOR, [(0.9 * rate, quality) for rate, quality in ANCHOR])
    assert result.percent == pytest.approx(-10, abs=1e-9)
    assert (result.low, result.high, result.overlap) == (32.1, 38.9, 1)
    assert bd_rate(ANCHOR, ANCHOR).percent == 0


def test_order_number_and_scale_of_points_do_not_matter():
    test = [(0.018, 32.0), (0.05, 35.0), (0.11, 37.4), (0.15, 38.0), (0.23, 39.6)]
    expected = bd_rate(ANCHOR, test)
    assert bd_rate(ANCHOR[::-1], [test[i] for i in (3, 0, 4, 2, 1)]) == expected
    scaled = bd_rate([(7 * r, q) for r, q in ANCHOR], [(7 * r, q) for r, q in test])
    assert scaled.percent == pytest.approx(expected.percent, abs=1e-9)


def test_opposite_directions_are_reciprocal():
    test = [(0.03, 32.5), (0.05, 34.9), (0.1, 36.6), (0.3, 39.5)]
    there, back = bd_rate(ANCHOR, test).percent, bd_rate(test, ANCHOR).percent
    assert (1 + there / 100) * (1 + back / 100) == pytest.approx(1, abs=1e-9)


def test_partial_overlap_is_said():
    """As the part of the shorter curve's range."""
    result = bd_rate(ANCHOR, [(0.1, 36.0), (0.2, 38.0), (0.4, 40.0), (0.8, 42.0)])
    assert (result.low, result.high) == (36.0, 38.9)
    assert result.overlap == pytest.approx(2.9 / 6.0)
    inside = bd_rate(ANCHOR, [(0.03, 33.0), (0.05, 34.0), (0.07, 35.0), (0.09, 36.0)])
    assert inside.overlap == 1


def test_a_sliver_at_the_end_of_a_curve_has_no_bd_rate():
    """Below a quarter of the shorter range nothing is said of two curves; from there on it is."""

    def shifted(share):
        span = 6.8  # of both
        return [(rate, quality + span * (1 - share)) for rate, quality in ANCHOR]

    for share in (0.0008, 0.02, 0.249):
        with pytest.raises(NotComparable, match=rf"overlap by {share:.1%} of .* needs 25%"):
            bd_rate(ANCHOR, shifted(share))
        with pytest.raises(NotComparable):
            bd_rate(shifted(share), ANCHOR)
    assert bd_rate(ANCHOR, shifted(0.251)).overlap == pytest.approx(0.251)


def test_the_mean_says_what_it_is_over():
    mean = mean_bd_rate({"a": -10.0, "b": None, "c": 4.0})
    assert (mean.percent, mean.over, mean.left_out) == (-3.0, "2 of 3", ("b",))
    assert mean_bd_rate({"a": 1.0}).over == "1 of 1"
    nothing = mean_bd_rate({"a": None})
    assert (nothing.percent, nothing.over) == (None, "0 of 1")


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (ANCHOR[:3], "the tested curve has 3 points, and BD-rate needs 4"),
        ([*ANCHOR, (0.3, math.nan)], "not finite"),
        ([*ANCHOR, (math.inf, 40)], "not finite"),
        ([(0.0, 30), *ANCHOR], "rate of 0, which has no logarithm"),
        ([(0.03, 32.5), (0.025, 34.0), (0.1, 36.9), (0.22, 39.0)], "does not rise strictly"),
        ([*ANCHOR, (0.2, 39.5)], "does not rise strictly"),  # two qualities at one rate
        ([*ANCHOR, (0.3, 38.9)], "does not rise strictly"),  # more rate for nothing
        (
            [(r, q + 20) for r, q in ANCHOR],
            "32.1..38.9, and the tested curve, 52.1..58.9, do not",
        ),
        ([(r, q + 6.8) for r, q in ANCHOR], "do not overlap"),  # they touch in one point
    ],
)
def test_what_has_no_answer_is_refused_with_the_reason(test, reason):
    with pytest.raises(NotComparable, match=reason):
        bd_rate(ANCHOR, test)
    with pytest.raises(NotComparable):
        bd_rate(test, ANCHOR)


needs_vectors = pytest.mark.skipif(not VECTORS.is_file(), reason="no shared BD-rate vectors")


# The reference samples the integral of the PCHIP curves at 100 points and sums trapezoids; ours is
# exact. That moves a curve of even slopes by less than 0.001 percentage points, and the steepest
# one of the vectors by 0.0021.
@needs_vectors
def test_reference_primitives():
    for vector in json.loads(VECTORS.read_text())["primitive"]:
        anchor, test = curve(vector["R1"], vector["D1"]), curve(vector["R2"], vector["D2"])
        if vector["name"] in ("no_overlap", "nonmonotone_rate", "three_points"):
            with pytest.raises(NotComparable):
                bd_rate(anchor, test)
            continue
        percent = bd_rate(anchor, test).percent
        assert percent == pytest.approx(vector["bd_rate_pchip100"], abs=0.003), vector["name"]
        assert percent == pytest.approx(vector["bd_rate_pchip_exact"], abs=1e-9), vector["name"]


@needs_vectors
def test_reference_curves_of_a_real_codec():
    vectors = json.loads(VECTORS.read_text())
    for recipe, case in vectors["end_to_end"].items():
        for name, v in case["class"].items():
            percent = bd_rate(curve(v["R1"], v["D1"]), curve(v["R2"], v["D2"])).percent
            assert percent == pytest.approx(v["bd_rate_pchip100"], abs=0.002), (recipe, name)
    expected = vectors["end_to_end"]["jitter"]["sequence_bd_rate_pchip100"]
    anchor, test = (vectors["small_pair"][side]["HEVC_D"] for side in ("anchor", "test"))
    for name in anchor:
        points = [
            [(p["ave_all_frame_bpp"], p["ave_all_frame_psnr"]) for p in side[name].values()]
            for side in (anchor, test)
        ]
        assert bd_rate(*points).percent == pytest.approx(expected[name], abs=0.002), name


def test_a_sliver_of_rates_has_no_bd_quality():
    """Below a quarter of the shorter range, whatever of the qualities is common."""

    def shifted(share):
        factor = 10 ** (1 - share)  # of a range of one decade
        return [(rate * factor, quality) for rate, quality in ANCHOR]

    assert ANCHOR[-1][0] / ANCHOR[0][0] == pytest.approx(10)
    assert bd_quality(ANCHOR, shifted(0.26)) < 0 < bd_quality(shifted(0.26), ANCHOR)
    for share in (-0.1, 0.02, 0.24):
        assert bd_quality(ANCHOR, shifted(share)) is None
