"""Linear layers by oneDNN: the same numbers, wherever PyTorch's own operator does nothing that oneDNN would not."""

import copy
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

import attnbench
from attnbench import linear, products
from attnbench.architecture import uniform
from attnbench.backbone import Backbone, build_model
from attnbench.contract import Mechanism, NoSettings, Slot
from attnbench.devices import elsewhere
from attnbench.layers import Mlp
from attnbench.sizes import SIZES

ONEDNN = "mkldnn::_linear_pointwise"


pytestmark = pytest.mark.usefixtures("onednn_everywhere")


def layer(inputs: int = 6, outputs: int = 5, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(inputs, outputs, bias)
    linear.adopt(made)
    return made


def operators(call: Callable[[], object]) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        call()
    return {event.key for event in seen.key_averages()}


@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
    st.sampled_from(["contiguous", "channels first", "part of wider rows", "every second"]),
)
@settings(max_examples=60, deadline=None)
def test_outputs_are_those_of_float64(rows: list[int], inputs: int, outputs: int, bias: bool, form: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(*rows, inputs), torch.randn(outputs, inputs)
    if form == "channels first" and rows:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    if form == "part of wider rows":
        x = torch.cat([x, x], -1)[..., :inputs]
    if form == "every second" and rows:
        x = x.repeat_interleave(2, 0)[::2]
    shift = torch.randn(outputs) if bias else None
    with torch.inference_mode():
        out = linear.linear(x, weight, shift)
    expected = x.double() @ weight.double().T + (shift.double() if shift is not None else 0)
    assert out.is_contiguous()
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)  # sums of up to 40 products of float32


def test_inference_and_training_take_onednn() -> None:
    made, x = layer(), torch.randn(4, 6)
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: made(x))
    with torch.no_grad():
        assert ONEDNN in operators(lambda: made(x))
    assert ONEDNN in operators(lambda: made(x))
    wide = layer(64, 48)
    out = wide(torch.randn(9, 50, 64))
    assert "aten::convolution_backward" in operators(out.sum().backward)


# Of 450 tokens, as many as PyTorch gives oneDNN a convolution of.
WIDE = (50, 48)
SHAPES: dict[str, Callable[[], Tensor]] = {
    "map": lambda: torch.randn(2, 15, 15, 50),
    "tokens": lambda: torch.randn(450, 50),
    "channels first": lambda: torch.randn(2, 50, 225).mT,
    "one token, expanded": lambda: torch.randn(50).expand(450, -1),
    "few": lambda: torch.randn(3, 50),
    "none": lambda: torch.randn(0, 50),
    "without batch": lambda: torch.randn(50),
}


def gradients(out: Tensor, sources: list[Tensor]) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad((out * torch.randn(out.shape).to(out.dtype)).sum(), sources)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_those_of_float64(shape: str, bias: bool) -> None:
    made = layer(*WIDE, bias)
    x = SHAPES[shape]().requires_grad_()
    exact = copy.deepcopy(made).double()
    x64 = x.detach().double().requires_grad_()
    found = gradients(made(x), [x, *made.parameters()])
    expected = gradients(exact(x64), [x64, *exact.parameters()])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=450 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("learning", list(product([False, True], repeat=3)))
def test_what_does_not_learn_gets_no_gradient(learning: tuple[bool, ...]) -> None:
    made = layer(*WIDE)
    x = torch.randn(450, WIDE[0])
    sources = [x, made.weight, made.bias]
    for source, learns in zip(sources, learning, strict=True):
        source.requires_grad_(learns)
    out = made(x)
    assert out.requires_grad == any(learning)
    if not any(learning):
        return
    learners = [source for source in sources if source.requires_grad]
    found, expected = gradients(out, learners), gradients(F.linear(*sources), learners)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=450 * torch.finfo(torch.float32).eps)
    made(x).sum().backward()
    assert [source.grad is not None for source in sources] == list(learning)


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_have_gradients(bias: bool) -> None:
    made, x = layer(*WIDE, bias), torch.randn(450, WIDE[0], requires_grad=True)
    sources = [x, *made.parameters()]

    def twice(out: Tensor) -> tuple[Tensor | None, ...]:
        slopes = torch.autograd.grad(out.square().sum(), sources, create_graph=True)
        penalty = torch.stack([slope.square().mean() for slope in slopes]).sum()
        return torch.autograd.grad(penalty, sources)

    torch.testing.assert_close(twice(made(x)), twice(F.linear(x, made.weight, made.bias)), rtol=1e-4, atol=1e-4)


