"""What minimum-norm attacks share, on models whose boundary is known."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.attacks.minimum_norm import (
    MinimumNormParams,
    Smallest,
    distance_to_boundary,
    in_parts,
    likeliest_others,
    smallest_confirmed,
)
from models.attacks.noise import PerImageNoise
from models.attacks.victim import Tuning, Victim

BOUNDARY = 0.5
FAST = Tuning(folded=True, precision="bfloat16")


class Threshold(nn.Module):
    """Two classes: 0 while the mean pixel is under BOUNDARY, 1 above, the more certain the farther away."""

    def forward(self, points: Tensor) -> Tensor:
        lead = points.flatten(1).mean(dim=1) - BOUNDARY
        return torch.stack([-lead, lead], dim=1)


def grey(*levels: float) -> Tensor:
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


def noise(count: int) -> PerImageNoise:
    return PerImageNoise(torch.arange(count))


def confirmed(victim: Victim, images: Tensor, found: Tensor, **options) -> Tensor:
    labels = torch.zeros(len(images), dtype=torch.long)
    return smallest_confirmed(
        lambda victim, images, labels, noise: found, victim, images, labels, noise=noise(len(images)), **options
    )


@pytest.mark.parametrize("tuning", [Tuning(), FAST])
def test_a_found_point_moves_to_the_boundary_on_its_own_line(tuning):
    images = grey(0.3, 0.3, 0.1, 0.3)
    points = confirmed(Victim(Threshold(), tuning=tuning), images, grey(0.5 + 0.01, 0.5 + 0.002, 0.5 + 0.03, 0.5))
    assert (points.flatten(1).mean(dim=1) >= BOUNDARY - 1e-6).all()
    torch.testing.assert_close(points, grey(0.5, 0.5, 0.5, 0.5), atol=0.2 * 0.1 / 2**4, rtol=0)


@pytest.mark.parametrize("tuning", [Tuning(), FAST])
def test_a_point_just_short_of_the_boundary_is_taken_across(tuning):
    points = confirmed(Victim(Threshold(), tuning=tuning), grey(0.3, 0.1), grey(0.495, 0.48))
    assert (points.flatten(1).mean(dim=1) >= BOUNDARY).all()
    torch.testing.assert_close(points, grey(0.5, 0.5), atol=0.005, rtol=0)


def test_a_failure_comes_back_clean_and_keeps_no_other_from_success():
    images = grey(0.3, 0.3, 0.3)
    points = confirmed(Victim(Threshold()), images, grey(0.4, 0.51, 0.3))
    assert torch.equal(points[[0, 2]], images[[0, 2]])
    assert points[1].mean() >= BOUNDARY


def test_what_fast_gradients_misjudge_is_searched_again_with_exact_ones_and_the_same_noise():
    images, labels = grey(0.3, 0.2, 0.1), torch.zeros(3, dtype=torch.long)
    seen = []

    def search(victim: Victim, images: Tensor, labels: Tensor, noise: PerImageNoise) -> Tensor:
        seen.append((victim.is_exact, len(images), noise.select(torch.arange(len(images))).uniform(images)))
        first_fails = images.mean(dim=(1, 2, 3)) > 0.25
        if victim.is_exact:
            return grey(0.55).expand_as(images)
        return torch.where(first_fails.view(-1, 1, 1, 1), images + 0.01, grey(0.5))

    points = smallest_confirmed(search, Victim(Threshold(), tuning=FAST), images, labels, noise=noise(3))
    assert [(exact, count) for exact, count, _ in seen] == [(False, 3), (True, 1)]
    assert torch.equal(seen[1][2], seen[0][2][:1])
    assert (points.flatten(1).mean(dim=1) >= BOUNDARY).all()


def test_a_wanted_lead_is_kept():
    images = grey(0.3)
    points = confirmed(Victim(Threshold()), images, grey(0.56), lead=0.1)  # the margin is twice the mean's lead
    assert 0.55 <= points.mean() <= 0.552
    assert torch.equal(confirmed(Victim(Threshold()), images, grey(0.51), lead=0.1), images)


def test_the_best_point_is_the_smallest_one_that_counts():
    best = Smallest.unknown(grey(0.1, 0.2))
    best.update(torch.tensor([1]), grey(0.9), torch.tensor([0.7]))
    best.update(torch.tensor([0, 1]), grey(0.3, 0.4), torch.tensor([torch.inf, 0.2]))
    best.update(torch.tensor([1]), grey(0.6), torch.tensor([0.4]))
    assert torch.equal(best.images, grey(0.1, 0.4))
    assert best.norms.tolist() == [torch.inf, pytest.approx(0.2)]


def test_parts_of_the_images_add_up_to_the_whole():
    images, labels = grey(0.1, 0.2, 0.3), torch.arange(3)
    sizes = []

    def search(victim: Victim, images: Tensor, labels: Tensor, noise: PerImageNoise) -> Tensor:
        sizes.append(len(images))
        return images + noise.uniform(images) + labels.view(-1, 1, 1, 1)

    whole = search(Victim(Threshold()), images, labels, noise(3))
    parts = in_parts(search, rows=2**25)(Victim(Threshold()), images, labels, noise(3))
    assert sizes == [3, 1, 1, 1] and torch.equal(parts, whole)


def test_the_likeliest_wrong_classes_come_first():
    logits = torch.tensor([[4.0, 1.0, 3.0, 2.0], [4.0, 1.0, 3.0, 2.0]])
    assert likeliest_others(logits, torch.tensor([0, 2]), count=2).tolist() == [[2, 3], [0, 3]]
    assert likeliest_others(logits, torch.tensor([0, 2]), count=9).tolist() == [[2, 3, 1], [0, 3, 1]]


def test_a_vanishing_gradient_is_as_far_from_the_boundary_as_a_large_one():
    gradients = torch.tensor([[3.0, -4.0]]).view(1, 1, 1, 2)
    for scale in (1.0, 2.0**-90):
        values = torch.tensor([-10.0]) * scale
        assert distance_to_boundary(values, gradients * scale, norm="l2").item() == pytest.approx(2)
        assert distance_to_boundary(values, gradients * scale, norm="linf").item() == pytest.approx(10 / 7)
    assert distance_to_boundary(torch.tensor([1.0]), torch.zeros(1, 1, 1, 2), norm="l2").isinf()


def test_a_radius_is_optional_and_fits_the_norm():
    class Params(MinimumNormParams):
        name: str = "some"

    assert Params().radius is None
    assert Params(norm="linf", eps="8/255").radius == ("linf", 8 / 255)
    with pytest.raises(ValidationError, match='8-bit steps are "8/255"'):
        Params(norm="linf", eps=8)
