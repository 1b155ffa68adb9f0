"""What a training run leaves to look at."""

import pytest
import torch

from cmfr.training.distributed import Team
from cmfr.training.log import Means, TrainLog
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
    log = TrainLog(tmp_path, "ycbcr", 0)
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
    resumed = TrainLog(tmp_path, "ycbcr", 3)  # the fourth was not saved
    resumed.validation("inter", head(4), 1.0, curve(27.0))
    assert drawn[-1]["first"] == curve(25.0) and drawn[-1]["step 4"] == curve(27.0)
    resumed.validation("motion", head(5), 1.0, curve(20.0))
    resumed.close()
    assert drawn[-1]["first"] == curve(20.0)


def test_means_are_of_every_name_however_it_was_added():
    """A cascade's first update shows other names than the next; a resumed run goes on with sums."""
    team, means = Team(0, 1, torch.device("cpu")), Means()

    def add(**values):
        means.add({name: torch.tensor(value) for name, value in values.items()})

    add(loss=1.0, i_frame_psnr=30.0)
    add(loss=2.0)
    add(loss=6.0, i_frame_psnr=40.0)
    state = means.state()
    means = Means()
    means.restore(state, team.device)
    add(norm=0.5)
    assert means.read(team) == {"loss": 3.0, "i_frame_psnr": 35.0, "norm": 0.5}
    assert means.read(team) == {}
    # As states were saved before names were kept together.
    means.restore({"sums": {"loss": torch.tensor(3.0)}, "counts": {"loss": 1}}, team.device)
    add(loss=5.0, psnr=1.0)
    assert means.read(team) == {"loss": 4.0, "psnr": 1.0}
