"""Conventions of projects: seeds, paths, labels, numbers of images."""

from pathlib import Path

import gemmi
import mrcfile
import numpy as np
import polars as pl
import pytest

from vitreous.engine.machine import Machine
from vitreous.engine.project import create_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_recipe
from vitreous.engine.stages import load_stage
from vitreous.model.documents import Decision, Facts
from vitreous.model.stage import Context, Inputs, RunFolder
from vitreous.model.tables import complete_table
from vitreous.simulate.entry import simulate_entry
from vitreous.simulate.settings import SimulationSettings
from vitreous.stages.extract import STAGE as EXTRACT
from vitreous.stages.extract import ExtractParams
from vitreous.stages.review import STAGE as REVIEW
from vitreous.stages.review import ReviewParams

pytestmark = pytest.mark.usefixtures("own_folder")


def write_model(path: Path) -> Path:
    """Write a model of 60 carbon atoms."""
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    chain = gemmi.Chain("A")
    for number, position in enumerate(np.random.default_rng(18).normal(0, 12, (60, 3)), start=1):
        residue = gemmi.Residue()
        residue.name, residue.seqid = "GLY", gemmi.SeqId(str(number))
        atom = gemmi.Atom()
        atom.name, atom.element, atom.pos, atom.b_iso = "CA", gemmi.Element("C"), gemmi.Position(*position), 30.0
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure[0].add_chain(chain)
    structure.write_pdb(str(path))
    return path


def simulate(folder: Path, model: Path, seed: int) -> dict[str, bytes]:
    settings = SimulationSettings(
        model=str(model),
        n_movies=1,
        nx_px=128,
        ny_px=128,
        n_frames=2,
        particles_per_movie=2,
        n_contaminants=0,
        seed=seed,
    )
    simulate_entry(folder, settings)
    names = ("movies/movie_0001.tif", "gain.mrc", "truth/coordinates.csv")
    return {name: (folder / name).read_bytes() for name in names}


def read_images(files: dict[str, bytes]) -> dict[str, bytes]:
    """Drop the header of the MRC file: it carries the time."""
    return {name: data[1024:] if name.endswith(".mrc") else data for name, data in files.items()}


def test_the_same_seed_makes_the_same_data(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.pdb")
    first = read_images(simulate(tmp_path / "a", model, seed=3))
    assert read_images(simulate(tmp_path / "b", model, seed=3)) == first
    other = read_images(simulate(tmp_path / "c", model, seed=4))
    assert all(other[name] != data for name, data in first.items())
    stages = [load_stage(name) for name in ("extract", "classify2d", "reconstruct", "validate")]
    assert [stage.params().model_dump()["seed"] for stage in stages] == [0, 0, 0, 0]
    assert SimulationSettings.model_fields["seed"].default == 0


def test_paths_in_tables_are_relative_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    image = np.random.default_rng(19).normal(size=(64, 80)).astype(np.float32)
    mrcfile.write(tmp_path / "data" / "m.mrc", image)
    facts = Facts(micrographs=str(tmp_path / "data" / "*.mrc"), pixel_size_angstrom=2.0)
    project = create_project(tmp_path / "project", facts)
    run_recipe(project, "motion", [], Machine(workers=1))
    tables = read_current_tables(project, read_current_records(project))
    [given] = tables["exposures"]["micrograph_path"]
    [made] = tables["micrographs"]["micrograph_path"]
    assert given == "../data/m.mrc"
    assert made == "runs/002-motion/images/m.mrc"
    np.testing.assert_array_equal(mrcfile.read(project.root / made), image)


def make_candidates(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(20)
    scores = np.concatenate([rng.normal(0.2, 0.03, n // 2), rng.normal(0.6, 0.05, n - n // 2)])
    candidates = pl.DataFrame({"particle_id": [f"m_{i:05d}" for i in range(n)], "score": scores}).with_columns(
        micrograph_id=pl.lit("m"), x_px=100.0, y_px=90.0, diameter_angstrom=40.0, picker=pl.lit("blob"), power=0.0,
        label=pl.lit("candidate"),
    )  # fmt: skip
    return complete_table("particles", candidates)


def make_micrographs(path: str) -> pl.DataFrame:
    row = {
        "micrograph_id": "m", "exposure_id": "m", "micrograph_path": path, "nx_px": 240, "ny_px": 200,
        "pixel_size_angstrom": 2.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "optics_group": 1,
    }  # fmt: skip
    return complete_table("micrographs", pl.DataFrame([row]))


def review(candidates: pl.DataFrame, decisions: tuple[Decision, ...] = ()) -> pl.DataFrame:
    inputs = Inputs({"particles": candidates, "micrographs": make_micrographs("m.mrc")}, decisions)
    params = ReviewParams()
    judged = REVIEW.compute(REVIEW.load(inputs, params, Context(Path())), params, lambda fraction, words: None)
    return REVIEW.save(judged, inputs, params, RunFolder(Path(), Path())).tables["particles"]


def test_candidates_are_labelled_and_never_deleted() -> None:
    candidates = make_candidates(200)
    judged = review(candidates)
    assert judged["particle_id"].to_list() == candidates["particle_id"].to_list()
    assert set(judged["label"]) == {"positive", "negative"}
    assert judged.filter(pl.col("label") == "negative")["reason"].null_count() == 0
    assert judged.filter(pl.col("label") == "positive")["reason"].is_null().all()


def test_a_person_overrules_the_scores() -> None:
    candidates = make_candidates(200)
    shared = {"when": "2024-01-01T00:00:00Z", "who": "a", "run": "005-review", "kind": "pick"}
    decisions = tuple(
        Decision.model_validate({"decision_id": subject, "subject": subject, "verdict": verdict, **shared})
        for subject, verdict in (("m_00000", "accept"), ("m_00199", "reject"))
    )
    labels = dict(review(candidates, decisions).select("particle_id", "label").iter_rows())
    assert (labels["m_00000"], labels["m_00199"]) == ("positive", "negative")
    without = dict(review(candidates).select("particle_id", "label").iter_rows())
    assert (without["m_00000"], without["m_00199"]) == ("negative", "positive")


def test_images_in_a_stack_count_from_0_in_tables(tmp_path: Path) -> None:
    image = np.random.default_rng(21).normal(size=(200, 240)).astype(np.float32)
    image[90:93, 100:103] -= 200
    mrcfile.write(tmp_path / "m.mrc", image)
    candidates = make_candidates(3).with_columns(label=pl.lit("positive"), x_px=pl.Series([60.0, 101.0, 160.0]))
    candidates = candidates.with_columns(y_px=pl.Series([60.0, 91.0, 120.0]))
    inputs = Inputs({"particles": candidates, "micrographs": make_micrographs("m.mrc")})
    params, context, folder = ExtractParams(), Context(tmp_path), RunFolder(tmp_path, tmp_path / "run")
    [item] = EXTRACT.plan(inputs, params, context)
    saved = EXTRACT.save(EXTRACT.compute(EXTRACT.load(item, params, context), params), item, folder)
    table = EXTRACT.collect(inputs, saved, params).tables["particles"]
    assert table["stack_index"].to_list() == [0, 1, 2]
    stack = mrcfile.read(tmp_path / table["stack_path"][0])
    assert int(stack.max(axis=(1, 2)).argmax()) == 1
