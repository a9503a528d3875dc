import json
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.model.tables import complete_table
from vitreous.reports.ctf_section import MAX_MICROGRAPHS, _make_figure, draw_ctf


def write_fit(root: Path, name: str, resolution: float, **changes: object) -> dict[str, object]:
    k = np.linspace(1 / 30, 1 / 4, 50)
    document = {
        "frequency_per_angstrom": k.tolist(),
        "spectrum": np.sin(100 * k).tolist(),
        "ctf_squared": (np.sin(100 * k) ** 2).tolist(),
        "correlation": np.exp(-k).tolist(),
        "search_defocus_angstrom": [1e4, 2e4, 3e4],
        "search_score": [0.1, 0.5, 0.1],
        "spectrum_beside_ctf": ["00ff", "7f80"],
        "spectrum_k_max_per_angstrom": 0.2,
        "landscape_x_px": [0.0, 99.0],
        "landscape_y_px": [0.0, 49.0],
        "landscape_defocus_angstrom": [[19_900.0, 20_000.0], [20_000.0, 20_100.0]],
        "tile_x_px": [25.0],
        "tile_y_px": [25.0],
        "tile_defocus_angstrom": [19_990.0],
    }
    (root / f"{name}.json").write_text(json.dumps(document))
    row = {
        "micrograph_id": name,
        "exposure_id": name,
        "micrograph_path": f"{name}.mrc",
        "nx_px": 100,
        "ny_px": 50,
        "pixel_size_angstrom": 1.5,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "optics_group": 1,
        "defocus_u_angstrom": 20_100.0,
        "defocus_v_angstrom": 19_900.0,
        "defocus_angle_deg": 30.0,
        "phase_shift_deg": 0.0,
        "defocus_error_angstrom": 9.0,
        "ctf_resolution_angstrom": resolution,
        "ctf_curve_path": f"{name}.json",
        "accepted": True,
    }
    return row | changes


def draw(root: Path, rows: list[dict[str, object]]) -> list[str]:
    table = complete_table("micrographs", pl.DataFrame(rows))
    return [caption for caption, png in draw_ctf(root, {"micrographs": table}) if png.startswith(b"\x89PNG")]


def test_the_file_of_curves_is_read_as_it_is_written(tmp_path: Path) -> None:
    row = write_fit(tmp_path, "m", 4.0)
    figure = _make_figure(row, json.loads((tmp_path / "m.json").read_text()))
    assert figure.spectrum_beside_ctf.tolist() == [[0, 255], [127, 128]]
    assert figure.defocus_angstrom == 20_000
    assert figure.landscape is not None
    assert figure.landscape.defocus_angstrom[1].tolist() == [20_000, 20_100]
    assert figure.landscape.tile_defocus_angstrom.tolist() == [19_990]


def test_pictures_in_the_form_of_an_earlier_version_are_left_out(tmp_path: Path) -> None:
    row = write_fit(tmp_path, "m", 4.0)
    path = tmp_path / "m.json"
    document = json.loads(path.read_text())
    document["spectrum_beside_ctf"] = [[0.0, 1.0], [0.5, 0.5]]
    path.write_text(json.dumps(document))
    assert _make_figure(row, document).spectrum_beside_ctf.size == 0
    assert draw(tmp_path, [row])


def test_fits_are_drawn_from_the_best_to_the_worst(tmp_path: Path) -> None:
    rows = [write_fit(tmp_path, f"m{i}", 4.0 + (i * 3) % 7) for i in range(7)]
    captions = draw(tmp_path, rows)
    assert captions[0] == "CTF of 7 micrographs"
    assert [caption.split(": ")[0] for caption in captions[1:]] == ["m0", "m3", "m6", "m2"][:MAX_MICROGRAPHS]
    assert "U 20100 Å, V 19900 Å, U at 30°; rings to 4.0 Å" in captions[1]


def test_what_is_special_is_said(tmp_path: Path) -> None:
    tilted = {"specimen_tilt_deg": 12.0, "defocus_range_angstrom": 321.0, "phase_shift_deg": 90.0}
    rejected = {"accepted": False, "reason": "ctf fit"}
    (_, caption) = draw(tmp_path, [write_fit(tmp_path, "m", 4.0, **tilted, **rejected)])
    assert "phase shift 90°" in caption
    assert "tilted by 12.0°, the defocus differs by up to 321 Å" in caption
    assert caption.endswith("not accepted: ctf fit")


def test_without_fits_there_is_no_section(tmp_path: Path) -> None:
    row = write_fit(tmp_path, "m", 4.0, defocus_u_angstrom=None, defocus_v_angstrom=None)
    assert draw(tmp_path, [row]) == []
    assert draw_ctf(tmp_path, {}) == []
