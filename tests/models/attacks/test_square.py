"""The Square Attack against torchattacks' port of the authors' code, and against a plain loop over single images."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torchattacks
from torch import Tensor, nn

from models.attacks import square
from models.attacks.noise import PerImageNoise
from models.attacks.objectives import is_right
from models.attacks.square_windows import eta, share_of_pixels
from models.attacks.threat import threat_model
from models.attacks.victim import Tuning, Victim

THEIRS = {"linf": "Linf", "l2": "L2"}


def noise(count: int, first: int = 0) -> PerImageNoise:
    return PerImageNoise(torch.arange(first, first + count))


def attacked(model, images: Tensor, labels: Tensor, **params) -> Tensor:
    return square.run(Victim(model), images, labels, square.SquareParams(**params), noise=noise(len(images)))


def robust_accuracy(model, points: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(is_right(model(points), labels).double().mean())


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_it_breaks_as_many_images_as_torchattacks(victim, norm, eps):
    images, labels = victim.right(200)
    points = attacked(victim.model, images, labels, norm=norm, eps=eps, queries=150)
    ours = robust_accuracy(victim.model, points, labels)
    theirs = torchattacks.Square(victim.model, norm=THEIRS[norm], eps=eps, n_queries=150, seed=0)
    as_published = robust_accuracy(victim.model, theirs(images, labels), labels)
    # Their windows never reach the last row and column, 15 of these images' 64 pixels; the paper's do.
    theirs.random_int = lambda low=0, high=1, shape=(1,): (low + (high + 1 - low) * torch.rand(shape)).long()
    as_in_the_paper = robust_accuracy(victim.model, theirs(images, labels), labels)
    assert 0.2 < as_in_the_paper < 0.9
    assert abs(ours - as_in_the_paper) < 0.05
    assert ours <= as_published + 0.02


@pytest.mark.parametrize("queries", [30, 300, 5_000])
@pytest.mark.parametrize("p_init", [0.8, 0.05])
def test_windows_shrink_when_those_of_torchattacks_do(queries, p_init):
    theirs = torchattacks.Square(None, n_queries=queries, p_init=p_init)
    for query in range(queries):
        assert share_of_pixels(query, queries=queries, p_init=p_init) == theirs.p_selection(query)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 8, 9, 15, 28])
def test_the_l2_pattern_is_that_of_torchattacks(side):
    theirs = torchattacks.Square(None)
    theirs.device = "cpu"
    patterns = [theirs.eta(side) for _ in range(20)]  # each lies or stands by chance
    for pattern in patterns:
        assert torch.allclose(eta(side), pattern, atol=1e-6) or torch.allclose(eta(side).T, pattern, atol=1e-6)


class Scripted:
    """Gives each image its own numbers, drawn beforehand, whoever else is in the batch."""

    def __init__(self, numbers: list[np.random.Generator]) -> None:
        self._numbers = numbers

    def uniform(self, like: Tensor) -> Tensor:
        drawn = [numbers.uniform(-1, 1, like.shape[1:]) for numbers in self._numbers]
        return torch.tensor(np.stack(drawn)).to(like) if drawn else torch.empty_like(like)

    def select(self, chosen: Tensor) -> Scripted:
        rows = chosen.nonzero().squeeze(1) if chosen.dtype == torch.bool else chosen
        return Scripted([self._numbers[row] for row in rows.tolist()])


def script(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def corner(chance: float, length: int, side: int) -> int:
    return min(int((chance + 1) / 2 * (length - side + 1)), length - side)


def small_net(channels: int, height: int, width: int, *, classes: int) -> nn.Module:
    torch.manual_seed(channels + height + classes)
    net = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 12), nn.Tanh(), nn.Linear(12, classes))
    return net.double()


class Wide(nn.Module):
    """In float64, so that a comparison with another loop does not hang on the last bit of a margin."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, points: Tensor) -> Tensor:
        return self.net(points.double())


def lead(model: nn.Module, point: np.ndarray, label: int) -> float:
    with torch.no_grad():
        logits = model(torch.tensor(point[None], dtype=torch.float32))[0].tolist()
    return max(value for index, value in enumerate(logits) if index != label) - logits[label]


