"""Plain forward passes of the robustness literature's networks over weights by their published names.

Written from the papers' code (kuangliu/pytorch-cifar, TRADES, DeepMind's model zoo), with nothing of ours in them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, linear, pad, relu, silu

Weights = dict[str, Tensor]


class Published:
    """Random weights by their published names, made when the plain forward first asks for them."""

    def __init__(self) -> None:
        self.weights: Weights = {}
        self._generator = torch.Generator().manual_seed(1)

    def _get(self, key: str, *shape: int, offset: float = 0.0, scale: float = 0.6) -> Tensor:
        if key not in self.weights:
            self.weights[key] = offset + scale * torch.rand(shape, generator=self._generator)
        return self.weights[key]

    def conv(self, x: Tensor, key: str, outputs: int, *, kernel: int = 3, stride: int = 1, padding: int = 1) -> Tensor:
        weight = self._get(f"{key}.weight", outputs, x.shape[1], kernel, kernel, offset=-0.3)
        return conv2d(x, weight, stride=stride, padding=padding)

    def norm(self, x: Tensor, key: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        parts = [self._get(f"{key}.{name}", x.shape[1], offset=0.5 if name == "running_var" else 0.1) for name in names]
        return batch_norm(x, *parts)

    def head(self, x: Tensor, key: str) -> Tensor:
        pooled = x.mean((2, 3))
        return linear(pooled, self._get(f"{key}.weight", 10, pooled.shape[1]), self._get(f"{key}.bias", 10))


def preact(net: Published, x: Tensor, *, activated: bool, last_norm: bool) -> Tensor:
    """Two stages of one and two blocks, width 4; kuangliu/pytorch-cifar's names."""
    x = net.conv(x, "conv1", 4)
    for name, width, stride in (("layer1.0", 4, 1), ("layer2.0", 8, 2), ("layer2.1", 8, 1)):
        out = relu(net.norm(x, f"{name}.bn1"))
        if x.shape[1] != width:
            taken = out if activated else x
            x = net.conv(taken, f"{name}.shortcut.0", width, kernel=1, stride=stride, padding=0)
        out = relu(net.norm(net.conv(out, f"{name}.conv1", width, stride=stride), f"{name}.bn2"))
        x = x + net.conv(out, f"{name}.conv2", width)
    return net.head(relu(net.norm(x, "bn")) if last_norm else x, "linear")


def wide(net: Published, x: Tensor) -> Tensor:
    """Two stages of one and two blocks, width 4; TRADES' names."""
    x = net.conv(x, "conv1", 16)
    for name, width, stride in (("block1.layer.0", 4, 1), ("block2.layer.0", 8, 2), ("block2.layer.1", 8, 1)):
        out = relu(net.norm(x, f"{name}.bn1"))
        if x.shape[1] != width:
            x = net.conv(out, f"{name}.convShortcut", width, kernel=1, stride=stride, padding=0)
        out = relu(net.norm(net.conv(out, f"{name}.conv1", width, stride=stride), f"{name}.bn2"))
        x = x + net.conv(out, f"{name}.conv2", width)
    return net.head(relu(net.norm(x, "bn1")), "fc")


def deepmind(net: Published, x: Tensor) -> Tensor:
    """Two stages of one and two blocks, width 4; DeepMind's names, activation and padding of even sides."""
    x = net.conv(x, "init_conv", 16)
    for name, width, stride in (("layer.0.block.0", 4, 1), ("layer.1.block.0", 8, 2), ("layer.1.block.1", 8, 1)):
        out = silu(net.norm(x, f"{name}.batchnorm_0"))
        if x.shape[1] != width:
            x = net.conv(out, f"{name}.shortcut", width, kernel=1, stride=stride, padding=0)
        padded = pad(out, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        out = net.conv(padded, f"{name}.conv_0", width, stride=stride, padding=0)
        x = x + net.conv(silu(net.norm(out, f"{name}.batchnorm_1")), f"{name}.conv_1", width)
    return net.head(silu(net.norm(x, "batchnorm")), "logits")


PLAIN: dict[str, Callable[[Published, Tensor], Tensor]] = {
    "preactresnet18": lambda net, x: preact(net, x, activated=True, last_norm=True),
    "preactresnet18-kuangliu": lambda net, x: preact(net, x, activated=True, last_norm=False),
    "preactresnet18-wong": lambda net, x: preact(net, x, activated=False, last_norm=False),
    "wideresnet28-10": wide,
    "wideresnet34-10": wide,
    "wideresnet28-10-swish": deepmind,
    "wideresnet70-16": deepmind,
}
