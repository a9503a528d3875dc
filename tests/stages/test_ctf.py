"""The whole stage on disk: simulated and real micrographs, and images without rings."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from vitreous.io.images import read_micrograph
from vitreous.io.mrc import write_mrc
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.fourier import irfft2
from vitreous.simulate.micrograph import Micrograph, make_micrograph
from vitreous.simulate.movie import make_camera, make_movie
from vitreous.simulate.particles import AtomProjector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import load_specimen
from vitreous.stages.ctf import STAGE, CtfParams


def list_micrographs(root: Path, images: dict[str, NDArray[np.float32]], pixel_size: float) -> pl.DataFrame:
    rows = []
    for name, image in images.items():
        write_mrc(root / f"{name}.mrc", image, pixel_size)
        rows.append(
            {
                "micrograph_id": name,
                "exposure_id": name,
                "micrograph_path": f"{name}.mrc",
                "nx_px": image.shape[1],
                "ny_px": image.shape[0],
                "pixel_size_angstrom": pixel_size,
                "voltage_kv": 300.0,
                "cs_mm": 2.7,
                "amplitude_contrast": 0.07,
                "optics_group": 1,
                "accepted": True,
            }
        )
    return complete_table("micrographs", pl.DataFrame(rows))


def fit(root: Path, micrographs: pl.DataFrame, params: CtfParams | None = None) -> Saved:
    """Run the stage as the engine would, with every failure raised."""
    params, inputs, context = params or CtfParams(), Inputs({"micrographs": micrographs}), Context(root)
    folder = RunFolder(root, root / "runs" / "003-ctf")
    rows = []
    for item in STAGE.plan(inputs, params, context):
        again = STAGE.item.model_validate_json(item.model_dump_json())
        saved = STAGE.save(STAGE.compute(STAGE.load(again, params, context), params), again, folder)
        rows.append(complete_table("micrographs", saved.tables["micrographs"]))
    return STAGE.collect(inputs, Saved({"micrographs": pl.concat(rows)}), params)


def draw_amorphous(
    shape: tuple[int, int], pixel_size: float, u: float, v: float, angle: float, noise: float = 1.0
) -> NDArray[np.float32]:
    """Return an image of white noise filtered by the CTF, on white noise of `noise` times its strength."""
    generator = torch.Generator().manual_seed(0)
    ctf = compute_ctf_2d(shape, pixel_size, u, v, angle, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.07)
    specimen = irfft2(torch.fft.rfft2(torch.randn(shape, generator=generator)) * ctf, shape)
    return (specimen + noise * torch.randn(shape, generator=generator)).numpy()


def angle_between(first: float, second: float) -> float:
    return abs((first - second + 90) % 180 - 90)


@pytest.mark.parametrize(
    ("shape", "pixel_size"), [((1000, 1000), 1.5), ((1535, 1484), 0.85), ((900, 1331), 1.0), ((600, 700), 2.6)]
)
def test_amorphous_images(tmp_path: Path, shape: tuple[int, int], pixel_size: float) -> None:
    """Sizes whose resampled sides have different factors: pixels that are not square would look like astigmatism."""
    image = draw_amorphous(shape, pixel_size, 15200, 14900, 30)
    row = fit(tmp_path, list_micrographs(tmp_path, {"a": image}, pixel_size)).tables["micrographs"].row(0, named=True)
    assert row["defocus_u_angstrom"] == pytest.approx(15200, abs=40)
    assert row["defocus_v_angstrom"] == pytest.approx(14900, abs=40)
    assert angle_between(row["defocus_angle_deg"], 30) < 5
    assert row["ctf_score"] > 0.7


def test_turned_images_turn_the_angle(tmp_path: Path) -> None:
    image = draw_amorphous((800, 700), 1.5, 15200, 14700, 25)
    images = {
        "a": image,
        "turned": np.rot90(image).copy(),
        "rows": image[::-1].copy(),
        "columns": image[:, ::-1].copy(),
    }
    angles = fit(tmp_path, list_micrographs(tmp_path, images, 1.5)).tables["micrographs"]["defocus_angle_deg"]
    a, turned, rows, columns = angles
    assert angle_between(a, 25) < 3
    assert angle_between(turned, a + 90) < 2
    assert angle_between(rows, -a) < 2
    assert angle_between(columns, -a) < 2


def test_what_is_written(tmp_path: Path) -> None:
    images = {"good": draw_amorphous((700, 700), 1.5, 15200, 14900, 30), "noise": np.zeros((700, 700), np.float32)}
    images["noise"] += np.random.default_rng(0).normal(size=(700, 700)).astype(np.float32)
    micrographs = list_micrographs(tmp_path, images, 1.5)
    saved = fit(tmp_path, micrographs)
    table = saved.tables["micrographs"]
    check_table("micrographs", table)
    kept = [
        name for name in micrographs.columns if name not in {"ctf_curve_path"} and micrographs[name].null_count() == 0
    ]
    assert table.select(kept).equals(micrographs.select(kept))
    assert table["phase_shift_deg"].to_list() == [0.0, 0.0]
    good, noise = table.iter_rows(named=True)
    assert good["defocus_u_angstrom"] >= good["defocus_v_angstrom"]
    assert 0 <= good["defocus_angle_deg"] < 180
    assert noise["ctf_score"] < 0.4 or noise["ctf_resolution_angstrom"] > 15
    assert len(saved.warnings) == 2
    assert saved.warnings[0].startswith("noise: the CTF fit is doubtful")
    assert saved.warnings[1].startswith(
        "1 of 2 CTF fits are doubtful: picking and 2D classification use the median defocus"
    )
    curves = json.loads((tmp_path / good["ctf_curve_path"]).read_text(encoding="utf-8"))
    k = curves["frequency_per_angstrom"]
    assert len(k) == len(curves["spectrum"]) == len(curves["ctf_squared"]) == len(curves["correlation"])
    assert k[0] == pytest.approx(1 / 30, abs=1e-3)
    assert k[-1] == pytest.approx(1 / 4, abs=1e-3)
    picture = [list(bytes.fromhex(line)) for line in curves.pop("spectrum_beside_ctf")]
    assert np.array(picture).shape == (160, 160)
    assert all(np.isfinite(np.array(curve, dtype=float)).all() for curve in curves.values())
    best = curves["search_defocus_angstrom"][int(np.argmax(curves["search_score"]))]
    assert best == pytest.approx(15050, abs=100)
    assert sum(c > 0.3 for c in curves["correlation"]) > 0.9 * len(k)


def test_the_sum_without_weights_is_read(tmp_path: Path) -> None:
    image = draw_amorphous((600, 600), 1.5, 15000, 15000, 0)
    micrographs = list_micrographs(tmp_path, {"a": np.ones_like(image)}, 1.5)
    write_mrc(tmp_path / "nodw.mrc", image, 1.5)
    saved = fit(tmp_path, micrographs.with_columns(nodw_path=pl.lit("nodw.mrc")))
    assert saved.tables["micrographs"]["defocus_u_angstrom"][0] == pytest.approx(15000, abs=60)


@pytest.fixture(scope="module")
def simulated() -> tuple[SimulationSettings, Micrograph, NDArray[np.float32]]:
    settings = SimulationSettings(
        nx_px=900,
        ny_px=800,
        pixel_size_angstrom=1.75,
        n_frames=1,
        dose_per_frame=35,
        damage=False,
        gain=False,
        n_hot_pixels=0,
        particles_per_movie=40,
        n_contaminants=1,
        drift_angstrom=0,
    )
    specimen = load_specimen("apoferritin", settings.pixel_size_angstrom)
    rng = np.random.default_rng(8)
    micrograph = make_micrograph(
        settings, AtomProjector(specimen), specimen.box_px, specimen.diameter_angstrom, 17_300.0, False, rng
    )
    frame = make_movie(micrograph, np.zeros((1, 2)), make_camera(settings, rng), settings, rng)[0]
    return settings, micrograph, frame.astype(np.float32)


def test_a_simulated_micrograph(
    tmp_path: Path, simulated: tuple[SimulationSettings, Micrograph, NDArray[np.float32]]
) -> None:
    settings, truth, image = simulated
    micrographs = list_micrographs(tmp_path, {"a": image}, settings.pixel_size_angstrom)
    saved = fit(tmp_path, micrographs)
    row = saved.tables["micrographs"].row(0, named=True)
    assert row["defocus_u_angstrom"] == pytest.approx(truth.defocus_u_angstrom, abs=100)
    assert row["defocus_v_angstrom"] == pytest.approx(truth.defocus_v_angstrom, abs=100)
    assert saved.warnings == ()


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["May08_03.05.02", "May08_04.36.57"])
def test_real_apoferritin(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Independent fits of the rotational average give 1.57 to 2.51 µm for these micrographs."""
    image, _ = read_micrograph(shared_data / "apoferritin-10146" / "micrographs" / f"{name}.png")
    saved = fit(tmp_path, list_micrographs(tmp_path, {"a": image}, 1.5))
    row = saved.tables["micrographs"].row(0, named=True)
    assert 15_700 < (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) / 2 < 25_100
    assert row["defocus_u_angstrom"] - row["defocus_v_angstrom"] < 1000
    assert row["ctf_resolution_angstrom"] < 7
    assert saved.warnings == ()


@pytest.mark.shared_data
@pytest.mark.parametrize("folder", ["3Empty_no_ice"])
def test_real_empty_holes_are_doubted(shared_data: Path, tmp_path: Path, folder: str) -> None:
    path = sorted((shared_data / "quality-classes" / folder).glob("*.png"))[0]
    saved = fit(tmp_path, list_micrographs(tmp_path, {"a": read_micrograph(path)[0]}, 4.0))
    assert [("CTF fit is doubtful" in text, "use no CTF" in text) for text in saved.warnings] == [
        (True, False),
        (False, True),
    ]
