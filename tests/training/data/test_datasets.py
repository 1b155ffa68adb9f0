import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import SHARED, moving_clip
from PIL import Image

from cmfr.training.data.config import ClipsConfig, GeneratedConfig, ImagesConfig, SeptupletsConfig
from cmfr.training.data.datasets import Preloaded, Vimeo90kSeptuplet, open_data
from cmfr.training.data.generated import generated_clip
from cmfr.video.info import ColorInfo, Frame, VideoInfo
from cmfr.video.reader import open_video
from cmfr.video.writer import open_writer


def write_picture(path, seed, size=(48, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def write_video(path, frames=5, height=32, width=48, seed=0):
    info = VideoInfo(width, height, Fraction(25), ColorInfo(), "420", 8)
    with open_writer(path, info) as writer:
        for x in (moving_clip(frames, height, width, seed)[0] * 255).byte().numpy():
            writer.write(Frame((x[0], x[1, ::2, ::2].copy(), x[2, ::2, ::2].copy())))


@pytest.fixture
def vimeo(tmp_path):
    """Two septuplets, as the data set is distributed."""
    for number, name in enumerate(("00001/0001", "00002/0007")):
        for i in range(1, 8):
            write_picture(tmp_path / "sequences" / name / f"im{i}.png", 10 * number + i)
    (tmp_path / "sep_trainlist.txt").write_text("00001/0001\n00002/0007\n\n")
    return tmp_path


def test_septuplets_are_read_as_distributed(vimeo):
    data = open_data(SeptupletsConfig(root=vimeo))
    assert data.names == ["00001/0001", "00002/0007"] and data.shape(1) == (7, 32, 48)
    third = np.asarray(Image.open(vimeo / "sequences/00002/0007/im3.png"))
    assert np.array_equal(data.read(1).first[2].permute(1, 2, 0).numpy(), third)
    assert torch.equal(data.read(1, [1, 2]).first, data.read(1).first[1:3])


def test_lists_lead_nowhere_but_into_their_folder(vimeo, tmp_path_factory):
    def opened(list_file="sep_trainlist.txt"):
        return open_data(SeptupletsConfig(root=vimeo, list_file=list_file))

    outside = tmp_path_factory.mktemp("outside")
    write_picture(outside / "im1.png", 1)
    for name in ("../sep.txt", str(vimeo / "sep_trainlist.txt")):
        with pytest.raises(ValueError, match="no name of something inside a folder"):
            opened(name)
    for name in ("../../00001", str(outside)):
        (vimeo / "sep_trainlist.txt").write_text(f"00001/0001\n{name}\n")
        with pytest.raises(ValueError, match="no name of something inside a folder"):
            opened()
    (vimeo / "sequences" / "linked").symlink_to(outside)
    (vimeo / "sep_trainlist.txt").write_text("00001/0001\nlinked\n")
    with pytest.raises(ValueError, match="linked leads out of .*sequences, by a link"):
        opened().read(1)


def test_what_is_wrong_with_vimeo_is_named(vimeo):
    with pytest.raises(FileNotFoundError, match="Vimeo-90k: no list .*sep_testlist.txt"):
        open_data(SeptupletsConfig(root=vimeo, list_file="sep_testlist.txt"))
    data = open_data(SeptupletsConfig(root=vimeo))
    (vimeo / "sequences/00002/0007/im4.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"im4\.png is not a picture that can be read"):
        data.read(1)
    write_picture(vimeo / "sequences/00002/0007/im4.png", 1, size=(32, 32))
    with pytest.raises(ValueError, match=r"im4\.png is 32x32, im1\.png is 48x32"):
        data.read(1)


@pytest.mark.skipif(not (SHARED / "data" / "train").is_dir(), reason="no real clips here")
def test_a_tree_of_real_septuplets(tmp_path):
    """Real frames in Vimeo-90k's layout come back as they were written."""
    names = []
    for number, path in enumerate(sorted((SHARED / "data" / "train").glob("*.mp4"))[:2]):
        names.append(f"{number + 1:05d}/0001")
        with open_video(path, frames=7) as reader:
            info = replace(reader.info, color=ColorInfo("bt709", "full"))
            with open_writer(tmp_path / "frames", info) as out:
                for frame in reader:
                    out.write(frame)
        folder = tmp_path / "sequences" / names[-1]
        folder.parent.mkdir(parents=True)
        (tmp_path / "frames").rename(folder)
        for i, picture in enumerate(sorted(folder.iterdir()), 1):
            picture.rename(folder / f"im{i}.png")
    (tmp_path / "sep_trainlist.txt").write_text("\n".join(names))
    data = Vimeo90kSeptuplet(tmp_path, "sep_trainlist.txt")
    assert data.shape(0) == (7, 256, 448)
    for index in range(2):
        clip = data.read(index)
        assert clip.first.shape == (7, 3, 256, 448)
        assert clip.first.float().std() > 10  # real pictures, not gray ones


def test_a_folder_of_videos(tmp_path):
    for seed in range(3):
        write_video(tmp_path / f"{seed}.mkv", seed=seed)
    (tmp_path / "notes.txt").write_text("not a clip")
    data = open_data(ClipsConfig(root=tmp_path, exclude=("1*",)))
    assert data.names == ["0.mkv", "2.mkv"]
    assert data.shape(1) == (5, 32, 48)
    clip = data.read(1)
    assert clip.first.shape == (5, 1, 32, 48) and clip.chroma.shape == (5, 2, 16, 24)
    part = data.read(1, [1, 3])
    assert torch.equal(part.first, clip.first[[1, 3]])
    assert torch.equal(part.chroma, clip.chroma[[1, 3]])
    held_out = open_data(ClipsConfig(root=tmp_path, include=("1*",)))
    assert held_out.names == ["1.mkv"]


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.8])
def test_what_is_held_out_and_the_rest_are_the_whole(share):
    sets = [
        open_data(GeneratedConfig(count=10, exclude=("*0002",), hold_out=share, held_out=held_out))
        for held_out in (False, True)
    ]
    names = [name for data in sets for name in data.names]
    assert names == [f"scene{i:04d}" for i in range(10) if i != 2]
    assert len(sets[-1].names) == math.ceil(share * 9)


def test_a_set_of_which_all_is_held_out_is_named(tmp_path):
    write_video(tmp_path / "0.mkv")
    with pytest.raises(ValueError, match="holds no clips to train on beside those held out"):
        open_data(ClipsConfig(root=tmp_path, hold_out=0.02))


def test_a_folder_of_frame_folders(tmp_path):
    for clip in ("b", "a"):
        for i in range(12):
            write_picture(tmp_path / clip / f"{i:03d}.png", i)
    (tmp_path / "empty").mkdir()
    data = open_data(ClipsConfig(root=tmp_path))
    assert data.names == ["a", "b"] and data.shape(0) == (12, 32, 48)
    assert torch.equal(data.read(0, [10, 11]).first, data.read(0).first[10:])


def test_pictures_are_in_the_order_of_their_numbers(tmp_path):
    for i in (12, 2, 11, 1, 10, *range(3, 10)):
        path = tmp_path / "a" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (48, 32), (i, i, i)).save(path)
    data = open_data(ClipsConfig(root=tmp_path))
    assert data.read(0).first[:, 0, 0, 0].tolist() == list(range(1, 13))
    assert data.read(0, [8, 9]).first[:, 0, 0, 0].tolist() == [9, 10]
    (tmp_path / "a" / "5.png").unlink()
    with pytest.raises(ValueError, match="the numbered pictures have gaps: 5 missing"):
        open_data(ClipsConfig(root=tmp_path))


