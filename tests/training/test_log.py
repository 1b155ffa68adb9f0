"""What a training run leaves to look at."""

import pytest

from cmfr.training.log import TrainLog
from cmfr.training.validation import RDPoint


@pytest.fixture
def drawn(monkeypatch):
    """The curves of each figure that is drawn."""
    figures = []

    def draw(curves):
        figures.append(curves)
        from matplotlib.figure import Figure

        return Figure()

    monkeypatch.setattr("cmfr.training.log._rd_figure", draw)
    return figures


def curve(level):
    return [RDPoint(q, 0.125 * (q + 1), level + q, 0.5) for q in (0, 63)]


def head(total):
    return {"stage": "any", "step": total, "total": total}


def test_first_is_the_first_curve_of_its_kind(tmp_path, drawn):
    """I-frames alone are no beginning for videos; and a resumed run remembers."""
    log = TrainLog(tmp_path, "ycbcr", 0, "float32")
    for total, (group, level) in enumerate(
        [("intra", 30.0), ("intra", 31.0), ("inter", 25.0), ("inter", 26.0)], 1
    ):
        log.validation(group, head(total), 1.0, curve(level))
    log.close()
    firsts = [figure["first"][0].psnr_yuv for figure in drawn]
    assert firsts == [30.0, 30.0, 25.0, 25.0]
    assert [figure[f"step {n}"][0].psnr_yuv for n, figure in enumerate(drawn, 1)] == [
        30.0, 31.0, 25.0, 26.0,
    ]  # fmt: skip
    resumed = TrainLog(tmp_path, "ycbcr", 3, "float32")  # the fourth was not saved
    resumed.validation("inter", head(4), 1.0, curve(27.0))
    assert drawn[-1]["first"] == curve(25.0) and drawn[-1]["step 4"] == curve(27.0)
    resumed.validation("motion", head(5), 1.0, curve(20.0))
    resumed.close()
    assert drawn[-1]["first"] == curve(20.0)
