"""Large evaluations: shards that workers take like any job, one result, cancel and resume, progress of the whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from app.errors import ConflictError
from app.records import Job, epoch_now, utc_now
from app.records.session import Database
from app.services import claims, compare, jobs, models, parents, specs
from app.services.claims import Claim

BACKBONE = {"name": "resnet18", "width": 4, "blocks": [1]}
BODY = {
    "model": "net",
    "dataset": {"name": "digits"},
    "attacks": [{"name": "pgd", "eps": 0.1, "steps": 10}],
    "shard_size": 100,
}
SHARDS = ["shard:0", "shard:1", "shard:2", "shard:3"]  # of the 360 test images of digits
STEPS = round(360 * (10 + 0.4))


def register(database: Database, name: str, *, shape: tuple[int, ...] = (1, 8, 8)) -> None:
    card = {
        "kind": "classifier",
        "backbone": BACKBONE,
        "image_shape": list(shape),
        "classes": [str(index) for index in range(10)],
        "mean": [0.3] * shape[0],
        "std": [0.4] * shape[0],
    }
    with database.writing() as session:
        models.register_version(session, name=name, sha256="0" * 64, size=1, card=card)


def submit(database: Database, kind: str = "evaluate", body: dict[str, Any] = BODY, **changes: Any) -> str:
    with database.writing() as session:
        spec, _, labels = specs.validate(session, kind=kind, body={**body, **changes})
        return jobs.submit(session, kind=kind, spec=spec, labels=labels).id


def below(database: Database, job_id: str) -> dict[str, Job]:
    with database.session() as session:
        return {str(child.step_key): child for child in parents.children(session, jobs.get(session, job_id))}


def read(database: Database, job_id: str) -> Job:
    with database.session() as session:
        return jobs.get(session, job_id)


def view(database: Database, job_id: str) -> dict[str, Any]:
    with database.session() as session:
        return jobs.job_view(session, jobs.get(session, job_id))


def take(database: Database, job: Job, *, owner: str = "w") -> Claim:
    with database.writing() as session:
        claim = claims.claim(session, job.id, owner=owner, lease_seconds=30, max_attempts=3)
    assert claim is not None
    return claim


def report(database: Database, claim: Claim, **progress: Any) -> None:
    with database.writing() as session:
        assert claims.renew(session, claim, lease_seconds=30, progress={"stage": "pgd", **progress}).held


def end(database: Database, claim: Claim, *, status: str = "succeeded", **outcome: Any) -> list[str]:
    """What a worker does at the end of a job; the steps that were added."""
    with database.writing() as session:
        assert claims.finish(session, claim, status=status, **outcome)
        assert claim.parent_id is not None
        return [str(job.step_key) for job in parents.advance(session, claim.parent_id)]


def result_of(claim: Claim) -> dict[str, Any]:
    """What an evaluation answers, with invented accuracies."""
    if claim.kind == "shard":
        return {"evidence": f"{claim.spec['shard']['index']:064x}"}
    attacks = [
        {"name": attack["name"], "spec": attack, "robust_accuracy": 0.4, "ci95": [0.3, 0.5]}
        for attack in claim.spec["attacks"]
    ]
    dataset = {"name": claim.spec["dataset"]["name"], "split": "test", "size": 360, "sha256": "d"}
    return {"model": claim.spec["model"], "dataset": dataset, "clean_accuracy": 0.9, "attacks": attacks}


def succeed(database: Database, job: Job) -> list[str]:
    claim = take(database, job)
    return end(database, claim, result=result_of(claim), examples=[{"index": 1}] if claim.kind == "merge" else None)


@pytest.fixture
def registered(database: Database) -> Database:
    register(database, "net")
    register(database, "grey", shape=(1, 28, 28))
    return database


def test_shards_come_at_once_and_the_merge_after_the_last_of_them(registered: Database) -> None:
    parent = submit(registered, labels={"team": "x"})
    shards = below(registered, parent)
    assert list(shards) == SHARDS
    assert [shard.spec["shard"] for shard in shards.values()] == [{"index": k, "of": 4} for k in range(4)]
    assert {shard.spec["model"] for shard in shards.values()} == {"net@1"}
    assert shards["shard:2"].labels[0].value == "x"
    with registered.session() as session:
        assert len(claims.claimable(session, queues=["evaluate"], limit=9)) == 4
        assert len(jobs.runnable(session, jobs.get(session, parent))) == 4
    for key in ("shard:3", "shard:0", "shard:2"):
        assert succeed(registered, shards[key]) == []
    assert succeed(registered, shards["shard:1"]) == ["merge"]
    merge = below(registered, parent)["merge"]
    assert "shard" not in merge.spec and read(registered, parent).status == "running"
    succeed(registered, merge)
    job = read(registered, parent)
    assert job.status == "succeeded" and job.result is not None
    assert (job.result["attacks"][0]["robust_accuracy"], job.examples) == (0.4, [{"index": 1}])
    assert job.result["examples"] == f"/jobs/{parent}/examples"
    progress = view(registered, parent)["progress"]
    assert (progress["done"], progress["total"], progress["stage"]) == (STEPS, STEPS, "succeeded")
    with registered.session() as session:
        assert [row["job"] for row in compare.compare(session, [parent])] == [parent]
        with pytest.raises(ConflictError, match="only finished evaluations"):
            compare.compare(session, [merge.id])


@pytest.mark.parametrize(
    "changes", [{"shard_size": 360}, {"shard_size": None}, {"dataset": {"name": "digits", "subset": 99}}]
)
def test_a_small_evaluation_stays_one_job(registered: Database, changes: dict[str, Any]) -> None:
    job = submit(registered, **changes)
    assert (read(registered, job).status, read(registered, job).queue) == ("queued", "evaluate")
    assert below(registered, job) == {}


def test_the_list_of_jobs_shows_the_evaluation_and_not_its_parts(registered: Database) -> None:
    parent = submit(registered)
    with registered.session() as session:
        assert [job.id for job in jobs.list_jobs(session).items] == [parent]
        assert len(jobs.list_jobs(session, kind="shard").items) == 4
    assert view(registered, parent)["children"] == [shard.id for shard in below(registered, parent).values()]


def test_progress_adds_the_shards_up_and_tells_the_time_left_while_the_first_ones_run(registered: Database) -> None:
    parent = submit(registered)
    idle = {"done": 0, "total": STEPS, "unit": "image-step", "stage": "queued", "eta_seconds": None}
    assert view(registered, parent)["progress"] == idle
    shards, share = below(registered, parent), STEPS / 4
    first = take(registered, shards["shard:0"])
    report(registered, first, done=700, total=900, unit="byte", eta_seconds=2.0)  # of a download
    assert view(registered, parent)["progress"] == {**idle, "stage": "pgd"}
    report(registered, first, done=100, total=share, unit="image-step", eta_seconds=(share - 100) / 50)
    progress = view(registered, parent)["progress"]
    assert (progress["done"], progress["eta_seconds"]) == (100, pytest.approx((STEPS - 100) / 50, abs=0.1))
    second = take(registered, shards["shard:1"])  # it has not told its speed yet: twice as fast as one
    assert view(registered, parent)["progress"]["eta_seconds"] == pytest.approx((STEPS - 100) / 100, abs=0.1)
    report(registered, second, done=36, total=share, unit="image-step", eta_seconds=(share - 36) / 30)
    progress = view(registered, parent)["progress"]
    assert (progress["done"], progress["eta_seconds"]) == (136, pytest.approx((STEPS - 136) / 80, abs=0.1))


def test_between_two_shards_the_time_left_follows_from_those_that_ended(registered: Database) -> None:
    parent = submit(registered)
    shards = below(registered, parent)
    succeed(registered, shards["shard:0"])
    with registered.writing() as session:
        ended = utc_now()
        times = {"started_at": ended - timedelta(seconds=20), "finished_at": ended}
        session.execute(update(Job).where(Job.id == shards["shard:0"].id).values(**times))
    progress = view(registered, parent)["progress"]
    assert (progress["done"], progress["eta_seconds"]) == (STEPS / 4, pytest.approx(60, abs=0.1))


def test_a_failed_shard_fails_the_evaluation_with_its_cause_and_resume_repeats_the_unfinished_ones(
    registered: Database,
) -> None:
    parent = submit(registered)
    shards = below(registered, parent)
    succeed(registered, shards["shard:0"])
    running = take(registered, shards["shard:1"])
    end(registered, take(registered, shards["shard:2"]), status="failed", error={"detail": "logits are NaN"})
    assert read(registered, parent).status == "running"  # until shard 1 has stopped
    with registered.writing() as session:
        assert claims.renew(session, running, lease_seconds=30).cancel
    end(registered, running, status="cancelled")
    job = read(registered, parent)
    assert job.status == "failed" and job.error is not None
    assert "shard:2" in job.error["detail"] and "logits are NaN" in job.error["detail"]
    with registered.writing() as session:
        with pytest.raises(ConflictError, match=parent):
            jobs.resume(session, shards["shard:2"].id)
        resumed = jobs.resume(session, parent)
        assert [found.step_key for found in jobs.runnable(session, resumed)] == SHARDS[1:]
    for key in SHARDS[1:]:
        succeed(registered, below(registered, parent)[key])
    succeed(registered, below(registered, parent)["merge"])
    assert read(registered, parent).status == "succeeded"
    assert [job.attempt for job in below(registered, parent).values()] == [1, 2, 2, 1, 1]


def test_cancel_stops_every_shard_and_resume_goes_on(registered: Database) -> None:
    parent = submit(registered)
    succeed(registered, below(registered, parent)["shard:0"])
    running = take(registered, below(registered, parent)["shard:1"])
    with registered.writing() as session:
        assert jobs.cancel(session, parent).status == "running"
    assert below(registered, parent)["shard:3"].status == "cancelled"
    end(registered, running, status="cancelled")
    assert read(registered, parent).status == "cancelled"
    with registered.writing() as session:
        jobs.resume(session, parent)
    statuses = {key: shard.status for key, shard in below(registered, parent).items()}
    assert statuses == {"shard:0": "succeeded", "shard:1": "queued", "shard:2": "queued", "shard:3": "queued"}
    assert view(registered, parent)["progress"]["done"] == STEPS / 4


def test_an_evaluation_that_no_worker_has_begun_is_cancelled_at_once(registered: Database) -> None:
    parent = submit(registered)
    with registered.writing() as session:
        assert jobs.cancel(session, parent).status == "cancelled"
    assert {shard.status for shard in below(registered, parent).values()} == {"cancelled"}


def test_a_shard_whose_workers_keep_dying_fails_the_evaluation(registered: Database) -> None:
    parent = submit(registered)
    shard = below(registered, parent)["shard:3"]
    for _ in range(3):
        take(registered, shard)
        with registered.writing() as session:
            session.execute(update(Job).where(Job.id == shard.id).values(lease_until=epoch_now() - 1))
    with registered.writing() as session:
        claims.fail_exhausted(session, max_attempts=3)
    job = read(registered, parent)
    assert job.status == "failed" and job.error is not None and "died 3 times" in job.error["detail"]


PROTOCOL = {"preset": "small", "dataset": {"name": "fashion-mnist"}, "methods": ["standard"]}  # 2,000 test images


def start_protocol(database: Database) -> tuple[str, Job]:
    """A protocol whose model is trained, and its evaluation."""
    parent = submit(database, "protocol", PROTOCOL)
    claim = take(database, below(database, parent)["train:standard"])
    assert end(database, claim, result={"model": "grey@1"}) == ["shard:0", "shard:1"]
    return parent, below(database, parent)["evaluate:standard"]


def test_a_protocol_waits_for_the_shards_of_its_evaluation(registered: Database) -> None:
    parent, evaluation = start_protocol(registered)
    assert (evaluation.status, evaluation.queue) == ("running", None)
    for key in ("shard:0", "shard:1", "merge"):
        assert read(registered, parent).status == "running"
        succeed(registered, below(registered, evaluation.id)[key])
    assert read(registered, evaluation.id).status == "succeeded"
    job = read(registered, parent)
    assert job.status == "succeeded" and job.result is not None
    assert job.result["rows"][0]["evaluation"] == evaluation.id
    assert job.result["rows"][0]["pgd"] == 0.4


def test_cancel_and_resume_of_a_protocol_reach_the_shards_of_its_evaluation(registered: Database) -> None:
    parent, evaluation = start_protocol(registered)
    running = take(registered, below(registered, evaluation.id)["shard:0"])
    with registered.writing() as session:
        jobs.cancel(session, parent)
        assert claims.renew(session, running, lease_seconds=30).cancel
    assert below(registered, evaluation.id)["shard:1"].status == "cancelled"
    end(registered, running, status="cancelled")
    assert [read(registered, job_id).status for job_id in (evaluation.id, parent)] == ["cancelled", "cancelled"]
    with registered.writing() as session:
        resumed = jobs.resume(session, parent)
        assert [found.step_key for found in jobs.runnable(session, resumed)] == ["shard:0", "shard:1"]
    for key in ("shard:0", "shard:1", "merge"):
        succeed(registered, below(registered, evaluation.id)[key])
    assert read(registered, parent).status == "succeeded"


def test_a_failed_shard_fails_the_protocol_with_its_cause(registered: Database) -> None:
    parent, evaluation = start_protocol(registered)
    claim = take(registered, below(registered, evaluation.id)["shard:1"])
    end(registered, claim, status="failed", error={"detail": "logits are NaN"})
    job = read(registered, parent)
    assert job.status == "failed" and job.error is not None
    assert "evaluate:standard" in job.error["detail"] and "logits are NaN" in job.error["detail"]
