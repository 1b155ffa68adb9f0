import pytest
import torch

from cmfr.models.cmfr.config import CMFRConfig
from cmfr.models.cmfr.residual import ContextDecoder, ContextEncoder
from cmfr.models.presets import PRESETS
from cmfr.utils.yaml_config import merged


@pytest.mark.parametrize(("residual", "subtracted"), [("none", 1), ("masked_feature", 0)])
def test_sff_subtracts_the_context_from_the_start_where_nothing_else_subtracts(
    residual, subtracted
):
    changes = {"residual": residual, "fusion": "sff"}
    cfg = CMFRConfig.model_validate(merged(PRESETS["cmfr-nano"].model_dump(), changes))
    torch.manual_seed(0)
    encoder, decoder = ContextEncoder(cfg), ContextDecoder(cfg)
    feature, context = torch.randn(2, 1, cfg.context_channels[0], 8, 8)
    with torch.no_grad():
        fused = encoder.fuse0(feature, context)
        decoded = decoder.fuse0(fused, context)
    expected = feature - subtracted * context
    assert (fused - expected).abs().mean() < 0.1 * context.abs().mean()
    assert (decoded - feature).abs().mean() < 0.1 * context.abs().mean()
