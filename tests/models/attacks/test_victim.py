"""The victim: fast gradients beside the plain ones, float32 verdicts, and a model that is never touched."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.attacks.folding import folded
from models.attacks.objectives import cross_entropy, margin
from models.attacks.victim import Tuning, Victim
from models.networks import build_model
from models.specs import BackboneSpec, ModelCard

FAST = Tuning(folded=True, precision="bfloat16")


@pytest.fixture(scope="module")
def network():
    """A small ResNet whose batch normalization has statistics that matter."""
    card = ModelCard(
        kind="classifier",
        backbone=BackboneSpec(name="resnet18", width=8, blocks=(1, 1)),
        image_shape=(3, 16, 16),
        classes=tuple("abcde"),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.2, 0.3),
    )
    model = build_model(card, seed=3)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(torch.rand(32, 3, 16, 16, generator=generator))
    return model.eval()


def plain_gradient(model, points, labels):
    points = points.clone().requires_grad_(True)
    nn.functional.cross_entropy(model(points), labels, reduction="sum").backward()
    return points.grad


@pytest.fixture(scope="module")
def points():
    return torch.rand(23, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(23) % 5


@pytest.mark.parametrize("tuning", [Tuning(), Tuning(folded=True)])
@pytest.mark.parametrize("batch_size", [None, 1, 7])
def test_logits_and_gradients_are_the_models_own_whatever_the_batches(network, points, tuning, batch_size):
    pixels, labels = points
    victim = Victim(network, tuning=tuning, batch_size=batch_size)
    logits, values, gradient = victim.gradient(pixels, cross_entropy, labels)
    expected = network(pixels).detach()
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(victim.logits(pixels), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, nn.functional.cross_entropy(expected, labels, reduction="none"))
    torch.testing.assert_close(gradient, plain_gradient(network, pixels, labels), atol=1e-5, rtol=1e-3)
    assert (victim.work.forwards, victim.work.gradients) == (23, 23)


def test_folding_leaves_no_batch_normalization_and_the_same_function(network, points):
    fast = folded(copy.deepcopy(network).requires_grad_(False), points[0])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    torch.testing.assert_close(fast(points[0]), network(points[0]).detach(), atol=1e-5, rtol=1e-5)


class Forked(nn.Module):
    """Its forward pass depends on the data: it cannot be traced."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images) if float(images.detach().sum()) > 0 else self.inner(images) * 2


def test_a_model_that_cannot_be_traced_is_attacked_unfolded(network, points):
    pixels, labels = points
    gradient = Victim(Forked(network), tuning=Tuning(folded=True)).gradient(pixels, cross_entropy, labels).gradient
    torch.testing.assert_close(gradient, plain_gradient(network, pixels, labels), atol=1e-5, rtol=1e-3)


