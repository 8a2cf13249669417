"""The moving average of weights, beside the same computed by hand."""

from __future__ import annotations

import torch
from torch import nn

from models.average import Average


def test_weights_are_averaged_and_statistics_are_the_last() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = Average(model, decay=0.9)
    generator = torch.Generator().manual_seed(0)
    expected: list[torch.Tensor] = []
    for _ in range(3):
        for weight in model.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        model(torch.randn(8, 3, generator=generator))
        average.follow()
        now = [weight.detach().clone() for weight in model.parameters()]
        before = expected or now  # the first is taken as it is
        expected = [0.9 * old + 0.1 * new for old, new in zip(before, now, strict=True)]
    for weight, wanted in zip(average.model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight, wanted)
    for mine, theirs in zip(average.model.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, theirs)
