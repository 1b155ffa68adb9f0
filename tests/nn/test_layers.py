import pytest
import torch

from cmfr.nn.layers import half_samples, pad_to_multiple, resize_flow, round_ste, warp


def test_warp_by_whole_pixels_shifts():
    x = torch.rand(2, 3, 12, 20)
    flow = torch.zeros(2, 2, 12, 20)
    assert torch.allclose(warp(x, flow), x, atol=1e-5)
    flow[:, 0], flow[:, 1] = 3, -2  # take the pixel 3 to the right and 2 above
    moved = warp(x, flow)
    assert torch.allclose(moved[..., 2:, :-3], x[..., :-2, 3:], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_warp_replicates_borders_and_keeps_the_type_under_autocast(dtype):
    x = torch.rand(1, 1, 8, 8).to(dtype)
    flow = torch.full((1, 2, 8, 8), 100.0)
    with torch.autocast("cpu", torch.bfloat16):
        y = warp(x, flow)
    assert y.dtype == dtype
    assert torch.allclose(y, x[..., -1:, -1:].expand_as(y))


def test_positions_are_exact_where_values_are_not():
    x = torch.arange(512.0).expand(1, 1, 4, 512).bfloat16()
    moved = warp(x, torch.full((1, 2, 4, 512), 1.0) * torch.tensor([1.0, 0.0])[:, None, None])
    assert torch.equal(moved[..., :-1], x[..., 1:])


@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 4])
def test_resized_flow_keeps_its_meaning(factor):
    flow = torch.ones(1, 2, 16, 16) * 3
    resized = resize_flow(flow, factor)
    assert resized.shape[-1] == 16 * factor
    assert torch.allclose(resized, torch.tensor(3.0 * factor))


def test_padding_replicates_and_only_when_needed():
    x = torch.rand(1, 3, 17, 32)
    padded = pad_to_multiple(x, 16)
    assert padded.shape[-2:] == (32, 32)
    assert torch.equal(padded[..., 31, :], x[..., 16, :])
    assert pad_to_multiple(padded, 16) is padded


def test_straight_through_rounding():
    x = torch.tensor([0.4, 1.6, -2.3], requires_grad=True)
    y = round_ste(x)
    assert torch.allclose(y, torch.tensor([0.0, 2.0, -2.0]))
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(3))


def test_half_samples_keep_the_samples_and_interpolate_between():
    column = torch.arange(24.0)
    x = torch.sin(column / 3)[None, None, None].repeat(1, 2, 20, 1)
    fine = half_samples(x)
    assert fine.shape == (1, 2, 40, 48)
    assert torch.equal(fine[..., ::2, ::2], x)
    expected = torch.sin((column + 0.5) / 3)
    assert torch.allclose(fine[0, 0, 10, 1::2][4:-4], expected[4:-4], atol=5e-3)


def test_warp_from_half_samples_agrees_with_warp_at_whole_pixels():
    x = torch.rand(1, 3, 12, 16)
    flow = torch.randint(-2, 3, (1, 2, 12, 16)).float()
    assert torch.allclose(warp(half_samples(x), flow, 2), warp(x, flow), atol=1e-5)
