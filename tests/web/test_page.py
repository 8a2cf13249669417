"""The page at `/` in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from app.records import Job
from app.records.session import Database
from app.settings import Settings
from migrations import upgrade
from models.checkpoints import save_model
from tests.app.api.conftest import make_model
from tests.app.api.test_submit import PRETRAIN
from tests.app.process import running_api

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
HTML = "<img src=x onerror=\"document.title='taken over'\"><b>bold</b>"


def rendered(url: str, profile: Path) -> str:
    """The page's HTML once its scripts have run."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert browser, f"the browser tests need one of {', '.join(BROWSERS)}; see tests/system/install-servers"
    options = [*OPTIONS, f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--dump-dom"]
    return subprocess.run([browser, *options, url], capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    upgrade(settings)
    return settings


def test_jobs_and_models_are_shown_and_nothing_they_hold_runs(settings: Settings, tmp_path: Path) -> None:
    save_model(tmp_path / "weights.safetensors", make_model())
    database = Database(settings.database_url)
    with running_api(settings) as client:
        weights = (tmp_path / "weights.safetensors").read_bytes()
        assert client.post("/models/robust-one/versions", files={"weights": weights}).status_code == 201
        job = client.post("/jobs/pretrain", json={**PRETRAIN, "labels": {"note": HTML}}).json()
        with database.writing() as session:
            row = session.get_one(Job, job["id"])
            row.status, row.attempt = "running", 1
            row.progress = {"done": 30, "total": 120, "unit": HTML, "eta_seconds": 12.0, "stage": "train"}
        page = rendered(f"{client.base_url}/", tmp_path / "profile")
        policy = client.get("/").headers["content-security-policy"]
    database.close()
    assert f'data-job="{job["id"]}"' in page
    assert '<progress max="120" value="30"' in page
    assert "running" in page
    assert 'data-model="robust-one"' in page
    assert "robust-one@1" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page
    assert "<title>clead</title>" in page
    assert 'role="alert" hidden' in page
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_results_say_in_which_ball_and_what_to_doubt(settings: Settings, tmp_path: Path) -> None:
    database = Database(settings.database_url)
    attacks = [
        {"name": "pgd", "spec": {"norm": "linf", "eps": eps, "steps": 20}, "robust_accuracy": accuracy}
        for eps, accuracy in ((8 / 255, 0.435), (0.2, 0.017))
    ]
    warnings = [{"step": "train:pgd-at", "code": "few-updates", "detail": "100 updates"}]
    rows = [{"method": "pgd-at", "clean": 0.9, "pgd": 0.5, "warnings": warnings}]
    with running_api(settings) as client:
        for result in ({"attacks": attacks}, {"rows": rows}):
            job = client.post("/jobs/pretrain", json=PRETRAIN).json()
            with database.writing() as session:
                row = session.get_one(Job, job["id"])
                row.status, row.attempt, row.result = "succeeded", 1, result
        page = rendered(f"{client.base_url}/", tmp_path / "profile")
        documentation = rendered(f"{client.base_url}/docs", tmp_path / "profile")
    database.close()
    assert "pgd-20 at 8/255: 43.5" in page and "pgd-20 at 0.2: 1.7" in page
    assert "⚠ 1" in page and "train:pgd-at: few-updates: 100 updates" in page
    assert documentation.count('class="opblock ') > 20 and "/classify" in documentation


def test_the_page_uses_nothing_from_elsewhere() -> None:
    static = Path(__file__).parents[2] / "app" / "web"
    for path in [*static.glob("static/*"), *static.glob("templates/*")]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text, path
