import dataclasses

import pytest
import torch
from conftest import write_yuv

from cmfr.training.config import StageConfig
from cmfr.training.data.config import ClipsConfig, GeneratedConfig
from cmfr.training.data.datasets import (
    Clip,
    GeneratedClips,
    Preloaded,
    open_data,
    read_video_clip,
)
from cmfr.training.data.sampler import Sample, Sampler, batches, sample_window, to_network
from cmfr.training.distributed import Team
from cmfr.utils.errors import UserError
from cmfr.video.color import planes_to_tensor
from cmfr.video.reader import open_video

STAGE = StageConfig(
    name="s", objective="inter", trainable=("inter",), frames=3, crop=32, batch=6, steps=10, lr=1
)
SHAPES = [(9, 64, 96), (4, 48, 48), (2, 64, 64)]
CPU = torch.device("cpu")


def sampler(shapes=SHAPES, seed=(0, 0), stage=STAGE, **data):
    return Sampler(shapes, GeneratedConfig(**data), stage, seed)


class OneClip:
    """A set of one clip in memory."""

    def __init__(self, clip):
        self.names, self.clip = ["clip"], clip

    def __len__(self):
        return 1

    def read(self, index, frames=None):
        keep = slice(None) if frames is None else list(frames)
        chroma = None if self.clip.chroma is None else self.clip.chroma[keep]
        return Clip(self.clip.first[keep], chroma)


def test_batches_depend_on_seed_and_step_alone():
    assert sampler().batch(3) == sampler().batch(3)
    assert sampler().batch(3) != sampler().batch(4)
    assert sampler().batch(3) != sampler(seed=(1, 0)).batch(3)


def test_processes_share_a_batch():
    whole = sampler().batch(5)
    teams = [Team(rank, 3, CPU) for rank in range(3)]
    assert [c for team in teams for c in sampler().batch(5, team.share(6))] == whole


def test_cuts_lie_inside_their_clips():
    drawn = sampler(gaps=(1, 2, 3))
    samples = [sample for step in range(60) for sample in drawn.batch(step)]
    assert {sample.clip for sample in samples} == {0, 1}  # the third is too short
    gaps = set()
    for sample in samples:
        length, height, width = SHAPES[sample.clip]
        assert 0 <= min(sample.frames) and max(sample.frames) < length
        assert sample.top + 32 <= height and sample.left + 32 <= width
        assert sample.top % 2 == sample.left % 2 == 0
        gaps.add(sample.frames[1] - sample.frames[0])
    assert gaps == {1, 2, 3, -1, -2, -3}
    qualities = {sample.quality for sample in samples}
    assert min(qualities) < 4 and max(qualities) > 59 and qualities <= set(range(64))


def test_an_epoch_visits_clips_in_proportion_to_their_length():
    drawn = sampler(shapes=[(9, 64, 64), (3, 64, 64), (4, 64, 64), (2, 64, 64)])
    for epoch in range(3):  # 3 + 1 + 1 turns; batches of 6 do not align with epochs of 5
        clips = [drawn._sample(sample).clip for sample in range(5 * epoch, 5 * epoch + 5)]
        assert sorted(clips) == [0, 0, 0, 1, 2]
    assert drawn.epoch(step=10) == pytest.approx(60 / 5)


def test_all_samples_of_a_step_have_its_lead_and_come_from_clips_long_enough():
    stage = STAGE.model_copy(update={"lead": (0, 4)})
    drawn, seen = sampler(stage=stage, gaps=(1, 2)), set()
    for step in range(40):
        samples = drawn.batch(step)
        lead = drawn.lead(step)
        assert {len(sample.frames) for sample in samples} == {3 + lead}
        assert all(max(sample.frames) < SHAPES[sample.clip][0] for sample in samples)
        seen |= {(lead, sample.clip) for sample in samples}
        assert samples == sampler(stage=stage, gaps=(1, 2)).batch(step)  # whatever came before
    assert seen == {(0, 0), (0, 1), (4, 0)}  # the second clip is too short for a lead
    with pytest.raises(ValueError, match="stage s: no clip has 10 frames of 32x32 pixels"):
        sampler(stage=STAGE.model_copy(update={"lead": (0, 7)}))


def test_qualities_and_reversal_follow_the_configuration():
    stage = STAGE.model_copy(update={"qualities": (20, 22)})
    samples = [
        sample for step in range(20) for sample in sampler(stage=stage, reversal=False).batch(step)
    ]
    assert {sample.quality for sample in samples} == {20, 21, 22}
    assert all(sample.frames[0] < sample.frames[-1] for sample in samples)


def test_too_short_data_is_an_error():
    with pytest.raises(ValueError, match="stage s: no clip has 3 frames of 32x32 pixels"):
        sampler(shapes=[(2, 64, 64)])


def test_a_window_is_the_crop_of_the_whole_picture(tmp_path):
    path = tmp_path / "moving_80x48_25.yuv"
    write_yuv(path, 6, 48, 80)
    with open_video(path) as reader:
        whole = [planes_to_tensor(frame, reader.info, "ycbcr")[0] for frame in reader]
    for clips in (OneClip(read_video_clip(path)), Preloaded(OneClip(read_video_clip(path)), CPU)):
        window = sample_window(clips, Sample(0, (4, 2, 0), 6, 10, (True, False), 0), 32)
        x = to_network(window.first, window.chroma, "ycbcr")
        expected = torch.stack([whole[t][:, 6:38, 10:42].flip(2) for t in (4, 2, 0)])
        assert torch.equal(x, expected)


