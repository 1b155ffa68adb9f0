import torch

from cmfr.nn.quality import QualityScaler


def test_quality_scaler_is_monotone_between_its_ends_and_per_sample():
    scaler = QualityScaler(5, (0.25, 4.0))
    x = torch.ones(64, 5, 1, 1)
    gains = scaler(x, torch.arange(64))[:, :, 0, 0]
    assert torch.allclose(gains[0], torch.tensor(0.25))
    assert torch.allclose(gains[-1], torch.tensor(4.0))
    assert (gains.diff(dim=0) > 0).all()


def test_gains_are_what_they_are_in_half_precision():
    """Training has the quality that coding has, not one a third of an index off."""
    scaler = QualityScaler(3, (1.0, 8.0))
    quality = torch.arange(64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = scaler.gain(quality)
    assert torch.equal(trained, scaler.gain(quality))
