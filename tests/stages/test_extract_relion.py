"""The stage `extract` beside RELION's extraction of the same real particles."""

import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import write_star
from vitreous.model.stage import Context, Inputs, RunFolder
from vitreous.model.tables import complete_table
from vitreous.stages.extract import STAGE, ExtractParams


def extract_by_relion(folder: Path, image: np.ndarray, pixel: float, xy: np.ndarray, words: str) -> np.ndarray:
    """Return what RELION cuts out, with protein bright."""
    (folder / "picks").mkdir(parents=True)
    write_mrc(folder / "m.mrc", image, pixel)
    optics = {"rlnOpticsGroup": 1, "rlnOpticsGroupName": "g", "rlnMicrographPixelSize": pixel, "rlnVoltage": 300.0}
    optics |= {"rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    micrographs = pl.DataFrame({"rlnMicrographName": ["m.mrc"], "rlnOpticsGroup": [1]})
    write_star(folder / "m.star", {"optics": pl.DataFrame([optics]), "micrographs": micrographs})
    places = pl.DataFrame({"rlnCoordinateX": xy[:, 0], "rlnCoordinateY": xy[:, 1]})
    write_star(folder / "picks" / "m_pick.star", {"": places})
    fixed = (
        "--i m.star --coord_dir picks/ --coord_suffix _pick.star --part_star out.star --part_dir out/ --extract --norm"
    )
    words = f"relion_preprocess {fixed} --invert_contrast --white_dust -1 --black_dust -1 {words}"
    subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
    return read_mrc(folder / "out" / "m.mrcs")[0]


@pytest.mark.relion
@pytest.mark.shared_data
@pytest.mark.parametrize("reduction", [1, 2])
def test_real_particles_are_those_of_relion(tmp_path: Path, shared_data: Path, reduction: int) -> None:
    """The whole stage, at whole pixels, with RELION's box and background: every particle of a micrograph of apoferritin."""
    name, pixel, diameter = "May08_03.05.02", 1.5, 130.0
    data = shared_data / "apoferritin-10146"
    image = np.asarray(Image.open(data / "micrographs" / f"{name}.png"), dtype=np.float32)
    picks = pl.read_csv(data / "coordinates" / f"{name}.csv")
    # RELION cuts at whole pixels.
    xy = np.floor(picks.select("X-Coordinate", "Y-Coordinate").to_numpy())
    ny, nx = image.shape
    xy = xy[((xy > 80) & (xy < [nx - 80, ny - 80])).all(axis=1)]
    assert len(xy) > 80
    write_mrc(tmp_path / "m0.mrc", image, pixel)
    micrograph = {"micrograph_id": "m0", "micrograph_path": "m0.mrc", "nx_px": nx, "ny_px": ny, "optics_group": 1}
    micrograph |= {"exposure_id": "", "pixel_size_angstrom": pixel}
    micrographs = complete_table("micrographs", pl.DataFrame([micrograph]))
    n = len(xy)
    rows = {"particle_id": [f"p{i}" for i in range(n)], "micrograph_id": ["m0"] * n, "x_px": xy[:, 0], "y_px": xy[:, 1]}
    rows |= {"diameter_angstrom": [diameter] * n, "picker": ["blob"] * n, "label": ["positive"] * n}
    particles = complete_table(
        "particles", pl.DataFrame(rows, schema_overrides={"x_px": pl.Float64, "y_px": pl.Float64})
    )
    # A box of 140 pixels, with a background outside 48 (24) pixels from the centre.
    params = ExtractParams(
        box_factor=1.61, max_box_px=140 // reduction, background_factor=96 * pixel / diameter, duplicate_fraction=0
    )
    inputs, context = Inputs({"micrographs": micrographs, "particles": particles}), Context(tmp_path)
    folder = RunFolder(tmp_path, tmp_path / "runs" / "006-extract")
    (folder.path / "images").mkdir(parents=True)
    (item,) = STAGE.plan(inputs, params, context)
    found = STAGE.save(STAGE.compute(STAGE.load(item, params, context), params), item, folder).tables["particles"]
    ours = read_mrc(tmp_path / found["stack_path"][0])[0]
    words = f"--extract_size 140 --scale {140 // reduction} --bg_radius {48 // reduction}"
    theirs = extract_by_relion(tmp_path / "relion", image, pixel, xy, words)
    assert ours.shape == theirs.shape == (n, 140 // reduction, 140 // reduction)
    spectra = np.fft.fft2(theirs.astype(np.float64))
    if reduction > 1:
        # RELION keeps the frequencies at the new Nyquist, whose phases mean nothing; we do not.
        spectra[:, len(spectra[0]) // 2, :], spectra[:, :, len(spectra[0]) // 2] = 0, 0
    for one, other in zip(ours.astype(np.float64), np.fft.ifft2(spectra).real, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999
        slope, shift = np.polyfit(other.ravel(), one.ravel(), 1)
        assert slope == pytest.approx(1, abs=0.02)
        assert shift == pytest.approx(0, abs=0.02)
