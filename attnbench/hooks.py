"""Who watches modules from outside: they are to see layers called with whole maps, as the code of a model reads."""

from itertools import chain

from torch import nn
from torch.nn.modules import module as torch_modules


def are_watched(*modules: nn.Module) -> bool:
    """Tell whether somebody has hooks on these modules, or on all."""
    every = (
        torch_modules._global_forward_hooks,
        torch_modules._global_forward_pre_hooks,
        torch_modules._global_backward_hooks,
        torch_modules._global_backward_pre_hooks,
    )
    own = (
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
        for module in modules
    )
    return any(chain(every, *own))
