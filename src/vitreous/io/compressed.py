"""Files compressed as a whole (bzip2, gzip, xz, zstd), read as streams: nothing is unpacked to disk."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import zstandard

__all__ = ["COMPRESSED_SUFFIXES", "STREAM_ERRORS", "open_stream", "read_bytes"]

_CHUNK_BYTES = 1 << 24


def _open_bz2(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", bz2.open(path, "rb"))


def _open_gzip(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb"))


def _open_xz(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", lzma.open(path, "rb"))


def _open_zstd(path: Path) -> IO[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    reader = decompressor.stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
    return cast("IO[bytes]", reader)


_OPENERS: Mapping[str, Callable[[Path], IO[bytes]]] = {
    ".bz2": _open_bz2,
    ".gz": _open_gzip,
    ".xz": _open_xz,
    ".zst": _open_zstd,
}

COMPRESSED_SUFFIXES = frozenset(_OPENERS)
"""Suffixes, in lower case, of files that are decompressed on reading."""

STREAM_ERRORS = (OSError, EOFError, ValueError, MemoryError, zlib.error, lzma.LZMAError, zstandard.ZstdError)
"""What reading a damaged stream raises."""


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; one with a suffix of `COMPRESSED_SUFFIXES` is decompressed.

    Reading from it raises one of `STREAM_ERRORS` where the data are damaged.
    """
    opener = _OPENERS.get(path.suffix.lower())
    with path.open("rb") if opener is None else opener(path) as stream:
        yield stream


def read_bytes(stream: IO[bytes], n_bytes: int) -> bytearray:
    """Read `n_bytes`, or fewer where the stream ends; memory grows with what is there, not with what was announced."""
    data = bytearray()
    while len(data) < n_bytes:
        chunk = stream.read(min(_CHUNK_BYTES, n_bytes - len(data)))
        if not chunk:
            break
        data += chunk
    return data
