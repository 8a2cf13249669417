"""Retention on each database and storage: what is old goes, what a row names stays, whatever happens at once."""

from __future__ import annotations

import hashlib
import random
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.errors import ConflictError, NotFoundError
from app.records import IdempotencyKey, Model, utc_now
from app.records.session import Database
from app.services import artifacts, claims, idempotency, jobs, parents, references
from app.services.prune import Pruned
from app.services.references import Reference
from app.storage import Storage
from tests.app.services.retention import House

WEEK = timedelta(weeks=1)
NOW = timedelta(seconds=-10)
"""An age that everything has, by a clock that is a little behind as well."""


@pytest.fixture
def house(database: Database, storage_url: str, tmp_path: Path) -> House:
    folder = tmp_path / "files"
    folder.mkdir()
    return House(database, Storage(storage_url), folder)


def test_every_reference_is_known_by_its_folder(house: House) -> None:
    expected = {Reference("", house.register("net", b"weights")), Reference("", house.upload("mine", b"data"))}
    claim = house.claim(house.submit())
    expected.add(Reference(f"checkpoints/{claim.job_id}", house.checkpoint(claim, b"1")))
    alone = house.submit("evaluate", {"model": "net@1"})
    for sha256 in house.evaluated(house.claim(alone), b"alone"):
        expected.add(Reference(f"examples/{alone}", sha256))
    parent, shards = house.sharded()
    evidence = {Reference(f"evidence/{parent}", house.see(shard, bytes([index]))) for index, shard in enumerate(shards)}
    assert house.named() == expected | evidence
    with house.database.session() as session:
        merge = parents.children(session, jobs.get(session, parent))[-1]
    expected |= {
        Reference(f"examples/{parent}", sha256) for sha256 in house.evaluated(house.claim(merge.id), b"merged")
    }
    assert house.named() == expected
    assert house.missing() == set()
    with house.database.session() as session:
        for folder in {reference.folder for reference in expected}:
            here = {reference.sha256 for reference in expected if reference.folder == folder}
            assert references.used(session, folder, [*here, "0" * 64]) == here


def test_checkpoints_of_jobs_that_ended_badly_long_ago(house: House) -> None:
    old, new, running, queued = (house.claim(house.submit()) for _ in range(4))
    for claim in (old, new, running, queued):
        house.checkpoint(claim, b"first")
        house.checkpoint(claim, b"second", step=2)
    house.end(old, "failed", error={"detail": "x"})
    house.end(new, "failed", error={"detail": "x"})
    with house.database.writing() as session:
        assert claims.release(session, queued)
    house.age(old.job_id, days=8)
    house.age(new.job_id, days=6)
    would = house.pruner(dry_run=True).checkpoints(older_than=WEEK)
    assert (would, len(house.named()), house.missing()) == (Pruned(jobs=1, files=2, bytes=11), 8, set())
    assert house.pruner().checkpoints(older_than=WEEK) == would
    assert house.pruner().checkpoints(older_than=WEEK) == Pruned()
    kept = {f"checkpoints/{claim.job_id}" for claim in (new, running, queued)}
    assert {reference.folder for reference in house.named()} == kept
    assert {f"checkpoints/{owner}" for owner in house.storage.scopes("checkpoints")} == kept
    assert house.missing() == set()
    with house.database.writing() as session:
        assert jobs.resume(session, old.job_id).status == "queued"


def test_evidence_stays_until_its_evaluation_has_failed_for_long(house: House) -> None:
    parent, (first, second) = house.sharded()
    house.see(first, b"seen")
    assert house.pruner().unreferenced(older_than=NOW) == Pruned()
    house.end(second, "failed", error={"detail": "x"})
    assert house.pruner().unreferenced(older_than=NOW) == Pruned()
    house.age(parent, days=8)
    assert house.pruner(dry_run=True).checkpoints(older_than=WEEK) == Pruned(jobs=1, files=1, bytes=4)
    assert house.pruner().checkpoints(older_than=WEEK) == Pruned(jobs=1, files=1, bytes=4)
    assert house.named() == set()
    house.register("net", b"the model that it evaluates")
    with house.database.writing() as session:
        resumed = jobs.resume(session, parent)
        shards = {child.step_key: child.status for child in parents.children(session, resumed)}
    assert (resumed.status, shards) == ("running", {"shard:0": "succeeded", "shard:1": "queued"})


def test_examples_of_old_evaluations(house: House) -> None:
    old, new = (house.submit("evaluate", {"model": "net@1"}) for _ in range(2))
    for job_id in (old, new):
        house.evaluated(house.claim(job_id), b"same")
    parent, shards = house.sharded()
    for shard in shards:
        house.see(shard, b"seen")
    with house.database.session() as session:
        merge = parents.children(session, jobs.get(session, parent))[-1].id
    house.evaluated(house.claim(merge), b"same")
    house.age(old, days=100)
    house.age(parent, days=100)
    before = house.named()
    would = house.pruner(dry_run=True).examples(older_than=timedelta(days=90))
    assert (would.jobs, would.files, house.named()) == (2, 8, before)
    assert house.pruner().examples(older_than=timedelta(days=90)) == would
    assert {reference.folder for reference in house.named()} == {f"examples/{new}"}
    assert house.storage.scopes("examples") == [new]
    assert house.missing() == set()
    with house.database.session() as session:
        for job_id in (old, parent, merge):
            job = jobs.get(session, job_id)
            assert job.result is not None and job.examples is None
            assert job.result["clean_accuracy"] == 0.5 and job.result["examples_file"] is None
            assert job.result["examples_pruned_at"].endswith("Z")
        assert "examples_pruned_at" not in (jobs.get(session, new).result or {})
    assert house.pruner().examples(older_than=timedelta(days=90)) == Pruned()


