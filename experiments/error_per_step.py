"""Error against the full-precision trajectory after each of 100 steps (the paper's Figure 3)."""

from collections.abc import Iterator

from lab import Lab, about, label

LINEAR = ((8, 32), (5, 32), (4, 32))
BOTH = ((8, 8), (4, 8))


def run(lab: Lab) -> Iterator[dict]:
    """``mse`` and ``snr_db``: a number for each step, noisy to clean."""
    make, n, steps = lab.settings, lab.settings.trajectories, lab.settings.long_steps
    recipes = [make.linear(*bits) for bits in LINEAR] + [make.qdiffusion(4, 32)]
    recipes += [make.linear(*bits) for bits in BOTH] + [make.qdiffusion(4, 8)]
    rows = []
    for recipe in recipes:
        print(f"  {label(recipe)}", flush=True)
        rows.append({"label": label(recipe), **about(recipe), **lab.error_per_step(recipe, n, steps)})
    yield {"steps": steps, "n": n, "rows": rows}
