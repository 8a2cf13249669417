"""Models in memory: loaded once however many ask, the least recently used one dropped, a failed load tried again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from app.errors import ConflictError, UnavailableError
from app.records import ModelVersion
from app.serving.engine import LOAD_THREADS, MODELS_IN_MEMORY, Engine, Served
from app.settings import Settings
from app.storage import Storage
from models.checkpoints import save_model
from tests.app.api.conftest import make_model
from tests.servers import wait_for


class CountingStorage(Storage):
    """A storage that notes what is fetched from it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.fetched: list[str] = []
        self.meeting = threading.Barrier(1)

    def fetch(self, sha256: str, into: Path) -> Path:
        self.fetched.append(sha256)
        with suppress(threading.BrokenBarrierError):
            self.meeting.wait()
        return super().fetch(sha256, into)


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    return CountingStorage(f"file://{tmp_path}/storage")


@pytest.fixture
def engine(tmp_path: Path, storage: CountingStorage) -> Iterator[Engine]:
    opened = Engine(Settings(home=tmp_path), storage)
    yield opened
    opened.close()


def stored(storage: Storage, folder: Path, *, number: int) -> ModelVersion:
    model = make_model(seed=number)
    save_model(folder / "weights.safetensors", model)
    artifact = storage.put_file(folder / "weights.safetensors")
    card = model.card.model_dump(mode="json")
    return ModelVersion(name="tiny", version=number, sha256=artifact.sha256, size=artifact.size, card=card)


def test_many_who_ask_at_once_get_one_loaded_model(engine: Engine, storage: CountingStorage, tmp_path: Path) -> None:
    version = stored(storage, tmp_path, number=1)
    with ThreadPoolExecutor(8) as pool:
        served = list(pool.map(engine.get, [version] * 8))
    assert len({id(found.model) for found in served}) == 1
    assert storage.fetched == [version.sha256]
    assert not served[0].model.training
    assert not any(parameter.requires_grad for parameter in served[0].model.parameters())


def test_the_least_recently_used_version_is_dropped(engine: Engine, storage: CountingStorage, tmp_path: Path) -> None:
    versions = [stored(storage, tmp_path, number=number) for number in range(1, MODELS_IN_MEMORY + 2)]
    dropped = engine.get(versions[1])
    for version in versions[:1] + versions[2:-1] + versions[:1] + versions[-1:]:
        engine.get(version)
    assert set(engine.loaded) == {version.reference for version in versions} - {"tiny@2"}
    images = torch.zeros((1, 1, 8, 8), dtype=torch.uint8)
    assert dropped.rows("logits")(images).shape == (1, 10)  # whoever holds it can still finish


def test_few_versions_load_at_one_time(engine: Engine, storage: CountingStorage, tmp_path: Path) -> None:
    versions = [stored(storage, tmp_path, number=number) for number in range(1, LOAD_THREADS + 2)]
    storage.meeting = threading.Barrier(len(versions), timeout=1)
    with ThreadPoolExecutor(len(versions)) as pool:
        served = list(pool.map(engine.get, versions))
    assert [found.reference for found in served] == [version.reference for version in versions]
    assert storage.meeting.broken, "all of them met there"


def test_who_waits_for_a_load_holds_no_thread_and_may_go(
    engine: Engine, storage: CountingStorage, tmp_path: Path
) -> None:
    version, *before = [stored(storage, tmp_path, number=number) for number in range(1, LOAD_THREADS + 2)]
    storage.meeting = held = threading.Barrier(len(before) + 1)

    async def ask() -> list[Served]:
        loading = [asyncio.create_task(engine.wait_for(other)) for other in before]
        await asyncio.sleep(0)
        first, *others = [asyncio.create_task(engine.wait_for(version)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        wait_for(lambda: held.n_waiting == len(before), what="the loads before")
        storage.meeting = threading.Barrier(1)
        held.wait(30)
        await asyncio.gather(*loading)
        return await asyncio.gather(*others)

    assert asyncio.run(ask()) == [engine.get(version)] * 2
    assert storage.fetched.count(version.sha256) == 1


def test_a_load_that_failed_is_tried_again(engine: Engine, storage: CountingStorage, tmp_path: Path) -> None:
    version = stored(storage, tmp_path, number=1)
    with storage.open(version.sha256) as file:
        data = file.read()
    storage.delete(version.sha256)
    with pytest.raises(UnavailableError, match="tiny@1 cannot be loaded"):
        engine.get(version)
    assert engine.loaded == []
    storage.put_bytes(data)
    assert engine.get(version).reference == "tiny@1"


def test_a_model_of_no_picture_format_is_refused(engine: Engine, storage: CountingStorage, tmp_path: Path) -> None:
    version = stored(storage, tmp_path, number=1)
    version.card = {**version.card, "image_shape": [2, 8, 8], "mean": [0, 0], "std": [1, 1]}
    with pytest.raises(ConflictError, match="2 channels"):
        engine.get(version)
