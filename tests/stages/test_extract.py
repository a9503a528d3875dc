"""The stage `extract`: what is cut out, at which pixel size, and into which half it goes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.errors import UserError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table
from vitreous.stages.extract import STAGE, ExtractParams

PIXEL, DIAMETER, SHAPE = 2.0, 100.0, (300, 400)
PLACES = [(100.0, 100.0), (201.37, 99.62), (300.5, 210.5), (20.25, 150.0), (150.0, 290.0)]


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pl.DataFrame]:
    """Two micrographs; dark particles on a ramp. Of the candidates of the first one is negative."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for name in ("m0", "m1"):
        image = 50 + 0.02 * x - 0.03 * y + 0.2 * rng.normal(size=SHAPE)
        for cx, cy in PLACES:
            image -= 5 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 8**2))
        image[150, 250] = 1e5
        write_mrc(tmp_path / f"{name}.mrc", image.astype(np.float32), PIXEL)
    micrographs = {
        "micrograph_id": ["m0", "m1", "m2"],
        "exposure_id": [""] * 3,
        "micrograph_path": ["m0.mrc", "m1.mrc", "m2.mrc"],
        "nx_px": [SHAPE[1]] * 3,
        "ny_px": [SHAPE[0]] * 3,
        "pixel_size_angstrom": [PIXEL] * 3,
        "voltage_kv": [300.0] * 3,
        "cs_mm": [2.7] * 3,
        "amplitude_contrast": [0.1] * 3,
        "optics_group": [1] * 3,
        "defocus_u_angstrom": [1e4, 2e4, 3e4],
        "defocus_v_angstrom": [0.9e4, 1.9e4, 2.9e4],
        "defocus_angle_deg": [10.0, 20.0, 30.0],
        "phase_shift_deg": [0.0] * 3,
    }
    particles = {
        "particle_id": [f"{name}_{i}" for name in ("m0", "m1") for i in range(len(PLACES))],
        "micrograph_id": ["m0"] * len(PLACES) + ["m1"] * len(PLACES),
        "x_px": [place[0] for place in PLACES] * 2,
        "y_px": [place[1] for place in PLACES] * 2,
        "diameter_angstrom": [DIAMETER] * 2 * len(PLACES),
        "picker": ["blob"] * 2 * len(PLACES),
        "ncc": [0.5] * 2 * len(PLACES),
        "label": ["positive", "positive", "negative", *["positive"] * (2 * len(PLACES) - 3)],
    }
    return {
        "micrographs": complete_table("micrographs", pl.DataFrame(micrographs)),
        "particles": complete_table("particles", pl.DataFrame(particles)),
    }


def run(root: Path, tables: dict[str, pl.DataFrame], params: ExtractParams, failing: tuple[str, ...] = ()) -> Saved:
    inputs, context, folder = Inputs(tables), Context(root), RunFolder(root, root / "runs" / "006-extract")
    (folder.path / "images").mkdir(parents=True, exist_ok=True)
    saved = []
    for item in STAGE.plan(inputs, params, context):
        if item.item_id not in failing:
            item = STAGE.item.model_validate_json(item.model_dump_json())
            saved.append(STAGE.save(STAGE.compute(STAGE.load(item, params, context), params), item, folder))
    rows = pl.concat([complete_table("particles", one.tables["particles"]) for one in saved])
    result = STAGE.collect(inputs, Saved({"particles": rows}), params)
    check_table("particles", result.tables["particles"])
    return result


