"""Whether 16-bit products are worth it here."""

import time
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache
def fast_bf16(device: str = "cpu") -> bool:
    """Whether products in bf16 take at most one and a half times as long as in fp32 on a kind of device, measured once
    in some milliseconds. A CPU without instructions for them (AVX-512 BF16, AMX) takes five to forty times as long. Any
    other device counts as fast."""
    if device != "cpu":
        return True
    square = torch.ones(256, 256)
    return product_seconds(square.bfloat16()) < 1.5 * product_seconds(square)


def product_seconds(square: Tensor, tries: int = 5) -> float:
    """Seconds of the fastest of some products of a matrix (N, N) with itself."""
    found = []
    for _ in range(tries):
        began = time.perf_counter()
        square @ square
        found.append(time.perf_counter() - began)
    return min(found)
