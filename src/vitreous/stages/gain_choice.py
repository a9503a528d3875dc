"""Decide once for a data set how its gain reference lies on the movies, and write it down as every later stage uses it."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_json
from vitreous.io.gain import read_gain
from vitreous.io.images import find_format
from vitreous.io.mrc import write_mrc
from vitreous.model.documents import Facts
from vitreous.ops.gain_orientation import (
    ORIENTATIONS,
    GainEstimate,
    Polarity,
    estimate_gain_orientation,
    fit_gain,
    invert_gain,
    orient_gain,
)
from vitreous.stages.survey import Sample, Survey, read_survey

__all__ = ["GAIN_FOLDER", "GainChoice", "choose_gain"]

GAIN_FOLDER = "gain"
_MANY_FRAMES = 400
_MIDDLE_PX = 2048


@dataclass(frozen=True)
class GainChoice:
    """The gain reference that all movies are multiplied by: its file, relative to the project, its size, and doubts."""

    path: str
    shape: tuple[int, int]
    warnings: tuple[str, ...]


def _expect_polarity(gain: Path, movie: Path) -> Polarity:
    """Return what a file of that name does by the custom of its format: only EER movies go with divisors, except `.gain`."""
    return "divide" if find_format(movie) == "EER" and gain.suffix.lower() != ".gain" else "multiply"


def _describe(orientation: str, polarity: Polarity) -> str:
    verb = "multiplies" if polarity == "multiply" else "divides"
    return f"{ORIENTATIONS[orientation].description}, and {verb} ({orientation}, {polarity})"


def _refuse_shape(facts: Facts, found: tuple[int, int], sample: Sample, remedy: str) -> InputFileError:
    return InputFileError(
        facts.gain or "",
        found=f"a gain reference of {found[1]}x{found[0]} pixels",
        expected=f"{sample.info.nx_px}x{sample.info.ny_px} as {sample.name}",
        remedy=remedy,
    )


def _list_fitting(found: tuple[int, int], shape: tuple[int, int]) -> list[str]:
    """Return the orientations in which the gain has the frames' size, twice or half of it."""
    targets = {name: found[::-1] if ORIENTATIONS[name].swaps_axes else found for name in ORIENTATIONS}
    sizes = {
        shape,
        (2 * shape[0], 2 * shape[1]),
        *(() if shape[0] % 2 or shape[1] % 2 else ((shape[0] // 2, shape[1] // 2),)),
    }
    return [name for name, size in targets.items() if size in sizes]


@dataclass(frozen=True)
class _Decision:
    orientation: str
    polarity: Polarity
    warnings: tuple[str, ...] = ()


def _refuse_gain(facts: Facts, estimate: GainEstimate) -> InputFileError:
    """Say that correcting with this reference would add more pattern than it takes out."""
    share = "nothing" if estimate.verdict == "absent" else f"{estimate.explained:.0%}"
    remedy = "Check that it belongs to these movies and that it is not an old one"
    if not estimate.counted:
        remedy = (
            "The movies hold no whole numbers, as after a correction: leave --gain out if they are corrected already"
        )
    return InputFileError(
        facts.gain or "",
        found=f"a gain reference of whose pattern the movies show {share} in any orientation, multiplied or divided "
        f"(significance {estimate.significance:.1f}, {estimate.expected_significance:.0f} if it were theirs)",
        expected="the pattern of the camera that recorded the movies",
        remedy=f"{remedy}. To use it all the same, give --gain-orientation as-is, or write "
        'gain_orientation = "as-is" into project.toml.',
    )


def _decide(facts: Facts, estimate: GainEstimate, fitting: Sequence[str], custom: Polarity) -> _Decision | None:
    """Weigh what was said against what was found; None where the counts do not say how a gain of this shape is to be turned."""
    said_orientation = "as-is" if facts.gain_orientation == "auto" else facts.gain_orientation
    said_polarity: Polarity = custom if facts.gain_polarity == "auto" else facts.gain_polarity
    said = _Decision(said_orientation, said_polarity)
    name, figures = facts.gain, f"significance {estimate.significance:.0f}, {estimate.ratio:.1f} times the next best"
    if estimate.verdict in {"absent", "partial"} and facts.gain_orientation == "auto":
        raise _refuse_gain(facts, estimate)
    if estimate.verdict == "clear":
        used = _Decision(
            estimate.orientation if facts.gain_orientation == "auto" else said_orientation,
            estimate.polarity if facts.gain_polarity == "auto" else said_polarity,
        )
        if (estimate.orientation, estimate.polarity) == (said_orientation, said_polarity):
            return said
        found = _describe(estimate.orientation, estimate.polarity)
        text = f"gain {name}: it fits the movies {found}; {figures}. "
        if (used.orientation, used.polarity) == (estimate.orientation, estimate.polarity):
            text += "It is used so; check that this is what you expect of your camera"
        else:
            text += f"It is used as you said, {_describe(used.orientation, used.polarity)}; check --gain-orientation"
        return _Decision(used.orientation, used.polarity, (text,))
    if estimate.verdict == "ambiguous" and facts.gain_orientation == "auto":
        orientation = estimate.orientation if said_orientation != estimate.second else said_orientation
        polarity = estimate.polarity if facts.gain_polarity == "auto" else said_polarity
        text = (
            f"gain {name}: it fits the movies alike in the orientations {estimate.orientation} and {estimate.second}; "
            f"{orientation} is used. Give --gain-orientation if you know better"
        )
        return _Decision(orientation, polarity, (text,))
    if said_orientation not in fitting:
        return None
    if estimate.verdict == "flat":
        return said
    if estimate.verdict in {"absent", "partial"}:
        what = (
            f"the movies show {estimate.explained:.0%} of its pattern in any orientation; it may be of another camera"
        )
    else:
        what = (
            "the movies have too few counts to show how it lies on them (significance "
            f"{estimate.significance:.1f}, {estimate.expected_significance:.0f} if it is theirs)"
        )
    text = f"gain {name}: {what}. It is used {_describe(said.orientation, said.polarity)}; check that this is right"
    return _Decision(said.orientation, said.polarity, (text,))


def _record_evidence(estimate: GainEstimate) -> dict[str, object]:
    """Return the estimate as plain data, to four digits: the last ones depend on the machine."""

    def shorten(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        return {name: shorten(inner) for name, inner in value.items()} if isinstance(value, dict) else value

    return {name: shorten(value) for name, value in asdict(estimate).items()}


def _write(root: Path, facts: Facts, gain: torch.Tensor, record: dict[str, object]) -> str:
    """Write the reference and how it was made under a name that its values give; return it relative to the project."""
    values = gain.contiguous().numpy()
    digest = hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()[:12]
    name = f"{GAIN_FOLDER}/{Path(facts.gain or '').stem}-{digest}.mrc"
    if not (root / name).is_file():
        write_mrc(root / name, values, facts.pixel_size_angstrom or 0.0)
    write_json((root / name).with_suffix(".json"), record)
    return name


def choose_gain(
    facts: Facts, gain_file: Path, samples: Sequence[Sample], survey: Survey | None, root: Path
) -> GainChoice | None:
    """Read the gain reference, find how it lies on the movies, and write it so that it multiplies them.

    Parameters
    ----------
    facts
        What was said of the gain reference.
    gain_file
        Where it lies.
    samples, survey
        Some movies, and the sum of some of their frames; more are read where these do not decide.
    root
        The project's folder: the reference is written to `gain/` in it, named after its content.

    Returns
    -------
    The choice; None where no movie can be read to compare it with.

    Raises
    ------
    InputFileError
        If the reference is not one, does not fit, or is not the movies'.
    """
    gain = torch.from_numpy(read_gain(gain_file))
    if not samples:
        return None
    first, found = samples[0], (gain.shape[0], gain.shape[1])
    shape = (first.info.ny_px, first.info.nx_px)
    fitting = _list_fitting(found, shape)
    if not fitting:
        raise _refuse_shape(facts, found, first, "Check that the file given with --gain belongs to these movies.")
    turn = (
        "It fits when turned by 90 degrees: give --gain-orientation rot90, rot270, transpose or anti-transpose, "
        "whichever it is."
    )
    if facts.gain_orientation not in {"auto", *fitting}:
        remedy = turn if "as-is" not in fitting else "Give another --gain-orientation, or leave it out."
        raise _refuse_shape(facts, found, first, remedy)
    if survey is None:
        return None
    estimate = estimate_gain_orientation(survey.summed, gain, middle_px=_MIDDLE_PX)
    if estimate.verdict == "weak" and (more := read_survey(samples, _MANY_FRAMES)) is not None:
        survey, estimate = more, estimate_gain_orientation(more.summed, gain)
    decision = _decide(facts, estimate, fitting, _expect_polarity(gain_file, first.path))
    if decision is None:
        raise _refuse_shape(facts, found, first, turn)
    turned = orient_gain(gain, decision.orientation)
    factors = fit_gain(turned if decision.polarity == "multiply" else invert_gain(turned), shape)
    warnings = list(decision.warnings)
    if turned.shape != factors.shape:
        how: Literal["averaged", "repeated"] = "averaged" if turned.shape[0] > shape[0] else "repeated"
        warnings.append(
            f"gain {facts.gain}: found {found[1]}x{found[0]} pixels, expected {shape[1]}x{shape[0]} as the movies; its pixels "
            f"were {how} 2x2. Check that the movies were binned from what the gain reference was recorded with"
        )
    chosen = ORIENTATIONS[decision.orientation]
    record: dict[str, object] = {
        "source": facts.gain,
        "orientation": chosen.name,
        "description": chosen.description,
        "relion_rotation": chosen.relion_rotation,
        "relion_flip": chosen.relion_flip,
        "polarity": decision.polarity,
        "evidence": _record_evidence(estimate),
        "movies": list(survey.movies),
        "n_frames": survey.n_frames,
        "warnings": warnings,
    }
    return GainChoice(_write(root, facts, factors, record), shape, tuple(warnings))
