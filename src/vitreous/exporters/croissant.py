"""The card for machines: Croissant 1.0 (MLCommons), JSON-LD that search engines and data loaders read.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["describe_croissant"]

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_FIELDS = (
    ("particle_id", "sc:Text", "identifier"),
    ("micrograph", "sc:Text", "name of the micrograph, without suffix"),
    ("x_px", "sc:Float", "column of the centre in the micrograph in memory; pixel centres at integers"),
    ("y_px", "sc:Float", "row of the centre in the micrograph in memory; row 0 is the first"),
    ("diameter_px", "sc:Float", "particle diameter, pixels of the micrograph"),
    ("label", "sc:Text", "positive or negative"),
    ("reason", "sc:Text", "why it is negative"),
    ("split", "sc:Text", "train, validation or test"),
)
_FORMATS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".md": "text/markdown",
    ".star": "text/plain",
    ".txt": "text/plain",
    ".box": "text/plain",
    ".cbox": "text/plain",
    ".csg": "application/yaml",
    ".jpg": "image/jpeg",
    ".tar": "application/x-tar",
}
_N_LISTED = 1000


def _find_format(name: str) -> str:
    return _FORMATS.get("." + name.rsplit(".", 1)[-1].lower(), "application/octet-stream")


def _describe_file(name: str, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": _find_format(name),
        "sha256": digest,
    }


def describe_croissant(document: Mapping[str, Any], digests: Mapping[str, str], particles: str) -> dict[str, Any]:
    """Return the JSON-LD document.

    Parameters
    ----------
    document
        What `dataset.json` says.
    digests
        SHA-256 of every file, by its path in the release.
    particles
        Path of the table of particles, whose columns become a record set.

    Notes
    -----
    Of releases of very many files only the first thousand are listed one by one; `checksums.sha256` has all.
    """
    listed = dict(
        sorted(digests.items(), key=lambda item: (item[0] != particles, item[0].count("/"), item[0]))[:_N_LISTED]
    )
    counts = ", ".join(f"{count} {name}" for name, count in document["counts"].items())
    pixel = document["pixel_size_angstrom"]
    size = "" if pixel is None else f" at {pixel:.5g} Å per pixel"
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"particles/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {"fileObject": {"@id": particles}, "extract": {"column": name}},
        }
        for name, kind, description in _FIELDS
    ]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": document["entry_id"],
        "description": f"{document['title'] or 'Labelled cryo-EM micrographs'}: {counts}{size}. Layout {document['layout']}, "
        f"written by {document['written_by']}. Positions in {particles}: rows counted from the first in memory.",
        "license": document["licence"],
        "url": "dataset.json",
        "version": "1.0.0",
        "datePublished": document["written"],
        "citeAs": f"{document['title'] or document['entry_id']}, labelled with {document['written_by']}",
        "creator": {"@type": "sc:Organization", "name": "see dataset.json"},
        **({"isBasedOn": document["source"]} if document["source"] else {}),
        "keywords": ["cryo-EM", "particle picking", "single-particle analysis"],
        "distribution": [_describe_file(name, digest) for name, digest in listed.items()],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "particles",
                "name": "particles",
                "key": {"@id": "particles/particle_id"},
                "field": fields,
            }
        ],
    }
