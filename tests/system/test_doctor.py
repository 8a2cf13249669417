"""`clead doctor` on deployments that are whole, and on deployments with one thing broken each."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from app.cli import cli
from app.queue import create_celery
from app.records import ModelVersion, epoch_now, utc_now
from app.records.session import Database
from app.security import secret_key
from app.services import models, tokens, workers
from app.services.submission import add_job
from migrations import move, upgrade
from models.checkpoints import save_model
from tests.app.api.conftest import make_model
from tests.conftest import new_database
from tests.deployment import Deployment
from tests.servers import free_port, redis_on, wait_for
from tests.system.trainings import start_api

Found = dict[str, list[tuple[str, str]]]


def doctor(deployment: Deployment, *arguments: str, **settings: Any) -> tuple[int, Found]:
    """Exit status; check → [(status, detail with advice)]."""
    done = CliRunner().invoke(cli, ["doctor", "--json", *arguments], env=deployment.environment(**settings))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found: Found = {}
    for each in json.loads(done.stdout)["findings"]:
        assert each["advice"] or each["status"] in ("ok", "skipped"), each
        found.setdefault(each["check"], []).append((each["status"], f"{each['detail']} {each['advice']}"))
    return done.exit_code, found


def troubles(found: Found) -> dict[str, str]:
    """Check → text of what failed."""
    return {check: said for check, all_said in found.items() for status, said in all_said if status == "failed"}


def register(deployment: Deployment, *, alias: str | None = None, seed: int = 0) -> ModelVersion:
    model, path = make_model(seed=seed), deployment.settings.home / "weights"
    save_model(path, model)
    artifact = deployment.storage.put_file(path)
    card = model.card.model_dump(mode="json")
    with deployment.database.writing() as session:
        version = models.register_version(session, name="m", sha256=artifact.sha256, size=artifact.size, card=card)
        if alias is not None:
            models.set_alias(session, "m", alias=alias, version=version.version)
    return version


def artifact_path(deployment: Deployment, sha256: str) -> Path:
    return deployment.settings.home / "storage" / sha256[:2] / sha256


def files_of(deployment: Deployment) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in deployment.settings.home.rglob("*")}


def beat(deployment: Deployment, *queues: str) -> None:
    """What a worker leaves that lives: its row, and the broker's folders. Without a process, so that nothing moves."""
    create_celery(deployment.settings).close()
    with deployment.database.writing() as session:
        workers.beat(session, "w", host="h", pid=1, queues=queues or ("train", "evaluate"), job_id=None)


def test_a_whole_deployment_with_api_and_worker(deployment: Deployment) -> None:
    """On both pairs of database and broker; looking leaves nothing behind."""
    register(deployment, alias="production")
    patient = {"lease_seconds": 60.0}  # on a busy machine a sign of life may be late
    api, url = start_api(deployment, **patient)
    worker = deployment.start_worker(**patient)
    wait_for(lambda: httpx.get(f"{url}/readyz", timeout=60).status_code == 200, seconds=120, what="a worker")
    status, found = doctor(deployment, "--url", url, "--deep", **patient)
    assert troubles(found) == {} and status == 0
    expected = ["settings", "home", "disk", "device", "database", "clock", "broker", "storage", "tokens", "secret key"]
    expected += ["weights", "aliases", "workers", "abandoned jobs", "waiting jobs", "api"]
    assert list(found) == expected
    assert {each[0] for check, said in found.items() for each in said if check != "disk"} == {"ok"}
    for process in (api, worker):
        process.terminate()
        process.wait(60)
    deployment.database.close()
    before = files_of(deployment)
    status, found = doctor(deployment)
    assert files_of(deployment) == before and "workers" in troubles(found) and status == 1


