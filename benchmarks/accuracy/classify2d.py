"""Classify simulated particles of known view, angle and shift; RELION on the same particles where it is installed.

python benchmarks/accuracy/classify2d.py [--keep FOLDER]

5000 images of 64 px: forty views of a molecule at a signal-to-noise ratio of 0.1 with CTF, and 30 % junk, half of it noise alone
and half contamination at a border. The truth is projected from the map by `vitreous.simulate`. RELION's 25 iterations take most
of an hour of both cores, each in a process of its own; with --keep what is there already is not done again, so that a run cut
off goes on. Writes benchmarks/results/classify2d.md.
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
import scipy.ndimage
import torch
from select2d import compute_auc, score_sums

from vitreous.io.mrc import write_mrc
from vitreous.io.star import read_star
from vitreous.ops.align2d import ClassificationSettings, classify_images
from vitreous.ops.average2d import average_images, compute_ring_correlation, find_resolution_ring, make_soft_circle
from vitreous.ops.class_halves import add_images, make_empty_sums
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.simulate.particles import SliceProjector, compute_rotations, draw_orientations
from vitreous.simulate.volume import compute_volume, load_specimen

HERE = Path(__file__).resolve().parent
N_IMAGES, N_JUNK, N_VIEWS, N_CLASSES, BOX, PIXEL, SNR = 5000, 1500, 40, 50, 64, 3.0, 0.1
KV, CS, AMPLITUDE = 300.0, 2.7, 0.1
LIMIT_ANGSTROM = 12.0  # neither program aligns on finer detail: what RELION advises against fitting noise
MOST_SHIFT_PX = 1.75
N_SEEDS = 3
N_ITERATIONS, N_RELION_ITERATIONS = 30, 25


def simulate(folder: Path) -> float:
    """Write truth and images; return the diameter in Å."""
    rng = np.random.default_rng(7)
    specimen = load_specimen("glua3-ntd", PIXEL)
    projector = SliceProjector(compute_volume(specimen), PIXEL)
    views = draw_orientations(N_VIEWS, rng)
    number = np.r_[
        rng.integers(0, N_VIEWS, N_IMAGES - N_JUNK), np.full(N_JUNK // 2, N_VIEWS), np.full(N_JUNK // 2, N_VIEWS + 1)
    ]
    psi, shift = rng.uniform(-180, 180, N_IMAGES), rng.normal(0, 0.7, (N_IMAGES, 2)).clip(-MOST_SHIFT_PX, MOST_SHIFT_PX)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    clean = np.zeros((N_IMAGES, BOX, BOX))
    for i, view in enumerate(number):
        if view < N_VIEWS:
            image = np.fft.irfft2(
                projector.project(compute_rotations(np.array([[*views[view, :2], psi[i]]]))[0]).numpy()
            )
            image = cut_or_pad(image)
            phase = np.fft.fftfreq(BOX)[:, None] * shift[i, 0] + np.fft.rfftfreq(BOX)[None] * shift[i, 1]
            clean[i] = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-2j * np.pi * phase), s=(BOX, BOX))
    faces = np.zeros((N_VIEWS, BOX, BOX))
    for k in range(N_VIEWS):
        matrix = compute_rotations(np.array([[*views[k, :2], 0.0]]))[0]
        faces[k] = cut_or_pad(np.fft.irfft2(projector.project(matrix).numpy()))
    inside = np.hypot(x, y) < specimen.diameter_angstrom / 2 / PIXEL
    defocus = rng.uniform(8000, 22000, N_IMAGES)
    u = torch.from_numpy(defocus).float()
    ctf = -compute_ctf_2d(
        (BOX, BOX), PIXEL, u, u - 200, torch.zeros(N_IMAGES), voltage_kv=KV, cs_mm=CS, amplitude_contrast=AMPLITUDE
    )
    signal = np.fft.irfft2(np.fft.rfft2(clean) * ctf.numpy(), s=(BOX, BOX))
    signal *= np.sqrt(SNR / signal[number < N_VIEWS][:, inside].var(axis=1).mean())
    for i in np.nonzero(number == N_VIEWS + 1)[0].tolist():
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
        faces=faces,
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


def classify(folder: Path, diameter: float, seed: int) -> None:
    """Run ours, with the settings that the stage would choose, and write what came out."""
    truth = np.load(folder / "truth.npz")
    settings = ClassificationSettings(
        n_classes=N_CLASSES,
        n_iterations=N_ITERATIONS,
        mask_radius_px=min(1.1 * diameter / 2 / PIXEL, 0.47 * BOX),
        max_shift_px=0.1 * diameter / PIXEL,
        first_ring=max(4, round(4 * BOX * PIXEL / diameter)),
        last_ring=min(BOX // 2 - 1, round(BOX * PIXEL / LIMIT_ANGSTROM)),
        seed=seed,
    )
    images, ctf, half = (torch.from_numpy(truth[name]) for name in ("images", "ctf", "half"))
    result = classify_images(images, ctf.__getitem__, half, settings)
    psi, origin = -result.angle_deg.numpy(), -result.shift_px.numpy()
    np.savez(folder / f"ours{seed}.npz", number=result.class_index, psi=psi, origin=origin)


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


def run_relion(folder: Path, diameter: float) -> None:
    """Run RELION's next iteration."""
    (folder / "out").mkdir(exist_ok=True)
    done = count_iterations(folder)
    start = ["--i", "particles.star", "--ctf", "--tau2_fudge", "2", "--particle_diameter", f"{1.1 * diameter:.0f}",
             "--K", str(N_CLASSES), "--flatten_solvent", "--zero_mask", "--oversampling", "1", "--psi_step", "12",
             "--offset_range", "2", "--offset_step", "2", "--norm", "--scale", "--random_seed", "1",
             "--strict_highres_exp", str(LIMIT_ANGSTROM)]  # fmt: skip
    if done:
        start = ["--continue", f"out/run_it{done:03d}_optimiser.star"]
    words = ["relion_refine", "--o", "out/run", *start, "--iter", str(done + 1), "--dont_combine_weights_via_disc",
             "--preread_images", "--pool", "30", "--pad", "2", "--j", "2"]  # fmt: skip
    with (folder / "relion.log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)


def count_iterations(folder: Path) -> int:
    return max((int(path.name[6:9]) for path in folder.glob("out/run_it*_optimiser.star")), default=0)


def read_relion(folder: Path) -> None:
    """Write classes and poses of the last iteration as ours are written."""
    table = read_star(folder / f"out/run_it{count_iterations(folder):03d}_data.star")["particles"]
    row = np.array([int(str(name).split("@")[0]) - 1 for name in table["rlnImageName"]])
    order = np.argsort(row)
    column = {name: np.array(table[name], dtype=float)[order] for name in
              ("rlnClassNumber", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")}  # fmt: skip
    origin = np.stack([column["rlnOriginYAngst"], column["rlnOriginXAngst"]], axis=1) / PIXEL
    np.savez(
        folder / "relion.npz", number=column["rlnClassNumber"].astype(int), psi=column["rlnAnglePsi"], origin=origin
    )


def compute_rand(first: np.ndarray, second: np.ndarray) -> float:
    """Return the adjusted Rand index of two groupings (Hubert & Arabie 1985, doi:10.1007/BF01908075)."""
    table = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(table, (first, second), 1)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1) / 2).sum())

    rows, columns = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    chance = rows * columns / pairs(np.array([len(first)]))
    return (pairs(table) - chance) / ((rows + columns) / 2 - chance)


