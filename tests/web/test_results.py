"""What the page says about results: each number with what a reader must know to judge it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.settings import Settings
from tests.app.process import running_api
from tests.web.browser import opened_page
from tests.web.conftest import PutJob

BALL = {"norm": "linf", "eps": 8 / 255}
NOTE = "Minimum-norm attack without a budget: compare the norms."


def attack(name: str, accuracy: float, *, access: str = "white-box", note: str | None = None, **spec: Any) -> Any:
    row = {"name": name, "access": access, "spec": spec, "robust_accuracy": accuracy, "success_rate": 0.98}
    return row | {"ci95": [accuracy - 0.03, accuracy + 0.03], "median_l2": 0.8231} | ({"note": note} if note else {})


EVALUATION = {
    "model": "robust@2",
    "dataset": {"name": "cifar10", "size": 1000},
    "clean_accuracy": 0.871,
    "clean_ci95": [0.849, 0.890],
    "attacks": [
        attack("pgd", 0.435, **BALL, steps=20),
        attack("pgd", 0.117, norm="linf", eps=0.2, steps=100),
        attack("cw-l2", 0.0, note=NOTE, norm="l2", eps=None, steps=100),
        attack("deepfool", 0.512, note=NOTE, norm="l2", eps=0.5, steps=50),
        attack("transfer", 0.71, access="transfer", source="other@1", attack={"name": "pgd", **BALL, "steps": 20}),
        attack("square", 0.6, access="black-box", **BALL),
    ],
    "worst_case_accuracy": 0.101,
    "worst_cases": [{**BALL, "attacks": ["pgd", "square"], "accuracy": 0.399, "ci95": [0.368, 0.430]}],
    "requirements": [
        {"attack": "pgd", "need": ">=0.40", "got": 0.117, "met": False},
        {"attack": "clean", "need": ">=0.80", "got": 0.871, "met": True},
    ],
    "warnings": [{"code": "non-monotone", "detail": "more at a larger radius", "advice": "more steps"}],
}
PROTOCOL = {
    "protocol": {"threat_model": "white-box", "norm": "linf", "eps": 0.2, "steps": 20, "images": 360, "seed": 0},
    "rows": [
        {
            "method": "clead",
            "clean": 0.886,
            "pgd": 0.505,
            "pgd-100": 0.492,
            "ci95": {"clean": [0.85, 0.92], "pgd": [0.45, 0.56], "pgd-100": [0.44, 0.54]},
            "warnings": [{"step": "train:clead", "code": "few-updates", "detail": "100 updates"}],
        }
    ],
}
CORRUPTIONS = {
    "model": "robust@2",
    "dataset": {"name": "cifar10", "size": 2000},
    "clean_accuracy": 0.9,
    "clean_ci95": [0.88, 0.92],
    "mean_corruption_accuracy": 0.733,
    "worst_corruption": {"name": "fog", "mean_accuracy": 0.41},
    "corruptions": [{}, {}],
}


def test_accuracies_stand_with_their_interval_images_and_ball(
    settings: Settings, put_job: PutJob, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"attacks": None}
    put_job("corruptions", status="succeeded", result=CORRUPTIONS, spec=spec)
    put_job("protocol", status="succeeded", result=PROTOCOL, spec=spec)
    put_job("evaluate", status="succeeded", result=EVALUATION, spec=spec)
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        page.go(f"{client.base_url}/")
        page.wait_for("document.querySelectorAll('#jobs > tr').length === 3")
        lines = page.text.replace("\t", " ").splitlines()
        assert "robust@2 on 1,000 images of cifar10" in lines
        assert "clean 87.1 % 84.9–89.0" in lines
        assert "pgd-20, linf 8/255 43.5 % 40.5–46.5" in lines
        assert "pgd-100, linf 0.2 11.7 % 8.7–14.7" in lines
        assert "cw-l2-100, l2 without a budget median 0.823 breaks 98.0 %" in lines
        assert "deepfool-50, l2 0.5 51.2 % 48.2–54.2" in lines
        assert "transfer of pgd-20 from other@1, linf 8/255 71.0 % 68.0–74.0" in lines
        assert "square, linf 8/255, black-box 60.0 % 57.0–63.0" in lines
        assert "worst case, linf 8/255 39.9 % 36.8–43.0" in lines
        assert "required pgd >=0.40: 11.7 %, not met" in lines
        assert "required clean >=0.80: 87.1 %, met" in lines
        assert "corrupted, mean of 2 73.3 % " in lines and "worst: fog 41.0 % " in lines
        assert "white-box, linf 0.2, 20 steps; 360 images, 95 % intervals" in lines
        compared = page.value("[...document.querySelectorAll('#jobs > tr')][1].querySelector('table').textContent")
        assert "cleanpgdpgd-100clead88.6 %85.0–92.050.5 %45.0–56.049.2 %44.0–54.0" in compared

        # What is to be doubted is reached by the keyboard and by screen readers, as a tip of the mouse is not.
        assert NOTE not in page.text and "more at a larger radius" not in page.text
        page.value("document.querySelectorAll('#jobs summary').forEach((summary) => summary.click())")
        assert "About cw-l2-100, l2 without a budget" in page.text and NOTE in page.text
        assert "⚠ non-monotone" in page.text and "more at a larger radius → more steps" in page.text
        assert "⚠ clead: few-updates" in page.text and "train:clead: 100 updates" in page.text


def test_attacks_that_a_protocol_was_given_are_named_with_their_balls(
    settings: Settings, put_job: PutJob, tmp_path: Path
) -> None:
    given = [{"name": "pgd", **BALL, "steps": 20}, {"name": "pgd", "norm": "l2", "eps": 0.5, "steps": 20}]
    put_job("protocol", status="succeeded", result=PROTOCOL, spec={"attacks": given})
    with running_api(settings) as client, opened_page(tmp_path / "profile") as page:
        page.go(f"{client.base_url}/")
        caption = page.wait_for("document.querySelector('#jobs caption')?.textContent")
    assert caption == "white-box, pgd-20, linf 8/255; pgd-20, l2 0.5; 360 images, 95 % intervals"
