"""Many templates at once: the best normalised correlation at every place that matters, from a small basis of them all."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import irfft2, rfft2

__all__ = ["BestCorrelation", "TemplateBank", "correlate_bank", "make_bank"]

_TAIL = 1e-3
"""Share of the bank's energy that the basis leaves out."""
_FEW = 64
"""Banks of no more templates are their own basis, and are tried at every pixel."""
_CHUNK = 4096
_SLACK = 0.02
"""What a score between two coarse places can be above both, beside the share that `_LOSS` tells."""
_LOSS = 0.5


class TemplateBank(NamedTuple):
    """Templates of zero mean and unit length under a mask, as sums of a few basis images."""

    basis: Tensor
    """`(b, w, w)`, centred at w // 2."""
    coefficients: Tensor
    """`(n, b)`: template n is the sum of the basis images times its coefficients."""
    mask: Tensor
    """Where the templates count, `(w, w)`."""


class BestCorrelation(NamedTuple):
    """Of the templates of a bank, at each pixel; maps `(ny, nx)`."""

    score: Tensor
    """Best correlation; -1 where a coarser search showed that no peak is near."""
    which: Tensor
    """Number of the template that gives it."""
    deviation: Tensor
    """Standard deviation of the image under the mask."""


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
    flat = masked.flatten(1)
    values, vectors = torch.linalg.eigh((flat.T @ flat).double())
    left_out = values.clamp_min(0).cumsum(0) / values.clamp_min(0).sum()
    basis = vectors[:, left_out > _TAIL].flip(1).to(flat.dtype)
    return TemplateBank(basis.T.reshape(-1, width, width), flat @ basis, mask)


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


def _refine(image: Tensor, bank: TemplateBank, scale: Tensor, coarse: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return scores and templates around the peaks of a coarse map, -1 elsewhere."""
    shape = (image.shape[0], image.shape[1])
    half = bank.mask.shape[0] // 2
    padded = functional.pad(image[None, None], (half, half, half, half), mode="circular")[0, 0]
    windows = padded.unfold(0, 2 * half + 1, 1).unfold(1, 2 * half + 1, 1)
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

    highest = functional.max_pool2d(coarse[None, None], 3, stride=1, padding=1)[0, 0]
    peaks = torch.nonzero((coarse == highest) & (coarse >= _LOSS * floor - _SLACK)) * 2
    try_near(peaks)
    # Then what is around the best of these, which a peak's position between pixels is found from.
    near = _list_near(peaks, shape)
    first = score[near[..., 0], near[..., 1]].argmax(dim=0)
    try_near(near[first, torch.arange(len(peaks), device=image.device)])
    return score, index


def correlate_bank(image: Tensor, bank: TemplateBank, floor: float, least_deviation: float = 0.01) -> BestCorrelation:
    """Correlate an image with all templates of a bank, normalised by the image's own deviation at each place.

    Large banks (every template in many orientations) are replaced by the few images that span them. Their correlations are
    found at every second pixel along both axes, and the best template there; the neighbourhoods of the peaks of that coarse map
    are then tried at every pixel. Scores differ from those of the templates themselves by less than 0.01.
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
    step = 1 if few else 2
    maps = torch.cat([_correlate_windows(spectrum, (ny, nx), part, step) for part in torch.split(bank.basis, 16)])
    best, which = _find_best(maps.flatten(1).T, bank.coefficients)
    best = best.reshape(maps.shape[1:])
    if few:
        return BestCorrelation(best * scale, which.reshape(ny, nx), deviation)
    score, index = _refine(image, bank, scale, best * scale[::2, ::2], floor)
    return BestCorrelation(score, index, deviation)
