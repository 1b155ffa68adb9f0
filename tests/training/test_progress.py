import pytest

from cmfr.training.config import load_train_config
from cmfr.training.progress import Progress, hours


@pytest.fixture
def cfg(tmp_path):
    """10 steps of 8 pictures, then 20 steps of 2 clips of 4 frames at twice the size."""
    path = tmp_path / "train.yaml"
    path.write_text(
        """
model: cmfr-nano
run_dir: run
data: {train: {kind: generated}}
stages:
  - {name: a, objective: intra, trainable: [intra], frames: 1, steps: 10, batch: 8, crop: 16, lr: 1}
  - {name: b, objective: inter, trainable: [inter], frames: 4, steps: 20, batch: 2, crop: 32, lr: 1}
"""
    )
    return load_train_config(path)


def test_time_left_is_that_of_all_stages_by_what_they_code(cfg):
    """A step of the second stage codes four times the pixels of one of the first."""
    progress = Progress()
    whole = progress.work_left(cfg)
    progress.step = 5
    assert progress.work_left(cfg) == pytest.approx(whole * (5 + 80) / 90)
    assert progress.time_left(cfg, 30.0, whole) == pytest.approx(30 / 5 * 85)
    progress = Progress(stage=1, step=20, total_steps=30)
    assert progress.work_left(cfg) == 0 and progress.time_left(cfg, 30.0, whole) == 0
    assert Progress(stage=2).work_left(cfg) == 0 and Progress(stage=2).finished(cfg)


def test_time_left_ends_with_the_clock(cfg):
    timed = cfg.model_copy(update={"schedule_clock": True, "time_limit_minutes": 2.0})
    progress = Progress(step=5, seconds=50.0)
    whole = Progress().work_left(timed)
    assert progress.time_left(timed, 50.0, whole) == 70
    assert progress.clock(timed) == pytest.approx(50 / 120) and not progress.finished(timed)
    progress = Progress(stage=1, step=1, seconds=90.0, stage_began=60.0)
    assert progress.clock(timed) == pytest.approx(30 / 60)
    assert Progress(seconds=120.0).finished(timed) and not Progress(seconds=120.0).finished(cfg)
    assert Progress(seconds=50.0).clock(cfg) == 0


def test_hours():
    assert [hours(s) for s in (0, 59.6, 3725, 360000)] == [
        "0:00:00", "0:01:00", "1:02:05", "100:00:00",
    ]  # fmt: skip
