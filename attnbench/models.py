"""Models by name: published ones, ``uniform:<mechanism>_<size>``, and ``timm:<name>`` for context.

Names and configurations need the standard library only; torch is imported when a model is made.
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from attnbench.errors import UserError
from attnbench.published.catalogue import MODELS, Config, published
from attnbench.registry import MECHANISMS
from attnbench.sizes import SIZES

if TYPE_CHECKING:
    from torch import nn

TIMM = "timm:"
UNIFORM = "uniform:"


def names() -> list[str]:
    """Return the names of the published models that are built here, family by family."""
    return list(MODELS)


def configuration(name: str) -> Config:
    """Return the configuration of a published model by its authors' argument names; an unknown one is a UserError."""
    return dict(published(name).config)


def check(name: str) -> None:
    """Refuse a name that no model has, or that timm does not know, without making the model."""
    if name.startswith(TIMM):
        _check_timm(name)
    elif name.startswith(UNIFORM):
        uniform_parts(name)
    else:
        published(name)


def create_model(
    name: str, resolution: tuple[int, int] = (224, 224), num_classes: int = 1000, **changes: Any
) -> "nn.Module":
    """Return a model, freshly initialised and in training mode.

    Args:
        name: a published model, ``uniform:<mechanism>_<size>``, or ``timm:<name>``.
        resolution: (H, W) in pixels that it is built for.
        num_classes: outputs of its classifier.
        changes: other values for arguments of the published configuration, by the authors' names; for a uniform model
            settings of its mechanism, for a timm model its own arguments. ``drop_path`` and ``head`` as in
            :func:`attnbench.build_model`, for all but timm's.

    Raises:
        UserError: an unknown name or argument, or a resolution that the model cannot be built for.
    """
    if name.startswith(TIMM):
        return _timm(name, resolution, num_classes, changes)
    if name.startswith(UNIFORM):
        from attnbench.backbone import build_model

        mechanism, size = uniform_parts(name)
        return build_model(mechanism, size, resolution=resolution, num_classes=num_classes, **changes)
    from attnbench.published.load import build

    model = published(name)
    more = {key: changes.pop(key) for key in ("drop_path", "head") if key in changes}
    return build(model.kind, model.config | changes, resolution, num_classes, **more)


def check_changes(name: str, changes: dict[str, Any], resolutions: Iterable[tuple[int, int]]) -> None:
    """Refuse changes with which the model can be built at none of ``resolutions``: it is tried, on ``meta``."""
    reserved = next((key for key in ("num_classes", "resolution", "name", "head") if key in changes), None)
    if reserved is not None:
        raise UserError(f"{name}: {reserved} is no setting of a model; the run decides it")
    refused: UserError | None = None
    for resolution in resolutions if changes else ():
        import torch

        try:
            with torch.device("meta"):
                create_model(name, resolution, **changes)
        except UserError as error:
            refused = error
        else:
            return
    if refused is not None:
        raise refused


def mechanism_of(name: str, changes: dict[str, Any]) -> str:
    """Return the mechanism of a published model; arguments among ``changes`` that it does not take are refused."""
    from attnbench.published.families import design

    model = published(name)
    return design(model.kind, model.config | changes).mechanism


def uniform_parts(name: str) -> tuple[str, str]:
    """Return mechanism and size of ``uniform:<mechanism>_<size>``."""
    mechanism, _, size = name.removeprefix(UNIFORM).rpartition("_")
    if size not in SIZES or mechanism not in MECHANISMS:
        sizes, mechanisms = ", ".join(SIZES), ", ".join(MECHANISMS)
        raise UserError(f"model {name!r} is not uniform:<mechanism>_<size>; mechanisms: {mechanisms}; sizes: {sizes}")
    return mechanism, size


def _check_timm(name: str) -> Callable[..., Any]:
    import timm

    wanted = name.removeprefix(TIMM)
    if not timm.is_model(wanted):
        near = get_close_matches(wanted.partition(".")[0], timm.list_models(), n=1)
        hint = f"; did you mean {TIMM + near[0]!r}?" if near else "; see timm.list_models()"
        raise UserError(f"timm has no model {wanted!r}{hint}")
    create: Callable[..., Any] = timm.create_model
    return create


def _timm(name: str, resolution: tuple[int, int], num_classes: int, changes: dict[str, Any]) -> "nn.Module":
    """Return a timm model; those that are bound to a resolution are told it, the others do not take the argument."""
    create = _check_timm(name)
    try:
        model: nn.Module = _sized(create, name.removeprefix(TIMM), resolution, num_classes, changes)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"timm cannot make {name!r} for {resolution[0]} x {resolution[1]} pixels: {first}") from error
    return model


def _sized(create: Callable[..., Any], name: str, resolution: tuple[int, int], classes: int, changes: Any) -> Any:
    try:
        return create(name, img_size=resolution, num_classes=classes, **changes)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
    return create(name, num_classes=classes, **changes)
