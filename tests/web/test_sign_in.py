"""Signing in and out in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import security
from app.records.session import Database
from app.services import tokens
from app.settings import Settings
from tests.app.process import running_api
from tests.web.browser import Page, opened_page
from tests.web.conftest import PutJob

ELSEWHERE = "clead.test"
"""Over plain HTTP a browser says `Sec-Fetch-Site` to this machine alone; to others it says `Origin`."""
MAPPED = f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1"
FORM = "document.querySelector('#token')"
FOREIGN_PAGE = "data:text/html,<form method=post action={url}></form>"
CONTRAST = """
(() => {
  const levels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((level) => level / 255);
  const linear = (level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
  const weighted = (sum, level, index) => sum + level * [0.2126, 0.7152, 0.0722][index];
  const luminance = (colour) => levels(colour).map(linear).reduce(weighted, 0);
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const border = luminance(getComputedStyle(document.querySelector("#token")).borderTopColor);
  return contrast(border, luminance(getComputedStyle(document.body).backgroundColor));
})()
"""


def sign_in(page: Page, token: str) -> None:
    page.wait_for(f"{FORM} !== null")
    page.value(f"{FORM}.value = '{token}', {FORM}.form.requestSubmit()")


@pytest.mark.parametrize("host", ["localhost", ELSEWHERE])
def test_a_browser_signs_in_sees_the_jobs_and_signs_out(
    settings: Settings, database: Database, put_job: PutJob, tmp_path: Path, host: str
) -> None:
    job = put_job(account="ada")
    with database.writing() as session:
        _, token = tokens.create(session, name="ada", scope="submit", key=security.secret_key(settings))
    with running_api(settings) as client, opened_page(tmp_path / "profile", MAPPED) as page:
        url = f"http://{host}:{client.base_url.port}"
        page.go(f"{url}/")
        sign_in(page, "clead_wrong")
        assert "has expired" in page.wait_for("document.querySelector('[role=alert]')?.textContent")
        sign_in(page, token)
        page.wait_for(f"document.querySelector('#jobs [data-key=\"{job}\"]') !== null")
        assert "ada" in page.text

        page.go(FOREIGN_PAGE.format(url=f"{url}/logout"))
        page.value("document.forms[0].submit()")
        page.wait_for("document.body.innerText.includes('another site')")

        page.go(f"{url}/")
        page.value("document.querySelector('nav form button').click()")
        page.wait_for("location.pathname === '/login'")
        assert page.value("fetch('/jobs').then((answer) => answer.status)") == 401


def test_the_field_of_the_token_is_seen(settings: Settings, tmp_path: Path) -> None:
    """WCAG 2.2, 1.4.11: the border of a field stands out from what is beside it by 3:1."""
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        for scheme in ("light", "dark"):
            page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            page.go(f"{client.base_url}/login")
            assert page.value(CONTRAST) >= 3, scheme