class Deceptive(nn.Module):
    """It shows a tracer another function than it computes."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return self.inner(images) if isinstance(images, torch.fx.Proxy) else -self.inner(images)


def test_a_trace_that_answers_otherwise_is_not_used(network, points):
    model = Deceptive(copy.deepcopy(network)).requires_grad_(False)
    assert folded(model, points[0]) is model


def test_low_precision_gradients_point_the_same_way_and_verdicts_stay_in_float32(network, points):
    pixels, labels = points
    victim = Victim(network, tuning=FAST, batch_size=10)
    logits, _, gradient = victim.gradient(pixels, cross_entropy, labels)
    exact = plain_gradient(network, pixels, labels)
    alike = nn.functional.cosine_similarity(gradient.flatten(1), exact.flatten(1))
    assert gradient.dtype == logits.dtype == torch.float32
    assert alike.min() > 0.95 and not torch.equal(gradient, exact), "or it was not low precision at all"
    torch.testing.assert_close(victim.logits(pixels), network(pixels).detach(), atol=1e-5, rtol=1e-5)


def test_what_low_precision_calls_wrong_counts_only_if_float32_agrees(network, points):
    pixels, _ = points
    labels = network(pixels).argmax(dim=1)
    all_wrong = torch.zeros(23, 5).scatter(1, labels[:, None], -1.0)
    assert not Victim(network, tuning=FAST).fooled(pixels, labels, logits=all_wrong).any()
    other = (labels + 1) % 5
    assert Victim(network, tuning=FAST).fooled(pixels, other, logits=all_wrong.scatter(1, other[:, None], -2.0)).all()


def test_what_was_confirmed_is_not_computed_again_and_is_forgotten_after_one_look(network, points):
    pixels, _ = points
    expected = network(pixels).detach()
    labels = torch.where(torch.arange(23) < 9, expected.argmax(dim=1) + 1, expected.argmax(dim=1)) % 5
    victim = Victim(network, tuning=FAST, batch_size=10)
    assert victim.fooled(pixels, labels, logits=expected).tolist() == [True] * 9 + [False] * 14
    for computed in (14, 23):
        before = victim.work.forwards
        torch.testing.assert_close(victim.final_logits(pixels), expected, atol=1e-5, rtol=1e-5)
        assert victim.work.forwards - before == computed


def test_a_confirmed_point_that_moved_by_one_bit_is_computed(network, points):
    pixels, _ = points
    labels = (network(pixels).argmax(dim=1) + 1) % 5
    victim = Victim(network, tuning=FAST)
    victim.fooled(pixels, labels, logits=network(pixels).detach())
    moved = pixels.clone()
    moved[4, 1, 2, 3] = torch.nextafter(moved[4, 1, 2, 3], torch.tensor(2.0))
    before = victim.work.forwards
    victim.final_logits(moved)
    assert victim.work.forwards - before == 1


def test_float32_glances_are_folded_and_counted_with_the_others(network, points):
    pixels, labels = points
    victim = Victim(network, tuning=FAST, batch_size=10)
    precise = victim.in_float32()
    torch.testing.assert_close(precise.glance(pixels), network(pixels).detach(), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(victim.glance(pixels), precise.glance(pixels), atol=1e-5), "the victim itself is faster"
    gradient = precise.gradient(pixels, cross_entropy, labels).gradient
    torch.testing.assert_close(gradient, plain_gradient(network, pixels, labels), atol=1e-5, rtol=1e-3)
    assert (victim.work.forwards, victim.work.gradients) == (3 * 23, 23)
    assert not precise.is_exact and precise.in_float32() is precise
    assert Victim(network).in_float32().is_exact


def test_per_image_arguments_are_split_with_their_images(network, points):
    pixels, labels = points
    weights = torch.arange(23.0)

    def weighted(logits, labels, weight):
        return margin(logits, labels) * weight

    whole = Victim(network).gradient(pixels, weighted, labels, weights)
    split = Victim(network, batch_size=5).gradient(pixels, weighted, labels, weights)
    torch.testing.assert_close(split.gradient, whole.gradient, atol=1e-5, rtol=1e-4)
    assert whole.gradient[0].abs().max() == 0 and whole.gradient[1].abs().max() > 0


def test_the_model_handed_in_is_never_touched(network, points):
    pixels, labels = points
    model = copy.deepcopy(network).train()
    state = copy.deepcopy(model.state_dict())
    victim = Victim(model, tuning=FAST)
    victim.gradient(pixels, cross_entropy, labels)
    victim.right(pixels, labels)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_watch_may_end_an_attack_between_batches(network, points):
    def enough():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Victim(network, watch=enough).logits(points[0])


def test_a_compiled_victim_gives_the_same_gradients_with_one_batch_shape(points):
    pixels, labels = points
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))
    victim = Victim(tiny, tuning=Tuning(folded=True, compiled=True), batch_size=10)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    gradient = victim.gradient(pixels, cross_entropy, labels).gradient  # 10, 10 and 3 filled up to 10
    torch.testing.assert_close(gradient, plain_gradient(tiny, pixels, labels), atol=1e-5, rtol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
