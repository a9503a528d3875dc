"""Classify simulated particles of known view, angle and shift; RELION on the same particles where it is installed.

python benchmarks/accuracy/classify2d.py

1000 images of 64 px: ten views of a molecule at a signal-to-noise ratio of 0.1 with CTF, and 20 % junk, half of it noise alone
and half contamination at a border. The truth is projected from the map by `vitreous.simulate`. Writes
benchmarks/results/classify2d.md.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vitreous.io.mrc import write_mrc
from vitreous.io.star import read_star
from vitreous.ops.align2d import ClassificationSettings, classify_images
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.simulate.particles import SliceProjector, compute_rotations, draw_orientations
from vitreous.simulate.volume import compute_volume, load_specimen

HERE = Path(__file__).resolve().parent
N_IMAGES, N_JUNK, N_VIEWS, N_CLASSES, BOX, PIXEL, SNR = 1000, 200, 10, 14, 64, 3.0, 0.1
KV, CS, AMPLITUDE = 300.0, 2.7, 0.1
N_ITERATIONS, N_RELION_ITERATIONS = 20, 25


def simulate(folder: Path) -> float:
    """Write truth and images; return the diameter in Å."""
    rng = np.random.default_rng(7)
    specimen = load_specimen("glua3-ntd", PIXEL)
    projector = SliceProjector(compute_volume(specimen), PIXEL)
    views = draw_orientations(N_VIEWS, rng)
    number = np.r_[
        rng.integers(0, N_VIEWS, N_IMAGES - N_JUNK), np.full(N_JUNK // 2, N_VIEWS), np.full(N_JUNK // 2, N_VIEWS + 1)
    ]
    psi, shift = rng.uniform(-180, 180, N_IMAGES), rng.normal(0, 1.0, (N_IMAGES, 2)).clip(-2.5, 2.5)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    clean = np.zeros((N_IMAGES, BOX, BOX))
    for i, k in enumerate(number):
        if k < N_VIEWS:
            image = np.fft.irfft2(projector.project(compute_rotations(np.array([[*views[k, :2], psi[i]]]))[0]).numpy())
            m = len(image)
            image = np.roll(image, (BOX // 2 - m // 2,) * 2, (0, 1)) if m == BOX else cut_or_pad(image)
            phase = np.fft.fftfreq(BOX)[:, None] * shift[i, 0] + np.fft.rfftfreq(BOX)[None] * shift[i, 1]
            clean[i] = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-2j * np.pi * phase), s=(BOX, BOX))
    inside = np.hypot(x, y) < specimen.diameter_angstrom / 2 / PIXEL
    defocus = rng.uniform(8000, 22000, N_IMAGES)
    u = torch.from_numpy(defocus).float()
    ctf = -compute_ctf_2d(
        (BOX, BOX), PIXEL, u, u - 200, torch.zeros(N_IMAGES), voltage_kv=KV, cs_mm=CS, amplitude_contrast=AMPLITUDE
    )
    signal = np.fft.irfft2(np.fft.rfft2(clean) * ctf.numpy(), s=(BOX, BOX))
    signal *= np.sqrt(SNR / signal[number < N_VIEWS][:, inside].var(axis=1).mean())
    for i in np.nonzero(number == N_VIEWS + 1)[0]:
        t, r = rng.uniform(0, 2 * np.pi), rng.uniform(14, 22)
        signal[i] += 1.2 * np.exp(-((x - r * np.cos(t)) ** 2 + (y - r * np.sin(t)) ** 2) / (2 * rng.uniform(4, 7) ** 2))
    images = (signal + rng.normal(size=signal.shape)).astype(np.float32)
    write_mrc(folder / "particles.mrcs", images, PIXEL)
    half = rng.permutation(np.arange(N_IMAGES) % 2)
    np.savez(
        folder / "truth.npz",
        number=number,
        psi=psi,
        shift=shift,
        images=images,
        ctf=ctf.numpy(),
        half=half,
        defocus=defocus,
    )
    return specimen.diameter_angstrom


def cut_or_pad(image: np.ndarray) -> np.ndarray:
    """Return the image with its pixel n // 2 at BOX // 2."""
    out = np.zeros((BOX, BOX))
    m = len(image)
    low = BOX // 2 - m // 2
    if low >= 0:
        out[low : low + m, low : low + m] = image
    else:
        out[:] = image[-low : -low + BOX, -low : -low + BOX]
    return out