def test_an_activation_that_is_computed_again_has_the_same_gradients() -> None:
    made, x = layer(*WIDE), torch.randn(450, WIDE[0], requires_grad=True)
    sources = [x, *made.parameters()]
    again = torch.utils.checkpoint.checkpoint(made, x, use_reentrant=False)
    torch.testing.assert_close(gradients(again, sources), gradients(made(x), sources), rtol=0, atol=0)


def test_weights_that_changed_before_the_backward_pass_are_refused_as_by_pytorch() -> None:
    made, x = layer(*WIDE), torch.randn(450, WIDE[0], requires_grad=True)
    out = made(x)
    with torch.no_grad():
        made.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def _quantised(x: Tensor) -> Tensor:
    class Other(Tensor):
        pass

    return x.as_subclass(Other)


EXCEPTIONS: dict[str, Callable[[nn.Linear, Tensor], tuple[nn.Linear, Tensor]]] = {
    "bfloat16": lambda made, x: (made.bfloat16(), x.bfloat16()),
    "float64": lambda made, x: (made.double(), x.double()),
    "a subclass of tensors": lambda made, x: (made, _quantised(x)),
    "weights that are a part of others": lambda made, x: (_with_weight(made, torch.randn(5, 12)[:, ::2]), x),
}


def _with_weight(made: nn.Linear, weight: Tensor) -> nn.Linear:
    made.weight = nn.Parameter(weight)
    return made


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_other_numbers_are_left_to_pytorch(name: str) -> None:
    made, x = EXCEPTIONS[name](layer(), torch.randn(4, 6))
    with torch.inference_mode():
        assert ONEDNN not in operators(lambda: made(x))
        torch.testing.assert_close(made(x), F.linear(x, made.weight, made.bias), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")  # said to who sets flags
def test_who_chooses_otherwise_or_looks_elsewhere_gets_pytorchs_own() -> None:
    made, x = layer(), torch.randn(4, 6)
    with torch.inference_mode():
        with torch.backends.mkldnn.flags(enabled=False):
            assert ONEDNN not in operators(lambda: made(x))
        with elsewhere():
            assert ONEDNN not in operators(lambda: made(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert made(x).dtype == torch.bfloat16
        assert ONEDNN in operators(lambda: made(x))


def test_who_watches_operators_sees_pytorchs_own() -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):  # type: ignore[no-untyped-def]
            seen.append(str(function))
            return function(*arguments, **(named or {}))

    with torch.inference_mode(), Watch():  # type: ignore[no-untyped-call]
        layer()(torch.randn(4, 6))
    assert any("addmm" in name or "aten.linear" in name for name in seen)
    assert not any("mkldnn" in name for name in seen)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by the first transform, of its own
def test_transforms_and_forward_derivatives_are_pytorchs() -> None:
    made, x, tangent = layer(), torch.randn(3, 4, 6), torch.randn(3, 4, 6)
    with torch.no_grad():
        torch.testing.assert_close(torch.func.vmap(made)(x), F.linear(x, made.weight, made.bias))
        with forward_ad.dual_level():
            out = forward_ad.unpack_dual(made(forward_ad.make_dual(x, tangent)))
    torch.testing.assert_close(out.tangent, F.linear(tangent, made.weight))


@pytest.mark.parametrize(
    ("x", "weight", "bias"),
    [
        (torch.ones(4, 7), torch.ones(5, 6), torch.ones(5)),
        (torch.ones(4, 6), torch.ones(5, 6), torch.ones(4)),
        (torch.ones(4, 6), torch.ones(5, 6), torch.ones(5).half()),
        (torch.ones(4, 6), torch.ones(5, 6).double(), torch.ones(5)),
    ],
    ids=["inputs", "bias", "bias's dtype", "weight's dtype"],
)
def test_what_does_not_fit_is_refused_as_by_pytorch(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    with torch.inference_mode():
        with pytest.raises(RuntimeError) as expected:
            F.linear(x, weight, bias)
        with pytest.raises(RuntimeError) as refused:
            linear.linear(x, weight, bias)
    assert str(refused.value) == str(expected.value)


def test_small_products_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST", 4 * 6 * 5 + 1)
    with torch.inference_mode():
        assert ONEDNN not in operators(lambda: layer()(torch.randn(4, 6)))
        assert ONEDNN in operators(lambda: layer()(torch.randn(5, 6)))


def test_what_is_just_a_linear_layer_is_adopted() -> None:
    class Exchanged(nn.Linear):
        pass

    ours, other = layer(), Exchanged(6, 5)
    linear.adopt(other)
    assert type(ours) is linear.Linear
    assert type(other) is Exchanged
    assert linear.is_linear(nn.Linear(2, 2))
    assert linear.is_linear(ours)
    assert not linear.is_linear(other)


def test_a_model_adopts_the_layers_of_anyones_mechanism() -> None:
    class Anyones(nn.Module):
        def __init__(self, slot: Slot, _: NoSettings) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(slot.dim, slot.dim), Doubled(slot.dim, slot.dim)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(self.first(x))
            return out

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    anyones = Mechanism("anyones", Anyones, None, "O(HW)", (NoSettings(),) * 4)
    model = Backbone(uniform(SIZES["nano"]), anyones.build, (64, 64), lambda channels: nn.Linear(channels[-1], 3))
    found = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    assert found == {linear.Linear, Doubled}
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("name", sorted({*attnbench.MECHANISMS} - {"identity"}))
def test_a_mechanism_outside_a_model_takes_onednn_too(name: str) -> None:
    module, x = attnbench.MECHANISMS[name].build(Slot(64, 2, 2, 1, (15, 15))).eval(), torch.randn(2, 15, 15, 64)
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: module(x))
    assert "aten::convolution_backward" in operators(lambda: module(x).sum().backward())


@pytest.mark.parametrize("name", sorted(attnbench.MECHANISMS))
def test_models_put_out_what_they_do_in_float64_and_learn_the_same(name: str) -> None:
    torch.manual_seed(0)
    model, images = build_model(name, resolution=(70, 94), num_classes=3).eval(), torch.randn(2, 3, 70, 94)
    exact = copy.deepcopy(model).double()
    expected = exact(images.double())
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: model(images))
        torch.testing.assert_close(model(images).double(), expected, rtol=1e-5, atol=1e-5)
    expected.square().sum().backward()
    assert "aten::convolution_backward" in operators(lambda: model(images).square().sum().backward())
    for (which, one), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = max(1.0, float(other.grad.abs().max()))
        torch.testing.assert_close(one.grad.double() / scale, other.grad / scale, rtol=0, atol=1e-5, msg=which)


@pytest.mark.parametrize("bias", [False, True])
def test_compiled_layers_take_onednn_too(bias: bool) -> None:
    torch.compiler.reset()
    made, x = layer(*WIDE, bias), torch.randn(2, 225, WIDE[0], requires_grad=True)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: compiled(x))
        torch.testing.assert_close(compiled(x), F.linear(x, made.weight, made.bias), rtol=1e-5, atol=1e-5)
    sources = [x, *made.parameters()]
    out = compiled(x)
    torch.testing.assert_close(gradients(out, sources), gradients(made(x), sources), rtol=0, atol=1e-5)
    assert "aten::convolution_backward" in operators(compiled(x).sum().backward)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch reads it, not we
