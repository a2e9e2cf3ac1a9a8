"""Our models beside timm's, interleaved in one process: ``python benchmarks/beside_timm.py``.

Twins get the same weights, and nothing is timed unless their outputs agree. Focal has no twin in timm: its outputs are
held to the authors' by the tests, and here it stands beside timm's Swin-T, as the paper's tables do, and beside ours.
"""

import argparse
import re
from collections.abc import Callable
from functools import partial

import timm
import torch
from racing import HEADER, Step, agree, inference, race, report, training
from timm.models.vision_transformer import Block as TimmBlock
from torch import Tensor, nn

import attnbench
from attnbench.architecture import uniform
from attnbench.backbone import Block
from attnbench.contract import Slot
from attnbench.models import create_model
from attnbench.sizes import SIZES

INFERENCE = ((224, 8), (448, 2), (896, 1))  # resolution in pixels, batch size


def renamed(key: str) -> str:
    """Turn timm's name of a weight of Swin or PVTv2 into ours."""
    key = re.sub(r"^(layers|stages)\.(\d)\.downsample", lambda match: f"merging.{int(match[2]) - 1}", key)
    key = re.sub(r"^(layers|stages)\.(\d)\.blocks", r"blocks.\2", key)
    key = re.sub(r"^stages\.([012])\.norm", r"norms.\1", key)
    key = re.sub(r"^(norm|stages\.3\.norm)\.", "head.norm.", key.replace("patch_embed", "stem"))
    return re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", key)


def twins(ours: nn.Module, theirs: nn.Module, images: Tensor, rename: Callable[[str], str]) -> None:
    """Give ours their weights, and stop if the outputs then differ."""
    state = {rename(key): value for key, value in theirs.state_dict().items() if "attn_mask" not in key}
    ours.load_state_dict(state)
    agree(ours.eval(), theirs.eval(), images)


def model(name: str, resolution: int) -> nn.Module:
    """Build a published model, without stochastic depth, or timm's."""
    torch.manual_seed(0)
    if not name.startswith("timm:"):
        return create_model(name, (resolution, resolution), 1000)
    sized = {"img_size": resolution} if "swin" in name else {}
    return timm.create_model(name.removeprefix("timm:"), **sized)


def models(rounds: int, make: Callable[[nn.Module, Tensor], Step], cells: tuple[tuple[int, int], ...]) -> None:
    """Race whole models: twins, and focal beside both Swins."""
    for resolution, batch in cells:
        images = torch.randn(batch, 3, resolution, resolution)
        swin, their_swin = model("swin_tiny", resolution), model("timm:swin_tiny_patch4_window7_224", resolution)
        twins(swin, their_swin, images, renamed)
        pvt, their_pvt = model("pvt_v2_b2", resolution), model("timm:pvt_v2_b2", resolution)
        twins(pvt, their_pvt, images, renamed)
        focal = model("focal_tiny", resolution)
        pairs = {
            "swin_tiny beside timm's": (swin, their_swin),
            "focal_tiny beside timm's swin_tiny": (focal, their_swin),
            "focal_tiny beside our swin_tiny": (focal, swin),
            "pvt_v2_b2 beside timm's": (pvt, their_pvt),
        }
        for what, pair in pairs.items():
            steps = [make(module, images) for module in pair]
            report(f"{what}, {make.__name__}, {resolution}, batch {batch}", race(*steps, rounds))


def vit_block(rounds: int) -> None:
    """Race a block of full attention and timm's of ViT, of the same width and tokens."""
    dim, heads, side, batch = 384, 6, 14, 8
    theirs = TimmBlock(dim, heads, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-5))
    sized = uniform(SIZES["tiny"])
    attention = attnbench.MECHANISMS["full"].build(Slot(dim, heads, 2, 0, (side, side)))
    ours = Block(sized, sized.dims.index(dim), attention, 0.0)
    x = torch.randn(batch, side, side, dim)
    ours.load_state_dict(theirs.state_dict())
    flat = x.flatten(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x).flatten(1, 2), theirs(flat), rtol=1e-5, atol=1e-5)
    report(
        f"full beside timm's ViT block, {dim} wide, {side**2} tokens, batch {batch}",
        race(inference(ours, x), inference(theirs, flat), 20 * rounds),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    print(HEADER)
    vit_block(given.rounds)
    models(given.rounds, inference, INFERENCE)
    models(given.rounds, training, INFERENCE[:1])


if __name__ == "__main__":
    main()
