"""How much an account may use, counted on both databases, also when requests come at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.errors import OverloadedError
from app.records import Checkpoint, Job
from app.records.session import Database
from app.services import datasets, jobs, models, quotas, tokens
from app.services.tokens import OPERATOR, Limits, Principal


def principal(name: str = "ann", **limits: int) -> Principal:
    return Principal(scope="submit", account=name, limits=Limits(**limits))


def submit(database: Database, asking: Principal, **details: Any) -> str:
    with database.writing() as session:
        quotas.admit_job(session, asking)
        return jobs.submit(session, kind="train", spec={}, account=asking.account, **details).id


def end(database: Database, job_id: str, status: str = "succeeded") -> None:
    with database.writing() as session:
        session.get_one(Job, job_id).status = status


def test_no_more_jobs_than_allowed_are_unfinished(database: Database) -> None:
    ann = principal(unfinished_jobs=2)
    first = submit(database, ann)
    submit(database, ann)
    with pytest.raises(OverloadedError, match="2 jobs of 'ann' are queued or running, and 2 may be") as refused:
        submit(database, ann)
    assert refused.value.retry_after >= 1
    submit(database, principal("bob", unfinished_jobs=1))
    submit(database, OPERATOR)
    end(database, first, "running")
    with pytest.raises(OverloadedError):
        submit(database, ann)
    end(database, first)
    submit(database, ann)


def test_the_steps_of_a_job_do_not_count(database: Database) -> None:
    ann = principal(unfinished_jobs=2)
    parent = submit(database, ann)
    for step in "abc":
        with database.writing() as session:
            jobs.submit(session, kind="train", spec={}, account="ann", parent_id=parent, step_key=step)
    submit(database, ann)


def test_of_many_at_once_only_the_allowed_ones_are_admitted(database: Database) -> None:
    ann = principal(unfinished_jobs=3)
    with database.writing() as session:
        for _ in range(2):  # two tokens of one account
            tokens.create(session, name="ann", scope="submit", key=b"k")
    barrier, admitted, refused = threading.Barrier(8), [], []

    def post() -> None:
        barrier.wait()
        try:
            admitted.append(submit(database, ann))
        except OverloadedError as error:
            refused.append(error)

    threads = [threading.Thread(target=post) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(admitted), len(refused)) == (3, 5)


def test_stored_bytes_are_those_of_data_models_and_checkpoints(database: Database) -> None:
    with database.writing() as session:
        for account, size in (("ann", 100), ("bob", 7)):
            datasets.register(
                session,
                name=f"photos of {account}",
                format="zip",
                sha256="0" * 64,
                size=size,
                classes=["a", "b"],
                image_shape=(1, 8, 8),
                train_size=1,
                test_size=1,
                mean=[0.0],
                std=[1.0],
                account=account,
            )
            for _ in range(2):
                models.register_version(
                    session, name=account, sha256="1" * 64, size=size * 10, card={}, account=account
                )
            job = jobs.submit(session, kind="train", spec={}, account=account)
            session.add(Checkpoint(job_id=job.id, attempt=1, step=1, sha256="2" * 64, size=size * 100))
    with database.writing() as session:
        assert quotas.stored_bytes(session, "ann") == 100 + 2 * 1000 + 10_000
        assert quotas.stored_bytes(session, "bob") == 7 + 2 * 70 + 700
        assert quotas.stored_bytes(session, "eve") == 0
        ann = principal(stored_bytes=12_200)
        quotas.admit_bytes(session, ann, size=100)
        quotas.admit_job(session, ann)
        with pytest.raises(
            OverloadedError,
            match=r"12100 of the 12200 bytes.*ask for a larger limit, or for models to be deleted \(scope admin\)",
        ):
            quotas.admit_bytes(session, ann, size=101)
        full = principal(stored_bytes=12_100)
        with pytest.raises(OverloadedError):
            quotas.admit_job(session, full)
        quotas.admit_bytes(session, principal(), size=2**60)


def test_a_tokens_own_limits_come_before_the_services(database: Database) -> None:
    defaults = Limits(requests_per_minute=5, unfinished_jobs=6, stored_bytes=7)
    with database.writing() as session:
        _, token = tokens.create(session, name="ann", scope="submit", key=b"k", unfinished_jobs=0, stored_bytes=9)
        found = tokens.authenticate(session, token, key=b"k", defaults=defaults)
    assert found.limits == Limits(requests_per_minute=5, unfinished_jobs=0, stored_bytes=9)
