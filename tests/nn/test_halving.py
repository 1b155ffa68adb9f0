import torch

from cmfr.nn.halving import first_outside


def test_every_number_is_found():
    ends = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 10]])
    found = first_outside(lambda k: (k < ends) & (k <= 8), ends.shape, 8)
    assert found.dtype == torch.int32
    assert found.tolist() == [[0, 1, 2, 3], [7, 8, 9, 9]]
