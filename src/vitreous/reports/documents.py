"""Read what stages wrote beside their images."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_array"]


def read_array(document: Mapping[str, Any], name: str, scale: float = 1.0) -> NDArray[np.float64]:
    """Return the numbers called `name`, times `scale`; empty where an earlier version wrote none."""
    return np.asarray(document.get(name, []), dtype=np.float64) * scale
