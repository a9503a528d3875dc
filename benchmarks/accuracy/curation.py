"""Tell usable from unusable micrographs by their appearance alone, on 30 real ones that people sorted.

python benchmarks/accuracy/curation.py ../shared/data/quality-classes

Writes benchmarks/results/curation.md.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitreous.io.images import read_micrograph
from vitreous.ops.curation import measure_appearance

RESULTS = Path(__file__).resolve().parents[1] / "results"
MOST_COARSE, LEAST_STRUCTURE = 0.7, 0.3
USABLE = ("0", "1")
PIXEL_ANGSTROM = 8.0
"""The images carry none: 512 pixels for a field of a few thousand Å."""


def choose_limits(measured: NDArray[np.float64], usable: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the limits on coarseness and structure that misjudge fewest, in the middle of the gap."""
    best, found = len(usable) + 1, [(MOST_COARSE, LEAST_STRUCTURE)]
    cuts = [np.sort(column) for column in measured.T]
    for coarse in (cuts[0][1:] + cuts[0][:-1]) / 2:
        for structure in (cuts[1][1:] + cuts[1][:-1]) / 2:
            wrong = int((((measured[:, 0] <= coarse) & (measured[:, 1] >= structure)) != usable).sum())
            if wrong < best:
                best, found = wrong, []
            if wrong == best:
                found.append((float(coarse), float(structure)))
    return found[len(found) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with one folder of images for each class")
    folders = sorted(path for path in parser.parse_args().data.iterdir() if path.is_dir())
    torch.set_num_threads(1)
    names, values = [], []
    for folder in folders:
        for path in sorted(folder.glob("*.png")):
            image = torch.from_numpy(read_micrograph(path)[0].astype(np.float32))
            appearance = measure_appearance(image, PIXEL_ANGSTROM)
            assert appearance is not None
            names.append(folder.name)
            values.append(appearance)
    measured, usable = np.array(values), np.array([name.startswith(USABLE) for name in names])
    kept = (measured[:, 0] <= MOST_COARSE) & (measured[:, 1] >= LEAST_STRUCTURE)
    others = []
    for i in range(len(usable)):
        rest = np.arange(len(usable)) != i
        coarse, structure = choose_limits(measured[rest], usable[rest])
        others.append(measured[i, 0] <= coarse and measured[i, 1] >= structure)
    lines = [
        "# Usable and unusable micrographs",
        "",
        f"{len(usable)} real micrographs of many projects in six classes, 512 x 494 px, without pixel size or optics: no CTF can "
        f"be fitted. Kept: coarseness at most {MOST_COARSE} and structure at least {LEAST_STRUCTURE}. These limits were chosen "
        "on these images; in the last column they were chosen without the image that is judged.",
        "",
        "| class | images | kept | kept, limits from the others |",
        "|---|---|---|---|",
    ]
    chosen = np.array(others)
    groups = [(name, np.array(names) == name) for name in dict.fromkeys(names)]
    for name, rows in [*groups, ("**usable**", usable), ("**unusable**", ~usable)]:
        lines.append(f"| {name} | {rows.sum()} | {kept[rows].sum()} | {chosen[rows].sum()} |")
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "curation.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