def test_rgb_clips_become_ycbcr_for_a_ycbcr_network():
    gray = OneClip(Clip(torch.full((2, 3, 16, 16), 128, dtype=torch.uint8), None))
    window = sample_window(gray, Sample(0, (0, 1), 0, 0, (False, True), 0), 16)
    expected = torch.tensor([128 / 255, 0.5, 0.5])[:, None, None].expand(2, 3, 16, 16)
    assert torch.allclose(to_network(window.first, None, "ycbcr"), expected, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_preloaded_clips_and_workers_give_the_same_batches(workers):
    data = GeneratedConfig(count=3, frames=6, size=(64, 48), workers=workers)
    clips = GeneratedClips(data)
    drawn = Sampler([clips.shape(i) for i in range(3)], data, STAGE, (0, 0))
    team = Team(0, 1, CPU)
    read = list(batches(clips, drawn, 7, team, "ycbcr"))
    preloaded = list(batches(Preloaded(clips, CPU), drawn, 7, team, "ycbcr"))
    assert len(read) == len(preloaded) == 3  # steps 7, 8, 9
    for (x, q), (y, p) in zip(read, preloaded, strict=True):
        assert x.shape == (6, 3, 3, 32, 32) and torch.equal(x, y) and torch.equal(q, p)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_one_sentence_from_workers_too(tmp_path, workers):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"no picture")
    data = ClipsConfig(root=tmp_path, workers=workers)
    stage = STAGE.model_copy(update={"frames": 1, "crop": 32, "batch": 1, "steps": 2})
    cuts = Sampler([(1, 32, 32)], data, stage, (0, 0))
    with pytest.raises(UserError) as caught:
        list(batches(open_data(data), cuts, 0, Team(0, 1, CPU), "ycbcr"))
    assert str(caught.value).startswith(f"{tmp_path / 'a' / '1.png'} is not a picture that can be")
    assert "Traceback" not in str(caught.value)


def test_halved_samples_are_means_of_larger_windows_and_keep_the_crop():
    augmentation = {"halved": 0.5}
    samples = [
        sample for step in range(40) for sample in sampler(augmentation=augmentation).batch(step)
    ]
    large = [
        sample for sample in samples if sample.clip == 0
    ]  # the other is smaller than two crops
    assert 0.3 < sum(sample.halved for sample in large) / len(large) < 0.7
    assert not any(sample.halved for sample in samples if sample.clip != 0)
    assert all(
        sample.top + 64 <= 64 and sample.left + 64 <= 96 for sample in samples if sample.halved
    )
    luma = torch.arange(64 * 96, dtype=torch.float32).reshape(64, 96).div(32).byte()
    clip = Clip(luma.expand(9, 1, 64, 96), luma[:32, :48].expand(9, 2, 32, 48))
    window = sample_window(
        OneClip(clip), Sample(0, (0, 1), 0, 4, (False, False), 0, halved=True), 32
    )
    assert window.first.shape == (2, 1, 32, 32) and window.chroma.shape == (2, 2, 16, 16)
    mean = luma[10:12, 24:26].float().mean().round()
    assert window.first[0, 0, 5, 10] == mean


def test_decimated_samples_keep_every_other_sample_and_are_of_the_halved_ones():
    plain = [s for k in range(40) for s in sampler(augmentation={"halved": 0.5}).batch(k)]
    augmentation = {"halved": 0.5, "decimated": 0.4}
    samples = [s for k in range(40) for s in sampler(augmentation=augmentation).batch(k)]
    assert [s.halved for s in samples] == [s.halved for s in plain]
    chosen = [s for s in samples if s.decimated]
    assert all(s.halved for s in chosen)
    assert 0.2 < len(chosen) / sum(s.halved for s in samples) < 0.6
    luma = torch.randint(0, 256, (9, 1, 64, 96), dtype=torch.uint8)
    chroma = torch.randint(0, 256, (9, 2, 32, 48), dtype=torch.uint8)
    sample = Sample(0, (0, 1), 2, 4, (False, False), 0, halved=True, decimated=True)
    window = sample_window(OneClip(Clip(luma, chroma)), sample, 16)
    assert torch.equal(window.first, luma[:2, :, 2:34:2, 4:36:2])
    assert torch.equal(window.chroma, chroma[:2, :, 1:17:2, 2:18:2])


def test_sharpening_strengthens_detail_of_luma_alone():
    checkers = 128 + 8 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2 - 1)
    clip = Clip(
        checkers.byte().expand(3, 1, 32, 32), checkers[:16, :16].byte().expand(3, 2, 16, 16)
    )
    sample = Sample(0, (0, 1, 2), 0, 0, (False, False), 0, sharpening=1.5)
    window = sample_window(OneClip(clip), sample, 32)
    swing = window.first[:, :, 4:-4, 4:-4].float() - 128
    assert (swing.abs() == 8 * 2.5).all()
    assert torch.equal(window.chroma, clip.chroma)


def test_augmentation_leaves_the_other_draws_as_they_were():
    samples = sampler().batch(3)
    sharper = sampler(augmentation={"sharpening": 1.0}).batch(3)
    assert len({sample.sharpening for sample in sharper}) == len(sharper)
    assert [dataclasses.replace(sample, sharpening=0.0) for sample in sharper] == samples
