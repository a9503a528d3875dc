"""What all tests share."""

import shutil
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real micrographs, ../shared/data, is not here")
    return SHARED_DATA


_LONG = ("e2e", "test_docs.py")
"""Folders and files that run first: at the end one would keep a single core busy for minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not set(_LONG) & set(item.path.parts))
    for item in items:
        if item.get_closest_marker("relion") and shutil.which("relion_preprocess") is None:
            item.add_marker(pytest.mark.skip(reason="RELION (relion_preprocess) is not on the PATH"))
        if item.get_closest_marker("shared_data") and not SHARED_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="the folder of real micrographs, ../shared/data, is not here"))


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder: stages write beside where they are."""
    monkeypatch.chdir(tmp_path)
