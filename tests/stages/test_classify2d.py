"""The stage on a folder: what its tables say of planted classes, and what it refuses."""

import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.ndimage

from vitreous.errors import SettingError, UserError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import CLASSES
from vitreous.stages.classify2d import STAGE, Classify2dParams

N, PIXEL, DIAMETER = 32, 4.0, 80.0
BLOBS = (
    [(6.0, 1.0, 1.0), (-3.0, 5.0, 0.7), (-3.0, -6.0, 0.8)],
    [(0.0, 7.0, 1.0), (0.5, -5.0, 1.4), (4.0, 0.0, 0.5)],
)
PARAMS = Classify2dParams(n_classes=3, n_iterations=10, max_shift_factor=0.12)


def draw(view: int, angle_deg: float, shift: np.ndarray) -> np.ndarray:
    """Return the view turned from +x towards +y about N // 2, then shifted (y, x)."""
    y, x = np.mgrid[:N, :N] - N // 2
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    image = np.zeros((N, N))
    for bx, by, height in BLOBS[view]:
        cx, cy = c * bx - s * by + shift[1], s * bx + c * by + shift[0]
        image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 1.6**2))
    return image


def make_inputs(root: Path, n: int = 120) -> Inputs:
    """Write two stacks and return their tables; the last particle is a negative, and one has no image."""
    rng = np.random.default_rng(5)
    view, angle = rng.integers(0, 2, n), rng.uniform(-180, 180, n)
    shift = rng.normal(0, 0.8, (n, 2)).clip(-2, 2)
    images = np.array([4 * draw(k, a, s) + rng.normal(size=(N, N)) for k, a, s in zip(view, angle, shift, strict=True)])
    for m in range(2):
        write_mrc(root / f"m{m}.mrcs", images[m::2].astype(np.float32), PIXEL)
    particles = pl.DataFrame(
        {
            "particle_id": [f"p{i}" for i in range(n)],
            "micrograph_id": [f"m{i % 2}" for i in range(n)],
            "x_px": np.zeros(n),
            "y_px": np.zeros(n),
            "diameter_angstrom": np.full(n, DIAMETER),
            "picker": ["blob"] * n,
            "label": ["positive"] * (n - 1) + ["negative"],
            "defocus_u_angstrom": pl.Series([None] * n, dtype=pl.Float64),
            "defocus_v_angstrom": pl.Series([None] * n, dtype=pl.Float64),
            "defocus_angle_deg": pl.Series([None] * n, dtype=pl.Float64),
            "phase_shift_deg": pl.Series([None] * n, dtype=pl.Float64),
            "stack_path": [None, *[f"m{i % 2}.mrcs" for i in range(1, n)]],
            "stack_index": [i // 2 for i in range(n)],
            "box_px": [N] * n,
            "stack_pixel_size_angstrom": [PIXEL] * n,
            "half": [i // 2 % 2 + 1 for i in range(n)],
            "contrast": ["bright"] * n,
            "truth_view": view,
            "truth_angle": angle,
        }
    )
    micrographs = pl.DataFrame(
        {"micrograph_id": ["m0", "m1"], "voltage_kv": [300.0] * 2, "cs_mm": [2.7] * 2, "amplitude_contrast": [0.1] * 2}
    )
    return Inputs({"particles": particles, "micrographs": micrographs})


def change(inputs: Inputs, *columns: pl.Expr) -> Inputs:
    return Inputs({**inputs.tables, "particles": inputs["particles"].with_columns(*columns)})


def run(root: Path, inputs: Inputs, params: Classify2dParams = PARAMS) -> Saved:
    """Run the stage as the engine would."""
    folder = RunFolder(root, root / "runs" / "001-classify2d")
    (folder.path / "images").mkdir(parents=True, exist_ok=True)
    loaded = STAGE.load(inputs, params, Context(root))
    return STAGE.save(STAGE.compute(loaded, params, lambda fraction, words: None), inputs, params, folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inputs, Saved]:
    root = tmp_path_factory.mktemp("project")
    inputs = make_inputs(root)
    return root, inputs, run(root, inputs)


def test_tables_are_complete_and_counts_add_up(place: tuple[Path, Inputs, Saved]) -> None:
    root, inputs, saved = place
    particles, classes = saved.tables["particles"], saved.tables["classes"]
    assert set(classes["contrast"]) == {"bright"}
    assert particles["particle_id"].equals(inputs["particles"]["particle_id"])
    sorted_ones = particles.filter(pl.col("class_id").is_not_null())
    assert sorted_ones.height == 118
    assert particles["class_id"].null_count() == 2
    for name in ("class_psi_deg", "class_origin_x_angstrom", "class_origin_y_angstrom", "class_probability"):
        assert sorted_ones[name].is_finite().all()
        assert particles[name].null_count() == 2
    assert sorted_ones["class_psi_deg"].is_between(-180, 180).all()
    assert set(classes.columns) >= {column.name for column in CLASSES.columns if column.required}
    counts = sorted_ones["class_id"].value_counts().sort("class_id")
    assert classes["class_id"].to_list() == counts["class_id"].to_list()
    assert classes["n_particles"].to_list() == counts["count"].to_list()
    assert classes["share"].sum() == pytest.approx(1)
    assert classes["resolution_angstrom"].is_between(2 * PIXEL, N * PIXEL).all()
    stack, header = read_mrc(root / classes["image_path"][0])
    assert stack.shape == (classes.height, N, N)
    assert header.pixel_size_angstrom == pytest.approx(PIXEL)


def test_effective_classes_are_within_what_the_probability_allows(place: tuple[Path, Inputs, Saved]) -> None:
    found = place[2].tables["particles"].drop_nulls("class_id")
    probability, n_effective = found["class_probability"].to_numpy(), found["class_n_effective"].to_numpy()
    assert (n_effective > 0.999).all()
    assert (n_effective < 1 / probability**2 * 1.001).all()
    # One that is more than a half is the largest, and the largest bounds the sum of squares from above.
    largest = probability > 0.5
    assert (n_effective[largest] > 1 / probability[largest] * 0.999).all()


def test_views_are_parted(place: tuple[Path, Inputs, Saved]) -> None:
    sorted_ones = place[2].tables["particles"].filter(pl.col("class_id").is_not_null())
    groups = sorted_ones.partition_by("class_id")
    right = sum(int(np.bincount(group["truth_view"].to_numpy()).max()) for group in groups)
    assert right / sorted_ones.height > 0.95


def test_psi_and_origin_lay_the_image_on_its_average(place: tuple[Path, Inputs, Saved]) -> None:
    root, _, saved = place
    classes = saved.tables["classes"]
    averages = read_mrc(root / classes["image_path"][0])[0]
    y, x = np.mgrid[:N, :N] - N // 2
    inside = np.hypot(x, y) < 10
    scores: dict[str, list[float]] = {"right": [], "psi": [], "origin": []}
    for row in saved.tables["particles"].filter(pl.col("class_id").is_not_null()).iter_rows(named=True):
        image = read_mrc(root / row["stack_path"])[0][row["stack_index"]]
        average = averages[row["class_id"] - 1][inside]
        origin = np.array([row["class_origin_y_angstrom"], row["class_origin_x_angstrom"]]) / PIXEL
        for name, sense_psi, sense_origin in (("right", 1, 1), ("psi", -1, 1), ("origin", 1, -1)):
            # RELION moves the image by its origin, then turns it by psi from +x towards +y, which scipy calls minus psi.
            moved = scipy.ndimage.shift(image, sense_origin * origin, order=3, mode="grid-wrap")[1:, 1:]
            turned = np.zeros((N, N))
            turned[1:, 1:] = scipy.ndimage.rotate(moved, -sense_psi * row["class_psi_deg"], reshape=False, order=3)
            scores[name].append(float(np.corrcoef(turned[inside], average)[0, 1]))
    assert np.mean(scores["right"]) > 0.6
    assert np.mean(scores["right"]) > np.mean(scores["psi"]) + 0.3
    assert np.mean(scores["right"]) > np.mean(scores["origin"]) + 0.05


@pytest.mark.relion
def test_relion_lays_the_images_on_their_averages(place: tuple[Path, Inputs, Saved], tmp_path: Path) -> None:
    root, _, saved = place
    rows = saved.tables["particles"].filter(pl.col("class_id") == 1)
    images = np.array([read_mrc(root / row["stack_path"])[0][row["stack_index"]] for row in rows.iter_rows(named=True)])
    write_mrc(tmp_path / "images.mrcs", images, PIXEL)
    lines = [
        *("data_optics", "", "loop_", "_rlnOpticsGroupName", "_rlnOpticsGroup", "_rlnImagePixelSize", "_rlnImageSize"),
        *("_rlnImageDimensionality", "_rlnVoltage", "_rlnSphericalAberration", "_rlnAmplitudeContrast"),
        *(f"one 1 {PIXEL} {N} 2 300 2.7 0.1", "", "data_particles", "", "loop_", "_rlnImageName", "_rlnOpticsGroup"),
        *("_rlnAnglePsi", "_rlnOriginXAngst", "_rlnOriginYAngst"),
    ]
    names = ("class_psi_deg", "class_origin_x_angstrom", "class_origin_y_angstrom")
    for i, row in enumerate(rows.select(names).iter_rows()):
        lines.append(f"{i + 1:06d}@images.mrcs 1 " + " ".join(f"{value:.4f}" for value in row))
    (tmp_path / "images.star").write_text("\n".join(lines) + "\n\n")
    command = ["relion_stack_create", "--i", "images.star", "--o", "aligned", "--apply_transformation"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    y, x = np.mgrid[:N, :N] - N // 2
    inside = np.hypot(x, y) < 10
    average = read_mrc(root / saved.tables["classes"]["image_path"][0])[0][0][inside]
    aligned = read_mrc(tmp_path / "aligned.mrcs")[0]
    assert np.corrcoef(aligned.mean(axis=0)[inside], average)[0, 1] > 0.95


def test_unknown_defocus_is_reported(place: tuple[Path, Inputs, Saved]) -> None:
    root, inputs, saved = place
    assert saved.warnings == ("118 of 118 particles have no defocus; their images were not corrected for the CTF",)
    known = pl.when(pl.int_range(pl.len()) >= 10).then(12000.0)
    names = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg")
    some = change(inputs, *(known.alias(name) for name in names))
    assert run(root, some).warnings[0].startswith("9 of 118 particles have no defocus")


def test_boxes_of_several_sizes_are_refused(place: tuple[Path, Inputs, Saved]) -> None:
    root, inputs, _ = place
    mixed = change(inputs, pl.when(pl.col("micrograph_id") == "m0").then(N).otherwise(N + 4).alias("box_px"))
    with pytest.raises(UserError, match=r"found boxes of \[32, 36\] px, expected one size"):
        run(root, mixed)
    pixel = pl.when(pl.col("micrograph_id") == "m0").then(PIXEL).otherwise(PIXEL * 1.1)
    with pytest.raises(UserError, match=r"4\.000 to 4\.400 Å per pixel"):
        run(root, change(inputs, pixel.alias("stack_pixel_size_angstrom")))


def test_too_few_particles_and_too_coarse_a_limit_are_refused(place: tuple[Path, Inputs, Saved]) -> None:
    root, inputs, _ = place
    with pytest.raises(UserError, match="found 0 positives with an extracted image"):
        run(root, change(inputs, pl.lit("negative").alias("label")))
    with pytest.raises(SettingError, match="expected less than half of the particle diameter of 80 Å"):
        run(root, inputs, Classify2dParams(max_resolution_angstrom=50))
