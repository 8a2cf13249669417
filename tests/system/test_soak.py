"""A short soak; `make soak` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.soak import soak


@pytest.mark.timeout(900)
def test_ten_kills_change_nothing(tmp_path: Path) -> None:
    assert soak(tmp_path, kills=10, seed=1) == []
