"""Packed attention equals attention under a block mask, in value and gradient."""

import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtune.kernels import native
from xtune.kernels.packed_attention import masked_attention, packed_attention


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    dimension=st.sampled_from([8, 16]),
    seed=st.integers(0, 99),
)
def test_equals_masked_attention(lengths, heads, dimension, seed):
    torch.manual_seed(seed)
    tokens, results = sum(lengths), []
    states = [
        torch.randn(1, count, tokens, dimension, dtype=torch.float64)
        for count in (heads[0], heads[1], heads[1])
    ]
    towards = torch.randn(1, heads[0], tokens, dimension, dtype=torch.float64)
    for attention in (packed_attention, masked_attention):
        inputs = [state.clone().requires_grad_() for state in states]
        output = attention(*inputs, lengths, scale=dimension**-0.5)
        output.backward(towards)
        results.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for packed, masked in zip(*results, strict=True):
        torch.testing.assert_close(packed, masked, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("lengths", [[3, 5, 1, 64], [65, 130, 7], [1030, 513, 60], [512] * 3])
@pytest.mark.parametrize(("heads", "dimension"), [((4, 4), 16), ((9, 3), 64), ((6, 1), 48), ((2, 2), 128)])
def test_the_kernel_in_c(lengths, heads, dimension, threads, monkeypatch):
    """Samples of one and of several blocks of keys; threads that sum over the heads of a key, and that do not."""
    used = []
    call = native.call
    monkeypatch.setattr(native, "call", lambda kernel, *of: (used.append(kernel), call(kernel, *of)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        states = [torch.randn(1, count, sum(lengths), dimension) for count in (*heads, heads[1])]
        towards, results = torch.randn_like(states[0]), []
        for attention, dtype in ((packed_attention, torch.float32), (masked_attention, torch.float64)):
            inputs = [state.to(dtype, copy=True).requires_grad_() for state in states]
            output = attention(*inputs, lengths, scale=dimension**-0.5)
            output.backward(towards.to(dtype))
            results.append([output.detach(), *(tensor.grad for tensor in inputs)])
    finally:
        torch.set_num_threads(before)
    assert used == ["attention", "attention_backward"]
    for ours, exact in zip(*results, strict=True):
        assert (ours - exact).norm() / exact.norm() < 2e-6


@pytest.mark.parametrize("changed", [0, 1, 2])
@pytest.mark.parametrize("dimension", [8, 16])  # which the kernel in C takes
def test_no_sample_sees_another(changed, dimension):
    lengths = [3, 5, 2]
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 10, dimension) for _ in range(3))
    before = packed_attention(query, key, value, lengths, scale=1.0).split(lengths, dim=2)
    for tensor in (key, value):
        tensor.split(lengths, dim=2)[changed].add_(1.0)
    after = packed_attention(query, key, value, lengths, scale=1.0).split(lengths, dim=2)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [i != changed for i in range(3)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_flash_attention_on_a_gpu(heads):
    torch.manual_seed(0)
    lengths, results = [300, 1, 77, 129], []
    states = [
        torch.randn(1, count, sum(lengths), 64, device="cuda") for count in (heads[0], heads[1], heads[1])
    ]
    towards = torch.randn_like(states[0])
    for attention, dtype in ((packed_attention, torch.bfloat16), (masked_attention, torch.float32)):
        inputs = [state.to(dtype).requires_grad_() for state in states]
        output = attention(*inputs, lengths, scale=0.125)
        output.backward(towards.to(dtype))
        results.append([output.detach().float(), *(tensor.grad.float() for tensor in inputs)])
    for packed, masked in zip(*results, strict=True):
        assert (packed - masked).norm() / masked.norm() < 1e-2
