"""Which number format a training computes in, and repeatable kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from models.specs import Precision

Resolved = Literal["float32", "bfloat16"]


class DeviceError(RuntimeError):
    """There is no such device here."""


def pick_device(wanted: str = "auto") -> torch.device:
    """``auto``: the first CUDA device, else Apple's, else the CPU; any other text is torch's own name of a device.

    Raises :class:`DeviceError`. Devices are counted, which takes none of their memory.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        found = torch.get_device_module(device).device_count()
    except RuntimeError:  # torch knows no such kind, or has no module for it
        found = 0
    if found == 0 or (device.index or 0) >= found:
        raise DeviceError(f"torch finds no device {wanted!r} on this machine")
    return device


def resolve_precision(precision: Precision, device: torch.device) -> Resolved:
    """``auto`` becomes bfloat16 where ``device`` computes it in hardware, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if _computes_bfloat16(device) else "float32"


def autocast(precision: Resolved, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass; weights, and whatever asks for it, stay in float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Full float32 products whatever the process allows elsewhere: TF32 and autocast move images over the boundary."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution


@contextmanager
def training_algorithms(device: torch.device, network: nn.Module) -> Iterator[None]:
    """Repeatable ones on the CPU, where they cost nothing; on a GPU the convolutions that cuDNN finds fastest by trial.

    On the CPU torch's own convolutions where oneDNN's would corrupt memory. Restores what was set.
    """
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = before or device.type == "cuda"
        with _deterministic() if device.type == "cpu" else nullcontext(), _sound_convolutions(network):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _sound_convolutions(network: nn.Module) -> AbstractContextManager[object]:
    """Without oneDNN where it writes past its weight gradient: strided 1×1 kernels on fewer than 8 channels.

    Seen with torch 2.14.1 (oneDNN 3.12, AVX2, float32, channels_last): glibc ends the process, sometimes.
    """
    if not any(isinstance(layer, nn.Conv2d) and _overruns(layer) for layer in network.modules()):
        return nullcontext()
    context: AbstractContextManager[object] = torch.backends.mkldnn.flags(enabled=False)
    return context


def _overruns(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == (1, 1) and max(layer.stride) > 1 and layer.in_channels < 8 and layer.groups == 1


@contextmanager
def _deterministic() -> Iterator[None]:
    # torch's stubs do not know this switch; left on, every new tensor would be filled with NaN first.
    memory: Any = torch.utils.deterministic
    algorithms, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False
        yield
    finally:
        torch.use_deterministic_algorithms(algorithms)
        memory.fill_uninitialized_memory = filled


def _computes_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        # Turing and older only emulate it; is_bf16_supported counts emulation unless told not to.
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # Measured on one core: about twice as fast with AVX512-BF16, more with AMX.
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return False
