"""The MACs of a model counted in every way there is, held against each other, and split by what they are spent on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attnbench.backbone import Backbone
from attnbench.errors import UserError
from attnbench.layers import ClassificationHead
from attnbench.measure.fvcore_counter import count_macs_fvcore
from attnbench.measure.macs import FLOPS_PER_MAC, FORMULAS, count_macs

AGREEMENT = 0.005  # counts that differ by more, relatively, are not to be ranked by
KINDS = {  # by the usual names of modules, those of the backbone's blocks among them
    **dict.fromkeys(("attn", "self_attn", "attention", "self_attention"), "attention"),
    **dict.fromkeys(("mlp", "ffn", "feed_forward"), "mlp"),
}


@dataclass(frozen=True, slots=True)
class Audit:
    """MACs of one image, batch 1, in ``eval()``; padding and masked products included, but for ``ideal``."""

    traced: int  # torch's counter on meta
    fvcore: int | None
    fvcore_error: str | None  # why fvcore has no count
    closed_form: int | None  # None where the model, or its head, has no formula
    ideal: int | None  # the closed form without attention's padding and masked pairs; None as there
    attention: int | None  # of the traced, what attention modules do; None if no module is named as one
    mlp: int | None  # of the traced, what MLPs do; None if no module is named as one

    @property
    def rest(self) -> int:
        """Return the traced MACs of neither attention nor MLPs."""
        return self.traced - (self.attention or 0) - (self.mlp or 0)

    @property
    def disagreement(self) -> float:
        """Return the greatest difference between two of the counts that exist, relative to the greater of them."""
        counts = [count for count in (self.traced, self.fvcore, self.closed_form) if count is not None]
        return (max(counts) - min(counts)) / max(*counts, 1)

    @property
    def agrees(self) -> bool:
        """Return whether all counts that exist agree within ``AGREEMENT``."""
        return self.disagreement <= AGREEMENT


def audit(model: nn.Module, input_size: tuple[int, int, int]) -> Audit:
    """Count the MACs of one image of ``input_size`` (C, H, W); the model stays as it is, ``meta`` or not.

    A model that torch cannot trace on ``meta`` is a ``UserError``; that fvcore cannot count it is told in the result.
    """
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    with counter:  # around the counter of count_macs, and so of the same trace
        traced = count_macs(model, input_size)
    spent = _split({name: sum(flops.values()) // FLOPS_PER_MAC for name, flops in counter.get_flop_counts().items()})
    found = {kind for name, _ in model.named_modules() if (kind := _kind(name))}
    fvcore, error = _by_fvcore(model, input_size)
    # Heads of other tasks have no formula, and a closed form without them would be of another model.
    backbone = model if isinstance(model, Backbone) and isinstance(model.head, ClassificationHead) else None
    return Audit(
        traced=traced,
        fvcore=fvcore,
        fvcore_error=error,
        closed_form=backbone.macs(*input_size[1:]) if backbone else None,
        ideal=backbone.ideal_macs(*input_size[1:]) if backbone else None,
        attention=spent["attention"] if "attention" in found else None,
        mlp=spent["mlp"] if "mlp" in found else None,
    )


def _by_fvcore(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[int | None, str | None]:
    try:
        return count_macs_fvcore(model, input_size), None
    except UserError as error:
        return None, str(error)


def _kind(name: str) -> str | None:
    """Return what the outermost module with a usual name, along the path ``name``, is for."""
    return next((KINDS[part] for part in name.split(".") if part in KINDS), None)


def _split(counts: Mapping[str, int]) -> Counter[str]:
    """Sum MACs by kind; a module's count has those of the modules inside it, so only the outermost is taken."""
    spent: Counter[str] = Counter()
    taken: list[str] | None = None
    for path in sorted(name.split(".") for name in counts):  # a module comes right before the modules inside it
        inside = taken is not None and path[: len(taken)] == taken
        kind = _kind(".".join(path[1:]))  # the first word is the model's class
        if kind and not inside:
            spent[kind] += counts[".".join(path)]
            taken = path
    return spent
