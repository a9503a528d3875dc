"""Many templates at once: the best normalised correlation at every place that matters, from a small basis of them all."""

from typing import NamedTuple

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import irfft2, rfft2
from vitreous.ops.peaks import select_apart

__all__ = [
    "BestCorrelation",
    "TemplateBank",
    "correlate_bank",
    "correlate_seen",
    "fill_hidden",
    "make_bank",
    "measure_local_deviation",
]

_TAIL = 1e-3
"""Share of the bank's energy that the basis leaves out."""
_FEW = 64
"""Banks of no more templates are their own basis, and are tried at every pixel."""
_COARSE_TAIL = 1e-2
"""The same of the part of the basis that the coarse search makes do with."""
_CHUNK = 4096
_SLACK = 0.02
"""What a score between two coarse places can be above both, beside the share that `_LOSS` tells."""
_LOSS = 0.5
_CLEARLY_LOWER = 0.7
"""A coarse peak with less than this share of a higher one's score, too near to it, is not looked at again."""


class TemplateBank(NamedTuple):
    """Templates of zero mean and unit length under a mask, as sums of a few basis images."""

    basis: Tensor
    """`(b, w, w)`, centred at w // 2."""
    coefficients: Tensor
    """`(n, b)`: template n is the sum of the basis images times its coefficients."""
    mask: Tensor
    """Where the templates count, `(w, w)`."""


class BestCorrelation(NamedTuple):
    """Of the templates of a bank, at each pixel, maps `(ny, nx)`, or at some places."""

    score: Tensor
    """Best correlation; -1 where a coarser search showed that no peak is near."""
    which: Tensor
    """Number of the template that gives it."""
    deviation: Tensor
    """Standard deviation of the image under the mask."""


def _share_left_out(energies: Tensor) -> Tensor:
    """Return the share of all energy that is left out with each element and all before it."""
    sums = energies.double().clamp_min(0).cumsum(0)
    return sums / sums[-1]


