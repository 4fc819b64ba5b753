"""What the scores notice: full precision's images of Table 1, changed by less than an eye can see."""

from collections.abc import Iterator
from functools import partial

import torch
from lab import Lab, made_now, rounded
from table1 import FULL, Case, drawn, made_by_of, order_of
from torch import Tensor

from qdiff_lib.utils.constants import FLOAT_BITS

GREY = 2 / 255  # one of 256 levels, in the range from -1 to 1
CHANGES = (("brightness", (-0.5, -0.25, 0.25, 0.5)), ("noise", (0.5, 1.0, 2.0)))


def run(lab: Lab) -> Iterator[dict]:
    """``rows``: ``kind`` and ``levels`` of each change, in grey levels, with its scores; the first: none."""
    case, rows = Case(FULL, FLOAT_BITS, FLOAT_BITS, lab.settings.table1.seeds[0]), []
    last = drawn(lab, case).last
    for kind, levels in (("none", (0.0,)), *CHANGES):
        for level in levels:
            print(f"  {kind} {level:g}", flush=True)
            made_by = {**made_by_of(lab, case), "n": order_of(lab, case).n, "kind": kind, "level": level}
            make = partial(scores, lab, last, kind, level)
            rows.append({"kind": kind, "levels": level, **lab.cache.value("sensitivity", made_by, make)})
    yield {"n": len(last), "rows": rows}


def scores(lab: Lab, last: Tensor, kind: str, level: float) -> dict:
    """Of images (N, C, H, W) from -1 to 1, brighter by so many levels, or with white noise of that size."""
    noise = torch.randn(last.shape, generator=torch.Generator().manual_seed(0)) if kind == "noise" else 1.0
    images = (((last + GREY * level * noise) / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    found = lab.scored(images)
    return {"frechet": rounded(found.frechet), "kid": rounded(found.kid), **made_now()}