def test_hidden_files_are_no_clips(tmp_path):
    """What is being written, and what macOS leaves beside files."""
    write_video(tmp_path / "cut.mp4")
    write_picture(tmp_path / "pictures" / "1.png", 0)
    for name in ("._cut.mp4", ".x.0123abcd-89abcdef.part.mp4", "pictures/._1.png"):
        (tmp_path / name).write_bytes(b"no video")
    assert open_data(ClipsConfig(root=tmp_path, include=("*.mp4",))).names == ["cut.mp4"]
    assert open_data(ClipsConfig(root=tmp_path, include=("pict*",))).shape(0) == (1, 32, 48)
    assert open_data(ImagesConfig(root=tmp_path)).names == ["pictures/1.png"]


def test_a_video_that_became_shorter_is_named(tmp_path):
    write_video(tmp_path / "a.mp4", frames=9)
    data = open_data(ClipsConfig(root=tmp_path))
    assert data.shape(0) == (9, 32, 48)
    write_video(tmp_path / "a.mp4", frames=5)
    with pytest.raises(ValueError, match=r"a\.mp4 ends before frame 6, which it says"):
        data.read(0, [4, 5, 6])


def test_a_folder_of_images(tmp_path):
    write_picture(tmp_path / "a.png", 0, size=(40, 24))
    write_picture(tmp_path / "more" / "b.jpg", 1, size=(64, 48))
    data = open_data(ImagesConfig(root=tmp_path))
    assert data.names == ["a.png", "more/b.jpg"]
    assert [data.shape(i) for i in range(2)] == [(1, 24, 40), (1, 48, 64)]
    assert data.read(1).first.shape == (1, 3, 48, 64)


def test_preloaded_clips_are_the_same(tmp_path):
    write_video(tmp_path / "a.mkv", frames=9)
    data = open_data(ClipsConfig(root=tmp_path))
    kept = Preloaded(data, torch.device("cpu"))
    assert kept.shape(0) == data.shape(0)
    for frames in (None, [3], [2, 5, 8], [0, 1, 2]):
        a, b = data.read(0, frames), kept.read(0, frames)
        assert torch.equal(a.first, b.first) and torch.equal(a.chroma, b.chroma)


def test_generated_scenes_move_and_are_the_same_everywhere():
    clip = generated_clip(3, 4, (96, 64))
    assert clip.shape == (4, 3, 64, 96) and 0 <= clip.min() and clip.max() <= 1
    assert torch.equal(clip, generated_clip(3, 4, (96, 64)))
    assert not torch.equal(clip, generated_clip(4, 4, (96, 64)))
    steps = (clip[1:] - clip[:-1]).abs().mean((1, 2, 3))
    assert (steps > 0.002).all() and (steps < 0.1).all()


def test_missing_and_unfit_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        open_data(ClipsConfig(root=tmp_path / "absent"))
    with pytest.raises(ValueError, match="holds no clips"):
        open_data(ClipsConfig(root=tmp_path))
    write_video(tmp_path / "a.mkv")
    write_picture(tmp_path / "frames" / "1.png", 0)
    with pytest.raises(ValueError, match="both videos and folders of frames"):
        open_data(ClipsConfig(root=tmp_path))
    (tmp_path / "frames" / "1.png").unlink()
    info = VideoInfo(32, 32, Fraction(25), ColorInfo(), "444", 8)
    with open_writer(tmp_path / "b.mkv", info) as writer:
        plane = np.zeros((32, 32), np.uint8)
        writer.write(Frame((plane, plane, plane)))
    data = open_data(ClipsConfig(root=tmp_path))
    with pytest.raises(ValueError, match=r"b\.mkv: training clips are 8-bit 4:2:0"):
        data.read(1)
