"""API tokens from the command line to a running service, as a person uses them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from tests.servers import wait_for
from tests.system.test_serve import serving


def clead(home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", *arguments]
    # Wide, so that no table breaks an id over two lines.
    surroundings = os.environ | {"CLEAD_HOME": str(home), "COLUMNS": "200"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=surroundings, timeout=120)


def created(home: Path, *arguments: str) -> tuple[str, str]:
    """Id and token; the token alone is on stdout, so that a script can take it."""
    done = clead(home, "token", "create", *arguments)
    assert done.returncode == 0, done.stderr
    found = re.search(r"token ([0-9a-f]{32})", done.stderr.replace("\n", " "))
    assert found and re.fullmatch(r"clead_\w{38}\n", done.stdout)
    return found.group(1), done.stdout.strip()


def test_without_a_token_the_service_listens_on_loopback_only_and_says_so(tmp_path: Path) -> None:
    home = tmp_path / "home"
    refused = clead(home, "serve", "--host", "0.0.0.0", "--port", "0")
    said = " ".join(refused.stderr.split())
    assert refused.returncode == 1
    assert "loopback only" in said and "clead token create" in said and "Traceback" not in said
    created(home, "--scope", "admin", "--name", "me")
    environment = os.environ | {"CLEAD_HOME": str(home)}
    command = [sys.executable, "-m", "app.cli", "serve", "--host", "0.0.0.0", "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        address = next(found.group() for line in process.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        assert httpx.get(f"{address}/jobs").status_code == 401
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_token_is_made_used_listed_and_revoked_while_the_service_runs(tmp_path: Path) -> None:
    home = tmp_path / "home"
    picture = tmp_path / "picture.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    with serving(home) as (process, client):
        wait_for(lambda: client.get("/readyz").status_code == 200, what="a worker")
        url = str(client.base_url)
        assert client.get("/jobs").status_code == 200, "nobody has made a token yet"
        token_id, token = created(home, "--scope", "classify", "--name", "camera 7", "--days", "30")
        assert client.get("/jobs").status_code == 401
        assert client.get("/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200

        anonymous = clead(home, "classify", str(picture), "--url", url)
        assert anonymous.returncode == 1 and "send a token" in " ".join(anonymous.stderr.split())
        named = clead(home, "classify", str(picture), "--url", url, CLEAD_TOKEN=token)
        assert "send a token" not in named.stderr and "production" in named.stderr, "no model is in production yet"

        listed = clead(home, "token", "list").stdout
        assert token_id in listed and "camera 7" in listed and token[:10] in listed and token not in listed
        assert "never" not in listed, "its last use is known"
        assert clead(home, "token", "revoke", token_id).returncode == 0
        assert client.get("/models", headers={"Authorization": f"Bearer {token}"}).status_code == 401
        assert "revoked" in clead(home, "token", "list").stdout
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    assert token not in (tmp_path / "serve.log").read_text()


def test_a_job_and_its_model_belong_to_the_account_that_submitted_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    body = {
        "method": "standard",
        "backbone": {"width": 4, "blocks": [1]},
        "dataset": {"name": "digits", "subset": 64},
        "batch_size": 64,
        "epochs": 1,
        "register_as": "mine",
    }
    with serving(home) as (_, client):
        ann, bob = (
            {"Authorization": f"Bearer {created(home, '--scope', 'submit', '--name', name)[1]}"}
            for name in ("ann", "bob")
        )
        job_id = client.post("/jobs/train", json=body, headers=ann).raise_for_status().json()["id"]
        wait_for(
            lambda: client.get(f"/jobs/{job_id}", headers=ann).json()["status"] == "succeeded",
            seconds=120,
            what="the end of the job",
        )
        assert client.get("/models/mine", headers=bob).json()["versions"][0]["job"] == job_id
        for headers, found, submitted in ((ann, 200, 202), (bob, 404, 422)):
            assert client.get(f"/jobs/{job_id}", headers=headers).status_code == found
            assert client.post("/jobs/train", json=body, headers=headers).status_code == submitted


def test_limits_of_a_token_are_given_when_it_is_made(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _, token = created(
        home, "--scope", "submit", "--name", "ann", "--requests", "1", "--jobs", "2", "--gigabytes", "0.5"
    )
    with serving(home) as (_, client):
        headers = {"Authorization": f"Bearer {token}"}
        assert [client.get("/jobs", headers=headers).status_code for _ in range(2)] == [200, 429]


def test_a_new_token_may_replace_the_others_of_its_account_and_scope(tmp_path: Path) -> None:
    home = tmp_path / "home"
    old = created(home, "--scope", "classify", "--name", "prometheus")[1]
    kept = [
        created(home, "--scope", *other)[1]
        for other in (("admin", "--name", "prometheus"), ("classify", "--name", "ann"))
    ]
    new = created(home, "--scope", "classify", "--name", "prometheus", "--replace")[1]
    with serving(home) as (_, client):
        answers = [client.get("/models", headers={"Authorization": f"Bearer {token}"}) for token in (old, new, *kept)]
    assert [answer.status_code for answer in answers] == [401, 200, 200, 200]


def test_wrong_commands_say_what_is_accepted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert "classify" in clead(home, "token", "create", "--name", "x", "--scope", "root").stderr
    assert "1 to 100 characters" in " ".join(
        clead(home, "token", "create", "--name", " ", "--scope", "admin").stderr.split()
    )
    assert "--days" in clead(home, "token", "create", "--name", "x", "--scope", "admin", "--days", "0").stderr
    unknown = clead(home, "token", "revoke", "nothing")
    assert unknown.returncode == 1 and "clead token list" in unknown.stderr
