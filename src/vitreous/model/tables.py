"""The six tables that flow between stages, with the type, unit and meaning of every column.

A stage may leave out columns that it has no value for; `complete_table` adds them as nulls, in the declared order, and
`check_table` refuses what is unknown, missing, of the wrong type or not unique.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

__all__ = ["TABLES", "Column", "Table", "check_table", "complete_table", "empty_table"]

DATA_MODEL_VERSION = "1.0"


@dataclass(frozen=True)
class Column:
    """One column: `required` columns may not hold nulls."""

    name: str
    dtype: type[pl.DataType]
    description: str
    required: bool = False


@dataclass(frozen=True)
class Table:
    """One table: rows are identified by the first column, which is unique."""

    name: str
    description: str
    columns: tuple[Column, ...]

    @property
    def key(self) -> str:
        """Name of the column that identifies a row."""
        return self.columns[0].name

    @property
    def schema(self) -> pl.Schema:
        """The polars schema, in the declared order."""
        return pl.Schema({column.name: column.dtype() for column in self.columns})


S, F, I, B = pl.String, pl.Float64, pl.Int64, pl.Boolean

_OPTICS = (
    Column("pixel_size_angstrom", F, "Å per pixel of the image that this row names", required=True),
    Column("voltage_kv", F, "acceleration voltage, kV", required=True),
    Column("cs_mm", F, "spherical aberration, mm", required=True),
    Column("amplitude_contrast", F, "fraction of amplitude contrast, 0 to 1", required=True),
    Column("optics_group", I, "number of the optics group, from 1", required=True),
)

_DEFOCUS = (
    Column("defocus_u_angstrom", F, "larger defocus, Å, underfocus positive"),
    Column("defocus_v_angstrom", F, "smaller defocus, Å, underfocus positive"),
    Column("defocus_angle_deg", F, "angle of U from +x towards +y (increasing row), degrees, 0 to 180"),
    Column("phase_shift_deg", F, "phase shift of a phase plate, degrees"),
)

ENTRIES = Table(
    "entries",
    "One row per data set: facts about the specimen.",
    (
        Column("entry_id", S, "identifier", required=True),
        Column("title", S, "what it is"),
        Column("source", S, "where the data come from, e.g. EMPIAR-10017 or a DOI"),
        Column("licence", S, "terms under which the dataset may be used, e.g. CC0-1.0"),
        Column("molecular_weight_kda", F, "weight of the particle, kDa"),
        Column("diameter_angstrom", F, "particle diameter as the user gave it, Å; null: to be estimated"),
        Column("symmetry", S, "point group, e.g. C1, D2, O", required=True),
        Column("total_dose", F, "total exposure, e/Å²"),
    ),
)

EXPOSURES = Table(
    "exposures",
    "One row per movie or finished micrograph as it came from the microscope.",
    (
        Column("exposure_id", S, "identifier: the file's stem", required=True),
        Column("movie_path", S, "movie, relative to the project; null for a finished micrograph"),
        Column("micrograph_path", S, "finished micrograph, relative to the project; null for a movie"),
        Column("n_frames", I, "frames", required=True),
        Column("nx_px", I, "columns", required=True),
        Column("ny_px", I, "rows", required=True),
        *_OPTICS,
        Column("dose_per_frame", F, "exposure of one frame, e/Å²"),
        Column("pre_exposure", F, "exposure before the first frame, e/Å²"),
        Column("gain_path", S, "multiplicative gain reference, relative to the project"),
        Column("defects_path", S, "map or list of bad pixels, relative to the project"),
        Column("eer_upsampling", I, "1 or 2: grid that an EER movie is rendered on; null for other formats"),
    ),
)

MICROGRAPHS = Table(
    "micrographs",
    "One row per corrected micrograph.",
    (
        Column("micrograph_id", S, "identifier", required=True),
        Column("exposure_id", S, "the exposure it was made from", required=True),
        Column("micrograph_path", S, "dose-weighted (or only) image, MRC, relative to the project", required=True),
        Column("nodw_path", S, "image without dose weighting, for CTF estimation; null: same as micrograph_path"),
        Column("even_path", S, "sum of the even frames, from the first, without dose weighting"),
        Column("odd_path", S, "sum of the odd frames, from the second, without dose weighting"),
        Column("nx_px", I, "columns", required=True),
        Column("ny_px", I, "rows", required=True),
        *_OPTICS,
        Column("optics_group_name", S, "name of the optics group in the program that it comes from"),
        Column(
            "trajectory_path", S, "JSON file with the motion of the whole and of patches; null for finished micrographs"
        ),
        Column("total_motion_angstrom", F, "length of the trajectory, Å"),
        Column("local_motion_angstrom", F, "largest displacement of a place beside the whole frame, Å; 0: none found"),
        Column("early_motion_angstrom", F, "motion over the first 4 e/Å², Å"),
        Column("late_motion_angstrom", F, "motion after the first 4 e/Å², Å"),
        *_DEFOCUS,
        Column("defocus_error_angstrom", F, "standard error of the mean of U and V, Å"),
        Column("astigmatism_angstrom", F, "U less V, Å"),
        Column("astigmatism_error_angstrom", F, "its standard error, Å"),
        Column(
            "defocus_angle_error_deg", F, "standard error of the angle of U, degrees; 52 where it is not determined"
        ),
        Column("phase_shift_error_deg", F, "standard error of the phase shift, degrees; 0 where it was given"),
        Column("ctf_resolution_angstrom", F, "where the correlation of spectrum and CTF falls below 0.3, Å"),
        Column("ctf_strict_resolution_angstrom", F, "where the fit ends by CTFFIND's rule, Å"),
        Column("ctf_score", F, "mean correlation of spectrum and CTF up to the first of these resolutions"),
        Column(
            "ctf_significance", F, "of the rings of the CTF in the spectrum, in standard errors; noise alone reaches 5"
        ),
        Column(
            "ice_ring_score", F, "power at 3.9 to 3.5 Å over that of its neighbours; null where pixels are too large"
        ),
        Column(
            "coarseness",
            F,
            "ln of power at 128 to 340 Å over that at 51 to 102 Å: high with contamination and crystals",
        ),
        Column("structure", F, "ln of power at 51 to 102 Å over that of noise: about 0 where nothing is in view"),
        Column("specimen_tilt_deg", F, "tilt of the plane nearest to the local defocus, degrees; 0: found none"),
        Column("specimen_tilt_axis_deg", F, "line of equal defocus, from +x towards +y, degrees, 0 to 180"),
        Column("specimen_tilt_error_deg", F, "standard error of the tilt, degrees"),
        Column("defocus_range_angstrom", F, "largest less smallest local defocus, Å"),
        Column(
            "defocus_surface",
            S,
            "local less mean defocus as JSON: degree and coefficients (Å) of Legendre polynomials; null: the same everywhere",
        ),
        Column(
            "ctf_curve_path", S, "JSON file with spectra, CTF, correlation, search and landscape, as plots show them"
        ),
        Column("accepted", B, "whether later stages use it"),
        Column("reason", S, "why it is not accepted"),
    ),
)

PARTICLES = Table(
    "particles",
    "One row per candidate; candidates are labelled, never deleted.",
    (
        Column("particle_id", S, "identifier", required=True),
        Column("micrograph_id", S, "the micrograph it is in", required=True),
        Column(
            "x_px",
            F,
            "column of the centre in the corrected micrograph; pixel centres at integers",
            required=True,
        ),
        Column(
            "y_px",
            F,
            "row of the centre in the corrected micrograph; row 0 is the first in memory",
            required=True,
        ),
        Column("diameter_angstrom", F, "particle diameter used for picking, Å", required=True),
        Column("picker", S, "blob, template, manual or the name of a program", required=True),
        Column("annotator", S, "people who picked, moved or refused it, names joined by commas; null: a picker alone"),
        Column("ncc", F, "correlation with what was looked for, -1 to 1; null: another program picked"),
        Column(
            "score",
            F,
            "what candidates are ranked by, raw: ncc times the local contrast over the usual; of another program: its own",
        ),
        Column("power", F, "log10 of local power relative to the micrograph's median, raw"),
        Column(
            "noise_peaks",
            F,
            "expected number of peaks of pure noise in its micrograph with at least its score; null where noise was not whitened",
        ),
        Column(
            "score_calibrated",
            F,
            "score without the trend of micrograph medians with defocus above the review's threshold",
        ),
        Column("power_calibrated", F, "power less the trend of micrograph medians with defocus"),
        Column("template", I, "number of the best template"),
        Column("pick_psi_deg", F, "in-plane angle of the best template, degrees"),
        Column("contrast", S, "how particles show in the micrographs: dark or bright; null: not known yet"),
        Column("junk", S, "what the candidate lies in: carbon, ice or aggregate; null: in no junk"),
        Column(
            "junk_path",
            S,
            "PNG of all junk in its micrograph (0 none, 1 carbon, 2 ice, 3 aggregate); null: there is none",
        ),
        Column("label", S, "candidate, positive or negative", required=True),
        Column("reason", S, "why it is negative: score, ice, aggregate, carbon, border, duplicate, class or expert"),
        *_DEFOCUS,
        Column("stack_path", S, "MRC stack with the extracted image, relative to the project"),
        Column("stack_index", I, "position in the stack, from 0"),
        Column("box_px", I, "side of the extracted image, pixels"),
        Column("stack_pixel_size_angstrom", F, "Å per pixel of the extracted image"),
        Column("half", I, "half set, 1 or 2"),
        Column("class_id", I, "2D class, from 1"),
        Column("class_psi_deg", F, "in-plane angle of the class, degrees, RELION's psi"),
        Column("class_origin_x_angstrom", F, "shift to add to the image to centre it, Å, RELION's origin"),
        Column("class_origin_y_angstrom", F, "shift to add to the image to centre it, Å, RELION's origin"),
        Column("class_probability", F, "posterior probability of the class"),
        Column("class_n_effective", F, "classes it is divided among: one over the sum of their squared probabilities"),
        Column("rot_deg", F, "Euler angle, ZYZ as RELION, degrees"),
        Column("tilt_deg", F, "Euler angle, ZYZ as RELION, degrees"),
        Column("psi_deg", F, "Euler angle, ZYZ as RELION, degrees"),
        Column("origin_x_angstrom", F, "shift to add to the image to centre it in 3D, Å, RELION's origin"),
        Column("origin_y_angstrom", F, "shift to add to the image to centre it in 3D, Å, RELION's origin"),
    ),
)

CLASSES = Table(
    "classes",
    "One row per 2D class.",
    (
        Column("class_id", I, "number of the class, from 1", required=True),
        Column(
            "image_path",
            S,
            "MRC stack of class averages (protein bright), relative to the project",
            required=True,
        ),
        Column("image_index", I, "position in the stack, from 0", required=True),
        Column("box_px", I, "side of the image, pixels", required=True),
        Column("pixel_size_angstrom", F, "Å per pixel of the class average", required=True),
        Column(
            "diameter_angstrom", F, "particle diameter assumed, Å; after selection as the classes show", required=True
        ),
        Column(
            "contrast", S, "how the particles show in the micrographs: dark or bright; in the averages they are bright"
        ),
        Column("n_particles", I, "particles assigned", required=True),
        Column("share", F, "fraction of all particles", required=True),
        Column(
            "resolution_angstrom",
            F,
            "ring correlation of half averages at 0.143, Å; after select2d corrected for the mask, of few particles by SSNR",
        ),
        Column("mean_probability", F, "mean posterior probability of the class over its particles"),
        Column("n_effective", F, "effective classes assigned (ECA): mean over its particles of class_n_effective"),
        Column("view_score", F, "1 less the highest correlation with another selected class, over turn, mirror, shift"),
        Column("score", F, "probability that it shows particles, 0 to 1"),
        Column("selected", B, "whether it shows particles; null before selection"),
        Column(
            "reason",
            S,
            "why it is not selected: resolution, strength, mixed, off-centre, shape, surroundings or expert",
        ),
    ),
)

VOLUMES = Table(
    "volumes",
    "One row per 3D map.",
    (
        Column("volume_id", S, "identifier", required=True),
        Column("map_path", S, "map, MRC, relative to the project", required=True),
        Column("half1_path", S, "unfiltered half map 1"),
        Column("half2_path", S, "unfiltered half map 2"),
        Column("mask_path", S, "soft mask used for the masked curves"),
        Column("fsc_path", S, "parquet file with the FSC curves"),
        Column("box_px", I, "side, voxels", required=True),
        Column("pixel_size_angstrom", F, "Å per voxel", required=True),
        Column("symmetry", S, "point group imposed", required=True),
        Column("n_particles", I, "particles used", required=True),
        Column("resolution_angstrom", F, "gold-standard FSC at 0.143, corrected for the mask where validated, Å"),
        Column("resolution_unmasked_angstrom", F, "gold-standard FSC at 0.143 without a mask, Å"),
        Column("seed", I, "seed of the run that made it"),
    ),
)

TABLES: Mapping[str, Table] = {
    table.name: table for table in (ENTRIES, EXPOSURES, MICROGRAPHS, PARTICLES, CLASSES, VOLUMES)
}


def empty_table(name: str) -> pl.DataFrame:
    """Return the named table with all of its columns and no rows."""
    return pl.DataFrame(schema=TABLES[name].schema)


def complete_table(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` with every declared column, nulls where it had none, cast and in the declared order.

    Raises
    ------
    ValueError
        If `frame` has a column that the table does not declare, or a value that does not fit its type.
    """
    table = TABLES[name]
    unknown = [column for column in frame.columns if column not in table.schema]
    if unknown:
        raise ValueError(f"table {name}: unknown columns {unknown}; declared are {list(table.schema)}")
    try:
        return frame.select(
            (pl.col(column) if column in frame.columns else pl.lit(None)).cast(dtype).alias(column)
            for column, dtype in table.schema.items()
        )
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"table {name}: {error}") from error


def check_table(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return `frame` completed, after checking that required columns are filled and the key is unique.

    Raises
    ------
    ValueError
        If a required column holds nulls or the key is not unique.
    """
    table = TABLES[name]
    frame = complete_table(name, frame)
    for column in table.columns:
        if column.required and frame[column.name].null_count():
            raise ValueError(
                f"table {name}: column {column.name} is required, found {frame[column.name].null_count()} nulls"
            )
    if frame[table.key].n_unique() != frame.height:
        doubled = frame[table.key].filter(frame[table.key].is_duplicated())[0]
        raise ValueError(f"table {name}: {table.key} must be unique, found {doubled!r} more than once")
    return frame