def plain_linf(model: nn.Module, image: np.ndarray, label: int, *, eps: float, queries: int, seed: int) -> np.ndarray:
    """Algorithms 1 and 2 pixel by pixel."""
    numbers, (channels, height, width) = script(seed), image.shape
    stripes = numbers.uniform(-1, 1, (channels, 1, width))
    point = np.clip(image + np.where(stripes < 0, -eps, eps), 0, 1)
    best = lead(model, point, label)
    chances = numbers.uniform(-1, 1, (queries, 2 + channels))
    for query in range(queries):
        if best >= 0:
            break
        side = max(round(math.sqrt(share_of_pixels(query, queries=queries, p_init=0.8) * height * width)), 1)
        side = min(side, height, width)
        top, left = corner(chances[query, 0], height, side), corner(chances[query, 1], width, side)
        tried = point.copy()
        for channel in range(channels):
            colour = -2 * eps if chances[query, 2 + channel] < 0 else 2 * eps
            for row in range(top, top + side):
                for column in range(left, left + side):
                    pixel = image[channel, row, column]
                    moved = min(max(point[channel, row, column] + colour, pixel - eps), pixel + eps)
                    tried[channel, row, column] = min(max(moved, 0), 1)
        found = lead(model, tried, label)
        if found > best:
            point, best = tried, found
    return point


def plain_l2(model: nn.Module, image: np.ndarray, label: int, *, eps: float, queries: int, seed: int) -> np.ndarray:
    """Algorithms 1 and 3, channel by channel, in float64."""
    numbers, (channels, height, width) = script(seed), image.shape
    tile = max(min(height, width) // 5, 1)
    rows, columns = height // tile, width // tile
    delta = np.zeros_like(image)
    starts = numbers.uniform(-1, 1, (rows * columns, 1 + channels))

    def bump(chances: np.ndarray, side: int, channel: int) -> np.ndarray:
        pattern = eta(side).double().numpy()
        return (pattern.T if chances[0] > 0 else pattern) * (-1 if chances[1 + channel] < 0 else 1)

    for place in range(rows * columns):
        top, left = height % tile // 2 + place // columns * tile, width % tile // 2 + place % columns * tile
        for channel in range(channels):
            delta[channel, top : top + tile, left : left + tile] = bump(starts[place], tile, channel)
    point = np.clip(image + eps * delta / np.linalg.norm(delta), 0, 1)
    best = lead(model, point, label)
    chances = numbers.uniform(-1, 1, (queries, 5 + channels))
    for query in range(queries):
        if best >= 0:
            break
        side = max(round(math.sqrt(share_of_pixels(query, queries=queries, p_init=0.8) * height * width)), 3)
        side = min(side + (side % 2 == 0), height, width)
        (top, left), (far_top, far_left) = (
            (corner(chances[query, 2 * k], height, side), corner(chances[query, 2 * k + 1], width, side))
            for k in (0, 1)
        )
        delta = point - image
        both = np.zeros((height, width), dtype=bool)
        both[top : top + side, left : left + side] = both[far_top : far_top + side, far_left : far_left + side] = True
        unused = max(eps**2 - np.sum(delta**2), 0) / channels
        budget = math.sqrt(unused + np.sum(delta[:, both] ** 2))
        new = []
        for channel in range(channels):
            old = delta[channel, top : top + side, left : left + side]
            shape = bump(chances[query, 4:], side, channel) + old / (np.linalg.norm(old) + 1e-12)
            new.append(shape / (np.linalg.norm(shape) + 1e-12) * budget)
        delta[:, far_top : far_top + side, far_left : far_left + side] = 0
        delta[:, top : top + side, left : left + side] = new
        tried = np.clip(image + eps * delta / (np.linalg.norm(delta) + 1e-12), 0, 1)
        found = lead(model, tried, label)
        if found > best:
            point, best = tried, found
    return point


@pytest.mark.parametrize(("norm", "eps", "plain"), [("linf", 0.08, plain_linf), ("l2", 0.6, plain_l2)])
@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 10), ((3, 9, 12), 2)])
def test_it_follows_a_plain_loop_over_single_images(norm, eps, plain, shape, classes):
    model = Wide(small_net(*shape, classes=classes))
    images = torch.rand(8, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = model(images).argmax(1)
    params = square.SquareParams(norm=norm, eps=eps, queries=60)
    scripted = Scripted([script(seed) for seed in range(8)])
    ours = square.run(Victim(model), images, labels, params, noise=scripted).numpy()
    for row in range(8):
        label = int(labels[row])
        theirs = plain(model, images[row].double().numpy(), label, eps=eps, queries=60, seed=row)
        np.testing.assert_allclose(ours[row], theirs, atol=1e-5)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.6)])
