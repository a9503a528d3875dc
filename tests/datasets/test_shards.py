"""The datasets of shards: every micrograph decoded once, whatever the workers; crops lie where the labels are."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vitreous.datasets.shards import CropDataset, MicrographDataset
from vitreous.errors import InputFileError

NX, NY, SIDE = 90, 70, 9


def place(number: int) -> np.ndarray:
    """Return the particles of a micrograph: x, y, diameter."""
    rng = np.random.default_rng(number)
    return np.concatenate([rng.integers(8, 60, (3, 2)), np.full((3, 1), 6)], axis=1).astype(np.float32)


def pack(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def write_shard(path: Path, numbers: range) -> None:
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            image = np.full((NY, NX), 100, np.uint8)
            for x, y, _ in place(number).astype(int):
                image[y, x] = 200
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, format="PNG")
            parts = {
                "json": json.dumps({"micrograph": f"m{number}"}).encode(),
                "negatives.npy": pack(np.array([[70.0, 50.0, 6.0], [1.0, 1.0, 6.0]], np.float32)),
                "png": stream.getvalue(),
                "positives.npy": pack(place(number)),
            }
            for suffix, content in parts.items():
                info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shard(tmp_path / "train-000000.tar", range(3))
    write_shard(tmp_path / "train-000001.tar", range(3, 7))
    return tmp_path


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_every_micrograph_comes_once(folder: Path, n_workers: int) -> None:
    dataset = MicrographDataset(folder)
    assert len(dataset) == 7
    loader = DataLoader(dataset, batch_size=None, num_workers=n_workers)
    names = Counter(sample.facts["micrograph"] for sample in loader)
    assert names == {f"m{i}": 1 for i in range(7)}


def test_a_sample(folder: Path) -> None:
    sample = next(iter(MicrographDataset(folder)))
    assert sample.image.shape == (1, NY, NX)
    assert float(sample.image.mean()) == pytest.approx(0, abs=1e-5)
    assert float(sample.image.std()) == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(sample.positives, place(0))
    x, y, _ = sample.positives[0].int().tolist()
    assert sample.image[0, y, x] == sample.image.max()


def test_crops_show_their_particle(folder: Path) -> None:
    dataset = CropDataset(folder, side_px=SIDE, n_background=2, buffer=5)
    images, labels = zip(*dataset, strict=True)
    # Seven micrographs of three particles; of two negatives one would cross the edge.
    assert sum(label == 1 for label in labels) == 21
    assert sum(label == 0 for label in labels) > 7
    for image, label in zip(images, labels, strict=True):
        assert image.shape == (1, SIDE, SIDE)
        assert image.untyped_storage().nbytes() == SIDE * SIDE * 4
        if label == 1:
            assert image[0, SIDE // 2, SIDE // 2] > 3
        else:
            assert image[0, SIDE // 2, SIDE // 2] < 3


def test_the_order_is_mixed_and_can_be_had_again(folder: Path) -> None:
    def draw(epoch: int, buffer: int) -> list[float]:
        dataset = CropDataset(folder, side_px=SIDE, n_background=0, buffer=buffer, seed=3)
        dataset.set_epoch(epoch)
        return [float(label) for _, label in dataset]

    assert draw(0, 50) == draw(0, 50)
    assert draw(0, 50) != draw(1, 50)
    assert Counter(draw(0, 50)) == Counter(draw(1, 2))


def test_batches(folder: Path) -> None:
    loader = DataLoader(CropDataset(folder, side_px=SIDE), batch_size=8, num_workers=2)
    images, labels = next(iter(loader))
    assert images.shape == (8, 1, SIDE, SIDE)
    assert set(labels.tolist()) <= {0.0, 1.0}
    assert images.dtype == torch.float32


def test_what_is_missing_or_cut_off(folder: Path) -> None:
    with pytest.raises(InputFileError, match=r"found no test-\*\.tar"):
        MicrographDataset(folder, "test")
    dataset = MicrographDataset(folder)
    path = folder / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(InputFileError, match="found a shard that cannot be read"):
        list(dataset)
