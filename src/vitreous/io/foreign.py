"""What a file is that is not what its name says, in words for an error message."""

from pathlib import Path

from vitreous.errors import InputFileError

__all__ = ["COPY_REMEDY", "describe_content", "make_read_error"]

COPY_REMEDY = "Check that the file was copied whole (compare its size with the original) or leave it out."

_SIGNATURES = (
    (b"BZh", "bzip2-compressed data"),
    (b"\x1f\x8b", "gzip-compressed data"),
    (b"\xfd7zXZ\x00", "xz-compressed data"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"II*\x00", "a TIFF file"),
    (b"MM\x00*", "a TIFF file"),
    (b"II+\x00", "a BigTIFF file"),
    (b"MM\x00+", "a BigTIFF file"),
)
_COMPRESSED = {
    "bzip2-compressed data": (".bz2",),
    "gzip-compressed data": (".gz",),
    "xz-compressed data": (".xz",),
    "zstd-compressed data": (".zst",),
}
_N_SHOWN = 30
_N_SAMPLED = 256


def describe_content(head: bytes) -> str | None:
    """Return what the first bytes of a file are, None where they tell nothing.

    A download that failed often leaves a page of XML or HTML under the name of the movie.
    """
    for signature, words in _SIGNATURES:
        if head.startswith(signature):
            return words
    sample = head[:_N_SAMPLED]
    if sample and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in sample):
        return f"text beginning {sample.decode('ascii').strip()[:_N_SHOWN]!r}"
    if head and not any(head):
        return "zeros only"
    return None


def _is_expected(path: Path, kind: str, content: str) -> bool:
    """Return whether a file's content is what its name promises, so that it explains nothing."""
    return kind in content or path.suffix.lower() in _COMPRESSED.get(content, ())


def make_read_error(path: Path, kind: str, problem: object) -> InputFileError:
    """Return the error that says that `path` is no readable file of this `kind`, and why."""
    found = f"a file that cannot be read ({problem})"
    try:
        with path.open("rb") as stream:
            content = describe_content(stream.read(_N_SAMPLED))
        if content is not None and not _is_expected(path, kind, content):
            found = f"a file that cannot be read (it holds {content})"
    except FileNotFoundError:
        found = "no such file"
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
    return InputFileError(path, found=found, expected=f"a complete {kind} file", remedy=COPY_REMEDY)
