"""White-box evaluation of a classifier: attack what it gets right, count what it still gets right."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attacks.noise import PerImageNoise, derive_seed
from models.attacks.objectives import held_fixed, is_right
from models.attacks.spec import ATTACKS, Attack, AttackParams, BoundedParams
from models.attacks.threat import threat_model
from models.data.images import ImageSet
from models.evaluation_examples import Example, Examples
from models.evaluation_report import Outcome, accuracy, interval, report
from models.evaluation_spec import EvaluationParams
from models.progress import Reporter, Stopped
from models.statistics import wilson_interval

__all__ = ["AttackError", "EvaluationResult", "evaluate", "wilson_interval"]


class AttackError(RuntimeError):
    """The model or an attack broke its contract (NaN logits, an image outside the ball): the numbers would be wrong."""


@dataclass(frozen=True)
class EvaluationResult:
    """``result``: JSON in the shape of POST /evaluate. ``examples``: ``clean`` and ``adversarial``, (M, C, H, W)."""

    result: dict[str, Any]
    examples: dict[str, Tensor]


def evaluate(
    model: nn.Module,
    images: ImageSet,
    params: EvaluationParams,
    *,
    reporter: Reporter,
    device: torch.device | str,
    model_name: str = "",
    dataset_info: Mapping[str, Any] | None = None,
) -> EvaluationResult:
    """Run every attack of ``params`` on the images that ``model`` gets right; it stays as it was, bit for bit.

    ``model`` is moved to ``device``. ``dataset_info`` goes into the result's ``dataset`` beside name, split and size.
    The numbers do not depend on ``params.batch_size``. Raises ValueError without images, :class:`AttackError`, and
    Stopped when the reporter asks.
    """
    if not len(images):
        raise ValueError("there are no images to evaluate on")
    run = _Run(model.to(device), images, params, reporter=reporter, device=torch.device(device))
    with held_fixed(model), _exact_float32(run.device):
        right = run.clean()
        outcomes = [run.attack(attack) for attack in params.attacks]
        curve = run.curve(outcomes)
    info = {"name": params.dataset.name, "split": params.dataset.split, **(dataset_info or {}), "size": len(images)}
    result = {
        "model": model_name or params.model,
        "dataset": info,
        **report(params, images, right=right, outcomes=outcomes, curve=curve),
        "example_predictions": run.examples.predictions(),
    }
    return EvaluationResult(result, run.examples.tensors(images.image_shape))


class _Run:
    """One evaluation on its way: the model under attack, what is known of each image, and how far it is."""

    def __init__(
        self, model: nn.Module, images: ImageSet, params: EvaluationParams, *, reporter: Reporter, device: torch.device
    ) -> None:
        self._model = model
        self._images = images
        self._params = params
        self._reporter = reporter
        self.device = device
        self.examples = Examples(params.examples, images=len(images), seed=params.seed)
        self._right = torch.zeros(len(images), dtype=torch.bool)
        self._predictions = torch.zeros(len(images), dtype=torch.int64)
        self._done = 0
        self._total = len(images) * (1 + len(params.attacks) + len(params.curve_points()))

    def clean(self) -> Tensor:
        """Which images are right as they are, boolean (N,)."""
        self._advance(0, "clean")
        for index in self._batches(torch.arange(len(self._images))):
            pixels, labels = self._batch(index)
            self._predictions[index], self._right[index] = self._judge(pixels, labels)
            self._advance(len(index), "clean")
        return self._right

    def attack(self, params: AttackParams, *, candidates: Tensor | None = None) -> Outcome:
        """Attack the images that are right as they are.

        ``candidates``: boolean (N,), attack no others, and keep no examples; for the curve.
        """
        entry = ATTACKS[params.name]
        chosen = self._right if candidates is None else self._right & candidates
        fooled, broken = torch.zeros_like(chosen), torch.zeros_like(chosen)
        l2 = torch.full((len(chosen),), torch.inf, dtype=torch.float64)
        linf, seconds = l2.clone(), 0.0
        self._advance(len(chosen) - int(chosen.sum()), params.name)  # nothing to do for the others
        for index in self._batches(chosen.nonzero().squeeze(1)):
            pixels, labels = self._batch(index)
            started = time.perf_counter()
            noise = PerImageNoise(self._seeds(params.name, index))
            points = entry.run(self._watched, pixels, labels, params, noise=noise)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            seconds += time.perf_counter() - started
            sizes = _checked_sizes(entry, params, pixels=pixels, points=points)
            predictions, right = self._judge(points, labels)
            fooled[index] = ~right
            broken[index] = ~right & _inside(params, sizes)
            l2[index] = torch.where(right, torch.inf, sizes["l2"])
            linf[index] = torch.where(right, torch.inf, sizes["linf"])
            if candidates is None:
                self._keep_examples(
                    entry,
                    index,
                    pixels=pixels,
                    points=points,
                    predictions=predictions,
                    broken=broken[index],
                    sizes=sizes,
                )
            self._advance(len(index), params.name)
        return Outcome(entry, params, self._right, fooled, broken, l2, linf, seconds)

    def curve(self, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        """Robust accuracy by growing radius. What broke in a smaller ball stays broken: the larger holds it too."""
        points: list[dict[str, Any]] = []
        broken = torch.zeros_like(self._right)
        for params in self._params.curve_points():
            for outcome in outcomes:
                if _nested(outcome.params, params):
                    broken |= outcome.broken
            if params.eps == 0 or any(outcome.params == params for outcome in outcomes):
                self._advance(len(broken), params.name)  # nothing can move, or the same attack has run already
            else:
                broken |= self.attack(params, candidates=~broken).broken
            standing = self._right & ~broken
            points.append({"eps": params.eps, "robust_accuracy": accuracy(standing), "ci95": interval(standing)})
        return points

    def _batches(self, index: Tensor) -> list[Tensor]:
        size = self._params.batch_size
        return [index[start : start + size] for start in range(0, len(index), size)]

    def _batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images = self._images.take(index)
        return images.pixels().to(self.device), images.labels.to(self.device)

    def _seeds(self, name: str, index: Tensor) -> Tensor:
        return torch.tensor(
            [derive_seed(self._params.seed, name, image) for image in index.tolist()], dtype=torch.int64
        )

    def _watched(self, pixels: Tensor) -> Tensor:
        """The model, stopping the attack between two of its steps."""
        if self._reporter.should_stop():
            raise Stopped
        logits: Tensor = self._model(pixels)
        return logits

    @torch.no_grad()
    def _judge(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted class and whether it is the label, both (N,) on the CPU."""
        logits = self._watched(pixels)
        if logits.shape != (len(pixels), len(self._images.classes)):
            classes = len(self._images.classes)
            raise AttackError(f"the model answers {tuple(logits.shape)} for {len(pixels)} images of {classes} classes")
        if logits.isnan().any():
            raise AttackError("the model's logits are not numbers (NaN); a training that diverged?")
        return logits.argmax(dim=1).cpu(), is_right(logits, labels).cpu()

    def _advance(self, images: int, stage: str) -> None:
        self._done += images
        self._reporter.progress(self._done, self._total, unit="image", stage=stage)

    def _keep_examples(
        self,
        attack: Attack,
        index: Tensor,
        *,
        pixels: Tensor,
        points: Tensor,
        predictions: Tensor,
        broken: Tensor,
        sizes: dict[str, Tensor],
    ) -> None:
        for row, image in enumerate(index.tolist()):
            rank = (1 if attack.minimum_norm else 0) if broken[row] else 2
            if not self.examples.wants(rank, image):
                continue
            self.examples.add(
                Example(
                    rank=rank,
                    index=image,
                    label=int(self._images.labels[image]),
                    clean_prediction=int(self._predictions[image]),
                    adversarial_prediction=int(predictions[row]),
                    attack=attack.name,
                    linf=sizes["linf"][row].item(),
                    l2=sizes["l2"][row].item(),
                    clean=pixels[row].cpu(),
                    adversarial=points[row].cpu(),
                )
            )


