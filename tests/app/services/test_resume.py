"""What a job needs may be deleted while it is cancelled: then it cannot be resumed."""

from __future__ import annotations

import pytest

from app.errors import ConflictError
from app.records.session import Database
from app.services import claims, jobs, models, parents
from tests.app.services.test_protocol import children, read, submit, succeed, take


def cancel(database: Database, job_id: str) -> None:
    with database.writing() as session:
        jobs.cancel(session, job_id)


def delete(database: Database, name: str) -> None:
    with database.writing() as session:
        models.delete_version(session, name, version=1)


def refuse(database: Database, job_id: str, *, model: str) -> None:
    with database.writing() as session, pytest.raises(ConflictError, match=f"needs the model {model}, which was dele"):
        jobs.resume(session, job_id)
    assert read(database, job_id).status == "cancelled"


def add_model(database: Database, name: str) -> None:
    with database.writing() as session:
        models.register_version(session, name=name, sha256="0" * 64, size=1, card={"kind": "classifier"})


def test_a_job_whose_model_was_deleted(database: Database) -> None:
    for name in ("net", "other"):
        add_model(database, name)
    spec = {"model": "net@1", "attacks": [{"name": "transfer", "source": "other@1"}]}
    with database.writing() as session:
        job_id = jobs.submit(session, kind="evaluate", spec=spec).id
    cancel(database, job_id)
    delete(database, "other")
    refuse(database, job_id, model="other@1")
    add_model(database, "other")
    refuse(database, job_id, model="other@1")  # a newer version is another model


def test_a_protocol_whose_waiting_step_names_a_deleted_model(database: Database) -> None:
    parent = submit(database, methods=["clead"])
    succeed(database, children(database, parent)["pretrain:clead"])
    cancel(database, parent)
    delete(database, "digits-clead-encoder")
    refuse(database, parent, model="digits-clead-encoder@1")
    assert children(database, parent)["probe:clead"].status == "cancelled"


def test_a_protocol_whose_next_step_would_take_a_deleted_model(database: Database) -> None:
    """The training ended after the cancel, so that the attack on its model was never added."""
    parent = submit(database, methods=["standard"])
    training = take(database, children(database, parent)["train:standard"])
    cancel(database, parent)
    add_model(database, "digits-standard")
    with database.writing() as session:
        assert claims.finish(session, training, status="succeeded", result={"model": "digits-standard@1"})
        parents.advance(session, parent)
    assert list(children(database, parent)) == ["train:standard"]
    delete(database, "digits-standard")
    refuse(database, parent, model="digits-standard@1")


def test_a_protocol_goes_on_without_a_model_that_no_step_needs_any_more(database: Database) -> None:
    parent = submit(database, methods=["clead"])
    succeed(database, children(database, parent)["pretrain:clead"])
    succeed(database, children(database, parent)["probe:clead"])
    cancel(database, parent)
    delete(database, "digits-clead-encoder")
    with database.writing() as session:
        assert jobs.resume(session, parent).status == "running"
    succeed(database, children(database, parent)["evaluate:clead"])
    assert read(database, parent).status == "succeeded"
