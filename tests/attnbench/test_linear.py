"""Linear layers by oneDNN: the same numbers, wherever PyTorch's own operator does nothing that oneDNN would not."""

import copy
from collections.abc import Callable, Iterator

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
from attnbench import linear
from attnbench.backbone import Backbone, build_model
from attnbench.devices import elsewhere
from attnbench.layers import Mlp

ONEDNN = "mkldnn::_linear_pointwise"


@pytest.fixture(autouse=True, scope="module")
def _everywhere() -> Iterator[None]:
    """Take oneDNN on any processor, and for any number of products."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch is built without oneDNN")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "SERVES_BETTER", True)
        patch.setattr(linear, "LEAST", 0)
        yield


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


def test_inference_takes_onednn_and_training_does_not() -> None:
    made, x = layer(), torch.randn(4, 6)
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: made(x))
    with torch.no_grad():
        assert ONEDNN in operators(lambda: made(x))
    assert ONEDNN not in operators(lambda: made(x))
    made(x).sum().backward()
    assert made.weight.grad is not None


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
    monkeypatch.setattr(linear, "LEAST", 4 * 6 * 5 + 1)
    with torch.inference_mode():
        assert ONEDNN not in operators(lambda: layer()(torch.randn(4, 6)))
        assert ONEDNN in operators(lambda: layer()(torch.randn(5, 6)))


def test_a_model_adopts_its_own_layers_and_those_of_its_mechanism_alone() -> None:
    class Exchanged(nn.Linear):
        pass

    ours, other = layer(), Exchanged(6, 5)
    linear.adopt(other)
    assert type(ours) is linear.Linear
    assert type(other) is Exchanged
    assert linear.is_linear(nn.Linear(2, 2))
    assert linear.is_linear(ours)
    assert not linear.is_linear(other)
    model = build_model("swin", resolution=(64, 64))
    assert not [name for name, module in model.named_modules() if type(module) is nn.Linear]
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()


def in_float64(model: Backbone, images: Tensor) -> Tensor:
    out: Tensor = copy.deepcopy(model).double()(images.double())
    return out


@pytest.mark.parametrize("name", sorted(attnbench.MECHANISMS))
def test_models_put_out_what_they_do_in_float64(name: str) -> None:
    torch.manual_seed(0)
    model, images = build_model(name, resolution=(70, 94), num_classes=3).eval(), torch.randn(2, 3, 70, 94)
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: model(images))
        torch.testing.assert_close(model(images).double(), in_float64(model, images), rtol=1e-5, atol=1e-5)


def test_compiled_inference_takes_onednn_too() -> None:
    torch.compiler.reset()
    made, x = layer(), torch.randn(2, 4, 6)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    with torch.inference_mode():
        assert ONEDNN in operators(lambda: compiled(x))
        torch.testing.assert_close(compiled(x), F.linear(x, made.weight, made.bias), rtol=1e-5, atol=1e-5)
    out = compiled(x)
    out.sum().backward()
    assert made.weight.grad is not None


def test_an_exported_model_has_pytorchs_layers() -> None:
    mlp = Mlp(6, 4).eval()
    mlp.apply(linear.adopt)
    with torch.no_grad():
        graph = str(torch.export.export(mlp, (torch.randn(2, 6),)).graph)
    assert "aten.linear" in graph
    assert "attnbench" not in graph