def test_examples_that_were_merged_stay_until_their_evaluation_has_succeeded(house: House) -> None:
    """It was cancelled while its last step ran to the end: resumed, it takes that step's result, and then is as new."""
    parent, shards = house.sharded()
    for shard in shards:
        house.see(shard, b"seen")
    with house.database.session() as session:
        merge = house.claim(parents.children(session, jobs.get(session, parent))[-1].id)
    with house.database.writing() as session:
        jobs.cancel(session, parent)
    hashes = set(house.evaluated(merge, b"merged"))
    house.age(merge.job_id, days=100)
    house.age(parent, days=100)
    assert house.pruner().examples(older_than=timedelta(days=90)) == Pruned()
    house.register("net", b"the model that it evaluates")
    with house.database.writing() as session:
        resumed = jobs.resume(session, parent)
        assert resumed.status == "succeeded" and resumed.examples
    assert house.pruner().examples(older_than=timedelta(days=90)) == Pruned()
    assert {reference.sha256 for reference in house.named() if reference.folder == f"examples/{parent}"} == hashes
    assert house.missing() == set()


def test_what_nothing_refers_to(house: House) -> None:
    kept = house.register("net", b"weights")
    house.upload("mine", b"data")
    house.evaluated(house.claim(house.submit("evaluate", {"model": "net@1"})), b"x")
    claim = house.claim(house.submit())
    house.checkpoint(claim, b"first")
    refused = house.storage.put_bytes(b"refused upload").sha256
    lost = house.storage.scoped(f"checkpoints/{claim.job_id}")
    fenced = lost.put_bytes(b"of an attempt that lost its job").sha256
    house.storage.scoped("evidence/none").put_bytes(b"left")
    assert house.pruner().unreferenced() == Pruned()  # nothing is a day old
    would = house.pruner(dry_run=True).unreferenced(older_than=NOW)
    assert (would.jobs, would.files) == (2, 3) and house.storage.exists(refused)
    assert house.pruner().unreferenced(older_than=NOW) == would
    assert house.missing() == set() and len(house.named()) == 7
    assert not house.storage.exists(refused) and not lost.exists(fenced) and house.storage.exists(kept)
    assert house.storage.scopes("evidence") == []


def test_idempotency_keys(house: House) -> None:
    with house.database.writing() as session:
        for key in ("old", "new"):
            idempotency.replay_or_store(session, lambda: {"id": "1"}, scope="POST /x", key=key, fingerprint="f")
        session.get_one(IdempotencyKey, ("POST /x", "old")).created_at = utc_now() - timedelta(days=8)
    assert house.pruner(dry_run=True).idempotency_keys(older_than=WEEK) == Pruned(rows=1)
    assert house.pruner().idempotency_keys(older_than=WEEK) == Pruned(rows=1)
    with house.database.session() as session:
        assert list(session.scalars(select(IdempotencyKey.key))) == ["new"]


def test_no_row_ever_names_bytes_that_another_deleted(house: House) -> None:
    """Four threads store equal bytes, register them and delete the model again, while one prunes all the time."""
    end, wrong = threading.Event(), []

    def live(number: int) -> None:
        for turn in range(15):
            sha256 = house.register(f"net-{number}", bytes([turn % 3]))
            if not house.storage.exists(sha256):
                wrong.append((number, turn))
            house.delete_model(f"net-{number}")

    def prune() -> None:
        while not end.is_set():
            for digits in {hashlib.sha256(bytes([turn])).hexdigest()[:2] for turn in range(3)}:
                # A prune leaves half-written files, which are younger than a day, alone.
                names = [found.name for found in house.storage.find(digits) if not found.name.startswith(".")]
                artifacts.delete_unused(house.database, house.storage, "", names=names)

    pruning = threading.Thread(target=prune)
    living = [threading.Thread(target=live, args=(number,)) for number in range(4)]
    for thread in (pruning, *living):
        thread.start()
    for thread in living:
        thread.join()
    end.set()
    pruning.join()
    assert wrong == []
    with house.database.session() as session:
        assert session.scalar(select(func.sum(Model.next_version))) == 4 * 16


@pytest.mark.parametrize("seed", range(3))
def test_after_any_sequence_of_ends_deletes_and_prunes_what_is_named_exists(house: House, seed: int) -> None:
    choose = random.Random(seed)
    running: list[Any] = []

    def attempt(call: Any) -> None:
        try:
            call()
        except (ConflictError, NotFoundError, IndexError):
            return  # nothing of that kind is there now

    acts = {
        "register": lambda: house.register(choose.choice("abc"), bytes([choose.randrange(3)])),
        "delete": lambda: house.delete_model(choose.choice("abc")),
        "start": lambda: running.append(house.claim(house.submit())),
        "checkpoint": lambda: house.checkpoint(choose.choice(running), bytes([choose.randrange(3)]), step=1),
        "end": lambda: house.end(running.pop(), choose.choice(("succeeded", "failed", "cancelled"))),
        "evaluate": lambda: house.evaluated(house.claim(house.submit("evaluate", {"model": "x@1"})), b"x"),
        "checkpoints": lambda: house.pruner().checkpoints(older_than=NOW),
        "examples": lambda: house.pruner().examples(older_than=NOW),
        "unreferenced": lambda: house.pruner().unreferenced(older_than=NOW),
    }
    for _ in range(30):
        name = choose.choice(list(acts))
        attempt(acts[name])
        assert house.missing() == set(), name