def classify(folder: Path, diameter: float) -> None:
    """Run ours, with the settings that the stage would choose, and write what came out."""
    truth = np.load(folder / "truth.npz")
    settings = ClassificationSettings(
        n_classes=N_CLASSES,
        n_iterations=N_ITERATIONS,
        mask_radius_px=min(1.1 * diameter / 2 / PIXEL, 0.47 * BOX),
        max_shift_px=0.1 * diameter / PIXEL,
        first_ring=max(4, round(4 * BOX * PIXEL / diameter)),
        last_ring=min(BOX // 2 - 1, round(BOX * PIXEL / 8)),
        seed=0,
    )
    images, ctf, half = (torch.from_numpy(truth[name]) for name in ("images", "ctf", "half"))
    result = classify_images(images, ctf, half, settings)
    psi, origin = -result.angle_deg.numpy(), -result.shift_px.numpy()
    np.savez(folder / "ours.npz", number=result.class_index, psi=psi, origin=origin)


def write_star(folder: Path) -> None:
    defocus = np.load(folder / "truth.npz")["defocus"]
    lines = ["data_optics", "", "loop_"]
    names = ["OpticsGroupName", "OpticsGroup", "ImagePixelSize", "ImageSize", "ImageDimensionality", "Voltage",
             "SphericalAberration", "AmplitudeContrast"]  # fmt: skip
    lines += [f"_rln{name} #{i + 1}" for i, name in enumerate(names)]
    lines += [f"one 1 {PIXEL} {BOX} 2 {KV} {CS} {AMPLITUDE}", "", "data_particles", "", "loop_"]
    names = ["ImageName", "MicrographName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle"]
    lines += [f"_rln{name} #{i + 1}" for i, name in enumerate(names)]
    lines += [f"{i + 1:06d}@particles.mrcs m{i % 5}.mrc 1 {u:.1f} {u - 200:.1f} 0" for i, u in enumerate(defocus)]
    (folder / "particles.star").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def run_relion(folder: Path, diameter: float, limit_seconds: float) -> None:
    words = ["relion_refine", "--o", "out/run", "--i", "particles.star", "--dont_combine_weights_via_disc", "--preread_images",
             "--pool", "30", "--pad", "2", "--ctf", "--iter", str(N_RELION_ITERATIONS), "--tau2_fudge", "2",
             "--particle_diameter", f"{1.1 * diameter:.0f}", "--K", str(N_CLASSES),
             "--flatten_solvent", "--zero_mask", "--oversampling", "1",
             "--psi_step", "12", "--offset_range", "5", "--offset_step", "2", "--norm", "--scale", "--j", "2",
             "--random_seed", "1"]  # fmt: skip
    (folder / "out").mkdir()
    with (folder / "relion.log").open("w") as log:
        try:
            subprocess.run(
                words,
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit_seconds,
                check=True,
            )
        except subprocess.TimeoutExpired:
            print(f"RELION was stopped after {limit_seconds:.0f} s", file=sys.stderr)
    last = sorted(folder.glob("out/run_it*_data.star"))[-1]
    table = read_star(last)["particles"]
    row = np.array([int(str(name).split("@")[0]) - 1 for name in table["rlnImageName"]])
    order = np.argsort(row)
    column = {name: np.array(table[name], dtype=float)[order] for name in
              ("rlnClassNumber", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")}  # fmt: skip
    origin = np.stack([column["rlnOriginYAngst"], column["rlnOriginXAngst"]], axis=1) / PIXEL
    np.savez(folder / "relion.npz", number=column["rlnClassNumber"].astype(int), psi=column["rlnAnglePsi"], origin=origin,
             iteration=int(last.name[6:9]))  # fmt: skip


def score(folder: Path, name: str) -> tuple[float, float, float, float, int]:
    """Return purity, share of junk in classes of junk, median errors of angle (degrees) and shift (px), classes used."""
    truth, found = np.load(folder / "truth.npz"), np.load(folder / f"{name}.npz")
    label = np.minimum(truth["number"], N_VIEWS)
    right = np.zeros(N_IMAGES, bool)
    angles, shifts = [], []
    for k in np.unique(found["number"]):
        here = found["number"] == k
        view = np.bincount(label[here]).argmax()
        members = here & (label == view)
        right |= members
        if view == N_VIEWS:
            continue
        turn = np.exp(1j * np.deg2rad(found["psi"][members] - truth["psi"][members]))
        centre = turn.mean()
        for _ in range(5):
            centre = centre * np.exp(1j * np.median(np.angle(turn / centre)))
        angles.append(np.abs(np.angle(turn / centre)))
        error = -found["origin"][members] - truth["shift"][members]
        there = (error[:, 1] + 1j * error[:, 0]) * np.exp(1j * np.deg2rad(found["psi"][members]))
        shifts.append(np.abs(there - np.median(there.real) - 1j * np.median(there.imag)))
    junk = label == N_VIEWS
    return (
        float(right.mean()),
        float(right[junk].mean()),
        float(np.rad2deg(np.median(np.concatenate(angles)))),
        float(np.median(np.concatenate(shifts))),
        len(np.unique(found["number"])),
    )


def measure(step: str, folder: Path, diameter: float, limit_seconds: float) -> tuple[float, float, float]:
    """Run a step in a process of its own; return wall seconds, CPU seconds and peak memory in GB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, "--step", step, str(folder), str(diameter), "--relion-seconds", str(limit_seconds)]
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the step {step} failed; see above")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs=3, metavar=("NAME", "FOLDER", "DIAMETER"), help="run one step (used inside)")
    parser.add_argument("--relion-seconds", type=float, default=360, help="stop RELION after this long")
    arguments = parser.parse_args()
    if arguments.step:
        name, folder, diameter = arguments.step
        if name == "ours":
            classify(Path(folder), float(diameter))
        else:
            run_relion(Path(folder), float(diameter), arguments.relion_seconds)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        diameter = simulate(folder)
        write_star(folder)
        rows = []
        for step in ("ours", "relion"):
            if step == "relion" and shutil.which("relion_refine") is None:
                continue
            wall, cpu, memory = measure(step, folder, diameter, arguments.relion_seconds)
            done = N_ITERATIONS if step == "ours" else int(np.load(folder / "relion.npz")["iteration"])
            cost = f"{wall:.0f} | {cpu:.0f} | {memory:.2f} |"
            if step == "relion" and done < N_RELION_ITERATIONS:
                # An unfinished classification says nothing of how good a finished one is.
                rows.append(f"| RELION 3.1.3, stopped | {done} of {N_RELION_ITERATIONS} | | | | | | {cost}")
                continue
            purity, junk, angle, shift, n_classes = score(folder, step)
            program = "vitreous" if step == "ours" else "RELION 3.1.3"
            rows.append(
                f"| {program} | {done} | {n_classes} | {purity:.3f} | {junk:.3f} | {angle:.2f} | {shift:.2f} | {cost}"
            )
    lines = [
        "# 2D classification of simulated particles",
        "",
        f"{N_IMAGES} images of {BOX} px at {PIXEL} Å/px: {N_VIEWS} views of a molecule of {diameter:.0f} Å, signal-to-noise "
        f"ratio {SNR}, CTF, {N_JUNK} junk (half noise alone, half contamination); {N_CLASSES} classes asked for. Both programs "
        f"in one run on the same images, {os.cpu_count()} cores ({platform.machine()}), no GPU, on a machine shared with other "
        "work: compare CPU seconds.",
        "",
        "Purity is the share of images in a class whose commonest view is theirs, junk counting as a view; junk apart is the "
        "share of junk in classes of junk. Errors are medians, in the frame of each class's own average. "
        f"RELION is stopped after {arguments.relion_seconds:.0f} s; unless it finished it is not scored, and no ratio of times "
        "may be drawn.",
        "",
        "| program | iterations | classes | purity | junk apart | angle, deg | shift, px | seconds | CPU seconds | memory, GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    (results / "classify2d.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