def _nested(inner: AttackParams, outer: BoundedParams) -> bool:
    """Whether ``inner`` is the same kind of attack in a ball that the ball of ``outer`` contains."""
    if inner.name != outer.name or inner.radius is None:
        return False
    norm, eps = inner.radius
    return norm == outer.norm and eps <= outer.eps


def _inside(params: AttackParams, sizes: dict[str, Tensor]) -> Tensor:
    """Whether each perturbation fits the attack's ball up to rounding, boolean (N,); always where it has none."""
    if params.radius is None:
        return torch.ones_like(sizes["l2"], dtype=torch.bool)
    norm, eps = params.radius
    return sizes[norm] <= eps * (1 + 1e-6) + 1e-6


def _checked_sizes(attack: Attack, params: AttackParams, *, pixels: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Each perturbation's norms in float64 on the CPU; raises AttackError if an image breaks the attack's promises."""
    if points.shape != pixels.shape or points.dtype != torch.float32:
        raise AttackError(f"{attack.name} returned {points.dtype} {tuple(points.shape)} for {tuple(pixels.shape)}")
    if not bool(((points >= 0) & (points <= 1)).all()):  # also false for NaN
        raise AttackError(f"{attack.name} returned pixels outside [0, 1]")
    # float64 on the CPU: some accelerators have none.
    delta = points.cpu().double() - pixels.cpu().double()
    sizes = {"l2": threat_model("l2", 0).size(delta), "linf": threat_model("linf", 0).size(delta)}
    if not attack.minimum_norm and not bool(_inside(params, sizes).all()):
        assert params.radius is not None
        norm, eps = params.radius
        raise AttackError(f"{attack.name} left its ball: {norm} {sizes[norm].max().item():g} is more than {eps:g}")
    return sizes


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Full float32 products whatever the process allows elsewhere: TF32 and autocast move images over the boundary."""
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
