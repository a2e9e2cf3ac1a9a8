"""A fixed piece of work, timed beside the contenders of every timing: what two runs of one machine are compared by.

Two runs never see the same load, so their seconds cannot be compared; but each run knows how its contenders stand to
this. It is a block's worth of what all mechanisms are made of: matrix products, a softmax, a norm, an activation, on
more memory than a core's own cache holds. It must never change: changed work is a new name in ``timing.ANCHOR``.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

TOKENS, WIDTH, HEADS, WINDOW = 3136, 96, 3, 49


def anchor(device: torch.device) -> Callable[[], None]:
    """Return the step, its tensors ready on ``device``; fp32 whatever the contenders are."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(TOKENS, WIDTH, generator=generator).to(device)
    up = torch.randn(4 * WIDTH, WIDTH, generator=generator).to(device)
    down = torch.randn(WIDTH, 4 * WIDTH, generator=generator).to(device)

    def step() -> None:
        with torch.inference_mode():
            normed = F.layer_norm(tokens, (WIDTH,))
            heads = normed.view(TOKENS // WINDOW, WINDOW, HEADS, WIDTH // HEADS).transpose(1, 2)  # (B, heads, N, D)
            scores = torch.softmax(heads @ heads.mT, dim=-1)
            mixed = (scores @ heads).transpose(1, 2).reshape(TOKENS, WIDTH)
            F.linear(F.gelu(F.linear(normed + mixed, up)), down)

    return step
