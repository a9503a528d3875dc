"""A thousand damaged files: each reads to a sensible array or is refused by name; none crashes, hangs or takes the memory."""

import bz2
import gzip
import lzma
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import tifffile
import zstandard
from PIL import Image

from vitreous.errors import InputFileError
from vitreous.io.defects import read_defects
from vitreous.io.gain import read_gain
from vitreous.io.images import read_micrograph
from vitreous.io.movie import open_movie
from vitreous.io.mrc import write_mrc

SHAPE = (3, 24, 30)
N_FILES = 1000
SECONDS_PER_FILE = 10
EXTRA_MEMORY = 1 << 30
MOVIE = np.random.default_rng(1).integers(0, 9, SHAPE).astype(np.uint8)
GAIN = np.random.default_rng(2).uniform(0.9, 1.1, SHAPE[1:]).astype(np.float32)


@dataclass(frozen=True)
class Sound:
    """A file before it is damaged.

    Its name, its bytes, how it is read and to what, how many bytes at its beginning say how large the array is, and how many
    pixels a byte can become at most.
    """

    name: str
    content: bytes
    read: Callable[[Path], np.ndarray]
    truth: np.ndarray
    header_bytes: int
    expansion: int

    @property
    def is_text(self) -> bool:
        """Whether nothing can tell that its end is missing."""
        return self.name.endswith(".txt")


def read_movie(path: Path) -> np.ndarray:
    movie = open_movie(path)
    array = movie.read()
    assert array.shape == movie.shape
    assert array.dtype == movie.dtype
    return array


@pytest.fixture(scope="module")
def sound_files(
    tmp_path_factory: pytest.TempPathFactory, write_eer: Callable[..., None], write_dm: Callable[..., None]
) -> list[Sound]:
    folder = tmp_path_factory.mktemp("sound")
    found: list[Sound] = []

    def add(
        name: str,
        read: Callable[[Path], np.ndarray] = read_movie,
        *,
        header_bytes: int | None = None,
        expansion: int = 50_000,
    ) -> None:
        content = (folder / name).read_bytes()
        truth = read(folder / name)
        assert truth.shape[-2:] == SHAPE[1:]
        found.append(Sound(name, content, read, truth, header_bytes or len(content), expansion))

    for dtype in ("int8", "int16", "uint16", "float16", "float32"):
        write_mrc(folder / f"{dtype}.mrc", MOVIE.astype(dtype), 1.2)
        add(f"{dtype}.mrc", header_bytes=1024, expansion=1)
    head = struct.pack(">4i", 30, 24, 3, 101) + bytes(1008)
    (folder / "packed.mrc").write_bytes(head + MOVIE[..., :15].tobytes())
    add("packed.mrc", header_bytes=1024, expansion=2)
    plain = (folder / "uint16.mrc").read_bytes()
    for suffix, pack in (
        ("gz", gzip.compress),
        ("bz2", bz2.compress),
        ("xz", lzma.compress),
        ("zst", zstandard.ZstdCompressor(write_checksum=True).compress),
    ):
        (folder / f"m.mrc.{suffix}").write_bytes(pack(plain))
        add(f"m.mrc.{suffix}")
    for compression in ("none", "lzw", "zlib", "zstd", "packbits"):
        tifffile.imwrite(
            folder / f"{compression}.tif",
            MOVIE,
            photometric="minisblack",
            compression=None if compression == "none" else compression,
            bigtiff=compression == "zlib",
            rowsperstrip=9,
            metadata=None,
        )
        add(f"{compression}.tif")
    frames = [[(y, x, y % 4, x % 4) for y, x in np.argwhere(frame > 7).tolist()] for frame in MOVIE]
    for compression in (65000, 65001, 65002):
        bits = (8, 2, 2) if compression == 65000 else (7, 2, 2)
        write_eer(folder / f"{compression}.eer", frames, SHAPE[1:], compression=compression, bits=bits)
        add(f"{compression}.eer")
    for version in (3, 4):
        write_dm(folder / f"g.dm{version}", GAIN, version=version)
        add(f"g.dm{version}", read_gain)
    tifffile.imwrite(folder / "c.gain", GAIN)
    add("c.gain", read_gain)
    for suffix, mode in (("png", "I;16"), ("jpg", "L"), ("jpg", "RGB")):
        image = Image.fromarray(
            np.kron(MOVIE[0] * 20, np.ones((8, 8))).astype(np.uint16 if mode == "I;16" else np.uint8)
        )
        image = image if mode == "I;16" else image.convert(mode)
        image.crop((0, 0, SHAPE[2], SHAPE[1])).save(folder / f"{mode[0]}.{suffix}")
        add(f"{mode[0]}.{suffix}", lambda path: read_micrograph(path)[0])
    (folder / "d.txt").write_text("CameraSizeX 30\nCameraSizeY 24\nBadPixels 3 4 5 6\nBadRows 9\n", encoding="utf-8")
    add("d.txt", lambda path: read_defects(path, SHAPE[1:]))
    return found


