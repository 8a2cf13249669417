"""The page at `/` in a real browser."""

from __future__ import annotations

from pathlib import Path

from app.records import Job
from app.records.session import Database
from app.services import models
from app.settings import Settings
from models.checkpoints import save_model
from tests.app.api.conftest import make_model
from tests.app.process import running_api
from tests.web.browser import opened_page
from tests.web.conftest import PutJob

HTML = "<img src=x onerror=\"document.title='taken over'\"><b>bold</b>"
WATCHED = """
window.asked = 0;
window.waits = [];
const [fetched, waited] = [window.fetch, window.setTimeout];
window.fetch = (...rest) => { window.asked += 1; return fetched(...rest); };
window.setTimeout = (work, wait, ...rest) => { window.waits.push(wait); return waited(work, wait, ...rest); };
"""
OVERLOADED = """
const answer = { status: 429, headers: { "Retry-After": "77" } };
window.fetch = async () => new Response('{"detail": "one too many"}', answer);
"""
STATIC = Path(__file__).parents[2] / "app" / "web"
FILLED = "document.querySelector('#jobs > tr') !== null"


def test_jobs_and_models_are_shown_and_nothing_they_hold_runs(
    settings: Settings, put_job: PutJob, tmp_path: Path
) -> None:
    save_model(tmp_path / "weights.safetensors", make_model())
    progress = {"done": 30, "total": 120, "unit": HTML, "eta_seconds": 12.0, "stage": "train"}
    job = put_job(labels={"note": HTML}, status="running", progress=progress)
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        weights = (tmp_path / "weights.safetensors").read_bytes()
        for _ in range(2):
            assert client.post("/models/robust-one/versions", files={"weights": weights}).status_code == 201
        assert client.put("/models/robust-one/aliases/production", json={"version": 1}).status_code == 200
        page.go(f"{client.base_url}/")
        page.wait_for(f"{FILLED} && document.querySelector('#models > tr') !== null")
        assert page.value(f"document.querySelector('[data-key=\"{job}\"] progress').value") == 30
        assert "running" in page.text and HTML in page.text
        assert page.value("document.querySelector('#models > tr').dataset.key") == "robust-one"
        assert "robust-one@2" in page.text and "production → @1" in page.text
        assert page.value("document.title") == "clead"
        assert page.value("document.querySelector('b') === null && document.querySelector('#trouble').hidden")
        scripts = [client.get(f"/static/{path.name}").headers["cache-control"] for path in STATIC.glob("static/*.js")]
        policy = client.get("/").headers["content-security-policy"]
        page.go(f"{client.base_url}/docs")
        page.wait_for("document.querySelectorAll('.opblock').length > 20")
        assert "/classify" in page.text
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    # After an upgrade no old script meets a new one.
    assert scripts and all(kept == "no-cache" for kept in scripts)


def test_what_is_older_is_a_button_away(
    settings: Settings, database: Database, put_job: PutJob, tmp_path: Path
) -> None:
    card = make_model().card.model_dump(mode="json")
    with database.writing() as session:
        for number in range(51):
            models.register_version(session, name=f"model-{number}", sha256="0" * 64, size=1, card=card)
    for _ in range(51):
        put_job()
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        page.go(f"{client.base_url}/")
        for name in ("jobs", "models"):
            page.wait_for(f"document.querySelectorAll('#{name} > tr').length === 50")
            page.value(f"document.querySelector('#more-{name}').click()")
            page.wait_for(f"document.querySelectorAll('#{name} > tr').length === 51")
            assert page.value(f"document.querySelector('#more-{name}').hidden")


def test_a_refresh_leaves_alone_what_did_not_change(
    settings: Settings, database: Database, put_job: PutJob, tmp_path: Path
) -> None:
    warnings = [{"code": "few-updates", "detail": "100 updates"}]
    put_job(status="succeeded", result={"model": "m@1", "warnings": warnings})
    progress = {"done": 1, "total": 9, "unit": "step"}
    running = put_job(status="running", progress=progress, result={"warnings": warnings})
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        page.go(f"{client.base_url}/")
        page.wait_for(FILLED)
        page.value("document.querySelectorAll('#jobs summary').forEach((summary) => summary.click())")
        page.value(f"document.querySelector('[data-key=\"{running}\"] a').focus()")
        page.value("getSelection().selectAllChildren(document.querySelector('#jobs > tr:last-child details p'))")
        with database.writing() as session:
            session.get_one(Job, running).progress = progress | {"done": 2}
        new = put_job()
        page.wait_for("document.body.innerText.includes('2 / 9 step')")
        assert page.value("[...document.querySelectorAll('#jobs > tr')].map((row) => row.dataset.key)")[:2] == [
            new,
            running,
        ]
        assert page.value("document.activeElement.closest('tr')?.dataset.key") == running
        assert page.value("[...document.querySelectorAll('#jobs details')].map((one) => one.open)") == [True, True]
        assert page.value("getSelection().toString()") == "100 updates"


def test_an_odd_job_costs_its_own_row_alone(settings: Settings, put_job: PutJob, tmp_path: Path) -> None:
    put_job()
    odd = put_job(status="succeeded", result={"attacks": [{"name": "pgd"}], "dataset": {}, "clean_accuracy": 0.5})
    put_job()
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        page.go(f"{client.base_url}/")
        page.wait_for("document.querySelectorAll('#jobs > tr').length === 3")
        assert "cannot be shown" in page.value(f"document.querySelector('[data-key=\"{odd}\"]').innerText")
        assert page.value(f"document.querySelector('[data-key=\"{odd}\"] a').pathname") == f"/jobs/{odd}"
        assert page.value("document.querySelector('#trouble').hidden")


def test_trouble_is_called_by_its_name_and_said_once(settings: Settings, put_job: PutJob, tmp_path: Path) -> None:
    put_job()
    with opened_page(tmp_path / "profile", "--host-resolver-rules=MAP clead.test 127.0.0.1") as page:
        page.command("Page.addScriptToEvaluateOnNewDocument", source=WATCHED)
        with running_api(settings) as client:
            page.go(f"http://clead.test:{client.base_url.port}/")
            page.wait_for("document.querySelector('#trouble').textContent.startsWith('there is no API token yet')")
            page.go(f"{client.base_url}/")
            page.wait_for(FILLED)
            page.wait_for("document.querySelector('#readiness').textContent === 'not ready'")
            assert "worker: none seen lately" in page.text
        page.wait_for("document.querySelector('#trouble').textContent === 'The service does not answer.'")
        assert page.value(FILLED)
        page.value(
            "window.said = 0, new MutationObserver(() => { window.said += 1; })"
            ".observe(document.querySelector('#trouble'), { childList: true, characterData: true, subtree: true })"
        )
        asked = page.value("window.asked")
        page.wait_for(f"window.asked >= {asked + 5}")
        assert page.value("window.said") == 0
        page.wait_for("document.querySelector('#readiness').textContent === 'no answer'")
        assert "worker: none seen lately" not in page.text and page.value("document.querySelector('#missing').hidden")


def test_the_page_waits_as_long_as_it_is_asked_to(settings: Settings, tmp_path: Path) -> None:
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        page.command("Page.addScriptToEvaluateOnNewDocument", source=WATCHED + OVERLOADED)
        page.go(f"{client.base_url}/")
        page.wait_for("document.querySelector('#trouble')?.textContent === 'one too many'")
        page.wait_for("window.waits.length >= 2")
        assert page.value("window.waits") == [77000, 77000]


def test_the_page_uses_nothing_from_elsewhere() -> None:
    for path in [*STATIC.glob("static/*"), *STATIC.glob("templates/*")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, path
