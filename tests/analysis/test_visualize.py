import numpy as np
import pytest
import torch
from PIL import Image

from cmfr.analysis.visualize import color_bar, grey, heat, tile, titled, to_image


def array(image):
    return np.asarray(image).astype(int)


def test_grey_is_linear_between_its_ends_and_clipped_beyond():
    x = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 2.0]])
    assert array(to_image(grey(x, 0, 1)))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert grey(torch.full((2, 3), 7.0)).shape == (3, 2, 3)  # a flat map is no division by zero
    own = grey(torch.tensor([[3.0, 5.0]]))
    assert own[:, 0].tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("paint", [grey, heat])
@pytest.mark.parametrize("height", [30, 240])
def test_a_color_bar_runs_from_high_to_low_in_the_maps_colors(paint, height):
    bar = color_bar(paint, -2.0, 6.0, height, "px")
    assert bar.height == height
    strip = array(bar)[:, 6]
    ends = array(to_image(paint(torch.tensor([[6.0, -2.0]]), -2.0, 6.0)))[0]
    assert strip[0].tolist() == ends[0].tolist() and strip[-1].tolist() == ends[1].tolist()
    assert (np.diff(strip.sum(1)) <= 0).all()  # brightness falls all the way
    written = (array(bar)[:, 18:] < 128).all(2)
    assert written[: height // 2].any() and written[height // 2 :].any()
    assert not written[:, -1].any()  # nothing is cut off


def test_a_title_covers_nothing_and_is_whole():
    picture = Image.new("RGB", (40, 20), "blue")
    page = titled(picture, "a title that is much wider than its picture")
    assert page.width > 40
    assert np.array_equal(array(page)[-20:, :40], array(picture))
    head = array(page)[:-20]
    assert (head < 128).all(2).any() and (head[:, -1] == 255).all() and (head[-1] == 255).all()
    assert titled(picture, "x").width == 40


def test_tiles_of_different_sizes_do_not_overlap():
    colors = {"red": (10, 8), "lime": (30, 5), "blue": (12, 20)}
    page = tile([Image.new("RGB", size, name) for name, size in colors.items()], columns=2)
    assert page.size == (12 + 30, 8 + 20)
    values = array(page).reshape(-1, 3).tolist()
    for name, (width, height) in colors.items():
        rgb = list(Image.new("RGB", (1, 1), name).getpixel((0, 0)))
        assert values.count(rgb) == width * height
