"""PyTorch datasets of the shards that `vitreous export --format webdataset` writes.

Shards are read from first to last, and each worker of a `DataLoader` decodes its own part of the micrographs: in an epoch none is
decoded twice. Many crops are cut from a micrograph once it is decoded, and mixed with those of others.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from vitreous.errors import InputFileError

__all__ = ["CropDataset", "MicrographDataset", "MicrographSample"]

_PARTS = ("json", "negatives.npy", "png", "positives.npy")


@dataclass(frozen=True)
class MicrographSample:
    """One micrograph.

    Attributes
    ----------
    image
        `(1, ny, nx)` float32, mean 0 and standard deviation 1, rows as in memory.
    positives, negatives
        `(n, 3)` float32: x, y and diameter in pixels.
    facts
        Name, split, size, pixel size and optics.
    """

    image: Tensor
    positives: Tensor
    negatives: Tensor
    facts: dict[str, Any]


def _find_shards(folder: Path, split: str) -> list[Path]:
    shards = sorted(folder.glob(f"{split}-*.tar"))
    if not shards:
        raise InputFileError(
            folder,
            found=f"no {split}-*.tar",
            expected="the folder of an export of the format webdataset with that split",
            remedy="Check the folder, and that the split is train, validation or test and not empty.",
        )
    return shards


def _refuse(shard: Path, problem: object) -> InputFileError:
    return InputFileError(
        shard,
        found=f"a shard that cannot be read ({problem})",
        expected="a whole tar file, as it was exported",
        remedy="Compare it with checksums.sha256 and copy it again.",
    )


def _read_samples(shard: Path, size: int, start: int, stride: int, skipped: int) -> Iterator[dict[str, bytes]]:
    """Yield the undecoded parts of this worker's samples: those whose number among all is `start` modulo `stride`."""
    parts: dict[str, bytes] = {}
    n_members = 0
    try:
        with tarfile.open(shard) as tar:
            for n_members, member in enumerate(tar, start=1):
                if (skipped + (n_members - 1) // len(_PARTS)) % stride != start:
                    continue
                stream = tar.extractfile(member)
                parts[member.name.partition(".")[2]] = b"" if stream is None else stream.read()
                if n_members % len(_PARTS) == 0:
                    yield parts
                    parts = {}
    except (OSError, tarfile.TarError) as error:
        raise _refuse(shard, error) from error
    if n_members != size * len(_PARTS):
        raise _refuse(shard, f"{n_members} of {size * len(_PARTS)} files")


def _count_samples(shard: Path) -> int:
    with tarfile.open(shard) as tar:
        return len({name.partition(".")[0] for name in tar.getnames()})


def _decode(parts: dict[str, bytes]) -> MicrographSample:
    pixels = np.asarray(Image.open(io.BytesIO(parts["png"])), dtype=np.float32)
    image = (pixels - pixels.mean()) / max(float(pixels.std()), 1e-6)
    positives, negatives = (
        torch.from_numpy(np.load(io.BytesIO(parts[f"{kind}.npy"]))) for kind in ("positives", "negatives")
    )
    return MicrographSample(torch.from_numpy(image[None]), positives, negatives, json.loads(parts["json"]))


class MicrographDataset(IterableDataset[MicrographSample]):
    """Whole micrographs of a split with their labels.

    Parameters
    ----------
    folder
        Of the export.
    split
        `train`, `validation` or `test`.

    Raises
    ------
    InputFileError
        If there are no such shards.
    """

    def __init__(self, folder: Path, split: str = "train") -> None:
        self._shards = _find_shards(folder, split)
        self._sizes = [_count_samples(shard) for shard in self._shards]

    def __len__(self) -> int:
        return sum(self._sizes)

    def __iter__(self) -> Iterator[MicrographSample]:
        worker = get_worker_info()
        start, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        skipped = 0
        for shard, size in zip(self._shards, self._sizes, strict=True):
            for parts in _read_samples(shard, size, start, stride, skipped):
                yield _decode(parts)
            skipped += size


class CropDataset(IterableDataset[tuple[Tensor, Tensor]]):
    """Squares around labelled particles and beside them: `(1, side, side)` float32 and 1.0 or 0.0.

    Parameters
    ----------
    folder, split
        As of `MicrographDataset`.
    side_px
        Side of the squares; what would cross the micrograph's edge is left out.
    n_background
        Squares at random places, at least a diameter from all positives, for each positive; labelled 0 as the negatives are.
    buffer
        Squares that are held back and drawn from at random, so that a batch has some of several micrographs.
    seed
        Of the places and the order; with `set_epoch` another order for each epoch.
    """

    def __init__(
        self,
        folder: Path,
        split: str = "train",
        *,
        side_px: int,
        n_background: float = 1.0,
        buffer: int = 4096,
        seed: int = 0,
    ) -> None:
        self._micrographs = MicrographDataset(folder, split)
        self._side, self._n_background, self._buffer, self._seed = side_px, n_background, buffer, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the places and the order of another epoch."""
        self._epoch = epoch

    def _cut(self, sample: MicrographSample, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        _, ny, nx = sample.image.shape
        half = self._side // 2
        positives = sample.positives.numpy()
        background = self._draw_background(positives, (ny, nx), rng)
        labelled = [(positives[:, :2], 1.0), (sample.negatives.numpy()[:, :2], 0.0), (background, 0.0)]
        for places, label in labelled:
            for x, y in np.rint(places).astype(int) - half:
                if 0 <= x <= nx - self._side and 0 <= y <= ny - self._side:
                    # A copy: a view would keep the whole micrograph in memory.
                    yield sample.image[:, y : y + self._side, x : x + self._side].clone(), torch.tensor(label)

    def _draw_background(
        self, positives: NDArray[np.float32], shape: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        wanted = round(self._n_background * len(positives))
        drawn = rng.uniform(self._side / 2, np.array(shape[::-1]) - self._side / 2, (4 * wanted, 2))
        if wanted == 0:
            return drawn
        distance = np.linalg.norm(drawn[:, None] - positives[None, :, :2], axis=-1)
        return np.asarray(drawn[(distance > positives[:, 2]).all(axis=1)][:wanted])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self._seed, self._epoch, 0 if worker is None else worker.id])
        held: list[tuple[Tensor, Tensor]] = []
        for sample in self._micrographs:
            for crop in self._cut(sample, rng):
                if len(held) < self._buffer:
                    held.append(crop)
                    continue
                i = int(rng.integers(len(held)))
                held[i], crop = crop, held[i]
                yield crop
        for i in rng.permutation(len(held)):
            yield held[int(i)]