@pytest.mark.parametrize("max_box", [200, 60, 41])
def test_images_are_centred_bright_normalised_and_of_exact_pixel_size(
    tmp_path: Path, tables: dict[str, pl.DataFrame], max_box: int
) -> None:
    particles = run(tmp_path, tables, ExtractParams(max_box_px=max_box)).tables["particles"]
    rows = particles.filter(pl.col("label") == "positive")
    assert rows["stack_path"].null_count() == 0
    # 1.6 times 100 Å of 2 Å each are 80 px.
    side = min(80, max_box // 2 * 2)
    assert set(rows["box_px"]) == {side}
    assert set(rows["stack_pixel_size_angstrom"]) == {2.0 * 80 / side}
    offset = np.arange(side) - side // 2
    radius = np.hypot(offset[:, None], offset[None, :]) * 2.0 * 80 / side
    for row in rows.iter_rows(named=True):
        stack, header = read_mrc(tmp_path / row["stack_path"])
        assert header.pixel_size_angstrom == pytest.approx(2.0 * 80 / side)
        image = stack[row["stack_index"]].astype(np.float64)
        outside = image[radius > 55]
        assert abs(outside.mean()) < 1e-3
        assert abs(outside.std() - 1) < 1e-2
        near = np.where(radius < 20, np.clip(image, 0, None), 0)
        assert near.max() > 3
        centre = (near.sum(0) @ offset) / near.sum(), (near.sum(1) @ offset) / near.sum()
        # Within 0.4 Å, noise and the edge of the summed disc being what limits it.
        np.testing.assert_allclose(np.array(centre) * 2.0 * 80 / side, 0, atol=0.4)


def test_negatives_have_no_image_and_keep_their_rows(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    particles = run(tmp_path, tables, ExtractParams()).tables["particles"]
    assert particles["particle_id"].to_list() == tables["particles"]["particle_id"].to_list()
    assert particles["label"].to_list() == tables["particles"]["label"].to_list()
    assert particles["ncc"].to_list() == tables["particles"]["ncc"].to_list()
    assert particles["stack_index"].to_list() == [0, 1, None, 2, 3, 0, 1, 2, 3, 4]
    assert particles["defocus_u_angstrom"].to_list() == [1e4] * 5 + [2e4] * 5
    assert particles["defocus_angle_deg"].to_list() == [10.0] * 5 + [20.0] * 5


def test_particles_get_their_local_defocus(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    """A plane of 60 Å from the middle to an edge along x and of -30 Å along y, in the first micrograph alone."""
    surface = '{"degree": 1, "coefficients_angstrom": [60.0, -30.0]}'
    tables["micrographs"] = tables["micrographs"].with_columns(
        defocus_surface=pl.when(pl.col("micrograph_id") == "m0").then(pl.lit(surface))
    )
    particles = run(tmp_path, tables, ExtractParams()).tables["particles"]
    rise = [60 * ((x + 0.5) / 200 - 1) - 30 * ((y + 0.5) / 150 - 1) for x, y in PLACES]
    assert particles["defocus_u_angstrom"].to_list() == pytest.approx([*(1e4 + d for d in rise), *[2e4] * 5])
    assert particles["defocus_v_angstrom"].to_list() == pytest.approx([*(0.9e4 + d for d in rise), *[1.9e4] * 5])
    assert particles["defocus_angle_deg"].to_list() == [10.0] * 5 + [20.0] * 5


def test_a_micrograph_that_failed_leaves_its_rows(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    particles = run(tmp_path, tables, ExtractParams(), failing=("m0",)).tables["particles"]
    assert particles.height == 10
    assert particles.filter(pl.col("micrograph_id") == "m0")["stack_path"].null_count() == 5
    assert particles.filter(pl.col("micrograph_id") == "m1")["stack_path"].null_count() == 0


def test_running_again_replaces_the_columns(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    once = run(tmp_path, tables, ExtractParams()).tables["particles"]
    again = run(tmp_path, tables | {"particles": once}, ExtractParams()).tables["particles"]
    assert again.select(sorted(again.columns)).equals(once.select(sorted(once.columns)))


def test_halves_are_reproducible_even_and_known_by_the_seed(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    many = pl.concat([tables["particles"].with_columns(pl.col("particle_id") + f"-{i}") for i in range(200)])
    rows = complete_table("particles", many.with_columns(label=pl.lit("negative"), stack_path=pl.lit(None)))

    def divide(seed: int, frame: pl.DataFrame = rows) -> pl.DataFrame:
        nothing = Saved({"particles": rows.head(0)})
        result = STAGE.collect(Inputs(tables | {"particles": frame}), nothing, ExtractParams(seed=seed))
        return result.tables["particles"].select("particle_id", "half")

    halves = divide(0)["half"]
    assert set(halves) == {1, 2}
    # Four standard deviations of 2000 tosses.
    assert abs((halves == 1).sum() - 1000) < 90
    assert divide(0).equals(divide(0))
    # Neither order nor company matters.
    fewer = rows.reverse().head(500)
    assert divide(0, fewer).equals(divide(0).reverse().head(500))
    assert abs((divide(1)["half"] == halves).mean() - 0.5) < 0.1  # type: ignore[operator]


def test_nothing_to_extract(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    tables["particles"] = tables["particles"].with_columns(label=pl.lit("negative"))
    with pytest.raises(UserError, match="no positives"):
        STAGE.plan(Inputs(tables), ExtractParams(), Context(tmp_path))
