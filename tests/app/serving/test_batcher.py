"""The batcher: who shares a forward pass, what waits, what is refused."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from app.errors import OverloadedError
from app.serving.batcher import Batcher, places_of

PATIENT = 60.0
"""Longer than any test: a batch is flushed because it is full, not because time passed."""


class Recorder:
    """A forward pass that doubles its images, notes its batches, and can be held."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        self.begun.set()
        assert self.go.wait(30)
        return images.flatten(1).float() * 2


@pytest.fixture
def opened() -> Iterator[list[Batcher]]:
    batchers: list[Batcher] = []
    yield batchers
    for batcher in batchers:
        batcher.close()


def make(opened: list[Batcher], *, max_images: int = 8, queue: int = 100, wait: float = PATIENT) -> Batcher:
    opened.append(Batcher(max_images=max_images, queue_max_images=queue, wait_seconds=wait))
    return opened[-1]


def images(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)


def test_requests_of_one_key_share_a_full_batch_and_get_their_own_rows(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, max_images=6), Recorder()
    first = batcher.submit("a", images(1, 2), forward=forward)
    second = batcher.submit("a", images(3), forward=forward)
    third = batcher.submit("a", images(4, 5, 6), forward=forward)
    assert [answer.result(30).flatten().tolist() for answer in (first, second, third)] == [[2, 4], [6], [8, 10, 12]]
    assert forward.sizes == [6]


def test_keys_are_never_mixed(opened: list[Batcher]) -> None:
    batcher, one, other = make(opened, max_images=2), Recorder(), Recorder()
    answers = [batcher.submit(key, images(9), forward=forward) for key, forward in (("a", one), ("b", other)) * 2]
    assert [answer.result(30).item() for answer in answers] == [18] * 4
    assert one.sizes == other.sizes == [2]


def test_a_request_larger_than_a_batch_is_answered_in_parts(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, max_images=4), Recorder()
    answer = batcher.submit("a", images(*range(10)), forward=forward)
    assert answer.result(30).flatten().tolist() == [2 * value for value in range(10)]
    assert forward.sizes == [4, 4, 2]


def test_a_part_filled_batch_goes_when_its_time_has_come(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, wait=0.001), Recorder()
    assert batcher.submit("a", images(1), forward=forward).result(30).item() == 2


def test_room_is_counted_in_images_and_given_back(opened: list[Batcher]) -> None:
    batcher = make(opened, queue=10)
    with batcher.admit(8):
        with pytest.raises(OverloadedError) as refused, batcher.admit(3):
            raise AssertionError("admitted over the limit")
        assert refused.value.retry_after >= 1
        with batcher.admit(2):
            assert batcher.admitted == 10
    with batcher.admit(50):  # an idle service takes any one request: its size has a limit of its own
        assert batcher.admitted == 50
    assert batcher.admitted == 0


def test_large_images_take_several_places(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, max_images=8), Recorder()
    large = torch.zeros((5, 3, 448, 448), dtype=torch.uint8)
    assert (places_of((3, 224, 224)), places_of((3, 448, 448)), places_of((1, 8, 8))) == (1, 4, 1)
    assert batcher.submit("a", large, forward=forward).result(30).shape[0] == 5
    first, second = (batcher.submit("b", large[:1], forward=forward) for _ in range(2))
    assert first.result(30).shape == second.result(30).shape
    assert forward.sizes == [2, 2, 1, 2]


def test_an_image_larger_than_a_pass_is_passed_alone(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, max_images=1), Recorder()
    batcher.submit("a", torch.zeros((3, 3, 448, 448), dtype=torch.uint8), forward=forward).result(30)
    assert forward.sizes == [1, 1, 1]


def test_a_failing_forward_reaches_its_callers_and_spares_later_ones(opened: list[Batcher]) -> None:
    batcher = make(opened, max_images=1)

    def broken(images: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        batcher.submit("a", images(1), forward=broken).result(30)
    assert batcher.submit("a", images(1), forward=Recorder()).result(30).item() == 2


def test_a_cancelled_request_is_not_computed(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, max_images=1), Recorder()
    forward.go.clear()
    running = batcher.submit("a", images(1), forward=forward)
    assert forward.begun.wait(30)
    waiting = batcher.submit("a", images(2), forward=forward)
    assert waiting.cancel()
    forward.go.set()
    assert running.result(30).item() == 2
    assert batcher.submit("a", images(3), forward=forward).result(30).item() == 6
    assert forward.sizes == [1, 1]


def test_a_cancelled_request_leaves_the_queue_at_once(opened: list[Batcher]) -> None:
    batcher, forward = make(opened, max_images=2), Recorder()
    sent = images(1)
    kept = weakref.ref(sent)
    waiting = batcher.submit("a", sent, forward=forward)
    del sent
    assert waiting.cancel()
    assert kept() is None, "its pixels are still there"
    answers = [batcher.submit("a", images(value), forward=forward) for value in (2, 3)]
    assert [answer.result(30).item() for answer in answers] == [4, 6]


def test_closing_answers_what_waits_and_takes_no_more(opened: list[Batcher]) -> None:
    batcher, forward = Batcher(max_images=8, queue_max_images=10, wait_seconds=PATIENT), Recorder()
    answer = batcher.submit("a", images(1), forward=forward)
    batcher.close()
    assert answer.result(0).item() == 2
    with pytest.raises(OverloadedError):
        batcher.submit("a", images(1), forward=forward)
