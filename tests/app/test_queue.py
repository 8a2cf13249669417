"""Publishing never takes long and never fails a request; the folder broker hands messages out whole and once."""

from __future__ import annotations

import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty

import pytest

from app.queue import broker_folder, broker_reachable, create_celery, publish
from app.settings import Settings
from tests.servers import free_port


def test_a_published_id_can_be_taken_once(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    celery = create_celery(settings)
    assert publish(celery, "job-1", queue="train")
    assert publish(celery, "job-2", queue="train")
    with celery.connection_for_read() as connection:
        channel = connection.default_channel
        taken = [channel._get("train") for _ in range(2)]
        with pytest.raises(Empty):
            channel._get("train")
    assert [message["headers"]["argsrepr"] for message in taken] == ["['job-1']", "['job-2']"]


def test_a_wiped_broker_folder_comes_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    celery = create_celery(settings)
    assert publish(celery, "job-1", queue="train")
    shutil.rmtree(broker_folder(settings))
    assert publish(celery, "job-2", queue="train")
    with celery.connection_for_read() as connection:
        assert connection.default_channel._size("train") == 1


def test_a_broker_that_is_down_costs_no_exception(tmp_path: Path) -> None:
    celery = create_celery(Settings(home=tmp_path, broker_url=f"redis://127.0.0.1:{free_port()}/0"))
    assert not publish(celery, "job-1", queue="train")
    assert not broker_reachable(celery)


def test_a_silent_broker_is_not_asked_by_every_request(tmp_path: Path) -> None:
    """The first waits for it a moment; threads of those that follow must not pile up."""
    with socket.socket() as deaf:  # the kernel accepts, and nobody answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        celery = create_celery(Settings(home=tmp_path, broker_url=f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"))
        before = threading.active_count()
        assert not any(publish(celery, f"job-{number}", queue="train") for number in range(50))
        assert threading.active_count() - before <= 2


def test_redis_takes_messages(tmp_path: Path, redis_server: str) -> None:
    celery = create_celery(Settings(home=tmp_path, broker_url=redis_server))
    assert publish(celery, "job-1", queue="evaluate")
    assert broker_reachable(celery)


def test_a_table_of_queues_that_was_left_half_written_is_made_anew(tmp_path: Path) -> None:
    """By a killed process, a full disk, or kombu's own transport, which empties the file before it writes."""
    settings = Settings(home=tmp_path)
    celery = create_celery(settings)
    with celery.connection_for_read() as connection:
        channel = connection.default_channel
        channel._queue_bind("jobs", "train", "", "train")
        (table,) = (broker_folder(settings) / "control").glob("*.exchange")
        for half in ("", table.read_text()[:10]):
            table.write_text(half)
            assert channel.get_table("jobs") == []
            channel._queue_bind("jobs", "train", "", "train")
            assert [entry.queue for entry in channel.get_table("jobs")] == ["train"]


def test_processes_that_start_together_lose_no_queue_of_each_other(tmp_path: Path) -> None:
    celery = create_celery(Settings(home=tmp_path))
    together = threading.Barrier(8)
    exchanges = [f"jobs-{number}" for number in range(50)]

    def bind(queue: str) -> None:
        with celery.connection_for_read() as connection:
            for exchange in exchanges:
                together.wait(60)
                connection.default_channel._queue_bind(exchange, queue, "", queue)

    names = [f"queue-{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(bind, name) for name in names]:
            done.result()
    with celery.connection_for_read() as connection:
        for exchange in exchanges:
            assert sorted(entry.queue for entry in connection.default_channel.get_table(exchange)) == names
