"""The contrastive losses against plain double loops written from the papers' equations, in float64."""

import math

import pytest
import torch

from models.losses import CLeadLoss, NTXent, contrastive_margin


def unit_vectors(count: int, dim: int, *, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return vectors / vectors.norm(dim=1, keepdim=True)


def plain_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Chen et al. 2020, Eq. 1, summed as Algorithm 1 says: mean of ℓ(i, j) and ℓ(j, i) over all pairs."""
    views = first.tolist() + second.tolist()
    count = len(first)

    def sim(i: int, k: int) -> float:
        return sum(a * b for a, b in zip(views[i], views[k], strict=True))

    total = 0.0
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        below = sum(math.exp(sim(i, k) / temperature) for k in range(2 * count) if k != i)
        total += -math.log(math.exp(sim(i, j) / temperature) / below)
    return total / (2 * count)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [2, 7])
def test_nt_xent_is_the_equation(count: int, temperature: float) -> None:
    first, second = unit_vectors(count, 5, seed=1), unit_vectors(count, 5, seed=2)
    expected = plain_nt_xent(first, second, temperature)
    loss = NTXent(temperature)
    assert loss(first, second).item() == pytest.approx(expected, rel=1e-12)
    assert loss(first.float(), second.float()).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("versions", [2, 3, 4])
def test_nt_xent_of_several_views_is_the_mean_over_all_ordered_pairs(versions: int) -> None:
    """Each view's partner in turn is every other version of its image; all other views are below (RoCL's program)."""
    views = [unit_vectors(5, 4, seed=seed) for seed in range(versions)]
    rows = [(version, image) for version in range(versions) for image in range(5)]

    def sim(a: tuple[int, int], b: tuple[int, int]) -> float:
        return math.exp(float(views[a[0]][a[1]] @ views[b[0]][b[1]]) / 0.5)

    losses = [
        -math.log(sim(one, other) / sum(sim(one, third) for third in rows if third != one))
        for one in rows
        for other in rows
        if one[1] == other[1] and one != other
    ]
    assert len(losses) == versions * (versions - 1) * 5
    assert NTXent(0.5)(*views).item() == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert torch.autograd.gradcheck(NTXent(0.5), tuple(view.requires_grad_() for view in views))


def test_nt_xent_of_one_image_is_zero() -> None:
    assert NTXent(0.1)(unit_vectors(1, 4, seed=1), unit_vectors(1, 4, seed=2)).item() == 0


def test_clead_loss_is_half_the_sum_of_both_pairs() -> None:
    clean, pgd, cw = (unit_vectors(6, 8, seed=seed) for seed in (1, 2, 3))
    expected = 0.5 * (plain_nt_xent(clean, pgd, 0.1) + plain_nt_xent(clean, cw, 0.1))
    assert CLeadLoss(0.1)(clean, pgd, cw).item() == pytest.approx(expected, rel=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    views = tuple(unit_vectors(4, 3, seed=seed).requires_grad_(True) for seed in (1, 2, 3))
    assert torch.autograd.gradcheck(CLeadLoss(0.3), views)


def test_low_temperatures_stay_finite_under_autocast() -> None:
    first = unit_vectors(16, 8, seed=1).float().requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = NTXent(0.001)(first, -first.detach())
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(first.grad).all()


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan"), float("inf")])
def test_a_temperature_that_makes_no_sense_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        NTXent(temperature)
    with pytest.raises(ValueError, match="positive and finite"):
        CLeadLoss(temperature)


def test_wrong_views_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        NTXent(0.1)(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="two or more"):
        NTXent(0.1)(torch.ones(2, 3))
    with pytest.raises(ValueError, match="at least one"):
        CLeadLoss(0.1)(torch.ones(2, 3))


def test_contrastive_margin_is_the_largest_other_similarity_minus_its_own() -> None:
    perturbed, clean = unit_vectors(5, 4, seed=1).float(), unit_vectors(5, 4, seed=2).float()
    for row, margin in enumerate(contrastive_margin(perturbed, clean).tolist()):
        sims = [float(perturbed[row] @ clean[k]) for k in range(5)]
        assert margin == pytest.approx(max(s for k, s in enumerate(sims) if k != row) - sims[row], abs=1e-6)
    assert contrastive_margin(perturbed.double(), clean.double()).dtype == torch.float64
