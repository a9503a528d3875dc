"""Numbers that may be missing, as the commands that score picks keep and show them."""

import math

__all__ = ["drop_nan", "format_number"]


def drop_nan(value: float) -> float | None:
    """Return a number, or None where there was nothing to divide by (not-a-number)."""
    return None if math.isnan(value) else float(value)


def format_number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many digits behind the point, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
