"""Each fused kernel gives the values and the gradients of the plain PyTorch beside it, in float64's view."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

from xtune.kernels import native
from xtune.kernels.linear_cross_entropy import _room, linear_cross_entropy, plain_losses
from xtune.kernels.lora import LoraLinear, lora_linears, lora_mlp, plain_linear, plain_mlp
from xtune.kernels.rms_norm import plain_rms_norm, rms_norm
from xtune.kernels.rotary import plain_rotary, rotary
from xtune.kernels.swiglu import swiglu

GPU = [pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
pytestmark = [
    pytest.mark.parametrize("device", ["cpu", "cpu without a compiler", *GPU], indirect=True),
    pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16]),
    pytest.mark.parametrize("rows", [1, 65, 300, 2100]),
]


@pytest.fixture
def device(request, monkeypatch) -> str:
    name, _, without = request.param.partition(" ")
    if without:
        monkeypatch.setattr(native, "library", lambda: None)
    elif name == "cpu":
        assert native.library() or not shutil.which("cc")
    return name


def made(*shape: int, dtype: torch.dtype, device: str, learnt: bool = True) -> Tensor:
    """The same numbers at each call with the same shape."""
    numbers = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return numbers.to(device, dtype).requires_grad_(learnt)


def results(function, *inputs: Tensor) -> list[Tensor]:
    """Outputs, and the gradients at the inputs that have one, for one random gradient at each output."""
    found = function(*inputs)
    outputs = found if isinstance(found, tuple) else (found,)
    gradients = [made(*one.shape, dtype=one.dtype, device=one.device, learnt=False) for one in outputs]
    learnt = [one for one in inputs if one is not None and one.requires_grad]
    return [*outputs, *torch.autograd.grad(outputs, learnt, gradients)]


def check(fused, plain, *inputs: Tensor | None) -> None:
    """Beside the plain one in float64, the fused one may be twice as far off as the plain one is."""
    exactly = [
        one if one is None else one.detach().double().requires_grad_(one.requires_grad) for one in inputs
    ]
    found = zip(results(fused, *inputs), results(plain, *inputs), results(plain, *exactly), strict=True)
    for ours, theirs, exact in found:
        assert ours.dtype == theirs.dtype
        wrong, usual = ((one.double() - exact).norm() / (exact.norm() + 1e-12) for one in (ours, theirs))
        assert wrong <= 2 * usual + 1e-6, (wrong, usual)


@pytest.mark.parametrize("trained", [False, True])
def test_rms_norm(device, dtype, rows, trained):
    states = made(2, rows, 48, dtype=dtype, device=device)
    weight = made(48, dtype=dtype, device=device, learnt=trained)
    check(lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: plain_rms_norm(x, w, 1e-5), states, weight)


def test_rotary(device, dtype, rows):
    angles = made(rows, 8, dtype=torch.float64, device=device, learnt=False).repeat(1, 2)
    query, key = (made(rows, heads, 16, dtype=dtype, device=device) for heads in (4, 2))
    check(rotary, plain_rotary, query, key, angles.cos().to(dtype), angles.sin().to(dtype))


def test_swiglu(device, dtype, rows):
    gate, up = (made(1, rows, 43, dtype=dtype, device=device) for _ in range(2))
    check(swiglu, lambda gate, up: torch.nn.functional.silu(gate) * up, gate, up)


@pytest.mark.parametrize("trained", [False, True])
def test_loss(device, dtype, rows, trained, monkeypatch):
    for name in ("_LOGITS", "_LOGITS_GPU"):  # several chunks
        monkeypatch.setattr(f"xtune.kernels.linear_cross_entropy.{name}", 300 * 100)
    _room.cache_clear()
    hidden = made(rows, 32, dtype=dtype, device=device)
    weight = made(300, 32, dtype=dtype, device=device, learnt=trained)
    targets = torch.arange(rows, device=device) * 7 % 300
    check(
        lambda *of: linear_cross_entropy(*of, targets), lambda *of: plain_losses(*of, targets), hidden, weight
    )


def test_a_target_that_is_all_but_impossible(device, dtype, rows):
    weight = torch.tensor([[100.0], [0.0]], dtype=dtype, device=device)
    hidden = torch.full((rows, 1), 2.0, dtype=dtype, device=device, requires_grad=True)
    losses = linear_cross_entropy(hidden, weight, torch.ones(rows, dtype=torch.int64, device=device))
    torch.testing.assert_close(losses, torch.full_like(losses, 200.0))


def adapted(inputs: int, outputs: int, rank: int, bias: bool, *, dtype, device) -> list[Tensor | None]:
    """Weights, bias, a and b of a layer."""
    kind = {"dtype": dtype, "device": device}
    factors = {"dtype": torch.float32, "device": device}
    return [
        made(outputs, inputs, learnt=False, **kind),
        made(outputs, learnt=False, **kind) if bias else None,
        *((made(rank, inputs, **factors), made(outputs, rank, **factors)) if rank else (None, None)),
    ]


def layers(tensors) -> list[LoraLinear]:
    """From the tensors of several."""
    return [
        LoraLinear(lambda weight=tensors[i]: weight, *tensors[i + 1 : i + 4], scale=0.5)
        for i in range(0, len(tensors), 4)
    ]


@pytest.mark.parametrize("frozen_input", [False, True])
def test_linear_layers_of_one_input(device, dtype, rows, frozen_input):
    states = made(2, rows, 24, dtype=dtype, device=device, learnt=not frozen_input)
    of = [((40, 4, False)), ((8, 16, True)), ((8, 0, True))]
    tensors = [one for each in of for one in adapted(24, *each, dtype=dtype, device=device)]
    if frozen_input:  # else nothing there has a gradient
        tensors, of = tensors[:8], of[:2]
    check(
        lambda x, *of: lora_linears(x, layers(of)),
        lambda x, *of: tuple(plain_linear(x, layer) for layer in layers(of)),
        states,
        *tensors,
    )


@pytest.mark.parametrize("ranks", [(4, 8, 16), (16, 32, 16), (0, 4, 0), (0, 0, 0)])
def test_mlp(device, dtype, rows, ranks):
    states = made(1, rows, 24, dtype=dtype, device=device)
    sizes = [(24, 40), (24, 40), (40, 24)]
    tensors = [
        one
        for size, rank in zip(sizes, ranks, strict=True)
        for one in adapted(*size, rank, rank == 8, dtype=dtype, device=device)
    ]
    check(lambda x, *of: lora_mlp(x, *layers(of)), lambda x, *of: plain_mlp(x, *layers(of)), states, *tensors)
