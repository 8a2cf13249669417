"""Batch normalization folded into the convolutions before it, for passes in which nothing is trained."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx import Node, Tracer
from torch.fx.experimental.optimization import fuse

from models.distributed import SynchronizedNorm
from models.networks import ImageModel

log = logging.getLogger(__name__)

_KEPT = "_folding_pairs"
_ROUNDING = 1e-3  # of the largest logit: folding moves them by some 1e-6 of it


@torch.no_grad()
def folded(model: nn.Module, sample: Tensor) -> nn.Module:
    """A copy of ``model`` (in evaluation mode, frozen) that computes the same, up to rounding, with fewer layers.

    A model that cannot be traced, or whose trace answers otherwise on ``sample`` (N, C, H, W), because its forward
    pass depends on the data or on chance, comes back as it is: slower, not different.
    """
    try:
        fast: nn.Module = fuse(model).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        expected, found = model(sample), fast(sample)
    except Exception as error:  # tracing runs the model's own code, which may raise anything at all
        log.info("batch normalization is not folded, the model cannot be traced: %s", error)
        return model
    if not bool(((found - expected).abs() <= _ROUNDING * expected.abs().max()).all()):
        log.info("batch normalization is not folded: the traced model answers otherwise")
        return model
    return fast


@contextmanager
def lightened(model: nn.Module) -> Iterator[None]:
    """Inside, the convolutions of frozen ``model`` do the work of the batch normalization right behind them.

    For attacks on a model that is being trained: what a copy by :func:`folded` computes, without the copy. Every image
    model inside ``model`` is lightened, those excepted that torch.compile fuses by itself. Weights and statistics are
    read here, on entering, and never changed; what else is put in their place by ``functional_call`` is not seen.
    """
    changed: list[nn.Module] = []
    try:
        for part in model.modules():
            if isinstance(part, ImageModel) and part.backbone._compiled_call_impl is None:
                pairs = list(_pairs(part))
                changed += itertools.chain(*pairs)
                if pairs:
                    _join(*zip(*pairs, strict=True))
        yield
    finally:
        for layer in changed:
            layer.__dict__.pop("forward", None)


def _pairs(model: ImageModel) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose output goes into one batch normalization and nowhere else, and that one."""
    names = model.__dict__.get(_KEPT)
    if names is None:
        names = model.__dict__[_KEPT] = _traced(model.backbone)
    for conv, norm in names:
        yield model.backbone.get_submodule(conv), model.backbone.get_submodule(norm)  # type: ignore[misc]


class _Layers(Tracer):
    """Looks into everything but convolutions and normalization, of whatever class."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.BatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _traced(backbone: nn.Module) -> list[tuple[str, str]]:
    try:
        nodes = list(_Layers().trace(backbone).nodes)
    except Exception as error:  # tracing runs the model's own code, which may raise anything at all
        log.info("batch normalization is not folded, the backbone cannot be traced: %s", error)
        return []
    layers = dict(backbone.named_modules())
    calls = [node.target for node in nodes if node.op == "call_module"]

    def is_one(node: Node, *kinds: type[nn.Module]) -> bool:
        """Called once, and no subclass that may do something else."""
        return calls.count(node.target) == 1 and type(layers.get(str(node.target))) in kinds

    return [
        (str(before.target), str(node.target))
        for node in nodes
        if node.op == "call_module" and is_one(node, nn.BatchNorm2d, SynchronizedNorm)
        for before in node.all_input_nodes
        if before.op == "call_module" and is_one(before, nn.Conv2d) and len(before.users) == 1
    ]


@torch.no_grad()
def _join(convs: Sequence[nn.Conv2d], norms: Sequence[nn.BatchNorm2d]) -> None:
    """What torch's ``fuse_conv_bn_weights`` computes, for all layers at once: one by one, some ten small operations a
    layer would keep a GPU waiting for the processor that launches them.
    """
    means, variances, slopes, offsets = zip(*map(_statistics, norms), strict=True)
    spreads = torch._foreach_sqrt(torch._foreach_add(variances, [norm.eps for norm in norms]))
    scales = torch._foreach_div(slopes, spreads)
    centres = [mean if conv.bias is None else mean - conv.bias for conv, mean in zip(convs, means, strict=True)]
    biases = torch._foreach_sub(offsets, torch._foreach_mul(centres, scales))
    weights = torch._foreach_mul([conv.weight for conv in convs], [scale.view(-1, 1, 1, 1) for scale in scales])
    for conv, norm, weight, bias in zip(convs, norms, weights, biases, strict=True):
        _replace(conv, norm, weight, bias)


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, and the scale and offset behind them."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None, "evaluation mode normalizes by running statistics"
    if not norm.affine:
        return mean, variance, torch.ones_like(mean), torch.zeros_like(mean)
    return mean, variance, norm.weight, norm.bias


def _replace(conv: nn.Conv2d, norm: nn.BatchNorm2d, weight: Tensor, bias: Tensor) -> None:
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    weight, bias = weight.to(dtype), bias.to(dtype)  # once, and not in every pass
    conv.__dict__["forward"] = lambda images: conv._conv_forward(images, weight, bias)
    norm.__dict__["forward"] = lambda images: images
