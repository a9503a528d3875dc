"""Whole-file compression against the compressors themselves."""

import bz2
import gzip
import io
import lzma
from pathlib import Path

import pytest
import zstandard

from vitreous.io.compressed import STREAM_ERRORS, open_stream, read_bytes

COMPRESSORS = {
    ".gz": gzip.compress,
    ".BZ2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".mrc": bytes,
}
DATA = bytes(range(256)) * 200


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_reading_through(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    # Compressors that work in parallel write several streams one after the other.
    path.write_bytes(COMPRESSORS[suffix](DATA) + COMPRESSORS[suffix](DATA[::-1]))
    with open_stream(path) as stream:
        assert read_bytes(stream, 1000) == DATA[:1000]
        assert read_bytes(stream, 10**12) == DATA[1000:] + DATA[::-1]


@pytest.mark.parametrize("suffix", [".gz", ".BZ2", ".xz"])
def test_damage_is_reported(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    packed = bytearray(COMPRESSORS[suffix](DATA))
    packed[-6] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(STREAM_ERRORS), open_stream(path) as stream:
        read_bytes(stream, len(DATA) + 1)


def test_a_stream_that_ends_gives_what_it_has() -> None:
    assert read_bytes(io.BytesIO(b"abc"), 10) == b"abc"
    assert read_bytes(io.BytesIO(b""), 10) == b""
