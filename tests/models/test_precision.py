"""What a training sets for the whole process is put back behind it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.precision import DeviceError, pick_device, training_algorithms


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


@pytest.mark.parametrize("wanted", ["cuda:77", "cuda:2", "gpu", "cuda:one", "cpu:1", "vulkan", "meta", ""])
def test_a_device_that_is_not_there_is_refused(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(DeviceError, match=f"^torch finds no device '{wanted}' on this machine$"):
        pick_device(wanted)


@pytest.mark.parametrize("wanted", ["cpu", "cuda", "cuda:1"])
def test_a_device_that_is_there_is_taken_by_its_name(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert str(pick_device(wanted)) == wanted
