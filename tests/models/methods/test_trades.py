"""TRADES and adversarial weight perturbation against plain implementations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional

from models.losses import divergence
from models.methods.spec import TrainingAttack
from models.methods.supervised import SupervisedLearner, WeightPerturbationSpec
from models.methods.trades import TradesAttack, TradesLearner
from models.methods.weights import WorstWeights
from tests.models.methods.setting import EPS, IMAGES, LABELS, classifier, moment, plain_pgd, same, seeded

ATTACK = TradesAttack(eps=EPS, steps=4, step_size=EPS / 4)


def test_the_divergence_is_torchs_and_has_right_gradients() -> None:
    clean, attacked = torch.randn(2, 6, 5, dtype=torch.float64, generator=seeded()).requires_grad_().unbind(0)
    theirs = nn.KLDivLoss(reduction="none")(attacked.log_softmax(1), clean.softmax(1)).sum(1)
    torch.testing.assert_close(divergence(clean, attacked), theirs)
    leaves = [points.detach().requires_grad_() for points in (clean, attacked)]
    assert gradcheck(divergence, leaves)
    assert divergence(clean.bfloat16(), attacked.bfloat16()).dtype == torch.float32


def test_a_trades_step_is_the_authors_formula() -> None:
    """Two forward passes in train mode, cross-entropy on the first, β times the mean KL between them."""
    model = classifier()
    learner = TradesLearner(model, same, attack=ATTACK, beta=6.0)
    attacked = learner.perturb(IMAGES, LABELS, moment=moment(), generator=seeded())
    twin = copy.deepcopy(model)
    loss, told = learner.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
    clean, moved = twin(IMAGES), twin(attacked)
    kl = nn.KLDivLoss(reduction="sum")(functional.log_softmax(moved, 1), functional.softmax(clean, 1)) / len(IMAGES)
    torch.testing.assert_close(loss, functional.cross_entropy(clean, LABELS) + 6 * kl)
    torch.testing.assert_close(told["divergence"], kl.detach())
    loss.backward()
    (functional.cross_entropy(twin(IMAGES), LABELS)).item()  # moves no gradient
    (functional.cross_entropy(clean, LABELS) + 6 * kl).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_its_attack_raises_the_divergence_inside_the_ball() -> None:
    model = classifier()
    learner = TradesLearner(model, same, attack=ATTACK, beta=6.0)
    attacked = learner.perturb(IMAGES, LABELS, moment=moment(), generator=seeded())
    assert (attacked - IMAGES).abs().max() <= EPS + 1e-6 and attacked.min() >= 0 and attacked.max() <= 1
    noisy = (IMAGES + EPS * (2 * torch.rand(IMAGES.shape, generator=seeded()) - 1)).clamp(0, 1)
    model.eval()
    with torch.no_grad():
        clean = model(IMAGES)
        assert divergence(clean, model(attacked)).mean() > 2 * divergence(clean, model(noisy)).mean()


def test_its_attack_climbs_the_authors_divergence_from_their_start() -> None:
    """KL(p(x) ‖ p(x')) from x + 0.001·N(0, 1), step by step in float64."""
    model = classifier(double=True)
    learner = TradesLearner(model, same, attack=ATTACK, beta=6.0)
    images, twin = IMAGES.double(), copy.deepcopy(model).eval()
    clean = twin(images).softmax(1).detach()
    expected = plain_pgd(
        lambda points: (clean * (clean.log() - twin(points).log_softmax(1))).sum(),
        images,
        start=images + 0.001 * torch.randn(images.shape, dtype=torch.float64, generator=seeded()),
        steps=4,
    )
    torch.testing.assert_close(learner.perturb(images, LABELS, moment=moment(), generator=seeded()), expected)


def proxy_perturbed(model: nn.Module, points: Tensor, *, gamma: float) -> nn.Module:
    """As the authors do it: step a copy along the gradient, keep each layer's direction, scale it to γ‖w‖."""
    proxy = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-functional.cross_entropy(proxy(points), LABELS)).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    moved = copy.deepcopy(model)
    old, new = dict(model.named_parameters()), dict(proxy.named_parameters())
    with torch.no_grad():
        for name, weight in moved.named_parameters():
            if weight.dim() > 1:
                step = new[name] - old[name]
                weight += gamma * old[name].norm() / (step.norm() + 1e-20) * step
    return moved


def test_perturbed_weights_are_the_authors_and_the_model_keeps_its_own() -> None:
    model = classifier(double=True)
    images = IMAGES.double()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    forward = WorstWeights(model, gamma=0.01).against(lambda run: functional.cross_entropy(run(images), LABELS))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    moved = proxy_perturbed(model, images, gamma=0.01)
    ours, theirs = (functional.cross_entropy(run(images), LABELS) for run in (forward, moved))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert ours > functional.cross_entropy(copy.deepcopy(model)(images), LABELS)
    ours.backward()
    theirs.backward()
    for weight, twin in zip(model.parameters(), moved.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, twin.grad, rtol=1e-7, atol=1e-9)


def test_weights_are_perturbed_from_their_epoch_on() -> None:
    def loss(epoch: float, spec: WeightPerturbationSpec | None) -> float:
        attack = TrainingAttack(eps=EPS, steps=2)
        learner = SupervisedLearner(classifier(), same, attack=attack, weight_perturbation=spec)
        return learner.loss(IMAGES, LABELS, moment=moment(epoch=epoch), generator=seeded())[0].item()

    spec = WeightPerturbationSpec(gamma=0.01, warmup_epochs=2)
    assert loss(1.99, spec) == loss(1.99, None) == loss(2, None)
    assert loss(2, spec) > loss(2, None)
