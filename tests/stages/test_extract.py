"""The stage `extract`: what is cut out, at which pixel size, and into which half it goes."""

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import polars as pl
import pytest

from vitreous.errors import SettingError, UserError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import write_star
from vitreous.model.params import build_params
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table
from vitreous.stages.classify2d import STAGE as CLASSIFY2D
from vitreous.stages.classify2d import Classify2dParams
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
        "score": [0.5] * 2 * len(PLACES),
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


def test_particles_of_inverted_micrographs_are_bright_too(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    """As the picker says, or as the images show where nobody says: picks by hand or of another program."""

    def read(contrast: str | None) -> tuple[np.ndarray, Saved]:
        known = pl.lit(contrast, pl.String)
        result = run(
            tmp_path, tables | {"particles": tables["particles"].with_columns(contrast=known)}, ExtractParams()
        )
        row = result.tables["particles"].row(0, named=True)
        return read_mrc(tmp_path / row["stack_path"])[0], result

    dark, result = read(None)
    assert set(result.tables["particles"]["contrast"]) == {"dark"}
    assert result.warnings == ()
    for path in ("m0.mrc", "m1.mrc"):
        image, header = read_mrc(tmp_path / path)
        write_mrc(tmp_path / path, -image, header.pixel_size_angstrom)
    np.testing.assert_allclose(read("bright")[0], dark, atol=1e-5)
    np.testing.assert_allclose(read("dark")[0], -dark, atol=1e-5)
    found, result = read(None)
    np.testing.assert_allclose(found, dark, atol=1e-5)
    assert set(result.tables["particles"]["contrast"]) == {"bright"}
    assert "bright places" in result.warnings[0]


def test_one_hand_pick_among_candidates_has_their_contrast(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    rows = pl.Series([None, *["dark"] * (2 * len(PLACES) - 1)], dtype=pl.String)
    result = run(tmp_path, tables | {"particles": tables["particles"].with_columns(contrast=rows)}, ExtractParams())
    assert result.tables["particles"]["contrast"].to_list() == ["dark"] * 2 * len(PLACES)


def test_the_parameter_of_earlier_versions_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(
        SettingError, match=r"stage extract has the parameter 'contrast' no more: .*pick\.contrast=bright"
    ):
        build_params("extract", ExtractParams, {"contrast": "bright"})
    with pytest.raises(SettingError, match="no parameter 'kontrast'; it has box_factor"):
        build_params("extract", ExtractParams, {"kontrast": "bright"})


def test_negatives_have_no_image_and_keep_their_rows(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    particles = run(tmp_path, tables, ExtractParams()).tables["particles"]
    assert particles["particle_id"].to_list() == tables["particles"]["particle_id"].to_list()
    assert particles["label"].to_list() == tables["particles"]["label"].to_list()
    assert particles["score"].to_list() == tables["particles"]["score"].to_list()
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


def find_centre_angstrom(image: np.ndarray, pixel: float) -> np.ndarray:
    """Return where a bright particle lies off element N // 2, as (x, y), Å."""
    offset = np.arange(len(image)) - len(image) // 2
    inside = np.hypot(offset[:, None], offset[None, :]) * pixel < 36
    near = np.where(inside, np.clip(image.astype(np.float64) - 4.5, 0, None), 0)
    return np.array([(near.sum(0) @ offset) / near.sum(), (near.sum(1) @ offset) / near.sum()]) * pixel


def is_inner() -> pl.Expr:
    """Return which particles are so far from the edges that their own mirror image is not in the box."""
    return pl.col("x_px").is_between(60, 340) & pl.col("y_px").is_between(60, 240)


def mispick(tables: dict[str, pl.DataFrame], offset: tuple[float, float]) -> dict[str, pl.DataFrame]:
    """Move the picks off their particles, and say in the class columns what would centre their images."""
    moved = tables["particles"].with_columns(
        x_px=pl.col("x_px") + offset[0],
        y_px=pl.col("y_px") + offset[1],
        class_origin_x_angstrom=pl.lit(offset[0] * PIXEL),
        class_origin_y_angstrom=pl.lit(offset[1] * PIXEL),
        origin_x_angstrom=pl.lit(offset[0] * PIXEL + 1.5),
        origin_y_angstrom=pl.lit(offset[1] * PIXEL),
        class_psi_deg=pl.lit(33.0),
    )
    return tables | {"particles": moved}


def test_second_extraction_centres_what_was_picked_off_its_particle(
    tmp_path: Path, tables: dict[str, pl.DataFrame]
) -> None:
    offset = (3.3, -2.6)
    before = run(tmp_path, mispick(tables, offset), ExtractParams(max_box_px=80)).tables["particles"].row(1, named=True)
    image = read_mrc(tmp_path / before["stack_path"])[0][before["stack_index"]]
    # An image is off by minus what has to be added to it.
    np.testing.assert_allclose(find_centre_angstrom(image, PIXEL), [-6.6, 5.2], atol=0.4)
    rows = run(tmp_path, mispick(tables, offset), ExtractParams(max_box_px=80, recentre=True)).tables["particles"]
    positives = rows.filter(pl.col("label") == "positive")
    for row in positives.filter(is_inner()).iter_rows(named=True):
        image = read_mrc(tmp_path / row["stack_path"])[0][row["stack_index"]]
        np.testing.assert_allclose(find_centre_angstrom(image, PIXEL), 0, atol=0.4)
    truth = tables["particles"].filter(pl.col("label") == "positive")
    np.testing.assert_allclose(positives.select("x_px", "y_px"), truth.select("x_px", "y_px"), atol=1e-9)
    # What is left of the shifts is none in the plane, and in space what the classes did not see. Angles stay.
    np.testing.assert_allclose(positives["class_origin_x_angstrom"], 0, atol=1e-9)
    np.testing.assert_allclose(positives["class_origin_y_angstrom"], 0, atol=1e-9)
    np.testing.assert_allclose(positives["origin_x_angstrom"], 1.5)
    np.testing.assert_allclose(positives["origin_y_angstrom"], 0, atol=1e-9)
    assert set(positives["class_psi_deg"]) == {33.0}
    # What is no particle is left where it is.
    assert rows.row(2, named=True)["x_px"] == PLACES[2][0] + offset[0]
    assert rows.row(2, named=True)["class_origin_x_angstrom"] == offset[0] * PIXEL


def test_classes_of_displaced_picks_bring_them_back(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    """The whole way: picks off long particles that lie in any direction, 2D classification, second extraction."""
    rng = np.random.default_rng(1)
    side, step = 720, 80
    y, x = np.mgrid[:side, :side]
    places, names = [], []
    for name in ("m0", "m1"):
        image = rng.normal(size=(side, side))
        for i, j in np.ndindex(8, 8):
            cx, cy = (np.array([j, i]) + 1) * step + rng.uniform(-4, 4, 2)
            angle = rng.uniform(0, np.pi)
            along, across = (
                (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle),
                (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle),
            )
            image -= 2 * np.exp(-(along**2) / (2 * 12**2) - across**2 / (2 * 6**2))
            places.append((cx, cy))
            names.append(name)
        write_mrc(tmp_path / f"{name}.mrc", image.astype(np.float32), PIXEL)
    truth, n = np.array(places), len(places)
    picked = truth + rng.uniform(-3, 3, (n, 2))
    optics = {name: pl.lit(None, pl.Float64) for name in ("defocus_u_angstrom", "defocus_v_angstrom")}
    micrographs = tables["micrographs"].with_columns(nx_px=side, ny_px=side, **optics)
    rows = {
        "particle_id": [f"p{i}" for i in range(n)],
        "micrograph_id": names,
        "x_px": picked[:, 0],
        "y_px": picked[:, 1],
    }
    fixed = {"diameter_angstrom": [DIAMETER] * n, "picker": ["blob"] * n, "label": ["positive"] * n}
    particles = complete_table("particles", pl.DataFrame({**rows, **fixed}))
    given = {"micrographs": micrographs, "particles": particles}
    given["particles"] = run(tmp_path, given, ExtractParams()).tables["particles"]
    inputs, params = Inputs(given), Classify2dParams(n_classes=1, n_iterations=8, max_resolution_angstrom=12)
    folder = RunFolder(tmp_path, tmp_path / "runs" / "007-classify2d")
    found = CLASSIFY2D.compute(CLASSIFY2D.load(inputs, params, Context(tmp_path)), params, lambda fraction, words: None)
    (folder.path / "images").mkdir(parents=True)
    classified = complete_table("particles", CLASSIFY2D.save(found, inputs, params, folder).tables["particles"])
    moved = run(tmp_path, given | {"particles": classified}, ExtractParams(recentre=True)).tables["particles"]

    def measure(frame: pl.DataFrame) -> float:
        return float(np.sqrt(np.square(frame.select("x_px", "y_px").to_numpy() - truth).sum(axis=1).mean()))

    assert measure(particles) > 2
    # Noise alone leaves half a pixel; a wrong sign would double the distance.
    assert measure(moved) < 1


def test_recentred_particles_stay_in_the_micrograph_and_get_the_defocus_of_their_new_place(
    tmp_path: Path, tables: dict[str, pl.DataFrame]
) -> None:
    tables["micrographs"] = tables["micrographs"].with_columns(
        defocus_surface=pl.lit('{"degree": 1, "coefficients_angstrom": [60.0, -30.0]}')
    )
    moved = tables["particles"].with_columns(
        class_origin_x_angstrom=pl.when(pl.col("particle_id") == "m0_3").then(100.0).otherwise(-20.0),
        class_origin_y_angstrom=pl.lit(0.0),
    )
    rows = run(tmp_path, tables | {"particles": moved}, ExtractParams(recentre=True)).tables["particles"]
    assert rows["x_px"].to_list()[:4] == pytest.approx([110.0, 211.37, 300.5, 0.0])
    assert rows["class_origin_x_angstrom"].to_list()[3] == pytest.approx(100 - 20.25 * PIXEL)
    x, y = rows["x_px"].to_numpy(), rows["y_px"].to_numpy()
    rise = 60 * ((x + 0.5) / 200 - 1) - 30 * ((y + 0.5) / 150 - 1)
    np.testing.assert_allclose(rows["defocus_u_angstrom"].to_numpy()[:5], 1e4 + rise[:5])


def test_of_two_picks_of_one_particle_the_better_stays(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    """Apart where they were picked, both moved to the particle between them by their class."""
    first = tables["particles"].row(0, named=True)
    pair = pl.DataFrame(
        [
            first | {"particle_id": "left", "x_px": 88.0, "score": 0.6, "class_origin_x_angstrom": -24.0},
            first | {"particle_id": "right", "x_px": 110.0, "score": 0.7, "class_origin_x_angstrom": 20.0},
        ],
        schema=tables["particles"].schema,
    ).with_columns(class_origin_y_angstrom=pl.lit(0.0))
    particles = pl.concat([pair, tables["particles"].slice(1)])
    apart = run(tmp_path, tables | {"particles": particles}, ExtractParams()).tables["particles"]
    assert apart["label"].to_list()[:2] == ["positive", "positive"]
    params = ExtractParams(recentre=True)
    rows = run(tmp_path, tables | {"particles": particles}, params).tables["particles"]
    assert rows["label"].to_list()[:2] == ["negative", "positive"]
    assert rows["reason"].to_list()[:2] == ["duplicate", None]
    assert rows["stack_path"].to_list()[0] is None
    assert rows["x_px"].to_list()[1] == pytest.approx(100)
    # A person's pick is better than any score.
    by_hand = particles.with_columns(annotator=pl.when(pl.col("particle_id") == "left").then(pl.lit("ada")))
    rows = run(tmp_path, tables | {"particles": by_hand}, params).tables["particles"]
    assert rows["reason"].to_list()[:2] == [None, "duplicate"]
    kept = run(tmp_path, tables | {"particles": particles}, ExtractParams(recentre=True, duplicate_fraction=0))
    assert kept.tables["particles"]["label"].to_list()[:2] == ["positive", "positive"]


def test_half_precision_is_the_same_image(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    stacks = []
    for half in (False, True):
        rows = run(tmp_path, tables, ExtractParams(float16=half)).tables["particles"]
        with mrcfile.open(tmp_path / rows["stack_path"][0]) as mrc:
            assert mrc.data.dtype == (np.float16 if half else np.float32)
            assert mrc.is_image_stack()
            stacks.append(mrc.data.astype(np.float32))
    np.testing.assert_allclose(stacks[1], stacks[0], rtol=5e-4, atol=1e-4)


def call_relion(folder: Path, *words: str) -> str:
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.relion
def test_relion_reads_the_stacks(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    rows = run(tmp_path, tables, ExtractParams()).tables["particles"].drop_nulls("stack_path")
    folder = tmp_path / Path(rows["stack_path"][0]).parent
    ours = np.concatenate([read_mrc(folder / name)[0] for name in ("m0.mrcs", "m1.mrcs")])
    names = [f"{row['stack_index'] + 1:06d}@{Path(row['stack_path']).name}" for row in rows.iter_rows(named=True)]
    optics = {
        "rlnOpticsGroup": 1, "rlnOpticsGroupName": "g", "rlnImagePixelSize": float(rows["stack_pixel_size_angstrom"][0]),
        "rlnImageSize": int(rows["box_px"][0]), "rlnImageDimensionality": 2, "rlnVoltage": 300.0,
        "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1,
    }  # fmt: skip
    particles = pl.DataFrame({"rlnImageName": names, "rlnOpticsGroup": [1] * len(names)})
    write_star(folder / "p.star", {"optics": pl.DataFrame([optics]), "particles": particles})
    call_relion(folder, "relion_stack_create", "--i", "p.star", "--o", "joined")
    np.testing.assert_array_equal(read_mrc(folder / "joined.mrcs")[0], ours)
    said = call_relion(folder, "relion_image_handler", "--i", "m1.mrcs", "--stats").splitlines()[-5:]
    for line, image in zip(said, ours[-5:], strict=True):
        assert float(line.split("avg=")[1].split()[0]) == pytest.approx(image.mean(), abs=1e-4)
        assert float(line.split("angpix =")[1]) == pytest.approx(rows["stack_pixel_size_angstrom"][0], rel=1e-4)
    radius = 0.5 * 1.1 * DIAMETER / rows["stack_pixel_size_angstrom"][0]
    words = f"--operate_on joined.mrcs --operate_out again.mrcs --norm --bg_radius {radius:.4f} --white_dust -1 --black_dust -1"
    call_relion(folder, "relion_preprocess", *words.split())
    # Normalising what is normalised changes next to nothing; RELION's circle has a whole number of pixels.
    inner = rows.select(is_inner()).to_series().to_numpy()
    assert inner.sum() == 5
    for one, other in zip(read_mrc(folder / "again.mrcs")[0][inner], ours[inner], strict=True):
        slope, shift = np.polyfit(other.ravel(), one.ravel(), 1)
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.998
        assert (slope, shift) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05))
