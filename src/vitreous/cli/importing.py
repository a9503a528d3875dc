"""`vitreous import`: a project from a published entry or from the picks of other programs."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import polars as pl

from vitreous.cli.options import choose_machine, description_options, machine_options, project_argument
from vitreous.cli.projects import build_facts
from vitreous.cli.watch import watch
from vitreous.engine.project import create_project
from vitreous.errors import InputFileError, SettingError
from vitreous.io.coordinates import read_particles
from vitreous.io.csparc import read_cs
from vitreous.io.star import read_star
from vitreous.model.provenance import Recipe, RecipeStep

__all__ = ["import_dataset"]

_LABELS, _FALSE = Path("ground_truth/particle_coordinates"), Path("ground_truth/false_positives")
_STAR_FACTS = {
    "voltage_kv": ("rlnVoltage",),
    "cs_mm": ("rlnSphericalAberration",),
    "amplitude_contrast": ("rlnAmplitudeContrast",),
    "pixel_size_angstrom": ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize"),
}
_CS_FACTS = {
    "voltage_kv": "ctf/accel_kv",
    "cs_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "pixel_size_angstrom": "location/micrograph_psize_A",
}


@dataclass(frozen=True)
class _Found:
    """What SOURCE is."""

    positives: Path
    negatives: Path | None
    micrographs: str | None
    y_origin: str
    is_pictures: bool


def _find_entry(source: Path) -> _Found:
    """Return the parts of an entry as CryoPPP or CryoPPP_Lite publishes it."""
    images = {path.suffix.lower() for path in (source / "micrographs").glob("*")}
    pictures = images & {".jpg", ".jpeg", ".png"}
    if bool(pictures) == (".mrc" in images):
        raise InputFileError(
            source / "micrographs",
            found=f"files named {', '.join(sorted(images)) or 'nothing'}",
            expected="MRC files (CryoPPP) or pictures (CryoPPP_Lite), one kind of them",
            remedy="Unpack the whole archive of the entry; take away what does not belong to it.",
        )
    suffix = next(iter(pictures)) if pictures else ".mrc"
    # Entries have what is excluded by micrograph, or only in one file for all.
    folders = [source / _FALSE] if any((source / _FALSE).glob("*.csv")) else []
    excluded = [*folders, *sorted((source / _LABELS).parent.glob("*_particles_excluded.star"))]
    return _Found(
        positives=source / _LABELS,
        negatives=excluded[0] if excluded else None,
        micrographs=str(source / "micrographs" / f"*{suffix}"),
        # The pictures are drawn as the labels count.
        y_origin="top" if pictures else "bottom",
        is_pictures=bool(pictures),
    )


def _inspect(source: Path) -> _Found:
    if not source.exists():
        raise InputFileError(
            source, found="no such file or folder", expected="picks or an entry", remedy="Check the path."
        )
    if (source / _LABELS).is_dir():
        return _find_entry(source)
    return _Found(source, None, None, "top", is_pictures=False)


def _read_facts(source: Path) -> dict[str, float]:
    """Return what a STAR or .cs file says of the microscope; nothing for other files."""
    if source.suffix.lower() == ".star":
        blocks = read_star(source).values()
        return {
            fact: float(values[0])
            for fact, labels in _STAR_FACTS.items()
            for values in [
                next((block[label] for label in labels for block in blocks if label in block.columns), pl.Series())
            ]
            if len(values)
        }
    if source.suffix.lower() == ".cs":
        table = read_cs(source)
        names = table.dtype.names or ()
        return {
            fact: round(float(table[name][0]), 6) for fact, name in _CS_FACTS.items() if name in names and len(table)
        }
    return {}


def _hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
        for file in files:
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _make_recipe(adopt: dict[str, Any], *, is_pictures: bool, has_ctf: bool) -> Recipe:
    """Return the recipe that goes on from picks: with the CTF that came with them, if any; pictures have lost what 3D needs."""
    before = [RecipeStep(stage="ingest"), RecipeStep(stage="motion"), RecipeStep(stage="adopt", params=adopt)]
    after = [RecipeStep(stage="extract", params={"keep_imported": True})]
    after += [RecipeStep(stage=name) for name in ("classify2d", "select2d")]
    if not is_pictures:
        after += [RecipeStep(stage=name) for name in ("reconstruct", "validate")]
        before += [] if has_ctf else [RecipeStep(stage="ctf")]
    return Recipe(steps=(*before, *after))


@click.command()
@project_argument
@click.argument("labels", type=click.Path(path_type=Path), metavar="SOURCE")
@click.option("--micrographs", metavar="GLOB", help="finished micrographs, in quotes; an entry of CryoPPP has its own")
@click.option("--negatives", type=click.Path(path_type=Path), help="what is no particle, in the same formats")
@click.option(
    "--ctf",
    type=click.Path(path_type=Path),
    help="CTF of the micrographs: RELION's micrographs_ctf.star or CryoSPARC's .cs of exposures; else as SOURCE",
)
@click.option(
    "--y-origin", type=click.Choice(["top", "bottom"]), help="from where the picks count rows [default: as SOURCE]"
)
@click.option(
    "--scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="factor to full pixels"
)
@click.option(
    "--images/--no-images",
    default=True,
    show_default=True,
    help="use the extracted images that SOURCE names, where all can be used; else they are cut out again",
)
@click.option("--picker", default="imported", show_default=True, help="who or what picked")
@click.option("--pixel-size", "pixel_size_angstrom", type=float, metavar="A", help="Å per pixel of the micrographs")
@click.option("--voltage", "voltage_kv", type=float, metavar="KV", help="acceleration voltage, kV [default: 300]")
@click.option("--cs", "cs_mm", type=float, metavar="MM", help="spherical aberration, mm [default: 2.7]")
@click.option("--amplitude-contrast", type=float, metavar="W", help="fraction of amplitude contrast [default: 0.1]")
@click.option(
    "--diameter", "diameter_angstrom", type=float, metavar="A", help="particle diameter, Å; else as the picks say"
)
@click.option("--symmetry", metavar="G", help="point group, e.g. D2 [default: C1]")
@description_options
@machine_options
def import_dataset(
    project: Path,
    labels: Path,
    micrographs: str | None,
    negatives: Path | None,
    ctf: Path | None,
    y_origin: str | None,
    scale: float,
    images: bool,
    picker: str,
    workers: int | None,
    device: str,
    scheduler: str | None,
    **values: Any,
) -> None:
    """Make PROJECT from labels or picks that exist, and read them in.

    SOURCE is an entry of CryoPPP or CryoPPP_Lite as published (its folder), or picks in any format that `vitreous evaluate`
    reads: RELION .star, CryoSPARC .cs, EMAN2 _info.json or .box, Topaz .txt, crYOLO .cbox, .csv; a file or a folder. Names with
    CryoSPARC's numbers before them find their micrographs. Defocus, classes, orientations, halves, optics groups and extracted
    images of .star and .cs files come along. Go on with `vitreous run PROJECT`.
    """
    from vitreous.engine.run import run_recipe

    found = _inspect(labels)
    pattern = micrographs or found.micrographs
    if pattern is None:
        raise SettingError(
            f"{labels}: these are picks alone; give their micrographs with --micrographs GLOB, in quotes"
        )
    root = project.expanduser().absolute().resolve()

    def make_relative(path: Path) -> str:
        return Path(os.path.relpath(path.absolute().resolve(), root)).as_posix()

    files = {"positives": found.positives, "negatives": negatives or found.negatives, "ctf": ctf}
    given = {name: path for name, path in files.items() if path is not None}
    adopt: dict[str, Any] = {name: make_relative(path) for name, path in given.items()}
    adopt |= {
        "y_origin": y_origin or found.y_origin,
        "scale": scale,
        "images": images,
        "picker": picker,
        "digest": _hash(list(given.values())),
    }
    has_ctf = ctf is not None or bool(read_particles(found.positives)["defocus_u_angstrom"].count())
    facts = build_facts(
        {"micrographs": pattern} | _read_facts(labels) | {k: v for k, v in values.items() if v is not None}
    )
    created = create_project(root, facts, _make_recipe(adopt, is_pictures=found.is_pictures, has_ctf=has_ctf))
    with watch() as listener:
        records = run_recipe(created, "adopt", (), choose_machine(workers, device, scheduler), listener)
    for warning in records[-1].warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{root}: {records[-1].outputs['particles']} particles; go on with\n  vitreous run {project}", err=True)
