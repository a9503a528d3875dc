"""What error messages say of files that are something else."""

import bz2
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from vitreous.io.foreign import describe_content, make_read_error


def test_contents_are_recognised() -> None:
    picture, tiff = io.BytesIO(), io.BytesIO()
    Image.new("L", (4, 4)).save(picture, format="PNG")
    tifffile.imwrite(tiff, np.zeros((4, 4), np.uint8))
    assert describe_content(picture.getvalue()) == "a PNG picture"
    assert describe_content(tiff.getvalue()) == "a TIFF file"
    assert describe_content(bz2.compress(b"x")) == "bzip2-compressed data"
    assert describe_content(gzip.compress(b"x")) == "gzip-compressed data"
    assert describe_content(b"<html>\n<body>404") == "text beginning '<html>\\n<body>404'"
    assert describe_content(bytes(300)) == "zeros only"
    assert describe_content(b"") is None
    assert describe_content(b"\x07\x00\x00\x00") is None


@pytest.mark.parametrize(
    ("name", "kind", "content", "found"),
    [
        ("m.mrc", "MRC", bz2.compress(b"x"), "it holds bzip2-compressed data"),
        ("m.mrc.gz", "MRC", bz2.compress(b"x"), "it holds bzip2-compressed data"),
        ("m.mrc.BZ2", "MRC", bz2.compress(b"x"), "a problem"),
        ("m.mrc", "MRC", b"\x07\x00\x00\x00", "a problem"),
        ("m.mrc", "MRC", b"II*\x00", "it holds a TIFF file"),
        ("m.tif", "TIFF", b"II+\x00", "a problem"),
        ("m.tif", "TIFF", b"<html>", "it holds text beginning '<html>'"),
    ],
)
def test_messages(tmp_path: Path, name: str, kind: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = make_read_error(tmp_path / name, kind, "a problem")
    assert error.found == f"a file that cannot be read ({found})"
    assert error.expected == f"a complete {kind} file"


def test_missing(tmp_path: Path) -> None:
    assert make_read_error(tmp_path / "m.mrc", "MRC", "a problem").found == "no such file"
    assert "directory" in make_read_error(tmp_path, "MRC", "a problem").found
