"""What public pickers were trained on, as far as it is published: scores on the same data say little about new data.

The training sets are those that the programs' documentation or papers list. A picker whose authors list none may have seen any
public entry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = ["TRAINING_SETS", "Overlap", "TrainingSet", "find_overlap"]

Overlap = Literal["trained on it", "not trained on it", "unknown"]

_CRYOPPP_TRAINING = frozenset(
    {
        *("10005", "10059", "10075", "10077", "10096", "10184", "10240", "10289", "10291", "10387", "10406"),
        *("10444", "10526", "10590", "10671", "10737", "10760", "10816", "10852", "11051", "11057", "11183"),
    }
)


@dataclass(frozen=True)
class TrainingSet:
    """EMPIAR entries that a picker's public model was trained on; None where its authors do not list them."""

    entries: frozenset[str] | None
    source: str


TRAINING_SETS: Mapping[str, TrainingSet] = MappingProxyType(
    {
        "cryolo": TrainingSet(
            frozenset({"10017", "10025", "10028", "10081"}), "crYOLO documentation, training sets of the general model"
        ),
        "topaz": TrainingSet(None, "the training set of Topaz's general model is not published"),
        "cryosegnet": TrainingSet(_CRYOPPP_TRAINING, "split of CryoPPP that CryoSegNet was trained with"),
        "cryotransformer": TrainingSet(_CRYOPPP_TRAINING, "split of CryoPPP that CryoTransformer was trained with"),
    }
)
"""Public general models by the name of their program, in small letters."""


def find_overlap(picker: str, empiar_id: str | None) -> Overlap:
    """Return whether the public model of `picker` was trained on an EMPIAR entry.

    Parameters
    ----------
    picker
        Name of the program, in any spelling of letters, e.g. `crYOLO`; a name that begins with it, as `crYOLO-general`, counts.
    empiar_id
        Number of the entry, e.g. `10017` or `EMPIAR-10017`; None where it is not known.
    """
    name = picker.lower().replace("-", "").replace("_", "").replace(" ", "")
    known = next((trained for program, trained in TRAINING_SETS.items() if name.startswith(program)), None)
    if known is None or known.entries is None or empiar_id is None:
        return "unknown"
    number = empiar_id.upper().removeprefix("EMPIAR").lstrip("-: ")
    return "trained on it" if number in known.entries else "not trained on it"
