"""Block sizes of the integer product: which of them the autotuner compares for one shape.

Importing this module needs Triton.
"""

from collections.abc import Callable, Sequence

import triton

INTERPRETED = triton.knobs.runtime.interpret
PROGRAMS = 64  # at least so many programs keep a large GPU busy
TRIED = 4  # block sizes that the autotuner compares for one shape


def configurations() -> list[triton.Config]:
    """Return the block sizes among which the autotuner chooses; one under the interpreter."""
    if INTERPRETED:
        return [triton.Config({"BLOCK_M": 128, "BLOCK_N": 32, "BLOCK_K": 128})]
    sizes = (  # pixels, columns, channels, warps, stages; a program computes twice the columns at 4 bits
        (128, 128, 64, 8, 3),
        (128, 64, 128, 8, 3),
        (128, 64, 64, 8, 3),
        (64, 64, 64, 4, 3),
        (128, 32, 64, 4, 4),
        (64, 32, 64, 4, 4),
        (128, 16, 32, 4, 4),
        (32, 32, 64, 4, 4),
        (16, 32, 128, 4, 3),
        (16, 16, 32, 4, 4),
    )
    return [
        triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}, num_warps=warps, num_stages=stages)
        for m, n, k, warps, stages in sizes
    ]


def worth_trying(found: list[triton.Config], sizes: dict, **_) -> list[triton.Config]:
    """Return the largest blocks that a product fills and that still give enough programs.

    Args:
        found: configurations, from large blocks to small ones.
        sizes: the kernel's arguments by name.
    """
    pixels, columns, channels = sizes["pixels"], sizes["columns"], sizes["channels"]
    filled = [
        each.kwargs
        for each in found
        if each.kwargs["BLOCK_M"] < 2 * pixels
        and each.kwargs["BLOCK_N"] < 2 * columns
        and each.kwargs["BLOCK_K"] < 2 * channels
    ]
    enough = [
        size
        for size in filled
        if triton.cdiv(pixels, size["BLOCK_M"]) * triton.cdiv(columns, size["BLOCK_N"]) >= PROGRAMS
    ]
    chosen = enough[:TRIED] or filled[-TRIED:] or [found[-1].kwargs]
    return [each for each in found if each.kwargs in chosen]


def briefly(call: Callable[[], None], quantiles: Sequence[float]) -> Sequence[float]:
    """Return the shortest of a kernel's times in some milliseconds, once for each of ``quantiles``.

    A network has some fifty shapes. The shortest time does not depend on what else runs on the GPU.
    """
    from triton.testing import do_bench

    return [do_bench(call, warmup=5, rep=20, return_mode="min")] * len(quantiles)