def find_detail(average: np.ndarray, face: np.ndarray, mask: torch.Tensor) -> float:
    """Return to what Å an average agrees with the true view, laid on it by a search over all angles and shifts."""
    spectrum = np.fft.fft2(average)
    best, moved = -np.inf, face
    for angle in np.arange(0, 360, 1.0):
        turned = np.zeros_like(face)
        turned[1:, 1:] = scipy.ndimage.rotate(face[1:, 1:], angle, reshape=False, order=3)
        product = spectrum * np.fft.fft2(turned).conj()
        fine = np.zeros((4 * BOX, 4 * BOX), complex)
        low = np.r_[: BOX // 2, 4 * BOX - BOX // 2 + 1 : 4 * BOX]
        here = np.r_[: BOX // 2, BOX // 2 + 1 : BOX]
        fine[np.ix_(low, low)] = product[np.ix_(here, here)]
        match = np.fft.ifft2(fine).real
        if match.max() > best:
            best = match.max()
            shift = np.array(np.unravel_index(match.argmax(), match.shape)) / 4
            moved = np.fft.ifft2(scipy.ndimage.fourier_shift(np.fft.fft2(turned), shift)).real
    spectra = torch.fft.rfft2(torch.from_numpy(np.stack([average, moved])) * mask)
    return BOX * PIXEL / max(find_resolution_ring(compute_ring_correlation(spectra[0], spectra[1], BOX), 0.5), 1.0)


def score(folder: Path, name: str, diameter: float) -> dict[str, float]:
    """Return how well the images are sorted and aligned."""
    truth, found = np.load(folder / "truth.npz"), np.load(folder / f"{name}.npz")
    label = np.minimum(truth["number"], N_VIEWS)
    number = np.unique(found["number"], return_inverse=True)[1]
    mask = make_soft_circle(BOX, min(1.1 * diameter / 2 / PIXEL, 0.47 * BOX), 4.0)
    images, ctf, half = (torch.from_numpy(truth[key]) for key in ("images", "ctf", "half"))
    psi, origin = (torch.from_numpy(-found[key]).float() for key in ("psi", "origin"))
    placed = half, torch.from_numpy(number), psi, origin
    averages = average_images(images, ctf.__getitem__, *placed, mask)[0].numpy()
    sums = add_images(make_empty_sums(len(averages), BOX), images, ctf, *placed)
    chance = score_sums(sums, diameter / PIXEL, min(1.1 * diameter / 2 / PIXEL, 0.47 * BOX))
    right = np.zeros(N_IMAGES, bool)
    angles, shifts, detail = [], [], []
    for k in np.unique(number):
        here = number == k
        view = np.bincount(label[here]).argmax()
        members = here & (label == view)
        right |= members
        if view == N_VIEWS:
            continue
        detail += [find_detail(averages[k].astype(float), truth["faces"][view], mask.double())] * int(members.sum())
        turn = np.exp(1j * np.deg2rad(found["psi"][members] - truth["psi"][members]))
        centre = turn.mean()
        for _ in range(5):
            centre = centre * np.exp(1j * np.median(np.angle(turn / centre)))
        angles.append(np.abs(np.angle(turn / centre)))
        error = -found["origin"][members] - truth["shift"][members]
        there = (error[:, 1] + 1j * error[:, 0]) * np.exp(1j * np.deg2rad(found["psi"][members]))
        shifts.append(np.abs(there - np.median(there.real) - 1j * np.median(there.imag)))
    junk = label == N_VIEWS
    return {
        "classes": float(number.max() + 1),
        "purity": float(right.mean()),
        "view_purity": float(right[~junk].mean()),
        "rand": compute_rand(label, number),
        "junk": float(right[junk].mean()),
        "auc": compute_auc(chance[number], ~junk),
        "angle": float(np.rad2deg(np.median(np.concatenate(angles)))),
        "shift": float(np.median(np.concatenate(shifts))),
        "detail": float(np.median(detail)),
    }


def write_row(program: str, iterations: int, marks: dict[str, float], cost: list[float]) -> str:
    unit = cost[1] / (N_IMAGES * N_CLASSES * iterations) * 1e6
    return (
        f"| {program} | {iterations} | {marks['classes']:.0f} | {marks['purity']:.3f} | {marks['view_purity']:.3f} | "
        f"{marks['rand']:.3f} | {marks['junk']:.3f} | {marks['auc']:.3f} | "
        f"{marks['angle']:.2f} | {marks['shift']:.2f} | {marks['detail']:.1f} | "
        f"{cost[0]:.0f} | {cost[1]:.0f} | {unit:.0f} | {cost[2]:.2f} |"
    )


def measure(step: str, folder: Path, diameter: float) -> list[float]:
    """Run a step in a process of its own; return wall seconds, CPU seconds and peak memory in GB."""
    kept = folder / f"{step}.cost"
    if kept.exists():
        return [float(word) for word in kept.read_text(encoding="utf-8").split()]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, "--step", step, str(folder), str(diameter)])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the step {step} failed; see above")
    cost = [time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6]
    if step.startswith("relion"):
        kept.write_text(" ".join(f"{value:.3f}" for value in cost), encoding="utf-8")
    return cost


