"""A service with something in it, so that generated requests find more than 404: models, data, jobs in every state."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app import security
from app.api import documentation
from app.records import Job, MetricPoint
from app.records.session import Database
from app.schemas import examples
from app.services import references, tokens
from app.settings import Settings
from app.storage import Storage
from models.checkpoints import save_model
from tests.app.api.conftest import make_model, png, random_pixels
from tests.app.api.test_dataset_routes import arrays_npz, folder_zip

LIMITS = ("requests_per_minute", "unfinished_jobs", "stored_bytes")
PICTURE = png(random_pixels(1)[0])
MODEL, SPARE, DATA = "tiny", "spare", "mine"
OURS: dict[str, Any] = {"model": MODEL, "dataset": {"name": "digits"}, "batch_size": 64}
BODIES: dict[str, dict[str, Any]] = {
    "POST /jobs/pretrain": examples.PRETRAIN,
    "POST /jobs/probe": examples.PROBE,
    "POST /jobs/train": examples.TRAIN,
    "POST /jobs/protocol": examples.PROTOCOL,
    "POST /evaluate": examples.EVALUATE,
    "POST /evaluate/corruptions": examples.CORRUPTIONS,
}
"""Bodies that can run here."""
BODIES = {name: body | {key: OURS[key] for key in OURS.keys() & body.keys()} for name, body in BODIES.items()}


@dataclass
class Home:
    """What lies in the service, by the names under which a request can ask for it.

    ``done``: a finished evaluation. ``versions``: the newest of each model.
    """

    settings: Settings
    weights: bytes
    jobs: list[str] = field(default_factory=list)
    done: str = ""
    versions: dict[str, int] = field(default_factory=dict)

    def restock(self, client: httpx.Client, headers: dict[str, str]) -> None:
        """Put back what generated requests may have deleted."""
        for name in (MODEL, SPARE):
            found = client.get(f"/models/{name}", headers=headers)
            if found.status_code == 404:
                upload = client.post(f"/models/{name}/versions", files={"weights": self.weights}, headers=headers)
                self.versions[name] = upload.raise_for_status().json()["version"]
            else:
                self.versions[name] = found.raise_for_status().json()["versions"][0]["version"]
        for alias in ("best", "production"):  # while it has one, the model is not deleted
            body = {"version": self.versions[MODEL]}
            client.put(f"/models/{MODEL}/aliases/{alias}", json=body, headers=headers).raise_for_status()

    def settle(self, case: Any, chance: random.Random) -> None:
        """Replace the names and files of a generated case by ones that exist, and all but one field of a job's body."""
        operation, places = case.operation.label, case.path_parameters or {}
        model = SPARE if operation.startswith("DELETE") and "alias" not in places else MODEL
        known = {
            "job_id": self.done if operation.endswith("/events") else chance.choice([*self.jobs, self.done]),
            "name": DATA if "/datasets/" in operation else model,
            "version": self.versions[model],
            "alias": "best",
            "index": 0,
            "family": "torchvision",
        }
        for name in known.keys() & places.keys():
            case.path_parameters[name] = known[name]
        for name, value in {"model": MODEL, "jobs": self.done}.items():
            if name in (case.query or {}):
                case.query[name] = value
        if isinstance(case.body, dict):
            case.body = self._body(operation, case.body, media_type=case.media_type, chance=chance)

    def _body(self, operation: str, body: dict[str, Any], *, media_type: str, chance: random.Random) -> dict[str, Any]:
        if operation == "POST /datasets":
            return {**body, "file": chance.choice((folder_zip, arrays_npz))()}
        if operation == "POST /models/{name}/versions":
            return {"weights": self.weights}
        if media_type == "multipart/form-data":
            return {"images": [PICTURE]}
        if operation in BODIES and body:
            changed = chance.choice(sorted(body))
            return BODIES[operation] | {changed: OURS.get(changed, body[changed])}
        return body

    def token(self, scope: security.Scope) -> str:
        """A new token without limits; from the first on every request needs one."""
        database = Database(self.settings.database_url)
        key, limits = security.secret_key(self.settings), dict.fromkeys(LIMITS, 0)
        with database.writing() as session:
            _, token = tokens.create(session, name=f"a {scope}", scope=scope, key=key, **limits)
        database.close()
        return token


def furnish(settings: Settings, client: httpx.Client, folder: Path) -> Home:
    """Fill the service that ``client`` talks to, and whose settings these are."""
    save_model(folder / "weights.safetensors", make_model())
    home = Home(settings, (folder / "weights.safetensors").read_bytes())
    home.restock(client, {})
    data = {"file": ("mine.zip", folder_zip())}
    client.post("/datasets", data={"name": DATA}, files=data).raise_for_status()
    for path in ("/jobs/train", "/jobs/pretrain", "/jobs/protocol", "/evaluate/corruptions", "/evaluate"):
        answer = client.post(path, json=BODIES[f"POST {path}"])
        home.jobs.append(answer.raise_for_status().json()["id"])
    home.done = home.jobs.pop()
    client.post(f"/jobs/{home.jobs[0]}/cancel").raise_for_status()
    folder_of_examples = references.examples_of(home.done, kind="evaluate", parent_id=None)
    artifact = Storage(settings.storage_url).scoped(folder_of_examples).put_bytes(PICTURE)
    database = Database(settings.database_url)
    with database.writing() as session:
        session.get_one(Job, home.jobs[1]).status = "failed"
        done = session.get_one(Job, home.done)
        done.status, done.result = (
            "succeeded",
            _result(done.spec, examples_file={"sha256": artifact.sha256, "size": len(PICTURE)}),
        )
        done.examples = [_example() | dict.fromkeys(references.PICTURES, artifact.sha256)]
        points = [MetricPoint(job_id=done.id, series="loss", step=step, value=1 / step) for step in range(1, 50)]
        session.add_all(points)
    database.close()
    return home


def _result(spec: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What an evaluation of ``spec`` answers: the documented one, under other attacks."""
    result: dict[str, Any] = _answer("GET /jobs/{job_id}", called="evaluate")["result"]
    attack = result["attacks"][0]
    attacks = [{**attack, "name": asked["name"], "spec": asked} for asked in spec["attacks"]]
    return {**result, "model": spec["model"], "attacks": attacks, **more}


def _example() -> dict[str, Any]:
    example: dict[str, Any] = _answer("GET /jobs/{job_id}/examples", called="an answer")["items"][0]
    return example


def _answer(operation: str, *, called: str) -> Any:
    return documentation.answers_recorded()[operation]["application/json"][called]