def damage(content: bytes, kind: str, rng: np.random.Generator) -> bytes:
    match kind:
        case "flip a few bits":
            data = bytearray(content)
            for place in rng.integers(0, len(data), rng.integers(1, 6)):
                data[place] ^= 1 << int(rng.integers(0, 8))
            return bytes(data)
        case "overwrite the beginning":
            data = bytearray(content)
            for place in rng.integers(0, min(len(data), 300), rng.integers(1, 6)):
                data[place] = int(rng.integers(0, 256))
            return bytes(data)
        case "truncate":
            return content[: rng.integers(0, len(content))]
        case "extend":
            return content + rng.bytes(int(rng.integers(1, 3000)))
        case "lose a piece":
            start, length = rng.integers(0, len(content)), rng.integers(1, 200)
            return content[:start] + content[start + length :]
        case _:
            return rng.bytes(int(rng.integers(1, 3000)))


@contextmanager
def limit_memory(extra: int) -> Iterator[None]:
    """Let the process take `extra` bytes more than it has, so that an allocation after a damaged size fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def limit_time(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


KINDS = ("flip a few bits", "overwrite the beginning", "truncate", "extend", "lose a piece", "noise")


def test_the_limits_hold() -> None:
    with limit_memory(EXTRA_MEMORY), pytest.raises(MemoryError):
        np.empty(2 * EXTRA_MEMORY, np.uint8)
    with pytest.raises(AssertionError, match="took more than 1 s"), limit_time(1):
        signal.pause()


def read_or_refuse(sound: Sound, path: Path) -> np.ndarray | InputFileError:
    try:
        with limit_memory(EXTRA_MEMORY), limit_time(SECONDS_PER_FILE):
            return sound.read(path)
    except InputFileError as error:
        return error


def check_refusal(error: InputFileError, path: Path) -> None:
    assert str(path) in str(error)
    assert error.found
    assert error.expected
    assert error.remedy
    # An error that hides an attempt at a huge allocation would pass for a good one.
    assert not isinstance(error.__cause__, MemoryError)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(tmp_path: Path, sound_files: list[Sound], kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    refused = 0
    for number in range(-(-N_FILES // len(KINDS))):
        sound = sound_files[number % len(sound_files)]
        path = tmp_path / sound.name
        content = damage(sound.content, kind, rng)
        path.write_bytes(content)
        result = read_or_refuse(sound, path)
        if isinstance(result, InputFileError):
            check_refusal(result, path)
            refused += 1
            continue
        assert result.ndim == sound.truth.ndim
        if content[: sound.header_bytes] == sound.content[: sound.header_bytes]:
            assert result.shape == sound.truth.shape
        if kind in {"truncate", "extend"} and not sound.is_text:
            np.testing.assert_array_equal(result, sound.truth)
        # No size is made up: what was read was in the file, as far as its compression can tell.
        assert result.size <= sound.expansion * len(content)
    assert refused > 0 or kind == "extend"
