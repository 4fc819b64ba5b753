"""Which steps the calibration inputs come from (the paper's Figure 4, and its sampling ablation), at W4A8."""

from collections.abc import Iterator

from lab import Lab

from qdiff_lib.recipes.timestep_rules import First, Last, Middle, Normal, Rule, Single, Uniform

BITS = 4, 8


def cases(steps: int, shares: tuple[float, ...]) -> list[tuple[str, float | None, str, Rule]]:
    """(rule, share, label, the rule itself) of each row; share: of the steps, where the rule has one."""
    found: list = [("uniform", None, "uniform", Uniform()), ("normal", None, "normal", Normal())]
    found.append(("single", None, f"step {steps // 2 + 1} alone", Single(steps // 2)))
    for share in shares:
        n = round(share * steps)
        for rule in (First, Middle, Last):
            name = rule.__name__.lower()
            found.append((name, share, f"{name} {share:.0%}", rule(n)))
    return found


def run(lab: Lab) -> Iterator[dict]:
    """A row for each rule, all with the same short budget; ``share``: null where the rule has none.

    ``seeds``: rows of uniform, calibrated with several seeds.
    """
    settings, rows = lab.settings, []
    budget = settings.sampling_budget
    for name, share, label, rule in cases(settings.steps, settings.shares):
        print(f"  {label}", flush=True)
        judged = lab.judged(settings.qdiffusion(*BITS, **{**budget, "rule": rule}))
        rows.append({"rule": name, "share": share, "label": label, **judged})
    floor = [row.pop("floor") for row in rows][0]
    bits = dict(zip(("weights", "activations"), BITS, strict=True))
    print(f"  uniform, {len(settings.seeds)} seeds", flush=True)
    yield {
        **bits,
        "steps": settings.steps,
        "n": settings.images,
        **budget,
        "rows": rows,
        "seeds": lab.judged_by_seed(settings.qdiffusion(*BITS, **{**budget, "rule": Uniform()})),
        "floor": floor,
        "real": lab.real(settings.images),
    }
