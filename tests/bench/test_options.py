"""Options that several benchmarks take."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench import scale
from bench.options import among


def test_names_with_commas_between_them_are_taken() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", type=among(["fgsm", "pgd"]), default=["pgd"])
    assert parser.parse_args([]).only == ["pgd"]
    assert parser.parse_args(["--only", "pgd,fgsm"]).only == ["pgd", "fgsm"]


@pytest.mark.parametrize("wrong", ["1x2", "1x1,drian", ""])
def test_a_name_that_is_not_known_ends_the_command(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scale", "--folder", str(tmp_path), "--only", wrong])
    with pytest.raises(SystemExit) as ended:
        scale.main()
    assert ended.value.code == 2
    assert f"--only: takes 1x1, 8x1, 8x2, drain, pick-up, not '{wrong.split(',')[-1]}'" in capsys.readouterr().err
