"""What tests of stages share."""

from pathlib import Path

import pytest


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder: stages write beside where they are."""
    monkeypatch.chdir(tmp_path)
