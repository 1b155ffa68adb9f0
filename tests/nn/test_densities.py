import subprocess
import sys

import torch
from compressai.entropy_models import EntropyBottleneck

from cmfr.nn.densities import FactorizedDensity


def bottleneck():
    torch.manual_seed(3)
    model = FactorizedDensity(8)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_tables_of_hyper_latents_are_compressais_in_more_digits():
    """Its own are made of float32, on the device where the model is."""
    model = bottleneck()
    tables = model.make_tables()
    theirs = EntropyBottleneck(8, tail_mass=model.tail_mass)
    theirs.load_state_dict(model.state_dict())
    theirs._update_quantiles(search_radius=4096.0)
    with torch.no_grad():
        theirs.quantiles[:, 0, 1] = 0
    theirs.update(force=True)
    assert tables.offsets == theirs._offset.tolist()
    assert tables.sizes == theirs._cdf_length.tolist() and len(set(tables.sizes)) > 2
    for ours, row in zip(tables.cdfs, theirs._quantized_cdf.tolist(), strict=True):
        assert ours[0] == 0 and ours[-1] == 2**16 and ours == sorted(set(ours))
        assert max(abs(a - b) for a, b in zip(ours, row, strict=False)) <= 1


def test_tables_do_not_depend_on_the_arithmetic_of_the_model():
    model = bottleneck()
    tables = model.make_tables()
    with torch.inference_mode():
        assert model.double().make_tables() == tables


def test_bits_are_minus_log_likelihood():
    model, z = bottleneck(), 3 * torch.randn(2, 8, 3, 5)
    likelihood, _, _ = model._likelihood(z.transpose(0, 1).reshape(8, 1, -1))
    expected = -torch.log2(likelihood).reshape(8, 2, 3, 5).transpose(0, 1)
    assert torch.allclose(model.bits(z), expected, rtol=1e-4, atol=1e-5)


ALONE = """
import sys
import cmfr.nn.densities
heavy = {"torchvision", "torch_geometric", "pandas", "compressai.zoo", "compressai.models"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import compressai
assert compressai.ops.LowerBound and compressai.ans.RansDecoder
try:
    compressai.nonsense
except AttributeError as error:
    print(error)
"""


def test_compressai_is_imported_without_what_is_not_needed():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'compressai' has no attribute 'nonsense'\n"
