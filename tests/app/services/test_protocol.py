"""Protocol jobs: children in order, one transaction with the finish, cancel and resume of the whole."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app.errors import ConflictError
from app.records import Job
from app.records.session import Database
from app.services import claims, jobs, models, parents, specs
from app.services.claims import Claim

BODY = {"preset": "quick", "dataset": {"name": "digits"}, "methods": ["standard", "clead"], "labels": {"team": "x"}}


def submit(database: Database, **changes: Any) -> str:
    with database.writing() as session:
        spec, _, labels = specs.validate(session, kind="protocol", body={**BODY, **changes})
        return jobs.submit(session, kind="protocol", spec=spec, labels=labels).id


def children(database: Database, job_id: str) -> dict[str, Job]:
    with database.session() as session:
        return {str(child.step_key): child for child in parents.children(session, jobs.get(session, job_id))}


def read(database: Database, job_id: str) -> Job:
    with database.session() as session:
        return jobs.get(session, job_id)


def take(database: Database, job: Job) -> Claim:
    with database.writing() as session:
        claim = claims.claim(session, job.id, owner="w", lease_seconds=30, max_attempts=3)
    assert claim is not None
    return claim


def evaluation_result(claim: Claim, *, robust: float) -> dict[str, Any]:
    """What an evaluation answers, with invented accuracies."""
    attacks = [
        {"name": spec["name"], "spec": spec, "robust_accuracy": robust, "ci95": [robust, robust]}
        for spec in claim.spec["attacks"]
    ]
    return {
        "model": claim.spec["model"],
        "dataset": {"name": "digits", "split": "test", "size": 360, "sha256": "d"},
        "clean_accuracy": 0.9,
        "clean_ci95": [0.8, 0.95],
        "attacks": attacks,
        "warnings": [{"code": "few-images", "detail": "9 images", "advice": "take more"}],
    }


SECONDS = {"pretrain": 300.0, "probe": 20.5, "train": 100.0}


def succeed(database: Database, job: Job, *, robust: float = 0.1) -> None:
    """Do what a worker does at the end of a child, without the training."""
    claim = take(database, job)
    with database.writing() as session:
        assert claims.holds(session, claim)
        if claim.kind == "evaluate":
            result = evaluation_result(claim, robust=robust)
        else:
            kind = "encoder" if claim.kind == "pretrain" else "classifier"
            card = {
                "kind": kind,
                "backbone": {"name": "resnet18", "width": 32, "blocks": [1, 1]},
                "image_shape": [1, 8, 8],
                "classes": list("0123456789") if kind == "classifier" else None,
                "mean": [0.3],
                "std": [0.4],
            }
            assert claim.register_as is not None
            version = models.register_version(
                session, name=claim.register_as, sha256="0" * 64, size=1, card=card, job_id=claim.job_id
            )
            warnings = [{"code": f"of-a-{claim.kind}", "detail": "why"}]
            result = {"model": version.reference, "seconds": SECONDS[claim.kind], "warnings": warnings}
        assert claims.finish(session, claim, status="succeeded", result=result)
        assert claim.parent_id is not None
        parents.advance(session, claim.parent_id)


def fail(database: Database, job: Job) -> None:
    claim = take(database, job)
    with database.writing() as session:
        claims.finish(session, claim, status="failed", error={"detail": "the loss is nan at step 7"})
        assert claim.parent_id is not None
        parents.advance(session, claim.parent_id)


def test_steps_appear_when_their_inputs_are_ready_and_the_last_one_ends_the_parent(database: Database) -> None:
    parent = submit(database)
    assert set(children(database, parent)) == {"train:standard", "pretrain:clead"}
    assert read(database, parent).status == "running"
    assert children(database, parent)["train:standard"].labels[0].value == "x"
    succeed(database, children(database, parent)["pretrain:clead"])
    probe = children(database, parent)["probe:clead"]
    assert probe.spec["model"] == "digits-clead-encoder@1"
    succeed(database, probe)
    assert children(database, parent)["evaluate:clead"].spec["model"] == "digits-clead@1"
    succeed(database, children(database, parent)["train:standard"])
    succeed(database, children(database, parent)["evaluate:standard"], robust=0.02)
    assert read(database, parent).status == "running"
    succeed(database, children(database, parent)["evaluate:clead"], robust=0.45)
    job = read(database, parent)
    assert job.status == "succeeded" and job.result is not None
    assert [row["method"] for row in job.result["rows"]] == ["standard", "clead"]
    row = job.result["rows"][1]
    assert (row["model"], row["clean"], row["pgd"], row["pgd-100"]) == ("digits-clead@1", 0.9, 0.45, 0.45)
    assert row["seconds"] == SECONDS["pretrain"] + SECONDS["probe"]
    assert set(row["ci95"]) == {"clean", "fgsm", "pgd", "cw-linf", "pgd-100"}
    assert row["warnings"] == [
        {"step": "pretrain:clead", "code": "of-a-pretrain", "detail": "why"},
        {"step": "probe:clead", "code": "of-a-probe", "detail": "why"},
        {"step": "evaluate:clead", "code": "few-images", "detail": "9 images"},
    ]
    assert job.result["protocol"] == {
        "threat_model": "white-box",
        "norm": "linf",
        "eps": 0.2,
        "steps": 20,
        "images": 360,
        "seed": 0,
    }
    assert job.progress is not None and (job.progress["done"], job.progress["total"]) == (5, 5)


def test_a_method_that_needs_a_teacher_has_one_trained_first(database: Database) -> None:
    data = {"name": "digits", "labels_fraction": 0.1}
    parent = submit(database, methods=["deacl", "self-training"], dataset=data)
    teachers = children(database, parent)
    assert {key: job.spec["method"] for key, job in teachers.items()} == {
        "teacher:deacl": "simclr",
        "teacher:self-training": "standard",
    }
    assert teachers["teacher:self-training"].spec["dataset"]["labels_fraction"] == 0.1
    assert "labels_fraction" not in teachers["teacher:deacl"].spec["dataset"], "a pretraining uses no labels"
    for job in teachers.values():
        succeed(database, job)
    trained = children(database, parent)
    assert trained["pretrain:deacl"].spec["base_model"] == "digits-deacl-teacher@1"
    student = trained["train:self-training"].spec
    assert student["base_model"] == "digits-self-training-teacher@1" and student["dataset"]["labels_fraction"] == 0.1
    for key in ("pretrain:deacl", "train:self-training"):
        succeed(database, trained[key])
    assert children(database, parent)["probe:deacl"].spec["dataset"]["labels_fraction"] == 0.1
    assert children(database, parent)["evaluate:self-training"].spec["model"] == "digits-self-training@1"


def test_two_children_that_finish_at_once_add_each_step_once(database: Database) -> None:
    parent = submit(database, methods=["standard", "pgd-at"])
    barrier = threading.Barrier(2)
    errors: list[Exception] = []

    def finish(job: Job) -> None:
        barrier.wait()
        try:
            succeed(database, job)
        except Exception as error:  # told to the test below
            errors.append(error)

    threads = [threading.Thread(target=finish, args=(job,)) for job in children(database, parent).values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    keys = ["evaluate:pgd-at", "evaluate:standard", "train:pgd-at", "train:standard"]
    assert sorted(children(database, parent)) == keys


def test_advancing_twice_changes_nothing(database: Database) -> None:
    parent = submit(database)
    with database.writing() as session:
        assert parents.advance(session, parent) == []
    assert len(children(database, parent)) == 2


def test_a_failed_child_fails_the_parent_and_cancels_the_others(database: Database) -> None:
    parent = submit(database)
    running = take(database, children(database, parent)["train:standard"])
    fail(database, children(database, parent)["pretrain:clead"])
    assert read(database, parent).status == "running"  # until the running child has stopped
    with database.writing() as session:
        assert claims.renew(session, running, lease_seconds=30).cancel
        claims.finish(session, running, status="cancelled")
        parents.advance(session, parent)
    job = read(database, parent)
    assert job.status == "failed" and job.error is not None
    assert "pretrain:clead" in job.error["detail"] and "nan at step 7" in job.error["detail"]


def test_resuming_the_parent_resumes_its_children(database: Database) -> None:
    parent = submit(database)
    fail(database, children(database, parent)["pretrain:clead"])
    failed = children(database, parent)["pretrain:clead"]
    assert children(database, parent)["train:standard"].status == "cancelled"
    with database.writing() as session, pytest.raises(ConflictError, match=parent):
        jobs.resume(session, failed.id)
    with database.writing() as session:
        job = jobs.resume(session, parent)
        assert (job.status, job.error) == ("running", None)
        assert len(jobs.runnable(session, job)) == 2
    succeed(database, children(database, parent)["pretrain:clead"])
    assert "probe:clead" in children(database, parent)


def test_cancelling_the_parent_cancels_what_waits_and_asks_what_runs(database: Database) -> None:
    parent = submit(database)
    running = take(database, children(database, parent)["pretrain:clead"])
    with database.writing() as session:
        assert jobs.cancel(session, parent).status == "running"
    assert children(database, parent)["train:standard"].status == "cancelled"
    with database.writing() as session:
        assert claims.renew(session, running, lease_seconds=30).cancel
        claims.finish(session, running, status="cancelled")
        parents.advance(session, parent)
    assert read(database, parent).status == "cancelled"


def test_a_spec_that_a_later_program_wrote_fails_the_parent_with_the_reason(database: Database) -> None:
    """And not the transaction that finishes the child, which would be trained again and again."""
    parent = submit(database, methods=["clead"])
    with database.writing() as session:
        job = jobs.get(session, parent)
        job.spec = {**job.spec, "aardvark": 7}
    claim = take(database, children(database, parent)["pretrain:clead"])
    with database.writing() as session:
        claims.finish(session, claim, status="succeeded", result={"model": "gone@1"})
        parents.advance(session, parent)
    job = read(database, parent)
    assert children(database, parent)["pretrain:clead"].status == "succeeded"
    assert job.status == "failed" and job.error is not None and "aardvark" in job.error["detail"]


def test_a_model_deleted_meanwhile_fails_the_parent_with_the_reason(database: Database) -> None:
    parent = submit(database, methods=["clead"])
    claim = take(database, children(database, parent)["pretrain:clead"])
    with database.writing() as session:
        claims.finish(session, claim, status="succeeded", result={"model": "gone@1"})
        parents.advance(session, parent)
    job = read(database, parent)
    assert job.status == "failed" and job.error is not None and "gone@1" in job.error["detail"]