def compare(folder: Path) -> list[str]:
    """Return the rows of the table."""
    diameter = simulate(folder)
    write_star(folder)
    rows = []
    for seed in range(N_SEEDS):
        cost = measure(f"ours{seed}", folder, diameter)
        rows.append(write_row(f"vitreous, seed {seed}", N_ITERATIONS, score(folder, f"ours{seed}", diameter), cost))
    if shutil.which("relion_refine") is not None:
        costs = np.array([measure(f"relion{step + 1}", folder, diameter) for step in range(N_RELION_ITERATIONS)])
        read_relion(folder)
        cost = [*costs[:, :2].sum(axis=0), costs[:, 2].max()]
        rows.append(write_row("RELION 3.1.3", N_RELION_ITERATIONS, score(folder, "relion", diameter), cost))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--step", nargs=3, metavar=("NAME", "FOLDER", "DIAMETER"), help="run one step (used inside)")
    parser.add_argument("--keep", type=Path, help="work here, and go on with what RELION has done here")
    arguments = parser.parse_args()
    if arguments.step:
        name, folder, diameter = arguments.step
        if name.startswith("relion"):
            run_relion(Path(folder), float(diameter))
        else:
            classify(Path(folder), float(diameter), int(name.removeprefix("ours")))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        rows = compare(folder)
    lines = [
        "# 2D classification of simulated particles",
        "",
        f"{N_IMAGES} images of {BOX} px at {PIXEL} Å/px: {N_VIEWS} views of a molecule, signal-to-noise ratio {SNR}, CTF, "
        f"{N_JUNK} junk (half noise alone, half contamination); {N_CLASSES} classes asked for, detail of up to "
        f"{LIMIT_ANGSTROM:.0f} Å compared. RELION: angles every 6°, shifts every px, T = 2. Images lie up to "
        f"{MOST_SHIFT_PX} px off. All on the same images, "
        f"{os.cpu_count()} cores ({platform.machine()}), no GPU, on a machine shared with other work: compare CPU seconds.",
        "",
        "Purity is the share of images in a class whose commonest view is theirs, junk counting as a view; purity of views "
        "leaves the junk out, and junk apart is the share of junk in classes of junk. Selection is how well the automatic "
        "selection of classes tells particles from junk (AUC over images). Rand is the adjusted Rand index of views and "
        "classes. Errors are medians, in the frame of each class's own average. Detail is to what Å a class's average, "
        "made alike for both programs from their poses, agrees with the true view (ring correlation 0.5), median over images. "
        "The unit is CPU µs per image, class and iteration; ours takes a part of the images in most iterations.",
        "",
        "| program | iterations | classes | purity | purity of views | Rand | junk apart | selection | angle, deg | shift, px | "
        "detail, Å | seconds | CPU seconds | unit | memory, GB |",
        "|" + "---|" * 15,
        *rows,
    ]
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    (results / "classify2d.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
