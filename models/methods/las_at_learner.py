"""One LAS-AT step: choose an attack for each image, train on it, and now and then let the strategy learn."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.attacks.noise import BatchNoise
from models.attacks.objectives import cross_entropy
from models.attacks.threat import Linf
from models.distributed import averaged, mean
from models.methods.attacking import under_attack
from models.methods.spec import Augment, TrainingAttack
from models.methods.strategy import StrategyNetwork, draw, log_likelihood
from models.methods.supervised import accuracy, strike
from models.networks import ImageModel, frozen
from models.progress import Moment
from models.stopwatch import Stopwatch

LARGEST_LOSS = 10.0
"""In a reward: the authors clamp the adversarial loss, so that one outlier does not rule."""


class LASATLearner:
    """Minimizes CE with smoothed labels on images attacked as ``strategy`` chooses; REINFORCE trains the strategy.

    The reward is R = CE(h(x'), y) + ``robustness``·(accuracy under ``reference``) + ``clean``·(accuracy), the last two
    of a copy of the target after one SGD step on x' (weights as in the authors' code).
    """

    def __init__(
        self,
        model: ImageModel,
        augment: Augment,
        *,
        strategy: StrategyNetwork,
        reference: TrainingAttack,
        every: int,
        strategy_lr: float,
        robustness: float,
        clean: float,
        label_confidence: float,
    ) -> None:
        self.attack_time = Stopwatch()
        self.modules: nn.Module = nn.ModuleDict({"model": model, "strategy": strategy})
        self._model = model
        self._strategy = strategy
        self._augment = augment
        self._reference = reference
        self._every = every
        self._strategy_lr = strategy_lr
        self._robustness = robustness
        self._clean = clean
        self._label_confidence = label_confidence

    def loss(
        self, images: Tensor, labels: Tensor, *, moment: Moment, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :class:`models.methods.spec.Learner`. The strategy takes its own steps here: its loss is another."""
        images = self._augment(images, generator)
        told: dict[str, Tensor] = {}
        with self.attack_time.running(images.device):
            if moment.step % self._every == self._every - 1:
                told["reward"] = self._learn_strategy(images, labels, lr=moment.lr, generator=generator)
            with frozen(self._strategy), torch.no_grad():
                chosen = self._strategy.values(draw(self._strategy(images), generator))
            attacked = self._attacked(images, labels, chosen, generator=generator)
        logits = self._model(attacked).float()
        told |= {"batch_accuracy": accuracy(logits, labels), "mean_eps": chosen["eps"].mean()}
        return self._smoothed(logits, labels), told

    def _smoothed(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy against targets that give the label its share and the other classes the rest."""
        share = self._label_confidence
        targets = torch.full_like(logits, (1 - share) / (logits.shape[1] - 1))
        return functional.cross_entropy(logits, targets.scatter_(1, labels.unsqueeze(1), share))

    def _attacked(
        self, images: Tensor, labels: Tensor, chosen: dict[str, Tensor], *, generator: torch.Generator
    ) -> Tensor:
        """Linf PGD, each image by its own radius, step and number of steps; done images leave the batch."""
        start = Linf(self._reference.eps).random_start(images, BatchNoise(generator))
        eps, size = (chosen[name].view(-1, 1, 1, 1) for name in ("eps", "step_size"))
        points = images + (start - images).clamp(-eps, eps)
        with under_attack(self._model):
            for step in range(int(chosen["steps"].max())):
                left = (chosen["steps"] > step).nonzero().squeeze(1)
                with torch.enable_grad():
                    current = points[left].requires_grad_(True)
                    (gradient,) = torch.autograd.grad(cross_entropy(self._model(current), labels[left]).sum(), current)
                delta = current.detach() + size[left] * gradient.sign() - images[left]
                points[left] = (images[left] + delta.clamp(-eps[left], eps[left])).clamp(0, 1)
        return points

    def _learn_strategy(self, images: Tensor, labels: Tensor, *, lr: float, generator: torch.Generator) -> Tensor:
        """One step of REINFORCE by plain SGD, which keeps no state beside the weights; answers the reward."""
        with torch.enable_grad():
            table = self._strategy(images)
            drawn = draw(table, generator)
            attacked = self._attacked(images, labels, self._strategy.values(drawn), generator=generator)
            reward = self._reward(images, attacked, labels, lr=lr, generator=generator)
            weights = list(self._strategy.parameters())
            gradients = averaged(torch.autograd.grad(-log_likelihood(table, drawn) * reward, weights))
        norm = torch.nn.utils.get_total_norm(gradients)
        if not norm.isfinite():
            return reward  # the target has diverged, as its own loss tells
        scale = self._strategy_lr / norm.clamp_min(1.0)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(scale * gradient)
        return reward

    def _reward(
        self, images: Tensor, attacked: Tensor, labels: Tensor, *, lr: float, generator: torch.Generator
    ) -> Tensor:
        """What the drawn strategy was worth, a scalar."""
        with torch.no_grad(), frozen(self._model):
            hardness = mean(cross_entropy(self._model(attacked), labels).mean()).clamp(max=LARGEST_LOSS)
        updated = copy.deepcopy(self._model)
        loss = self._smoothed(updated(attacked).float(), labels)
        weights = list(updated.parameters())
        gradients = averaged(torch.autograd.grad(loss, weights))
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(lr * gradient)
        strong = strike(updated, images, labels, attack=self._reference, generator=generator)
        with torch.no_grad(), frozen(updated):
            robust, natural = (mean(accuracy(updated(points), labels)) for points in (strong, images))
        return hardness + self._robustness * robust + self._clean * natural

    def remarks(self) -> list[dict[str, str]]:
        return []

    def published(self) -> ImageModel:
        return self._model
