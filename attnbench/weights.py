"""A model by name with given weights: a published one, ``uniform:...``, or ``timm:...`` in timm's own layout."""

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from attnbench.errors import UserError
from attnbench.models import TIMM, UNIFORM, check, create_model
from attnbench.published.adapt import Loaded, load
from attnbench.published.keys import BUFFERS

_SHOWN = 3  # keys of a sort that an error names


def load_model(name: str, weights: Mapping[str, Tensor], resolution: tuple[int, int]) -> Loaded:
    """Return the model ``name`` with ``weights``, in ``eval()``, to be run at ``resolution`` (H, W) in pixels.

    The number of classes is that of the weights' classifier.

    Raises:
        UserError: an unknown name, or weights that do not fit, with the keys.
    """
    check(name)
    if name.startswith(TIMM):
        return _timm(name, weights, resolution)
    if name.startswith(UNIFORM):
        classes = _classes(weights, "head.fc")
        model = create_model(name, resolution, classes)
        return Loaded(_filled(name, model, weights), classes, ())
    return load(name, weights, resolution)


def _timm(name: str, weights: Mapping[str, Tensor], resolution: tuple[int, int]) -> Loaded:
    """Fill a model at the resolution of its name; then timm itself takes it to another, where it knows how to."""
    import timm

    about = timm.get_pretrained_cfg_value
    own = tuple((about(name.removeprefix(TIMM), "input_size") or (3, *resolution))[1:])
    classifier = about(name.removeprefix(TIMM), "classifier") or "head"
    classes = _classes(weights, classifier if isinstance(classifier, str) else classifier[0])
    model = _filled(name, create_model(name, own, classes), weights)
    if own == resolution or not hasattr(model, "set_input_size"):
        return Loaded(model, classes, ())
    cast(Any, model).set_input_size(resolution)
    how = f"from {own[0]} x {own[1]} to {resolution[0]} x {resolution[1]} pixels"
    return Loaded(model, classes, (f"what depends on the resolution, by timm: {how}",))


def _classes(weights: Mapping[str, Tensor], classifier: str) -> int:
    weight = weights.get(f"{classifier}.weight")
    if weight is None or not weight.ndim:
        raise UserError(f"the weights have no classifier: {classifier}.weight is missing")
    return weight.shape[0]


def _filled(name: str, model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return ``model`` in ``eval()`` with exactly these weights."""
    expected = model.state_dict()
    given = {key: tensor for key, tensor in weights.items() if key in expected or not BUFFERS.fullmatch(key)}
    faults = {
        "missing": [key for key in expected if key not in given],
        "unexpected": [key for key in given if key not in expected],
        "misshapen": [
            f"{key} is {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}"
            for key, tensor in given.items()
            if key in expected and tensor.shape != expected[key].shape
        ],
    }
    lines = [f"{title}: {_first(items)}" for title, items in faults.items() if items]
    if lines:
        raise UserError(f"these weights do not fit {name}; {'; '.join(lines)}")
    model.load_state_dict(given)
    return model.eval()


def _first(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
