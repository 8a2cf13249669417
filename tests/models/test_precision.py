"""What a training sets for the whole process is put back behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.precision import training_algorithms


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_gpu_tries_convolutions_and_a_cpu_repeats_them(
    device: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", before)
    with pytest.raises(ArithmeticError), training_algorithms(torch.device(device), nn.Identity()):
        assert torch.backends.cudnn.benchmark is (before or device == "cuda")
        assert torch.are_deterministic_algorithms_enabled() is (device == "cpu")
        raise ArithmeticError
    assert torch.backends.cudnn.benchmark is before
    assert not torch.are_deterministic_algorithms_enabled()