def make_bank(windows: Tensor, mask: Tensor) -> TemplateBank:
    """Make a bank of templates.

    Parameters
    ----------
    windows
        Templates `(n, w, w)`, w odd, centred at w // 2.
    mask
        Where they count, 0 to 1, `(w, w)`.

    Raises
    ------
    ValueError
        If the windows are not square, odd and of the size of the mask.
    """
    n, height, width = windows.shape
    if height != width or height % 2 == 0 or mask.shape != windows.shape[1:]:
        raise ValueError(
            f"expected square windows of odd size and a mask of that size, found {windows.shape}, {mask.shape}"
        )
    masked = windows * mask
    masked = masked - masked.sum(dim=(-2, -1), keepdim=True) / mask.sum() * mask
    masked = masked / masked.square().sum(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
    if n <= _FEW:
        return TemplateBank(masked, torch.eye(n, device=windows.device), mask)
    flat, inside = masked.flatten(1), mask.flatten() > 0
    seen = flat[:, inside]
    # In single precision the solver can fail: most of the eigenvalues are next to nothing.
    values, vectors = torch.linalg.eigh((seen.T @ seen).double())
    kept = vectors[:, _share_left_out(values) > _TAIL].flip(1).to(flat.dtype)
    basis = flat.new_zeros((kept.shape[1], flat.shape[1]))
    basis[:, inside] = kept.T
    return TemplateBank(basis.reshape(-1, width, width), seen @ kept, mask)


def _correlate_windows(spectrum: Tensor, shape: tuple[int, int], windows: Tensor, step: int) -> Tensor:
    """Return the correlation of an image, given by its half spectrum, with windows `(n, w, w)` at every or every second pixel."""
    ny, nx = shape
    offset = torch.arange(windows.shape[-1], device=spectrum.device) - windows.shape[-1] // 2
    # A window is small: two products of matrices are less work than its transform on the image's grid.
    rows = torch.arange(ny, device=spectrum.device)[:, None] * offset % ny * (2 * torch.pi / ny)
    columns = torch.arange(nx // 2 + 1, device=spectrum.device)[:, None] * offset % nx * (2 * torch.pi / nx)
    along_y, along_x = torch.polar(torch.ones_like(rows), rows), torch.polar(torch.ones_like(columns), columns)
    product = along_y @ (windows.to(along_x.dtype) @ along_x.T) * spectrum
    if step == 1:
        return irfft2(product, shape)
    # Every second pixel has a spectrum folded at half of Nyquist; what is beyond the half spectrum is its conjugate.
    my, mx = ny // 2, nx // 2
    kept = mx // 2 + 1
    mirrored = product[..., mx - kept + 1 :].flip(-1).conj()
    mirrored = torch.roll(mirrored.flip(-2), 1, dims=-2)
    folded = product[..., :kept] + mirrored
    return irfft2((folded[..., :my, :] + folded[..., my:, :]) / 4, (my, mx))


def _find_best(values: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the greatest product with any template and which it is, of coefficients `(p, b)` of places; both `(p,)`."""
    if len(coefficients) == 1:
        return values[:, 0] * coefficients[0, 0], torch.zeros(len(values), dtype=torch.long, device=values.device)
    parts = [torch.max(chunk @ coefficients.T, dim=1) for chunk in torch.split(values, _CHUNK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def _count_coarse(coefficients: Tensor) -> int:
    """Return how many of the basis images, greatest part first, the coarse search makes do with."""
    energies = coefficients.square().sum(dim=0).flip(0)
    return int((_share_left_out(energies) > _COARSE_TAIL).sum())


def fill_hidden(image: Tensor, hidden: Tensor, mask: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cut out what is around some places, with what is to be hidden there made like the mean of the rest.

    Parameters
    ----------
    image, hidden
        `(ny, nx)`, and where it shows something else that must not count, `(ny, nx)`; both periodic.
    mask
        What counts around a place, 0 to 1, `(w, w)`.
    places
        Rows and columns, `(n, 2)`.

    Returns
    -------
    tuple
        Windows `(n, w, w)` of zero mean over what is seen, and the deviation there, `(n,)`; 0 where nothing is seen.
    """
    y, x = places.T
    seen = mask * ~_view_windows(hidden.float(), len(mask))[y, x].bool()
    windows = _view_windows(image, len(mask))[y, x]
    n_seen = seen.sum(dim=(-2, -1)).clamp_min(1e-6)
    mean = (windows * seen).sum(dim=(-2, -1)) / n_seen
    filled = torch.where(seen > 0, windows - mean[:, None, None], 0.0)
    return filled, ((filled.square() * seen).sum(dim=(-2, -1)) / n_seen).sqrt()


def correlate_seen(image: Tensor, hidden: Tensor, bank: TemplateBank, places: Tensor) -> BestCorrelation:
    """Correlate at some places `(n, 2)` as `correlate_bank` does, with what `fill_hidden` hides; results `(n,)`."""
    filled, deviation = fill_hidden(image, hidden, bank.mask, places)
    best, which = _find_best(filled.flatten(1) @ bank.basis.flatten(1).T, bank.coefficients)
    return BestCorrelation(best / (bank.mask.sum().sqrt() * deviation.clamp_min(1e-12)), which, deviation)


def measure_local_deviation(image: Tensor, mask: Tensor) -> Tensor:
    """Return the standard deviation of an image `(ny, nx)` under a mask `(w, w)` around each pixel; periodic."""
    image = image - image.mean()
    return _measure_deviation(rfft2(image), image, mask, 0.0)


def _measure_deviation(spectrum: Tensor, image: Tensor, mask: Tensor, least_deviation: float) -> Tensor:
    shape = (image.shape[0], image.shape[1])
    squares = rfft2(image.square())
    n_mask = mask.sum()
    mean, square = (_correlate_windows(part, shape, mask[None], 1)[0] / n_mask for part in (spectrum, squares))
    least = (least_deviation * image.std()).square() + 1e-30
    return (square - mean.square()).clamp_min(float(least)).sqrt()


def _list_near(places: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the elements of 3 x 3 around each place, `(9, n, 2)`, wrapped round."""
    steps = torch.arange(-1, 2, device=places.device)
    near = places + torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(9, 1, 2)
    return near % torch.tensor(shape, device=places.device)


def _find_coarse_peaks(coarse: Tensor, floor: float, apart_px: float) -> Tensor:
    """Return the elements of peaks of a coarse map that may be peaks of the fine one, `(n, 2)`."""
    highest = functional.max_pool2d(coarse[None, None], 3, stride=1, padding=1)[0, 0]
    peaks = torch.nonzero((coarse == highest) & (coarse >= _LOSS * floor - _SLACK))
    # Each of two places can be a pixel off along both axes.
    near = apart_px / 2 - 2**0.5
    if near < 1 or len(peaks) == 0:
        return peaks
    values, order = coarse[peaks[:, 0], peaks[:, 1]].sort(descending=True, stable=True)
    places, heights = peaks[order].cpu().double().numpy(), values.cpu().numpy()
    kept = select_apart(places, apart_px / 2)
    distance, nearest = cKDTree(places[kept]).query(places)
    lower = (distance < near) & (heights < _CLEARLY_LOWER * heights[kept[nearest]] - _SLACK)
    return peaks[order][torch.from_numpy(~lower).to(peaks.device)]


def _view_windows(image: Tensor, size: int) -> Tensor:
    """Return the surroundings of every pixel of a periodic image, `(ny, nx, size, size)`; a view, not a copy."""
    half = size // 2
    padded = functional.pad(image[None, None], (half, half, half, half), mode="circular")[0, 0]
    return padded.unfold(0, size, 1).unfold(1, size, 1)


def _refine(image: Tensor, bank: TemplateBank, scale: Tensor, coarse_peaks: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores and templates around the peaks of a coarse map, -1 elsewhere."""
    shape = (image.shape[0], image.shape[1])
    windows = _view_windows(image, bank.mask.shape[0])
    basis = bank.basis.flatten(1).T
    score = torch.full_like(image, -1.0)
    index = torch.zeros(shape, dtype=torch.long, device=image.device)

    def try_near(places: Tensor) -> None:
        wanted = torch.zeros(shape, dtype=torch.bool, device=image.device)
        near = _list_near(places, shape)
        wanted[near[..., 0], near[..., 1]] = True
        new = torch.nonzero(wanted & (score == -1.0))
        for chunk in torch.split(new, _CHUNK):
            y, x = chunk[:, 0], chunk[:, 1]
            best, which = _find_best(windows[y, x].flatten(1) @ basis, bank.coefficients)
            score[y, x], index[y, x] = best * scale[y, x], which

    peaks = coarse_peaks * 2
    try_near(peaks)
    # Then what is around the best of these, which a peak's position between pixels is found from.
    near = _list_near(peaks, shape)
    first = score[near[..., 0], near[..., 1]].argmax(dim=0)
    try_near(near[first, torch.arange(len(peaks), device=image.device)])
    return score, index


def correlate_bank(
    image: Tensor, bank: TemplateBank, floor: float, least_deviation: float = 0.01, apart_px: float = 0.0
) -> BestCorrelation:
    """Correlate an image with all templates of a bank, normalised by the image's own deviation at each place.

    Large banks (every template in many orientations) are replaced by the few images that span them. Their correlations are
    found at every second pixel along both axes, from the greater part of these images, and the best template there; the
    neighbourhoods of the peaks of that coarse map are then tried at every pixel, with all images. Scores differ from those of the
    templates themselves by less than 0.01.
    A peak that is much lower than another a few pixels away can be missed.

    Parameters
    ----------
    image
        `(ny, nx)`, sides even; periodic.
    bank
        Templates.
    floor
        Peaks below this score need not be found.
    least_deviation
        Least local deviation, as a share of the whole image's: where it is flat, rounding errors would correlate with anything.
    apart_px
        Of two peaks nearer than this, one that is clearly lower need not be found.

    Returns
    -------
    BestCorrelation
        As `compute_local_correlation` (Roseman 2003, doi:10.1016/S0304-3991(02)00333-9), the best of all templates.

    Raises
    ------
    ValueError
        If a side is odd or shorter than the templates.
    """
    ny, nx = image.shape
    if ny % 2 or nx % 2 or min(ny, nx) < bank.mask.shape[0]:
        raise ValueError(f"expected even sides of at least {bank.mask.shape[0]}, found {ny} x {nx}")
    image = image - image.mean()
    spectrum = rfft2(image)
    deviation = _measure_deviation(spectrum, image, bank.mask, least_deviation)
    scale = 1 / (bank.mask.sum().sqrt() * deviation)
    few = len(bank.coefficients) <= _FEW
    step, n = (1, len(bank.basis)) if few else (2, _count_coarse(bank.coefficients))
    maps = torch.cat([_correlate_windows(spectrum, (ny, nx), part, step) for part in torch.split(bank.basis[:n], 16)])
    best, which = _find_best(maps.flatten(1).T, bank.coefficients[:, :n])
    best = best.reshape(maps.shape[1:])
    if few:
        return BestCorrelation(best * scale, which.reshape(ny, nx), deviation)
    peaks = _find_coarse_peaks(best * scale[::2, ::2], floor, apart_px)
    score, index = _refine(image, bank, scale, peaks)
    return BestCorrelation(score, index, deviation)