def test_its_operators_are_what_the_compiler_takes_them_for() -> None:
    x, weight, bias, grad = (torch.randn(shape) for shape in ((2, 225, 50), (48, 50), (48,), (2, 225, 48)))
    for shift in (None, bias):
        assert set(torch.library.opcheck(linear._compiled, (x, weight, shift)).values()) == {"SUCCESS"}
        learning = x.clone().requires_grad_(), weight.clone().requires_grad_(), shift
        assert set(torch.library.opcheck(linear._compiled, learning).values()) == {"SUCCESS"}
    for kept in ((x, weight), (x, None), (None, weight)):
        assert set(torch.library.opcheck(linear._compiled_backward, (grad, *kept)).values()) == {"SUCCESS"}


def test_only_what_gradients_need_is_kept() -> None:
    made, x = layer(*WIDE), torch.randn(450, WIDE[0])
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    for learns, sources in ((x, [made.weight]), (made.weight, [x])):  # an input's gradient is made with the weight
        made.requires_grad_(False)
        learns.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made(x)
        assert [tensor is source for tensor, source in zip(kept, sources, strict=True)] == [True]
        kept.clear()
        x.requires_grad_(False)


def test_an_exported_model_has_pytorchs_layers() -> None:
    mlp = Mlp(6, 4).eval()
    mlp.apply(linear.adopt)
    with torch.no_grad():
        graph = str(torch.export.export(mlp, (torch.randn(2, 6),)).graph)
    assert "aten.linear" in graph
    assert "attnbench" not in graph
