"""Turn words like `stage.param=value` into checked parameters."""

from collections.abc import Mapping

from pydantic import ValidationError

from vitreous.errors import SettingError
from vitreous.model.stage import StageParams

__all__ = ["build_params", "describe_validation_error"]


def describe_validation_error(error: ValidationError) -> str:
    """Return what is wrong, one problem after another, in words."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'the whole'}: {problem['msg']} (found {problem['input']!r})"
        for problem in error.errors()
    )


def build_params(stage: str, model: type[StageParams], values: Mapping[str, object]) -> StageParams:
    """Return the stage's parameters with `values` over the defaults.

    Raises
    ------
    SettingError
        If a name is unknown, or that of a parameter which is no more, or a value does not fit.
    """
    unknown = sorted(set(values) - set(model.model_fields))
    for name in unknown:
        if name in model.retired:
            raise SettingError(f"stage {stage} has the parameter {name!r} no more: {model.retired[name]}")
    if unknown:
        raise SettingError(
            f"stage {stage} has no parameter {unknown[0]!r}; it has {', '.join(model.model_fields) or 'none'}"
        )
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise SettingError(f"stage {stage}: {describe_validation_error(error)}") from error