def test_images_do_not_influence_each_other(victim, norm, eps):
    images, labels = victim.right(24)
    model = Wide(copy.deepcopy(victim.model).double())
    params = square.SquareParams(norm=norm, eps=eps, queries=110, restarts=2)
    whole = square.run(Victim(model, batch_size=16), images, labels, params, noise=noise(24))
    some = torch.arange(3, 24, 4)
    alone = square.run(Victim(model), images[some], labels[some], params, noise=noise(24).select(some))
    assert torch.equal(whole[some], alone)
    assert 0 < (~is_right(model(whole), labels)).sum() < 24


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_what_it_finds_lies_in_the_ball_and_the_box(victim, norm, eps):
    images, labels = victim.right(60)
    fast = Victim(victim.model, tuning=Tuning(folded=True, precision="bfloat16"), batch_size=16)
    params = square.SquareParams(norm=norm, eps=eps, queries=80)
    points = square.run(fast, images, labels, params, noise=noise(60))
    assert points.dtype == torch.float32 and points.min() >= 0 and points.max() <= 1
    assert threat_model(norm, eps).size((points - images).double()).max() <= eps + 1e-6
    exact = square.run(Victim(victim.model), images, labels, params, noise=noise(60))
    left = robust_accuracy(victim.model, points, labels)
    assert abs(left - robust_accuracy(victim.model, exact, labels)) < 0.03
    # Every image that left early was wrong in float32: the others took all queries.
    assert fast.work.gradients == 0
    assert fast.work.forwards >= round(left * 60) * 81


def test_an_image_leaves_only_when_the_model_itself_is_wrong(victim):
    images, labels = victim.right(12)
    liar = Victim(victim.model, tuning=Tuning(folded=True), batch_size=16)
    liar._climb = lambda points: -victim.model(points)  # a folded copy that calls everything wrong
    points = square.run(liar, images, labels, square.SquareParams(eps=1e-4, queries=5), noise=noise(12))
    assert is_right(victim.model(points), labels).all()
    assert liar.work.forwards == 2 * 12 * 6, "nobody left: each query was looked at, and then asked again"


def test_more_restarts_break_at_least_as_many(victim):
    images, labels = victim.right(100)
    broken = []
    for restarts in (1, 3):
        points = attacked(victim.model, images, labels, eps=0.1, queries=40, restarts=restarts)
        broken.append(~is_right(victim.model(points), labels))
    assert (broken[0] <= broken[1]).all() and broken[0].sum() < broken[1].sum()


def test_restarts_draw_numbers_of_their_own(victim):
    images, labels = victim.right(10)
    seen: list[Tensor] = []

    def never_wrong(points: Tensor) -> Tensor:
        seen.append(points)
        return nn.functional.one_hot(labels, 10).float()

    attacked(never_wrong, images, labels, eps=0.1, queries=3, restarts=2)
    assert len(seen) == 8
    for first, second in zip(seen[:4], seen[4:], strict=True):
        assert not torch.equal(first, second)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 2, 2), (1, 1, 5), (2, 7, 4)])
def test_odd_inputs_are_taken(norm, shape):
    model = small_net(*shape, classes=2).float()
    images = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = model(images).argmax(1)
    for p_init in (0.8, 1.0):
        points = attacked(model, images, labels, norm=norm, eps=0.01, queries=12, p_init=p_init)
        assert points.shape == images.shape and threat_model(norm, 0.01).size(points - images).max() <= 0.01 + 1e-6
    assert torch.equal(attacked(model, images, labels, norm=norm, eps=0, queries=3), images)
    wrong = attacked(model, images, 1 - labels, norm=norm, eps=0.01, queries=3)
    assert threat_model(norm, 0.01).size(wrong - images).max() <= 0.01 + 1e-6
    assert attacked(model, images[:0], labels[:0], norm=norm, queries=3).shape == (0, *shape)


def test_defaults_are_those_of_autoattack():
    params = square.SquareParams()
    assert (params.norm, params.eps, params.queries, params.p_init, params.restarts) == ("linf", 8 / 255, 5_000, 0.8, 1)
    assert square.SquareParams(norm="l2").eps == 0.5
    assert square.SquareParams(eps="8/255").at(4 / 255).eps == 4 / 255


@pytest.mark.parametrize("fields", [{"queries": 0}, {"p_init": 0}, {"p_init": 1.1}, {"restarts": 0}, {"steps": 5}])
def test_a_bad_parameter_is_named(fields):
    with pytest.raises(ValueError) as caught:
        square.SquareParams(**fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]
