"""One evaluation on its way: attack after attack, chunk after chunk of the images that are right.

After every chunk, and after every part of an ensemble attack, it stands at a point from which it can go on later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from models.attacks.ensemble import Found, run_parts
from models.attacks.noise import PerImageNoise, derive_seed
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS, AttackParams, BoundedParams
from models.attacks.victim import Tuning, Victim
from models.data.images import ImageSet
from models.evaluation_checks import AttackError, Strike, Tally, checked_sizes, inside
from models.evaluation_evidence import AttackEvidence
from models.evaluation_examples import NOT_BROKEN, Example, Examples
from models.evaluation_health import examine, is_examined
from models.evaluation_progress import Progress
from models.evaluation_spec import EvaluationParams
from models.evaluation_state import State
from models.precision import resolve_precision
from models.progress import Reporter, Stopped
from models.resuming import Checkpoints

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
        checkpoints: Checkpoints | None,
    ) -> None:
        """Goes on from where ``checkpoints`` say that an interrupted run stood; CheckpointError for another's."""
        self.ids = ids
        self.device = device
        self.state = State.new(len(images), Examples(params.examples, images=total, seed=params.seed))
        self._images = images
        self._params = params
        self._total = total
        self._reporter = reporter
        self._checkpoints = checkpoints
        interrupted = checkpoints.interrupted() if checkpoints else None
        self._progress = Progress(reporter, params, images=len(images), resumed=interrupted is not None)
        if interrupted is not None:
            self.state.restore(interrupted)
        self._started = time.perf_counter() - self.state.seconds

    @property
    def seconds(self) -> float:
        """Since the evaluation began, without the time between its attempts."""
        return time.perf_counter() - self._started

    def save(self) -> None:
        """Write a resume checkpoint of the last point to go on from, if there is one."""
        if self._checkpoints is not None and self.state.pieces:
            self.state.seconds = self.seconds
            self._checkpoints.write(self.state.pieces, self.state.dump())

    def _reached(self) -> None:
        """A point to go on from."""
        self.state.reached()
        if self._checkpoints is not None and self._checkpoints.due(self.state.pieces):
            self.save()

    def take_on(self, model: nn.Module, sources: Mapping[str, nn.Module]) -> None:
        """Make victims of the models, tuned for this device."""
        # Also where a machine goes on that would choose otherwise.
        self.state.precision = self.state.precision or resolve_precision(self._params.precision, self.device)
        tuning = Tuning(folded=True, precision=self.state.precision, compiled=self._params.compile)

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
        self.victim.work = self.state.work
        for source in self.victim.sources.values():
            source.work = self.victim.work  # crafting counts
        self._progress.follow(self.victim.work)

    def clean(self) -> None:
        """Find out which images are right as they are."""
        state = self.state
        self._progress.begin("clean", cost=Progress.CLEAN, images=len(self._images))
        self._progress.finish(state.judged)
        for index in self._chunks(torch.arange(state.judged, len(self._images))):
            state.predictions[index], state.right[index] = self._judge(*self._load(index))
            state.judged += len(index)
            self._progress.finish(len(index))
            self._reached()

    def attack(self, params: AttackParams) -> AttackEvidence:
        """Attack the images that are right as they are. To be called for each attack of the spec, in its order."""
        number, state = self._params.attacks.index(params), self.state
        if number == len(state.tallies):
            state.tallies.append(Tally.of(len(self._images)))
        tally = state.tallies[number]
        self._begin_with_the_right(params.name, cost=params.cost, done=tally.attacked)
        for index in self._chunks(self._right()[tally.attacked :]):
            self._attack_chunk(params, index, tally)
            self._progress.finish(len(index))
            self._reached()
        return tally.evidence()

    def _attack_chunk(self, params: AttackParams, index: Tensor, tally: Tally) -> None:
        """A function of its own, so that its tensors are gone before those of the next chunk are made."""
        pixels, labels = self._load(index)
        if ATTACKS[params.name].parts is None:
            points, seconds = self._attacked(params, index, pixels=pixels, labels=labels)
            found = None
        else:
            found = self._attacked_in_parts(params, index, pixels=pixels, labels=labels)
            points, seconds = found.points, sum(part.seconds for part in found.parts)
        strike = self._strike(params, pixels=pixels, labels=labels, points=points)
        tally.add(index, strike, seconds=seconds, parts=found.parts if found else ())
        self._keep_examples(params, index, pixels=pixels, points=points, strike=strike)
        self.state.found = None

    def curve(self, attacks: tuple[AttackEvidence, ...]) -> tuple[Tensor, ...]:
        """For each radius, growing, who is broken there, boolean (N,).

        One pass: what broke in a smaller ball stays broken, since the larger holds it too, and a survivor goes on from
        where the smaller ball left it, if the attack can be continued (``Attack.warm_start``).
        """
        radii, state = self._params.curve_points(), self.state
        if not radii:
            return ()
        if not state.curve:
            state.curve = [self._broken_already(params, attacks) for params in radii]
        self._begin_with_the_right("curve", cost=sum(params.cost for params in radii), done=state.curved)
        for index in self._chunks(self._right()[state.curved :]):
            self._curve_of(index, radii, state.curve)
            state.curved += len(index)
            self._progress.finish(len(index))
            self._reached()
        return tuple(state.curve)

    def _broken_already(self, params: BoundedParams, attacks: tuple[AttackEvidence, ...]) -> Tensor:
        """Whom the same kind of attack broke in a ball that this one's contains, boolean (N,)."""
        broken = torch.zeros_like(self.state.right)
        for asked, seen in zip(self._params.attacks, attacks, strict=True):
            if _nested(asked, params):
                broken |= seen.broken
        return broken

    def _curve_of(self, index: Tensor, radii: list[BoundedParams], broken: list[Tensor]) -> None:
        """Fill in the rows ``index`` of ``broken``, all at once: a stop in between leaves them as they were."""
        reached: Tensor | None = None
        fallen = torch.zeros(len(index), dtype=torch.bool)
        fallen_at: list[Tensor] = []
        pixels, labels = self._load(index)
        for params, column in zip(radii, broken, strict=True):
            fallen |= column[index]
            standing = (~fallen).nonzero().squeeze(1)
            if params.eps > 0 and len(standing) and params not in self._params.attacks:
                x, y, start = pixels[standing], labels[standing], None if reached is None else reached[standing]
                points, _ = self._attacked(params, index[standing], pixels=x, labels=y, start=start)
                fallen[standing] |= self._strike(params, pixels=x, labels=y, points=points).broken
                reached = pixels.clone() if reached is None else reached
                reached[standing] = points
            fallen_at.append(fallen.clone())
        for column, rows in zip(broken, fallen_at, strict=True):
            column[index] = rows

    def _right(self) -> Tensor:
        """Positions of the images that are right as they are, which are to be attacked."""
        return self.state.right.nonzero().squeeze(1)

    def _begin_with_the_right(self, stage: str, *, cost: float, done: int) -> None:
        """A stage that has nothing to do for the images that are wrong, nor for the first ``done`` of the others."""
        self._progress.begin(stage, cost=cost, images=len(self._images))
        self._progress.finish(len(self._images) - len(self._right()) + done)

    def health(self) -> dict[str, float]:
        """Counts from a small sample that tell whether the numbers can be believed."""
        examined = is_examined(self.ids, total=self._total, seed=self._params.seed)
        sample = (self.state.right & examined).nonzero().squeeze(1)
        pixels, labels = self._load(sample)
        return examine(self.victim, pixels, labels, params=self._params, noise=self._noise("health", sample))

    def rounded_examples(self) -> tuple[Example, ...]:
        """The sample to be kept, with what rounding to 8 bits leaves of it."""
        kept = self.state.examples.kept()
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
    ) -> tuple[Tensor, float]:
        """Adversarial images, and the seconds that they took."""
        entry = ATTACKS[params.name]
        continued = {"start": start} if start is not None and entry.warm_start else {}
        began = time.perf_counter()
        points = entry.run(self.victim, pixels, labels, params, noise=self._noise(params.name, index), **continued)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return points, time.perf_counter() - began

    def _attacked_in_parts(self, params: AttackParams, index: Tensor, *, pixels: Tensor, labels: Tensor) -> Found:
        """What an ensemble finds; of an interrupted run's last chunk the parts that were through are not repeated."""
        entry, state = ATTACKS[params.name], self.state
        assert entry.parts is not None
        if state.found is None:
            state.chunk_began = self.victim.work.steps
            state.found = Found.before(self.victim, pixels, labels)
        else:
            state.found = state.found.to(self.device)
            self._progress.go_on(since=state.chunk_began)
        members = entry.parts(params, len(self._images.classes))
        noise = self._noise(params.name, index)
        run_parts(self.victim, pixels, labels, members, noise=noise, found=state.found, after_part=self._reached)
        return state.found

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

    def _noise(self, name: str, index: Tensor) -> PerImageNoise:
        seeds = [derive_seed(self._params.seed, name, image) for image in self.ids[index].tolist()]
        return PerImageNoise(torch.tensor(seeds, dtype=torch.int64))

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
            if not self.state.examples.wants(rank, int(self.ids[image])):
                continue
            self.state.examples.offer(
                Example(
                    rank=rank,
                    index=int(self.ids[image]),
                    label=int(self._images.labels[image]),
                    clean_prediction=int(self.state.predictions[image]),
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
