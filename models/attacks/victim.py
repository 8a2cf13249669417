"""The model under attack as attacks see it: gradients as fast as the hardware gives them, verdicts in float32."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.attacks.folding import folded
from models.attacks.objectives import is_right
from models.attacks.spec import FORWARD_COST
from models.precision import Resolved, autocast

_COMPARED = 8  # images on which a folded model must answer as the model does
Logits = Callable[[Tensor], Tensor]
Objective = Callable[..., Tensor]
"""(logits (N, K), *per image) → (N,), to be climbed."""


class Ascent(NamedTuple):
    """Where N points stand: ``logits`` (N, K) of the gradient's own arithmetic, the objective's ``values`` (N,), and
    its ``gradient`` (N, C, H, W) in float32.
    """

    logits: Tensor
    values: Tensor
    gradient: Tensor


@dataclass
class Work:
    """How many images went through the model: forwards alone, and forwards with an input gradient."""

    forwards: int = 0
    gradients: int = 0

    @property
    def steps(self) -> float:
        """In passes with a gradient."""
        return self.gradients + FORWARD_COST * self.forwards


@dataclass(frozen=True)
class Tuning:
    """How gradients are computed. The default is the plain model in float32, whose logits are verdicts themselves.

    ``folded``: batch normalization folded into convolutions and weights in channels-last order.
    ``precision``: bfloat16 runs the gradient's forward and backward pass under autocast.
    ``compiled``: through ``torch.compile``, every batch filled up to one fixed shape.
    """

    folded: bool = False
    precision: Resolved = "float32"
    compiled: bool = False


class Victim:
    """A classifier under attack. It works on copies: nothing done here changes the model handed in.

    Points are float32 (N, C, H, W) in [0, 1] with any N; the model meets at most ``batch_size`` of them at a time, so
    memory does not grow with N, and batches are full however many images have left an attack.
    """

    def __init__(
        self,
        model: Logits,
        *,
        tuning: Tuning | None = None,
        batch_size: int | None = None,
        device: torch.device | None = None,
        watch: Callable[[], None] | None = None,
        sources: Mapping[str, Victim] | None = None,
    ) -> None:
        """``watch`` is called before every batch and may raise to end the attack.

        ``sources``: other models that a transfer attack may craft on, by their reference.
        """
        self.work = Work()
        self.sources = sources or {}
        self._tuning = tuning or Tuning()
        self._batch_size = batch_size
        self._watch = watch or (lambda: None)
        self._judge: Logits = _still(model, device)
        self._exact = self._tuning == Tuning()
        self._channels_last = isinstance(self._judge, nn.Module) and not self._exact
        if isinstance(self._judge, nn.Module) and self._channels_last:
            self._judge = self._judge.to(memory_format=torch.channels_last)
        self._climb: Logits | None = self._judge if self._exact or not isinstance(self._judge, nn.Module) else None
        self._confirmed: dict[bytes, Tensor] = {}

    def exact(self) -> Victim:
        """The same victim with gradients in plain float32; its work is counted together with this one's."""
        if self._exact:
            return self
        twin = copy.copy(self)
        twin._tuning, twin._climb, twin._exact = Tuning(), self._judge, True
        return twin

    def in_float32(self) -> Victim:
        """The same victim with glances and gradients in float32, yet through the folded copy: for a search that looks
        at differences which low precision blurs. Its work is counted together with this one's.
        """
        if not self._tuning.folded or not isinstance(self._judge, nn.Module):
            return self.exact()
        if self._tuning == Tuning(folded=True):
            return self
        twin = copy.copy(self)
        twin._tuning, twin._climb = Tuning(folded=True), None
        return twin

    @property
    def is_exact(self) -> bool:
        """Whether the logits beside a gradient are verdicts, too."""
        return self._exact

    @torch.no_grad()
    def logits(self, points: Tensor) -> Tensor:
        """Logits (N, K) in full float32, without a gradient: what verdicts are made from."""
        parts = []
        for batch in self._batches(len(points)):
            self._watch()
            self.work.forwards += batch.stop - batch.start
            parts.append(self._judge(self._laid_out(points[batch])))
        return _joined(parts)

    @torch.no_grad()
    def glance(self, points: Tensor) -> Tensor:
        """Logits (N, K) as those beside a gradient, for the price of a forward: for bookkeeping, not for verdicts."""
        parts = []
        for batch in self._batches(len(points)):
            self._watch()
            self.work.forwards += batch.stop - batch.start
            parts.append(self._guess(self._filled(points[batch]))[: batch.stop - batch.start])
        return _joined(parts)

    def right(self, points: Tensor, labels: Tensor) -> Tensor:
        """The verdict, boolean (N,): the label alone has the largest logit."""
        return is_right(self.logits(points), labels)

    def final_logits(self, points: Tensor) -> Tensor:
        """As :meth:`logits`, but what :meth:`fooled` confirmed since the last call is not computed a second time."""
        seen = [self._confirmed.get(_digest(point)) for point in points] if self._confirmed else [None] * len(points)
        self._confirmed.clear()
        new = [place for place, row in enumerate(seen) if row is None]
        if len(new) == len(points):
            return self.logits(points)
        if new:
            for place, row in zip(new, self.logits(points[new]), strict=True):
                seen[place] = row
        return torch.stack([row for row in seen if row is not None])

    def forget(self) -> None:
        """Drop what :meth:`fooled` confirmed, where nobody asks for :meth:`final_logits`."""
        self._confirmed.clear()

    def fooled(self, points: Tensor, labels: Tensor, *, logits: Tensor) -> Tensor:
        """Boolean (N,): wrong by ``logits`` (those beside a gradient), and confirmed in float32 where they are not."""
        suspects = ~is_right(logits, labels)
        if self._exact or not bool(suspects.any()):
            return suspects
        asked = suspects.nonzero().squeeze(1)
        seen = self.logits(points[asked])
        suspects[asked] = ~is_right(seen, labels[asked])
        self._confirmed.update(
            (_digest(points[place]), row) for place, row in zip(asked.tolist(), seen, strict=True) if suspects[place]
        )
        return suspects

    def gradient(self, points: Tensor, objective: Objective, *per_image: Tensor) -> Ascent:
        """∇ of ``objective(logits, *per_image)`` with respect to ``points``; each of ``per_image`` is (N, …)."""
        parts = []
        for batch in self._batches(len(points)):
            self._watch()
            self.work.gradients += batch.stop - batch.start
            parts.append(self._ascent(points[batch], objective, [values[batch] for values in per_image]))
        return Ascent(*(_joined(list(tensors)) for tensors in zip(*parts, strict=True)))

    def _ascent(self, points: Tensor, objective: Objective, per_image: list[Tensor]) -> Ascent:
        count = len(points)
        with torch.enable_grad():
            leaf = self._filled(points.detach()).requires_grad_(True)
            logits = self._guess(leaf)[:count]
            values = objective(logits, *per_image)
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return Ascent(logits.detach(), values.detach(), gradient[:count].contiguous())

    def _guess(self, points: Tensor) -> Tensor:
        precise = self._exact or self._tuning.precision == "float32"
        climb = self._prepare(points) if self._climb is None else self._climb
        with nullcontext() if precise else autocast("bfloat16", points.device):
            logits = climb(self._laid_out(points))
        return logits if precise else logits.float()

    def _prepare(self, points: Tensor) -> Logits:
        """What gradients go through, made at the first batch so that it can be compared with the model itself."""
        assert isinstance(self._judge, nn.Module)
        sample = self._laid_out(points[:_COMPARED].detach())
        climb: Logits = folded(self._judge, sample) if self._tuning.folded else self._judge
        self._climb = torch.compile(climb, dynamic=False) if self._tuning.compiled else climb
        return self._climb

    def _laid_out(self, points: Tensor) -> Tensor:
        return points.contiguous(memory_format=torch.channels_last) if self._channels_last else points

    def _filled(self, points: Tensor) -> Tensor:
        """A compiled model knows one batch shape: the last, shorter batch is filled up with its own last image."""
        missing = (self._batch_size or len(points)) - len(points) if self._tuning.compiled else 0
        return torch.cat([points, points[-1:].expand(missing, -1, -1, -1)]) if missing else points

    def _batches(self, count: int) -> Iterator[slice]:
        size = self._batch_size or max(count, 1)
        for start in range(0, max(count, 1), size):
            yield slice(start, min(start + size, count))


def _still(model: Logits, device: torch.device | None) -> Logits:
    """A frozen copy of a module in evaluation mode; a plain function is taken as it is."""
    if not isinstance(model, nn.Module):
        return model
    return copy.deepcopy(model).to(device).eval().requires_grad_(False)


def _digest(point: Tensor) -> bytes:
    """What tells one image's pixels from all others."""
    return hashlib.blake2b(point.contiguous().cpu().numpy().tobytes(), digest_size=16).digest()


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
