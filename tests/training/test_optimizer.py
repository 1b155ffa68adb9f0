import copy

import pytest
import torch
from torch import nn

from cmfr.nn.dcvc_density import CumulativeStage
from cmfr.training.config import OptimizerConfig
from cmfr.training.optimizer import StageOptimizer, orthogonal

NONE = torch.zeros(())


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 32, 3), nn.Conv2d(32, 16, 3), nn.Conv2d(16, 32, 3))


def backward(net, scale=1.0):
    torch.manual_seed(1)
    (scale * net(torch.randn(2, 16, 12, 12)).square().mean()).backward()


def test_orthogonal_brings_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 144), (2, 64, 24)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.4 and values.max() < 1.4


def test_muon_moves_convolutions_by_a_fifth_of_the_learning_rate():
    net = network()
    before = net[0].weight.detach().clone()
    optimizer = StageOptimizer(OptimizerConfig(kind="muon"), net.named_parameters(), 1e-3)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step(1e-3, NONE)
    assert len(optimizer.parts) == 2
    moved = float((net[0].weight.detach() - before).square().mean().sqrt())
    assert moved == pytest.approx(0.2e-3, rel=0.3)


def test_factors_multiply_the_learning_rate():
    net = network()
    cfg = OptimizerConfig(factors={"0.": 2.0, "bias": 3.0})
    optimizer = StageOptimizer(cfg, net.named_parameters(), 1e-3)
    before = [p.detach().clone() for p in net.parameters()]
    backward(net)
    optimizer.step(1e-3, NONE)
    steps = [float((p - b).abs().max()) for p, b in zip(net.parameters(), before, strict=True)]
    assert steps == pytest.approx([2e-3, 6e-3, 1e-3, 3e-3, 1e-3, 3e-3], rel=0.01)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_step_that_is_not_finite_changes_nothing(kind):
    net = network()
    optimizer = StageOptimizer(OptimizerConfig(kind=kind), net.named_parameters(), 1e-2)
    backward(net)
    optimizer.step(1e-2, NONE)
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    optimizer.zero_grad()
    backward(net, float("inf"))
    optimizer.step(1e-2, torch.ones(()))
    torch.testing.assert_close((net.state_dict(), optimizer.state_dict()), before, rtol=0, atol=0)
    optimizer.zero_grad()
    backward(net)
    optimizer.step(1e-2, NONE)
    assert all(p.isfinite().all() for p in net.parameters())


def test_a_resumed_optimizer_goes_on_alike():
    one, two = network(), network()
    cfg = OptimizerConfig(kind="muon")
    first = StageOptimizer(cfg, one.named_parameters(), 1e-2)
    for step in range(4):
        if step == 2:
            two.load_state_dict(one.state_dict())
            second = StageOptimizer(cfg, two.named_parameters(), 1e-2)
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        for net, optimizer in [(one, first)] + ([(two, second)] if step > 1 else []):
            optimizer.zero_grad()
            backward(net)
            optimizer.step(1e-2, NONE)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)


def test_muon_is_for_convolutions_not_for_densities():
    net = nn.ModuleDict({"conv": nn.Conv2d(16, 16, 1), "density": CumulativeStage(64, 32, False)})
    optimizer = StageOptimizer(OptimizerConfig(kind="muon"), net.named_parameters(), 1e-3)
    chosen = [p for group in optimizer.parts[1].param_groups for p in group["params"]]
    assert [id(p) for p in chosen] == [id(net["conv"].weight)]
