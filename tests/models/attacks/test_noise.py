from __future__ import annotations

import pytest
import torch

from models.attacks.noise import BatchNoise, PerImageNoise, derive_seed

LIKE = torch.empty(64, 3, 5, 5)


def test_an_images_numbers_depend_on_its_seed_and_its_own_draws_alone():
    seeds = torch.arange(64) * 1000
    whole = PerImageNoise(seeds)
    first, second = whole.uniform(LIKE), whole.normal(LIKE)
    part = PerImageNoise(seeds).select(torch.tensor([5, 17]))
    torch.testing.assert_close(part.uniform(LIKE[:2]), first[[5, 17]], atol=0, rtol=0)
    # Dropping the others after the first draw does not shift what comes next.
    torch.testing.assert_close(part.select(torch.tensor([False, True])).normal(LIKE[:1]), second[[17]], atol=0, rtol=0)


def test_draws_of_one_image_differ():
    noise = PerImageNoise(torch.tensor([3]))
    assert not torch.equal(noise.uniform(LIKE[:1]), noise.uniform(LIKE[:1]))


@pytest.mark.parametrize("noise", [PerImageNoise(torch.arange(64)), BatchNoise(torch.Generator().manual_seed(0))])
def test_the_distributions_are_those_promised(noise):
    uniform, normal = noise.uniform(LIKE), noise.normal(LIKE)
    assert uniform.shape == LIKE.shape and uniform.dtype == LIKE.dtype
    assert uniform.min() >= -1 and uniform.max() <= 1 and abs(uniform.mean()) < 0.05
    assert abs(uniform.var() - 1 / 3) < 0.02
    assert abs(normal.mean()) < 0.05 and abs(normal.var() - 1) < 0.08


def test_a_branch_draws_its_own_numbers_whatever_was_drawn_before():
    noise, untouched = PerImageNoise(torch.arange(64)), PerImageNoise(torch.arange(64))
    first = noise.uniform(LIKE)
    branch = noise.branch("square")
    drawn = branch.uniform(LIKE)
    assert torch.equal(drawn, untouched.branch("square").uniform(LIKE))
    assert not torch.equal(drawn, first) and not torch.equal(drawn, untouched.branch("fab-t").uniform(LIKE))
    one = torch.tensor([9])
    assert torch.equal(untouched.select(one).branch("square").uniform(LIKE[:1]), drawn[one])


def test_every_copy_of_an_image_draws_its_own_numbers():
    rows = PerImageNoise(torch.tensor([3, 8])).repeat(3).uniform(LIKE[:6])
    assert len(rows.flatten(1).unique(dim=0)) == 6
    assert torch.equal(PerImageNoise(torch.tensor([8])).repeat(3).uniform(LIKE[:3]), rows[3:])
    shared = BatchNoise(torch.Generator().manual_seed(0))
    assert shared.branch("square") is shared and shared.repeat(3) is shared


def test_one_generator_repeats_a_training_run():
    draws = [BatchNoise(torch.Generator().manual_seed(1)).uniform(LIKE) for _ in range(2)]
    assert torch.equal(*draws)


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="2 images was asked for 3"):
        PerImageNoise(torch.arange(2)).uniform(LIKE[:3])
    with pytest.raises(ValueError, match="int64"):
        PerImageNoise(torch.zeros(2))


def test_a_derived_seed_is_stable_and_depends_on_every_part():
    assert derive_seed(0, "pgd", 1) == derive_seed(0, "pgd", 1)
    parts = [(0, "pgd", 1), (1, "pgd", 1), (0, "fgsm", 1), (0, "pgd", 2), (0, "pgd1", ""), (1, "pgd", 0)]
    seeds = {derive_seed(*part) for part in parts}
    assert len(seeds) == len(parts) and all(0 <= seed < 2**63 for seed in seeds)
