"""Images that an engine draws in integers."""

from .source import flow, pair, short, spread, table

FULL, SIMULATED, INTEGERS = "full precision", "simulated", "integers"
SCORES = {"kid": 1e3, "frechet": 1.0}


def scores(data: dict) -> str:
    """The scores of integers, of the simulation and of full precision, over the seeds of the noise."""
    real, ways = data["real"], by_label(data)
    rows = []
    for label, found in ways.items():
        cells = [spread([row[name] for row in found], None, 2, factor) for name, factor in SCORES.items()]
        rows.append([label, *cells, *(distance(found, other) for other in (FULL, SIMULATED))])
    rows.append(["real images", pair(real["kid"], 1e3), pair(real["frechet"]), "", ""])
    seeds = len(ways[SIMULATED])
    before = flow(f"""
        `ddpm-fashion-w4a8`, drawn by the simulation in floating point and by the engine `{data["engine"]}` in
        integers ([which layers](docs/engines.md#which-layers-run-in-integers)). {data["n"]:,} images from
        each of {seeds} seeds of the noise, DDIM with {data["steps"]} steps. KID and Fréchet distance use the
        features of the shipped classifier: mean and standard deviation over the seeds, of real images over
        {real["groups"]} groups. MSE compares x after the last step, from the same noise.
    """)
    titles = ["drawn", "KID x 1000", "Fréchet", "MSE x 1000 to full precision", "MSE x 1000 to simulated"]
    most = {
        name: (short(factor * largest_change(data, name)), short(factor * seed_range(data, name)))
        for name, factor in SCORES.items()
    }
    after = flow(f"""
        From the same noise, integers and simulation differ by at most {most["frechet"][0]} in the Fréchet
        distance and by {most["kid"][0]} in KID x 1000. Between the seeds, the simulation alone differs by
        {most["frechet"][1]} and by {most["kid"][1]}.
    """)
    return "\n\n".join([before, table(titles, rows), after])


def by_label(data: dict) -> dict[str, list[dict]]:
    """The rows of each way to draw, by seed."""
    labels = dict.fromkeys(row["label"] for row in data["rows"])
    return {label: [row for row in data["rows"] if row["label"] == label] for label in labels}


def distance(rows: list[dict], other: str) -> str:
    """The mean squared error to another way to draw, over the seeds; empty where it was not computed."""
    found = [row["against"][other]["mse"] for row in rows if other in row["against"]]
    return spread(found, None, 2, 1e3) if found else ""


def largest_change(data: dict, name: str) -> float:
    """The largest difference of a score between integers and simulation from the same noise."""
    ways = by_label(data)
    pairs = zip(ways[INTEGERS], ways[SIMULATED], strict=True)
    return max(abs(one[name] - other[name]) for one, other in pairs)


def seed_range(data: dict, name: str) -> float:
    """How far a score of the simulation differs between the seeds of the noise."""
    found = [row[name] for row in by_label(data)[SIMULATED]]
    return max(found) - min(found)
