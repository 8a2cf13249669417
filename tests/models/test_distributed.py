"""Two processes that share every batch train the model that one process trains, by every method."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from models.distributed import UnsynchronizableError, agreed, drawn, gathered, joined, own_rows, size, synchronize
from models.methods.spec import METHODS
from tests.models.small_trainings import SPECS, params

ROOT = Path(__file__).parents[2]
Found = dict[str, tuple[dict[str, dict[int, float]], dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """Losses and weights of one process, and of two."""
    folder = tmp_path_factory.mktemp("ranks")
    for ranks in (1, 2):
        started = [start(rank, ranks, folder) for rank in range(ranks)]
        for process in started:
            _, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors[-3000:]
    one, two = (torch.load(folder / f"{ranks}.pt") for ranks in (1, 2))
    return one, two


def start(rank: int, ranks: int, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.models.ranks", str(rank), str(ranks), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize("case", SPECS)
def test_two_processes_train_as_one(case: str, found: tuple[Found, Found]) -> None:
    (series, weights), (other_series, other_weights) = (of[case] for of in found)
    assert series.keys() == other_series.keys() and weights.keys() == other_weights.keys()
    for name in series.keys() - {"images_per_second", "attack_share", "step_seconds", "memory_mib"}:
        assert other_series[name] == pytest.approx(series[name], rel=1e-9, abs=1e-9), name
    for name, value in weights.items():
        torch.testing.assert_close(other_weights[name], value, rtol=1e-9, atol=1e-9)


def test_without_others_nothing_is_exchanged() -> None:
    rows = torch.arange(6.0, requires_grad=True)
    assert size() == 1 and own_rows(rows) is rows and gathered(rows) is rows
    assert agreed(lambda: 7) == 7
    network = nn.Sequential(nn.BatchNorm2d(3))
    synchronize(network)
    assert type(network[0]) is nn.BatchNorm2d


def test_rows_are_shared_out_by_images_in_every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.distributed.size", lambda: 2)
    monkeypatch.setattr("models.distributed.rank", lambda: 1)
    assert own_rows(torch.arange(8)).tolist() == [4, 5, 6, 7]
    assert own_rows(torch.arange(8), parts=2).tolist() == [2, 3, 6, 7]
    assert own_rows(torch.arange(8).view(2, 4), dim=1).tolist() == [[2, 3], [6, 7]]
    whole = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    mine = drawn(torch.rand, 2, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mine, whole[2:])


def test_layers_that_cannot_be_shared_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.distributed.size", lambda: 2)
    with pytest.raises(UnsynchronizableError, match="BatchNorm1d"):
        synchronize(nn.Sequential(nn.BatchNorm1d(3)))


@pytest.mark.parametrize("method", list(METHODS))
def test_a_batch_must_be_shared_alike(method: str) -> None:
    case = next(case for case, fields in SPECS.items() if fields["method"] == method)
    changes: dict[str, Any] = {"batch_size": 32, "devices": 3}
    with pytest.raises(ValidationError, match="32 images cannot be shared alike by 3 devices"):
        params(case, **changes)


def test_a_meeting_of_one(tmp_path: Path) -> None:
    with joined("gloo", tmp_path / "meeting-place", rank=0, size=1):
        assert size() == 1
