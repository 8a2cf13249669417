"""Blind noise: its distribution, its bounds, and who counts as broken."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from models.attacks import gaussian_noise, uniform_noise
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.spec import ATTACKS
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim

GREY = torch.full((300, 1, 6, 6), 0.5)
ZEROS = torch.zeros(300, dtype=torch.long)


def noise(count: int, first: int = 0) -> PerImageNoise:
    return PerImageNoise(torch.arange(first, first + count))


def never_wrong(points: Tensor) -> Tensor:
    return torch.tensor([1.0, 0.0]).expand(len(points), 2)


def wrong_when_brighter(points: Tensor) -> Tensor:
    return torch.stack([torch.zeros(len(points)), (points - 0.5).mean(dim=(1, 2, 3))], dim=1)


def test_linf_noise_is_uniform_over_the_ball():
    params = uniform_noise.UniformNoiseParams(eps=0.1)
    points = uniform_noise.run(Victim(never_wrong), GREY, ZEROS, params, noise=noise(300))
    assert stats.kstest((points - GREY).flatten().numpy(), stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


def test_l2_noise_has_lengths_uniform_up_to_the_radius():
    params = uniform_noise.UniformNoiseParams(norm="l2", eps=0.4)
    delta = uniform_noise.run(Victim(never_wrong), GREY, ZEROS, params, noise=noise(300)) - GREY
    lengths = delta.flatten(1).norm(dim=1)
    assert stats.kstest(lengths.numpy(), stats.uniform(0, 0.4).cdf).pvalue > 0.01
    directions = delta.flatten(1) / lengths[:, None]
    assert directions.mean(dim=0).abs().max() < 0.05


def test_gaussian_noise_is_normal_where_it_is_not_clamped():
    params = gaussian_noise.GaussianNoiseParams(std=0.05)
    points = gaussian_noise.run(Victim(never_wrong), GREY, ZEROS, params, noise=noise(300))
    assert stats.kstest((points - GREY).flatten().numpy(), stats.norm(0, 0.05).cdf).pvalue > 0.01
    black = torch.zeros(300, 1, 6, 6)
    clamped = gaussian_noise.run(Victim(never_wrong), black, ZEROS, params, noise=noise(300))
    assert clamped.min() == 0 and (clamped == 0).double().mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("draws", "share"), [(1, 1 / 2), (4, 15 / 16)])
@pytest.mark.parametrize("name", ["uniform-noise", "gaussian-noise"])
def test_any_draw_that_fools_counts(name, draws, share):
    params = ATTACKS[name].params.model_validate({"name": name, "draws": draws})
    points = ATTACKS[name].run(Victim(wrong_when_brighter), GREY, ZEROS, params, noise=noise(300))
    broken = (~is_right(wrong_when_brighter(points), ZEROS)).double().mean()
    assert broken == pytest.approx(share, abs=3 * (share * (1 - share) / 300) ** 0.5)


def test_the_first_draw_that_fools_is_kept_and_else_the_last(victim):
    images, labels = victim.right(80)
    params = uniform_noise.UniformNoiseParams(eps=0.3, draws=4)
    ours = uniform_noise.run(Victim(victim.model), images, labels, params, noise=noise(80))
    replay = noise(80)
    tried = torch.stack([(images + 0.3 * replay.uniform(images)).clamp(0, 1) for _ in range(4)])
    with torch.no_grad():
        fooled = torch.stack([~is_right(victim.model(points), labels) for points in tried])
    first = [column.index(True) if True in column else 3 for column in fooled.T.tolist()]
    assert 0 < fooled.any(dim=0).sum() < 80
    assert torch.equal(ours, tried[first, torch.arange(80)])


@pytest.mark.parametrize("name", ["uniform-noise", "gaussian-noise"])
def test_an_image_meets_the_same_noise_in_any_batch(victim, name):
    images, labels = victim.right(40)
    params = ATTACKS[name].params.model_validate({"name": name, "draws": 3})
    fast = Victim(victim.model, tuning=Tuning(folded=True, precision="bfloat16"), batch_size=16)
    whole = ATTACKS[name].run(fast, images, labels, params, noise=noise(40))
    alone = ATTACKS[name].run(fast, images[7:9], labels[7:9], params, noise=noise(2, first=7))
    assert torch.equal(whole[7:9], alone)
    assert whole.min() >= 0 and whole.max() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_uniform_noise_stays_in_its_ball(victim, norm):
    images, labels = victim.right(60)
    params = uniform_noise.UniformNoiseParams(norm=norm, eps=0.3, draws=2)
    points = uniform_noise.run(Victim(victim.model), images, labels, params, noise=noise(60))
    assert threat_model(norm, 0.3).size((points - images).double()).max() <= 0.3 + 1e-6
    still = uniform_noise.UniformNoiseParams(norm=norm, eps=0)
    assert torch.equal(uniform_noise.run(Victim(victim.model), images, labels, still, noise=noise(60)), images)


def test_noise_is_a_control_and_gaussian_noise_has_no_ball():
    assert ATTACKS["uniform-noise"].access == ATTACKS["gaussian-noise"].access == "control"
    assert uniform_noise.UniformNoiseParams(norm="l2").radius == ("l2", 0.5)
    assert gaussian_noise.GaussianNoiseParams().radius is None
    assert gaussian_noise.GaussianNoiseParams(std="16/255").std == 16 / 255
    for fields in ({"std": -0.1}, {"draws": 0}, {"norm": "linf"}, {"std": "8/0"}):
        with pytest.raises(ValueError) as caught:
            gaussian_noise.GaussianNoiseParams(**fields)
        assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]
