"""A cancel at the worst moments: while a worker claims, before its child runs, in the middle of an attack."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import text

from app.queue import broker_folder
from app.services import jobs
from tests.deployment import Deployment
from tests.servers import wait_for
from tests.system.classifiers import register, trained_classifier
from tests.system.trainings import QUICK, checkpoints, children_of, unbroken, weights


def test_a_cancel_that_comes_while_the_worker_claims(deployment: Deployment) -> None:
    """The message has arrived and the claim waits for the row that the cancel holds: nothing is started."""
    worker = deployment.start_worker(reaper_seconds=3600, lease_seconds=7200)  # it looks once, and finds nothing
    wait_for(lambda: " serves " in deployment.log.read_text(), seconds=150, what="the worker")
    job_id = deployment.submit("pretrain", QUICK, announce=False)
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
        assert deployment.publish(job_id)
        wait_for(lambda: claim_waits(deployment), seconds=150, what="the claim")
    wait_for(lambda: f"{job_id} is not to be had" in deployment.log.read_text(), seconds=150, what="the refusal")
    job = deployment.job(job_id)
    assert (job.status, job.attempt, job.started_at) == ("cancelled", 0, None)
    assert children_of(worker.pid) == []


def claim_waits(deployment: Deployment) -> bool:
    """PostgreSQL tells who waits for a lock; with SQLite the message is gone, and the lock is held anyway."""
    if deployment.settings.database_url.startswith("sqlite"):
        return not list((broker_folder(deployment.settings) / "messages").glob("*.msg"))
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with deployment.database.session() as session:
        return session.execute(waiting).scalar_one() > 0


def test_a_cancel_between_claim_and_child(deployment: Deployment) -> None:
    """The child is told before it trains; a resume then gives what an unbroken run does."""
    job_id = deployment.submit("pretrain", QUICK)
    worker = deployment.start_worker()
    deployment.wait(job_id, "running")
    with deployment.database.writing() as session:
        assert jobs.cancel(session, job_id).progress is None, "the child was quicker than this test"
    job = deployment.wait(job_id)
    assert (job.status, job.attempt, job.failures) == ("cancelled", 1, 0)
    assert all(checkpoint.step == 0 for checkpoint in checkpoints(deployment, job_id))
    wait_for(lambda: left_behind(deployment) == [], seconds=150, what="the end of the work folder")
    assert children_of(worker.pid) == []

    with deployment.database.writing() as session:
        jobs.resume(session, job_id)
    assert deployment.wait(job_id).status == "succeeded"
    threads = deployment.settings.torch_threads
    assert weights(deployment, job_id) == unbroken(QUICK, threads=threads)


def left_behind(deployment: Deployment) -> list[Path]:
    return list(deployment.settings.work_dir.glob("*"))


def test_a_cancel_in_the_middle_of_an_attack(deployment: Deployment, tmp_path: Path) -> None:
    """The child stops by itself, within one step, long before it would be killed; the worker is good for more."""
    register(deployment, trained_classifier(tmp_path))
    endless = {"name": "cw-linf", "eps": 0.01, "steps": 1000, "restarts": 100}
    body = {"model": "tiny@1", "dataset": {"name": "digits", "subset": 150}, "attacks": [endless], "examples": 0}
    job_id = deployment.submit("evaluate", body)
    worker = deployment.start_worker(stop_seconds=150)
    wait_for(lambda: attacks(deployment, job_id), seconds=150, what="the attack")
    with deployment.database.writing() as session:
        jobs.cancel(session, job_id)
    job = deployment.wait(job_id, seconds=150)
    assert (job.status, job.attempt, job.result) == ("cancelled", 1, None)
    assert "did not stop in time" not in deployment.log.read_text()
    assert deployment.wait(deployment.submit("pretrain", QUICK)).status == "succeeded"
    assert worker.poll() is None


def attacks(deployment: Deployment, job_id: str) -> bool:
    progress = deployment.job(job_id).progress or {}
    return progress.get("stage") == "cw-linf" and progress["done"] > 0
