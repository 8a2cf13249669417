"""A batch in chunks: the loss and gradients of the whole, with the memory of a part."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.methods.chunks import in_chunks
from tests.models.methods.setting import IMAGES, LABELS, classifier, moment, seeded
from tests.models.methods.test_contrastive import learner

VIEWS = IMAGES, (IMAGES + 0.1).clamp(0, 1)


def by_hand(network: nn.Module, chunks: int) -> Tensor:
    """All chunks' passes at once, their inner values kept."""
    passes = [
        network(torch.cat((one, other))).chunk(2)
        for one, other in zip(*(view.double().tensor_split(chunks) for view in VIEWS), strict=True)
    ]
    return torch.cat([torch.cat([first for first, _ in passes]), torch.cat([second for _, second in passes])])


@pytest.mark.parametrize(("chunk_size", "chunks"), [(None, 1), (48, 1), (16, 3), (20, 3), (2, 24)])
def test_outputs_gradients_and_statistics_are_those_of_the_passes(chunk_size: int | None, chunks: int) -> None:
    plain = classifier(double=True)
    chunked = copy.deepcopy(plain)
    target = torch.randn(48, 10, generator=seeded(), dtype=torch.float64)
    expected = by_hand(plain, chunks)
    (expected * target).sum().square().backward()
    views = [view.double() for view in VIEWS]
    answer = in_chunks(chunked, views, chunk_size=chunk_size, norms=chunked)
    (answer * target).sum().square().backward()
    torch.testing.assert_close(answer, expected)
    for ours, theirs in zip(chunked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for (name, ours), theirs in zip(chunked.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_no_pass_is_of_one_image_alone() -> None:
    passes: list[int] = []

    def network(images: Tensor) -> Tensor:
        passes.append(len(images))
        return images.flatten(1)

    in_chunks(network, (IMAGES[:5],), chunk_size=2, norms=nn.Identity())
    assert sorted(passes) == [2, 3]


def test_a_chunk_that_is_computed_anew_drops_the_same_values() -> None:
    dropped = nn.Dropout(0.5)
    weight = torch.ones(64, requires_grad=True)
    outputs = in_chunks(lambda images: dropped(images.flatten(1) * weight), VIEWS, chunk_size=16, norms=nn.Identity())
    outputs.sum().backward()
    torch.testing.assert_close(weight.grad, outputs.detach().sum(dim=0))


@pytest.mark.parametrize(("chunk_size", "largest"), [(10, 9), (24, 24), (3, 3), (2, 3)])
def test_no_pass_is_larger_than_asked_for_and_none_is_empty(chunk_size: int, largest: int) -> None:
    """Three views of 24 images: those of one image stay together."""
    passes: list[int] = []

    def network(images: Tensor) -> Tensor:
        passes.append(len(images))
        return images.flatten(1)

    in_chunks(network, (*VIEWS, IMAGES), chunk_size=chunk_size, norms=nn.Identity())
    assert sum(passes) == 72 and max(passes) == largest and min(passes) > 0


def test_only_one_chunk_is_held_at_a_time() -> None:
    """The largest of its inner values, at once alive: those of a chunk, and not of the batch."""
    alive, most = 0, 0

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, images: Tensor) -> Tensor:
            ctx.save_for_backward(images)
            return images.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            nonlocal alive
            (images,) = ctx.saved_tensors
            alive -= len(images)
            return gradient

    class Network(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal alive, most
            if torch.is_grad_enabled():
                alive += len(images)
                most = max(most, alive - counted_before)
            return Counted.apply(images.flatten(1) * scale)

    scale = torch.ones((), requires_grad=True)
    counted_before = 0
    outputs = in_chunks(Network(), VIEWS, chunk_size=16, norms=nn.Identity())
    # The first passes keep nothing: what was counted there is gone when the outputs are asked for their gradients.
    counted_before, most = alive, 0
    outputs.square().sum().backward()
    assert most == 16


@pytest.mark.parametrize("method", ["simclr", "rocl", "acl", "dynacl"])
def test_a_step_in_chunks_attacks_as_one_without(method: str) -> None:
    """In eval mode, where a pass's images do not change each other's, the whole step is the same."""
    losses = []
    for chunk_size in (None, 10):
        made = learner(method, chunk_size=chunk_size)
        made.modules.eval()
        loss, _ = made.loss(IMAGES, LABELS, moment=moment(), generator=seeded())
        loss.backward()
        gradient = torch.cat([one.grad.flatten() for one in made.modules.parameters() if one.grad is not None])
        losses.append((loss.detach(), gradient))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)
