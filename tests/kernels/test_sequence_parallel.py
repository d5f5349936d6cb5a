"""Attention over tokens spread over two real processes is attention in one, in values and gradients."""

from __future__ import annotations

from pathlib import Path

import torch

from xtune.kernels.packed_attention import packed_attention
from xtune.model.attention import _attention

LENGTHS = [5, 1, 6]
HEADS = 4
CASES = [(key_value_heads, alibi) for key_value_heads in (4, 2, 1) for alibi in (False, True)]


def inputs(case: int) -> list[torch.Tensor]:
    """Query, key, value, gradient of the output, slopes."""
    key_value_heads, alibi = CASES[case]
    torch.manual_seed(case)
    sizes = [HEADS, key_value_heads, key_value_heads, HEADS]
    tensors = [torch.randn(1, size, sum(LENGTHS), 8, dtype=torch.float64) for size in sizes]
    slopes = torch.rand(HEADS, dtype=torch.float64) if alibi else None
    return [*tensors, slopes]


def one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.set_num_threads(1)
    half = sum(LENGTHS) // 2
    results = []
    for case in range(len(CASES)):
        *tensors, gradient, slopes = inputs(case)
        mine = [tensor[:, :, rank * half : (rank + 1) * half].clone().requires_grad_() for tensor in tensors]
        output, _ = _attention(
            torch.nn.Module(), *mine, None, sample_lengths=LENGTHS, sequence_processes=2, alibi_slopes=slopes
        )
        output.backward(gradient.transpose(1, 2)[:, rank * half : (rank + 1) * half])
        results.append([output.detach(), *(each.grad for each in mine)])
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path):
    torch.multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in range(len(CASES)):
        *tensors, gradient, slopes = inputs(case)
        whole = [tensor.requires_grad_() for tensor in tensors]
        output = packed_attention(*whole, LENGTHS, scale=8**-0.5, slopes=slopes)
        output.backward(gradient)
        first, *gradients = ([one, other] for one, other in zip(parts[0][case], parts[1][case], strict=True))
        assert torch.allclose(torch.cat(first, 1), output.transpose(1, 2), atol=1e-12)
        for both, tensor in zip(gradients, whole, strict=True):
            assert torch.allclose(torch.cat(both, 2), tensor.grad, atol=1e-12)
