"""Several processes that train one model as one process would: each has its rows of every batch, all the same weights.

Outside :func:`joined` there is one process, and everything here leaves its argument as it is. All processes must call
what waits for the others (all but ``size``, ``rank``, ``own_rows``, ``drawn`` and ``alone``) in the same order.

The loss of a process is the mean over its rows, or that of the whole batch; the gradient of what all of them minimize
is the mean of their gradients either way, since a row that was gathered gets the sum of what every process asks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

PATIENCE = timedelta(hours=6)
"""For the others: one of them may look at held-out images meanwhile. A process that dies is noticed in another way."""
T = TypeVar("T")
_alone = False


class UnsynchronizableError(ValueError):
    """The network normalizes batches by a layer that several processes cannot share."""


@contextmanager
def joined(backend: str, meeting_place: Path, *, rank: int, size: int) -> Iterator[None]:
    """As process ``rank`` of ``size``, which meet by the file ``meeting_place``, new for each meeting.

    ``backend``: "nccl" for CUDA devices, "gloo" for CPUs.
    """
    dist.init_process_group(
        backend, init_method=meeting_place.absolute().as_uri(), rank=rank, world_size=size, timeout=PATIENCE
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """What this process does for itself, without the others."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if size() > 1 else 0


def own_rows(whole: Tensor, *, parts: int = 1, dim: int = 0) -> Tensor:
    """The share of this process in what has a row for each image of the batch, or of ``parts`` batches in a row."""
    if size() == 1:
        return whole
    return torch.cat([part.chunk(size(), dim)[rank()] for part in whole.chunk(parts, dim)], dim)


def drawn(sample: Callable[..., Tensor], *shape: int, parts: int = 1, dim: int = 0, **arguments: Any) -> Tensor:
    """``sample(shape, …)``: random numbers with a row for each of this process's images in dimension ``dim``.

    Every process draws the whole batch's and keeps its own, so that the same image gets the same ones in any of them.
    """
    whole = [length * size() if position == dim else length for position, length in enumerate(shape)]
    return own_rows(sample(whole, **arguments), parts=parts, dim=dim)


def gathered(rows: Tensor) -> Tensor:
    """The rows (N, …) of all processes, in their order: (size·N, …). Has a gradient."""
    answer: Tensor = rows if size() == 1 else _Gather.apply(rows)
    return answer


def total(value: Tensor) -> Tensor:
    """The sum over the processes. Has a gradient."""
    answer: Tensor = value if size() == 1 else _Total.apply(value)
    return answer


def mean(value: Tensor) -> Tensor:
    """The mean over the processes, without a gradient."""
    return total(value.detach()) / size()


def averaged(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The mean of each over the processes, by one exchange."""
    if size() == 1:
        return tuple(gradients)
    flat = mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    return tuple(part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every parameter's gradient, where it has one, by its mean over the processes."""
    if size() == 1:
        return
    told = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter, gradient in zip(told, averaged([one.grad for one in told if one.grad is not None]), strict=True):
        parameter.grad = gradient


def agreed(decide: Callable[[], T]) -> T:
    """What ``decide()`` answers in the first process, which alone calls it, without the others."""
    if size() == 1:
        return decide()
    box: list[Any] = [None]
    if rank() == 0:
        with alone():
            box = [decide()]
    dist.broadcast_object_list(box)
    answer: T = box[0]
    return answer


def unshareable(module: nn.Module) -> Iterator[nn.Module]:
    """Layers that take the statistics of a batch in a way of their own, as some of timm's do."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and type(layer) not in (nn.BatchNorm2d, SynchronizedNorm):
            yield layer


def synchronize(module: nn.Module) -> None:
    """Let all batch normalization in ``module`` take the statistics of the whole batch.

    Raises :class:`UnsynchronizableError` where one of them is :func:`unshareable`.
    """
    if size() == 1:
        return
    for layer in unshareable(module):
        raise UnsynchronizableError(f"a layer of type {type(layer).__name__} cannot work on several devices")
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.BatchNorm2d:
                setattr(parent, name, SynchronizedNorm.like(layer))


class SynchronizedNorm(nn.BatchNorm2d):
    """Batch normalization over all processes' images. torch's own SyncBatchNorm needs CUDA devices."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> SynchronizedNorm:
        """One with the parameters and statistics of ``norm`` themselves."""
        made = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum, affine=norm.affine)
        made.training, made.track_running_stats = norm.training, norm.track_running_stats
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(made, name, getattr(norm, name))
        return made

    def forward(self, images: Tensor) -> Tensor:
        if not self.training or size() == 1:
            return super().forward(images)
        wide = images if images.dtype == torch.float64 else images.float()
        count = size() * images.numel() // images.shape[1]
        middle = total(wide.mean(dim=(0, 2, 3))) / size()
        centred = wide - middle[:, None, None]
        variance = total(centred.square().mean(dim=(0, 2, 3))) / size()
        if self.track_running_stats:
            self._follow(middle.detach(), variance.detach() * count / (count - 1))
        scaled = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            scaled = scaled * self.weight[:, None, None] + self.bias[:, None, None]
        return scaled.to(images.dtype)

    @torch.no_grad()
    def _follow(self, middle: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(middle.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        every = [torch.empty_like(rows) for _ in range(size())]
        dist.all_gather(every, rows)
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return own_rows(gradient)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient
