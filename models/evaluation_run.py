"""One evaluation on its way: attack after attack, chunk after chunk of the images that are right."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.attacks.ensemble import run_parts
from models.attacks.noise import PerImageNoise, derive_seed
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS, AttackParams, BoundedParams
from models.attacks.victim import Tuning, Victim
from models.data.images import ImageSet
from models.evaluation_checks import AttackError, Strike, Tally, checked_sizes, inside
from models.evaluation_evidence import AttackEvidence, PartEvidence
from models.evaluation_examples import NOT_BROKEN, Example, Examples
from models.evaluation_health import examine, is_examined
from models.evaluation_progress import Progress
from models.evaluation_spec import EvaluationParams
from models.precision import resolve_precision
from models.progress import Reporter, Stopped

_CHUNK_BYTES = 12 << 20  # pixels in the game at once: 1,024 CIFAR images; an attack keeps some ten tensors of that size


class Run:
    """One evaluation on its way: the model under attack, what is known of each image, and how far it is."""

    victim: Victim

    def __init__(
        self,
        images: ImageSet,
        params: EvaluationParams,
        *,
        ids: Tensor,
        total: int,
        reporter: Reporter,
        device: torch.device,
    ) -> None:
        self.ids = ids
        self.device = device
        self.right = torch.zeros(len(images), dtype=torch.bool)
        self.predictions = torch.zeros(len(images), dtype=torch.int64)
        self.examples = Examples(params.examples, images=total, seed=params.seed)
        self._images = images
        self._params = params
        self._total = total
        self._reporter = reporter
        self._progress = Progress(reporter, params, images=len(images))

    def take_on(self, model: nn.Module, sources: Mapping[str, nn.Module]) -> None:
        """Make victims of the models, tuned for this device."""
        precision = resolve_precision(self._params.precision, self.device)
        tuning = Tuning(folded=True, precision=precision, compiled=self._params.compile)

        def victim(model: nn.Module, sources: Mapping[str, Victim]) -> Victim:
            return Victim(
                model,
                tuning=tuning,
                batch_size=self._params.batch_size,
                device=self.device,
                watch=self._watch,
                sources=sources,
            )

        self.victim = victim(model, {name: victim(source, {}) for name, source in sources.items()})
        for source in self.victim.sources.values():
            source.work = self.victim.work  # crafting counts
        self._progress.follow(self.victim.work)

    def clean(self) -> None:
        """Find out which images are right as they are."""
        self._progress.begin("clean", cost=Progress.CLEAN, images=len(self._images))
        for index in self._chunks(torch.arange(len(self._images))):
            self.predictions[index], self.right[index] = self._judge(*self._load(index))
            self._progress.finish(len(index))

    def attack(self, params: AttackParams) -> AttackEvidence:
        """Attack the images that are right as they are."""
        tally = Tally(len(self._images))
        self._progress.begin(params.name, cost=params.cost, images=len(self._images))
        self._progress.finish(len(self.right) - int(self.right.sum()))  # nothing to do for the others
        for index in self._chunks(self.right.nonzero().squeeze(1)):
            self._attack_chunk(params, index, tally)
            self._progress.finish(len(index))
        return tally.evidence()

    def _attack_chunk(self, params: AttackParams, index: Tensor, tally: Tally) -> None:
        """A function of its own, so that its tensors are gone before those of the next chunk are made."""
        pixels, labels = self._load(index)
        points, seconds, parts = self._attacked(params, index, pixels=pixels, labels=labels)
        strike = self._strike(params, pixels=pixels, labels=labels, points=points)
        tally.add(index, strike, seconds=seconds, parts=parts)
        self._keep_examples(params, index, pixels=pixels, points=points, strike=strike)

    def curve(self, attacks: tuple[AttackEvidence, ...]) -> tuple[Tensor, ...]:
        """For each radius, growing, who is broken there, boolean (N,).

        One pass: what broke in a smaller ball stays broken, since the larger holds it too, and a survivor goes on from
        where the smaller ball left it, if the attack can be continued (``Attack.warm_start``).
        """
        radii = self._params.curve_points()
        broken = [torch.zeros_like(self.right) for _ in radii]
        for place, params in enumerate(radii):
            for asked, seen in zip(self._params.attacks, attacks, strict=True):
                if _nested(asked, params):
                    broken[place] |= seen.broken
        if not radii:
            return ()
        cost = sum(params.cost for params in radii)
        self._progress.begin("curve", cost=cost, images=len(self._images))
        self._progress.finish(len(self.right) - int(self.right.sum()))
        for index in self._chunks(self.right.nonzero().squeeze(1)):
            self._curve_of(index, radii, broken)
            self._progress.finish(len(index))
        return tuple(broken)

    def _curve_of(self, index: Tensor, radii: list[BoundedParams], broken: list[Tensor]) -> None:
        """Fill in the rows ``index`` of ``broken``."""
        reached: Tensor | None = None
        fallen = torch.zeros(len(index), dtype=torch.bool)
        pixels, labels = self._load(index)
        for params, column in zip(radii, broken, strict=True):
            fallen |= column[index]
            standing = (~fallen).nonzero().squeeze(1)
            if params.eps > 0 and len(standing) and params not in self._params.attacks:
                x, y, start = pixels[standing], labels[standing], None if reached is None else reached[standing]
                points, _, _ = self._attacked(params, index[standing], pixels=x, labels=y, start=start)
                fallen[standing] |= self._strike(params, pixels=x, labels=y, points=points).broken
                reached = pixels.clone() if reached is None else reached
                reached[standing] = points
            column[index] = fallen

    def health(self) -> dict[str, float]:
        """Counts from a small sample that tell whether the numbers can be believed."""
        sample = (self.right & is_examined(self.ids, total=self._total, seed=self._params.seed)).nonzero().squeeze(1)
        pixels, labels = self._load(sample)
        noise = PerImageNoise(self._seeds("health", sample))
        return examine(self.victim, pixels, labels, params=self._params, noise=noise)

    def rounded_examples(self) -> tuple[Example, ...]:
        """The sample to be kept, with what rounding to 8 bits leaves of it."""
        kept = self.examples.kept()
        if not kept:
            return ()
        points = torch.stack([example.adversarial for example in kept]).mul(255).round().div(255).to(self.device)
        _, right = self._judge(points, torch.tensor([example.label for example in kept], device=self.device))
        return tuple(
            replace(example, survives_8bit=not stands if example.broken else None)
            for example, stands in zip(kept, right.tolist(), strict=True)
        )

    def _attacked(
        self, params: AttackParams, index: Tensor, *, pixels: Tensor, labels: Tensor, start: Tensor | None = None
    ) -> tuple[Tensor, float, list[PartEvidence]]:
        """Adversarial images, the seconds that they took, and who was broken by which part."""
        entry = ATTACKS[params.name]
        noise = PerImageNoise(self._seeds(params.name, index))
        parts: list[PartEvidence] = []
        began = time.perf_counter()
        if entry.parts is not None:

            def note(part: AttackParams, broken: Tensor, seconds: float) -> None:
                parts.append(PartEvidence(part.name, broken.cpu(), seconds))

            members = entry.parts(params, len(self._images.classes))
            points = run_parts(self.victim, pixels, labels, members, noise=noise, on_part=note)
        elif start is not None and entry.warm_start:
            points = entry.run(self.victim, pixels, labels, params, noise=noise, start=start)
        else:
            points = entry.run(self.victim, pixels, labels, params, noise=noise)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return points, time.perf_counter() - began, parts

    def _strike(self, params: AttackParams, *, pixels: Tensor, labels: Tensor, points: Tensor) -> Strike:
        sizes = checked_sizes(ATTACKS[params.name], params, pixels=pixels, points=points)
        predictions, right = self._judge(points, labels)
        return Strike(predictions, ~right, ~right & inside(params, sizes), sizes["l2"], sizes["linf"])

    def _chunks(self, index: Tensor) -> list[Tensor]:
        channels, height, width = self._images.image_shape
        size = max(self._params.batch_size, _CHUNK_BYTES // (4 * channels * height * width))
        return [index[start : start + size] for start in range(0, len(index), size)]

    def _load(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images = self._images.take(index)
        return images.pixels().to(self.device), images.labels.to(self.device)

    def _seeds(self, name: str, index: Tensor) -> Tensor:
        seeds = [derive_seed(self._params.seed, name, image) for image in self.ids[index].tolist()]
        return torch.tensor(seeds, dtype=torch.int64)

    def _watch(self) -> None:
        """Called by a victim before every batch."""
        if self._reporter.should_stop():
            raise Stopped
        self._progress.tick()

    def _judge(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted class and whether it is the label, both (N,) on the CPU, from float32 logits."""
        logits = self.victim.final_logits(pixels)
        if logits.shape != (len(pixels), len(self._images.classes)):
            classes = len(self._images.classes)
            raise AttackError(f"the model answers {tuple(logits.shape)} for {len(pixels)} images of {classes} classes")
        if not logits.isfinite().all():
            raise AttackError("the model's logits are not finite (NaN or infinity); a training that diverged?")
        return logits.argmax(dim=1).cpu(), is_right(logits, labels).cpu()

    def _keep_examples(
        self, params: AttackParams, index: Tensor, *, pixels: Tensor, points: Tensor, strike: Strike
    ) -> None:
        entry = ATTACKS[params.name]
        for row, image in enumerate(index.tolist()):
            rank = (1 if entry.minimum_norm else 0) if strike.broken[row] else NOT_BROKEN
            if not self.examples.wants(rank, int(self.ids[image])):
                continue
            self.examples.offer(
                Example(
                    rank=rank,
                    index=int(self.ids[image]),
                    label=int(self._images.labels[image]),
                    clean_prediction=int(self.predictions[image]),
                    adversarial_prediction=int(strike.predictions[row]),
                    attack=params.name,
                    linf=strike.linf[row].item(),
                    l2=strike.l2[row].item(),
                    clean=pixels[row].cpu().clone(),  # a view would keep its whole chunk in memory
                    adversarial=points[row].cpu().clone(),
                )
            )


def _nested(inner: AttackParams, outer: BoundedParams) -> bool:
    """Whether ``inner`` is the same kind of attack in a ball that the ball of ``outer`` contains."""
    if inner.name != outer.name or inner.radius is None:
        return False
    norm, eps = inner.radius
    return norm == outer.norm and eps <= outer.eps
