"""Models that are named inside a spec, as the source of a transfer attack is: resolved, checked, kept and fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import ConflictError, InvalidSpecError
from app.records.session import Database
from app.services import claims, jobs, models, specs
from app.settings import Settings
from app.storage import Storage
from migrations import upgrade
from models.checkpoints import save_model
from models.networks import build_model
from models.specs import ModelCard
from worker.context import Worker
from worker.inputs import prepare
from worker.task import Task

BACKBONE = {"name": "resnet18", "width": 4, "blocks": [1]}
CARD: dict[str, Any] = {
    "kind": "classifier",
    "backbone": BACKBONE,
    "image_shape": [1, 8, 8],
    "classes": list("0123456789"),
    "mean": [0.3],
    "std": [0.4],
}
PGD = {"name": "pgd", "eps": "8/255"}


def transfer(source: str) -> dict[str, Any]:
    return {"name": "transfer", "source": source, "attack": PGD}


def body(*sources: str) -> dict[str, Any]:
    attacks = [PGD, *(transfer(source) for source in sources)]
    return {"model": "net", "dataset": {"name": "digits", "subset": 50}, "attacks": attacks}


def register(database: Database, name: str, *, sha256: str = "0" * 64, **changes: Any) -> None:
    with database.writing() as session:
        models.register_version(session, name=name, sha256=sha256, size=1, card={**CARD, **changes})


def validated(database: Database, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    with database.session() as session:
        return specs.validate(session, kind=kind, body=given)[0]


@pytest.fixture
def registered(database: Database) -> Database:
    register(database, "net")
    register(database, "other")
    register(database, "encoder", kind="encoder", classes=None)
    register(database, "colour", image_shape=[3, 32, 32], mean=[0.5] * 3, std=[0.2] * 3)
    register(database, "two", classes=["a", "b"])
    return database


def test_a_source_is_pinned_to_its_version(registered: Database) -> None:
    spec = validated(registered, "evaluate", body("other"))
    assert (spec["model"], spec["attacks"][1]["source"]) == ("net@1", "other@1")
    assert models.references(spec) == {"model": "net@1", "attacks/1/source": "other@1"}
    register(registered, "other")
    assert validated(registered, "evaluate", spec) == spec
    assert validated(registered, "evaluate", body("other"))["attacks"][1]["source"] == "other@2"


@pytest.mark.parametrize("kind", ["evaluate", "protocol"])
def test_a_source_that_cannot_be_attacked_is_refused_where_it_stands(registered: Database, kind: str) -> None:
    given = body("other", "none", "encoder", "colour", "two")
    if kind == "protocol":
        given = {"dataset": {"name": "digits"}, "methods": ["standard"], "attacks": given["attacks"]}
    with pytest.raises(InvalidSpecError) as refusal:
        validated(registered, kind, given)
    told = {error["pointer"]: error["detail"] for error in refusal.value.errors}
    assert sorted(told) == [f"/attacks/{index}/source" for index in (2, 3, 4, 5)]
    for index, words in ((2, "there is no model 'none'"), (3, "is an encoder"), (4, "takes images"), (5, "2 classes")):
        assert words in told[f"/attacks/{index}/source"]


@pytest.mark.parametrize("kind", ["evaluate", "protocol"])
def test_a_source_cannot_be_deleted_while_a_job_needs_it(registered: Database, kind: str) -> None:
    given = body("other")
    if kind == "protocol":
        given = {"dataset": {"name": "digits"}, "methods": ["standard"], "attacks": given["attacks"]}
    spec = validated(registered, kind, given)
    with registered.writing() as session:
        job = jobs.submit(session, kind=kind, spec=spec)
    with registered.writing() as session, pytest.raises(ConflictError, match=job.id):
        models.delete_version(session, "other", version=1)
    with registered.writing() as session:
        jobs.cancel(session, job.id)
        models.delete_version(session, "other", version=1)


@pytest.mark.parametrize("repeated", [False, True])
def test_a_worker_fetches_the_source_and_hands_it_to_the_evaluation(tmp_path: Path, *, repeated: bool) -> None:
    settings = Settings(home=tmp_path, device="cpu")
    upgrade(settings)
    worker = Worker.open(settings, queues=("evaluate",))
    for seed, name in enumerate(("net", "other")):
        store(worker.database, worker.storage, name, seed=seed, folder=tmp_path)
    given = body("other", "other@1") if repeated else body("other")
    if repeated:  # the same source for two attacks
        given["attacks"][2]["attack"] = {"name": "fgsm"}
    with worker.database.writing() as session:
        job = jobs.submit(session, kind="evaluate", spec=specs.validate(session, kind="evaluate", body=given)[0])
    with worker.database.writing() as session:
        claim = claims.claim(session, job.id, owner="w", lease_seconds=30, max_attempts=3)
    assert claim is not None
    folder = tmp_path / "attempt"
    folder.mkdir()
    fields = prepare(worker, claim, folder=folder)
    del fields["memory_bytes"]  # the child's own limit, which it takes out first
    task = Task.parse(fields)
    worker.database.close()
    sources = task.sources()
    assert list(sources) == ["other@1"]
    expected = build_model(ModelCard.model_validate(CARD), seed=1).state_dict()
    assert all(value.equal(expected[name]) for name, value in sources["other@1"].state_dict().items())
    own = build_model(ModelCard.model_validate(CARD), seed=0).state_dict()
    assert all(value.equal(own[name]) for name, value in task.needed_model().state_dict().items())


def store(database: Database, storage: Storage, name: str, *, seed: int, folder: Path) -> None:
    """Register a network with weights drawn from ``seed``."""
    path = folder / f"{name}.safetensors"
    save_model(path, build_model(ModelCard.model_validate(CARD), seed=seed))
    artifact = storage.put_file(path)
    register(database, name, sha256=artifact.sha256)
