import numpy as np
import pytest
import torch
from PIL import Image

from cmfr.color import planes_to_tensor
from cmfr.data import Clip, ClipSource, Cut, CutPlan, cut_window, read_video_clip, to_network
from cmfr.train_config import DataConfig, StageConfig
from cmfr.video_in import open_video

STAGE = StageConfig(
    name="s", objective="inter", trainable=("inter",), frames=3, crop=32, batch=6, steps=10, lr=1
)


def plan(tmp_path, lengths=(9, 4, 2), sizes=((64, 96), (48, 48), (64, 64)), seed=(0, 0), **data):
    return CutPlan(list(lengths), list(sizes), DataConfig(root=tmp_path, **data), STAGE, seed)


def test_batches_depend_on_seed_and_step_alone(tmp_path):
    assert plan(tmp_path).batch(3) == plan(tmp_path).batch(3)
    assert plan(tmp_path).batch(3) != plan(tmp_path).batch(4)
    assert plan(tmp_path).batch(3) != plan(tmp_path, seed=(1, 0)).batch(3)


def test_cuts_lie_inside_their_clips(tmp_path):
    drawn = plan(tmp_path, gaps=(1, 2, 3))
    cuts = [cut for step in range(60) for cut in drawn.batch(step)]
    assert {cut.clip for cut in cuts} == {0, 1}  # the third is too short
    gaps = set()
    for cut in cuts:
        length, (height, width) = drawn.lengths[cut.clip], drawn.sizes[cut.clip]
        assert 0 <= min(cut.frames) and max(cut.frames) < length
        assert cut.top + 32 <= height and cut.left + 32 <= width
        assert cut.top % 2 == cut.left % 2 == 0
        gaps.add(cut.frames[1] - cut.frames[0])
    assert gaps == {1, 2, 3, -1, -2, -3}
    assert {cut.quality for cut in cuts} > set(range(5, 60, 13)) or len(cuts) < 64
    assert max(cut.quality for cut in cuts) <= 63


def test_too_short_data_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no clip has 3 frames of 32x32 pixels"):
        plan(tmp_path, lengths=(2,), sizes=((64, 64),))


def test_a_window_is_the_crop_of_the_whole_picture(yuv_file):
    clip = read_video_clip(yuv_file)
    with open_video(yuv_file) as reader:
        whole = [planes_to_tensor(frame, reader.info, "ycbcr")[0] for frame in reader]
    cut = Cut(0, (4, 2, 0), 6, 10, (True, False), 0)
    x = to_network(*cut_window(clip, cut, 32), "ycbcr")
    expected = torch.stack([whole[t][:, 6:38, 10:42].flip(2) for t in (4, 2, 0)])
    assert torch.equal(x, expected)


def test_septuplets_are_read_as_distributed(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("00001/0001", "00002/0007"):
        folder = tmp_path / "sequences" / name
        folder.mkdir(parents=True)
        for i in range(1, 8):
            Image.fromarray(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(
                folder / f"im{i}.png"
            )
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n00002/0007\n\n")
    source = ClipSource(DataConfig(kind="septuplets", root=tmp_path))
    assert len(source) == 2
    clip = source[1]
    assert len(clip) == 7 and clip.size == (32, 48) and clip.chroma is None
    third = np.asarray(Image.open(tmp_path / "sequences/00002/0007/im3.png"))
    assert np.array_equal(clip.first[2].permute(1, 2, 0).numpy(), third)


def test_preloaded_and_read_clips_are_the_same(tmp_path, yuv_file):
    from cmfr.frames import ColorInfo, VideoInfo
    from cmfr.video_out import open_writer

    folder = tmp_path / "clips"
    folder.mkdir()
    with open_video(yuv_file) as reader:
        info = VideoInfo(80, 48, reader.info.frame_rate, ColorInfo(), "420", 8)
        with open_writer(folder / "a.mkv", info) as writer:
            for frame in reader:
                writer.write(frame)
    source = ClipSource(DataConfig(root=folder))
    read = source[0]
    source.preload(torch.device("cpu"))
    assert torch.equal(read.first, source[0].first)
    assert torch.equal(read.chroma, source[0].chroma)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        ClipSource(DataConfig(root=tmp_path / "absent"))
    with pytest.raises(ValueError, match="holds no clips"):
        ClipSource(DataConfig(root=tmp_path))


def test_rgb_clips_become_ycbcr_for_a_ycbcr_network():
    gray = Clip(torch.full((2, 3, 16, 16), 128, dtype=torch.uint8), None)
    x = to_network(*cut_window(gray, Cut(0, (0, 1), 0, 0, (False, True), 0), 16), "ycbcr")
    expected = torch.tensor([128 / 255, 0.5, 0.5])[:, None, None].expand(2, 3, 16, 16)
    assert torch.allclose(x, expected, atol=1e-5)