def test_nothing_is_made_where_nothing_is(laptop: Deployment, tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    urls = {"database_url": "", "broker_url": "", "storage_url": ""}
    status, found = doctor(laptop, home=home, **urls)
    assert status == 1 and not home.parent.exists()
    assert set(troubles(found)) == {"database", "broker"}
    assert "clead migrate" in troubles(found)["database"]
    assert found["home"][0][0] == found["storage"][0][0] == "warning"
    assert found["workers"] == [("skipped", "not looked at without the database ")]


def test_for_a_person_it_is_a_table(laptop: Deployment) -> None:
    command = [sys.executable, "-m", "app.cli", "doctor"]
    environment = laptop.environment() | {"COLUMNS": "200"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 1
    assert "failed" in done.stdout and "→ clead worker --queues train" in done.stdout


def test_settings_that_cannot_be_read_are_named_without_their_values(laptop: Deployment) -> None:
    wrong = {"broker_url": "redis://:hunter2@h/0", "lease_seconds": 0.1, "port": "hunter2"}
    status, found = doctor(laptop, **wrong)
    assert status == 1 and "CLEAD_PORT" in str(found) and "hunter2" not in str(found)


def test_a_home_that_cannot_be(laptop: Deployment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, found = doctor(laptop, home=tmp_path / "file" / "home")
    assert status == 1 and "cannot be written to" in troubles(found)["home"]
    status, found = doctor(laptop, home=tmp_path / ("x" * 300))
    assert status == 1 and "File name too long" in troubles(found)["home"]


def test_a_disk_that_is_nearly_full(laptop: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faked: a test has no disk of its own to fill."""
    for free, status in ((3 * 2**30, "ok"), (2**30, "warning"), (100 * 2**20, "failed")):
        usage = shutil.disk_usage("/")._replace(free=free)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda path, usage=usage: usage)
            assert doctor(laptop)[1]["disk"][0][0] == status


def test_a_device_that_is_not_there(laptop: Deployment) -> None:
    for device in ("cuda:77", "gpu"):
        status, found = doctor(laptop, device=device)
        assert status == 1 and "CLEAD_DEVICE" in troubles(found)["device"]
    _, found = doctor(laptop, threads=1000)
    assert [status for status, _ in found["device"]] == ["ok", "warning"]


def test_databases_that_are_wrong_old_new_or_away(deployment: Deployment) -> None:
    settings = deployment.settings
    move(settings, "0001")
    assert "run clead migrate" in troubles(doctor(deployment)[1])["database"]
    upgrade(settings)
    with deployment.database.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    status, found = doctor(deployment)
    assert status == 1 and "9999" in troubles(found)["database"] and found["weights"][0][0] == "skipped"
    if settings.database_url.startswith("sqlite"):
        other = settings.home / "other.db"
        other.write_text("something else")
        url, says = f"sqlite:///{other}", "not a database of this service"
    else:
        url, says = f"postgresql+psycopg://me:hunter2@127.0.0.1:{free_port()}/x", "does not answer"
    status, found = doctor(deployment, database_url=url)
    assert status == 1 and says in troubles(found)["database"] and "hunter2" not in str(found)
    status, found = doctor(deployment, database_url="hunter2")
    assert status == 1 and "is not a URL" in troubles(found)["database"] and "hunter2" not in str(found)


def test_an_empty_postgres_is_told_to_be_migrated(laptop: Deployment, postgres_server: str) -> None:
    _, found = doctor(laptop, database_url=new_database(postgres_server))
    assert "run clead migrate" in troubles(found)["database"]


def test_a_clock_that_is_wrong(laptop: Deployment, request: pytest.FixtureRequest) -> None:
    """The server's clock cannot be turned here; its function is shadowed in the schema that is searched first."""
    url = new_database(request.getfixturevalue("postgres_server"))
    upgrade(laptop.settings.model_copy(update={"database_url": url}))
    _, found = doctor(laptop, database_url=url)
    assert found["clock"][0][0] == "ok"
    database = Database(url)
    with database.writing() as session:
        session.execute(
            text(
                "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS "
                "$$ SELECT pg_catalog.clock_timestamp() + interval '30 s' $$"
            )
        )
    database.close()
    wrong = f"{url}?options=-csearch_path%3Dpublic%2Cpg_catalog"
    ((status, detail),) = doctor(laptop, database_url=wrong)[1]["clock"]
    assert status == "warning" and ("+30." in detail or "+29." in detail)


def test_a_redis_that_throws_messages_away_or_is_away(laptop: Deployment, tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://:hunter2@127.0.0.1:{port}/0"
    status, found = doctor(laptop, broker_url=url)
    assert "does not answer" in troubles(found)["broker"] and "hunter2" not in str(found)
    evicting = ("--requirepass", "hunter2", "--maxmemory-policy", "allkeys-lru")
    with redis_on(port, tmp_path, *evicting):
        assert [status for status, _ in doctor(laptop, broker_url=url)[1]["broker"]] == ["ok", "warning"]
        wrong = troubles(doctor(laptop, broker_url=url.replace("hunter2", "swordfish"))[1])["broker"]
        assert "WRONGPASS" in wrong or "invalid" in wrong
    with redis_on(port, tmp_path, *evicting, "--maxmemory", "100mb"):
        status, found = doctor(laptop, broker_url=url)
        assert status == 1 and "allkeys-lru" in troubles(found)["broker"]
    with redis_on(port, tmp_path, "--requirepass", "hunter2", "--appendonly", "yes"):
        assert "keeps messages" in doctor(laptop, broker_url=url)[1]["broker"][0][1]


def test_a_broker_folder_that_was_wiped(laptop: Deployment) -> None:
    laptop.publish("x")
    assert "1 messages wait" in doctor(laptop)[1]["broker"][0][1]
    shutil.rmtree(laptop.settings.home / "broker")
    assert "is missing" in troubles(doctor(laptop)[1])["broker"]


def test_storages_that_do_not_keep_what_they_are_given(laptop: Deployment, tmp_path: Path) -> None:
    beat(laptop)
    for url, says in (("nope://x", "cannot be opened"), ("file:///proc/self", "round trip failed")):
        status, found = doctor(laptop, storage_url=url)
        assert status == 1 and says in troubles(found)["storage"], found["storage"]
    register(laptop, alias="production")
    unmounted = tmp_path / "not-mounted"
    status, found = doctor(laptop, storage_url=f"file://{unmounted}")
    assert status == 1 and "missing" in troubles(found)["weights"] and not unmounted.exists()


def test_weights_that_are_missing_cut_or_damaged(laptop: Deployment) -> None:
    beat(laptop)
    version = register(laptop, alias="production")
    path = artifact_path(laptop, version.sha256)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4 - len(whole[-4:])) + bytes(reversed(whole[-4:])))
    assert "aliases" in troubles(doctor(laptop)[1]) and "weights" not in troubles(doctor(laptop)[1])
    assert "hash" in troubles(doctor(laptop, "--deep")[1])["weights"]
    path.write_bytes(whole[:100])
    assert "m@1 has 100 bytes instead of" in troubles(doctor(laptop)[1])["weights"]
    path.unlink()
    status, found = doctor(laptop)
    assert status == 1 and "m@1 is missing" in troubles(found)["weights"]
    assert "m@production" in troubles(found)["aliases"]


def test_tokens_and_their_key(laptop: Deployment) -> None:
    beat(laptop)
    assert doctor(laptop, host="0.0.0.0")[1]["tokens"][0][0] == "warning"
    assert doctor(laptop, host="localhost")[1]["tokens"][0][0] == "ok"
    assert not (laptop.settings.home / "secret.key").exists(), "a look does not make the key"
    with laptop.database.writing() as session:
        tokens.create(session, name="me", scope="admin", key=secret_key(laptop.settings))
    key = laptop.settings.home / "secret.key"
    assert doctor(laptop, host="0.0.0.0")[0] == 0
    key.chmod(0o644)
    assert f"chmod 600 {key}" in troubles(doctor(laptop)[1])["secret key"]
    key.unlink()
    assert "is missing" in troubles(doctor(laptop)[1])["secret key"] and not key.exists()
    assert doctor(laptop, secret_key="short")[1]["secret key"][0][0] == "warning"
    assert doctor(laptop, secret_key="x" * 40)[1]["secret key"][0][0] == "ok"


def test_queues_that_nobody_serves(laptop: Deployment) -> None:
    beat(laptop, "evaluate")
    status, found = doctor(laptop)
    assert status == 1 and troubles(found) == {"workers": "none for the queue train clead worker --queues train"}


def test_jobs_that_nobody_takes(laptop: Deployment) -> None:
    beat(laptop)
    with laptop.database.writing() as session:
        jobs = [add_job(session, kind="train", queue="train", spec={}) for _ in range(2)]
        jobs[0].status, jobs[0].lease_until = "running", session.scalar(epoch_now().select()) - 1.5
        jobs[1].created_at = utc_now() - timedelta(hours=1)
    status, found = doctor(laptop, lease_seconds=60)
    assert jobs[1].id in troubles(found)["waiting jobs"] and "abandoned jobs" not in troubles(found), "not yet"
    with laptop.database.writing() as session:
        workers.beat(session, "w", host="h", pid=1, queues=("train", "evaluate"), job_id="another")
    status, found = doctor(laptop, lease_seconds=1)
    assert status == 1 and jobs[0].id in troubles(found)["abandoned jobs"]
    assert "waiting jobs" not in troubles(found), "the worker is busy"


def test_an_api_that_is_not_ready_away_or_something_else(laptop: Deployment) -> None:
    beat(laptop)
    api, url = start_api(laptop)
    with laptop.database.writing() as session:
        workers.leave(session, "w")
    status, found = doctor(laptop, "--url", url)
    assert status == 1 and "worker: none seen lately" in troubles(found)["api"]
    api.send_signal(signal.SIGTERM)
    api.wait(60)
    assert "does not answer" in troubles(doctor(laptop, "--url", url)[1])["api"]
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    laptop.start(command)
    time.sleep(1)
    assert "is not this service" in troubles(doctor(laptop, "--url", f"http://127.0.0.1:{port}")[1])["api"]
