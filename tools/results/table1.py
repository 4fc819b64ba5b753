"""Table 1: every method at every width, and beside the paper's."""

import json
import statistics
from functools import cache
from pathlib import Path

from qdiff_lib.graph.cost import parameter_count
from qdiff_lib.graph.networks import build
from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10
from qdiff_lib.recipes.recipe import Recipe

from ..expansion import ROOT
from .source import fixed, flow, pair, share, spread, table

FULL, OURS = "full precision", "Q-Diffusion"
OWN, INCEPTION = "fashion-classifier", "inception"
PAPER = ROOT / "data" / "paper" / "table1.json"
SHOWN = ("batch_size", "lr", "lr_step_sizes", "regularization", "beta")

Key = tuple[str, int, int]  # label, bits of weights and activations


@cache
def paper(path: Path = PAPER) -> dict:
    """The paper's table; each number has a mark that ``marks`` explains."""
    return json.loads(path.read_text(encoding="utf-8"))


def text(data: dict) -> str:
    """The section: our table, ours beside the paper's, what differs."""
    return "\n\n".join([intro(data), our_table(data), beside(data), differences(data), findings(data)])


def key(row: dict) -> Key:
    return row["label"], row["weights"], row["activations"]


def groups(data: dict) -> dict[Key, list[dict]]:
    """The rows of each method and width, one for each seed; empty where none is recorded yet."""
    found: dict[Key, list[dict]] = {key(row): [] for row in data["planned"]}
    for row in data["rows"]:
        found[key(row)].append(row)
    return found


def mean(rows: list[dict], name: str, extractor: str = OWN) -> float:
    """The mean of a score over the rows."""
    return statistics.fmean(row["scores"][extractor][name] for row in rows)


def intro(data: dict) -> str:
    missing = len(data["planned"]) - len(data["rows"])
    waiting = f"{missing} of {len(data['planned'])} rows are not recorded yet: their cells are empty."
    return flow(f"""
        `ddpm-fashion`. Each row: {data["n"]:,} images, DDIM with {data["steps"]} quadratic steps, calibration
        with the profile `{data["profile"]}` (only the rows "all stages" use all of its stages, see below).
        "seeds": the number of different noises and calibrations. KID, Fréchet distance and IS use the
        features of the shipped classifier and 5,000 real test images. FID uses the features of Inception.
        KID comes first, because the Fréchet distance is biased for this n, and KID is not. MSE and SNR
        compare x after the last step with full precision from the same noise. With several seeds, ± is the
        standard deviation over the seeds. With one seed, it is the standard deviation over KID's subsets or
        IS's splits, or the standard error of the MSE over the images. {waiting if missing else ""}
    """)


def our_table(data: dict) -> str:
    """A row for each method and width, and one for real images."""
    titles = ["W/A", "method", "seeds", "MB", "G BOPs", "KID x 1000", "Fréchet", "IS", "FID", "MSE x 1000"]
    titles += ["SNR (dB)", "calibration (s)", "peak memory (MB)"]
    rows = [[f"{w}/{a}", label, *cells(found)] for (label, w, a), found in groups(data).items()]
    real = data["real"][OWN]
    inception = data["real"].get(INCEPTION)
    floor = ["", f"real images, {real['groups']} groups", "", "", "", pair(real["kid"], 1e3)]
    floor += [pair(real["frechet"]), pair(real["inception_score"])]
    floor += [pair(inception["frechet"]) if inception else "", "", "", "", ""]
    return table(titles, [*rows, floor], texts=2)


def cells(rows: list[dict]) -> list[str]:
    """The numbers of one method and width; empty where no row is there."""
    if not rows:
        return [""] * 11
    first = rows[0]
    found = [str(len(rows)), fixed(first["bytes"] / 1e6), fixed(first["bops"] / 1e9, 1), *scores(rows)]
    if first["label"] == FULL:
        return [*found, "", "", "", ""]
    found.append(spread([row["trajectory_mse"] for row in rows], first["trajectory_mse_error"], 3, 1e3))
    found.append(spread([row["snr_db"] for row in rows], None, 1))
    found.append(spread([row["seconds"] for row in rows], None, 0))
    memory = [row["memory"] for row in rows if row["memory"] is not None]  # None: of several processes
    return [*found, fixed(max(memory) / 1e6, 0) if memory else ""]


def scores(rows: list[dict]) -> list[str]:
    """KID, Fréchet distance and IS of the classifier, and FID, with their spreads; empty without rows."""
    own = [
        scored(rows, OWN, "kid", 2, 1e3),
        scored(rows, OWN, "frechet"),
        scored(rows, OWN, "inception_score"),
    ]
    return [*own, scored(rows, INCEPTION, "frechet")]


def scored(rows: list[dict], extractor: str, name: str, digits: int = 2, factor: float = 1.0) -> str:
    """A score with its spread; empty where no row has it."""
    found = [row["scores"][extractor] for row in rows if extractor in row["scores"]]
    if not found:
        return ""
    return spread([scores[name] for scores in found], found[0].get(f"{name}_std"), digits, factor)


def beside(data: dict) -> str:
    """The paper's numbers, each with its mark, and ours."""
    theirs, ours, rows = paper(), groups(data), []
    for row in theirs["rows"]:
        published = [f"{value:.2f} [{mark}]" for value, mark in (row["fid"], row["inception_score"])]
        rows.append([f"{row['weights']}/{row['activations']}", row["label"], *published])
        rows[-1] += scores(ours.get(key(row), []))
    titles = ["W/A", "method", "FID, paper", "IS, paper", "KID x 1000", "Fréchet", "IS", "FID"]
    marks = "; ".join(f"[{mark}] {meaning}" for mark, meaning in theirs["marks"].items())
    source = f"{theirs['title']}, in {theirs['source']}. {marks[0].upper()}{marks[1:]}."
    return f"### Beside the paper\n\n{source}\n\n{table(titles, rows, texts=2)}"


def differences(data: dict) -> str:
    """Differences from the paper, and their reasons."""
    theirs, own = paper()["setting"], data["calibration"]
    their_size = parameter_count(build(DDPM_CIFAR10, device="meta")) / 1e6
    ratio = theirs["n"]["value"] * theirs["steps"]["value"] / (data["n"] * data["steps"])
    listed = [
        f"""
        Network and images: {data["parameters"] / 1e6:.2f} million parameters, trained for this project on
        grey garments. The paper's network has {their_size:.1f} million, on CIFAR-10. Our models must run on
        a laptop.
        """,
        f"""
        n = {data["n"]:,} instead of {number(theirs["n"])}, and {data["steps"]} steps instead of
        {number(theirs["steps"])}: a row needs {ratio:.0f} times fewer runs of the network. The
        times of the steps are those of DDIM's code, as in the paper, but without repeated times.
        """,
        f"""
        Calibration: {own["samples"]:,} inputs and {own["iterations"]:,} + {own["step_size_iterations"]:,}
        iterations for each unit, instead of {number(theirs["samples"])} and {number(theirs["iterations"])} +
        {number(theirs["step_size_iterations"])}. So it takes minutes on two CPU cores.
        """,
        """
        Features: the shipped classifier was trained on garments, Inception was not. Distances of different
        features have different units. So compare only ratios and orders.
        """,
        f"""
        Method: here {OURS} starts AdaRound from GPTQ's codes, and learns scales and biases. The first and the
        last layer have {data["edge_bits"]} bits; bytes and BOPs count this. Inputs come from every second
        step, which is about as many steps as in the paper. "Whole network" takes inputs from every step.
        After the last unit it has {own["network_iterations"]:,} more iterations in which all layers learn
        together. "All stages" is the complete profile: in addition, both networks draw
        {own["bias_correction_images"]} images, and a bias correction of the last layer makes their typical
        images equally bright. The last row of our table has none of this. It is the paper's method with the
        numbers of this profile ({numbers()}). It learns the step sizes of each unit directly after its
        weights. The paper's code learns them in a second pass, like the profile "paper". The baselines
        quantize all layers in the same way, as in the paper. `qdiff_lib/recipes/recipe.py` says what each
        baseline takes from its own paper.
        """,
    ]
    return "Differences from the paper, and reasons:\n\n" + "\n".join(
        f"- {flow(reason)}" for reason in listed
    )


def numbers() -> str:
    """The settings of learning in which the profile of the table is not the paper's."""
    ours, theirs = (Recipe.qdiffusion(profile=profile).flat() for profile in ("laptop", "paper"))
    return "; ".join(
        f"`{name}` {ours[name]} instead of {theirs[name]}" for name in SHOWN if ours[name] != theirs[name]
    )


def number(entry: dict) -> str:
    """A setting of the paper; with its mark where it was not read in a source."""
    mark = "" if entry["mark"] == "V" else f" [{entry['mark']}]"
    return f"{entry['value']:,}{mark}"


def findings(data: dict) -> str:
    """How far each recorded method is above full precision of the same seeds, best first at each width."""
    theirs = {key(row): row["fid"][0] for row in paper()["rows"]}
    recorded = {name: rows for name, rows in groups(data).items() if rows and name[0] != FULL}
    widths = list(dict.fromkeys(name[1:] for name in recorded))
    order = sorted(recorded, key=lambda name: (widths.index(name[1:]), above(data, recorded[name], "kid")[0]))
    rows = []
    for name in order:
        label, weights, activations = name
        kid, distance = (above(data, recorded[name], score) for score in ("kid", "frechet"))
        published = share(theirs[name] / theirs[FULL, 32, 32] - 1) if name in theirs else ""
        cells = [f"{weights}/{activations}", label, f"{1e3 * kid[0]:+.2f}", share(distance[1]), published]
        rows.append(cells)
    titles = ["W/A", "method, best first", "KID x 1000", "Fréchet", "FID, paper"]
    text = flow(f"""
        Differences from full precision with the same seeds. The KID x 1000 of groups of {data["n"]:,} real
        images has a standard deviation of {fixed(data["real"][OWN]["kid"][1], 2, 1e3)}.
    """)
    return f"### Above full precision\n\n{text}\n\n{table(titles, rows, texts=2)}"


def above(data: dict, rows: list[dict], score: str) -> tuple[float, float]:
    """How far the rows' mean score is above full precision's of the same seeds, and as a share of that."""
    full = {row["seed"]: row for row in data["rows"] if row["label"] == FULL}
    own, reference = mean(rows, score), mean([full[row["seed"]] for row in rows], score)
    return own - reference, own / reference - 1


def sensitivity(data: dict) -> str:
    """The effect of invisible changes on the scores."""
    none, *changed = data["rows"]
    words = {"brightness": "all pixels {:+g} levels", "noise": "white noise of {:g} levels"}
    rows = [["unchanged", fixed(none["kid"], 2, 1e3), fixed(none["frechet"]), ""]]
    for row in changed:
        more = share(row["frechet"] / none["frechet"] - 1)
        name = words[row["kind"]].format(row["levels"])
        rows.append([name, fixed(row["kid"], 2, 1e3), fixed(row["frechet"]), more])
    before = flow(f"""
        {data["n"]:,} images of full precision, as in the table above. Before rounding to whole grey levels,
        they were changed by a few of 256 levels:
    """)
    after = flow("""
        Less than half a grey level can change this Fréchet distance by a few percent. So look also at the
        MSE.
    """)
    titles = ["images of full precision", "KID x 1000", "Fréchet", "against unchanged"]
    return f"{before}\n\n{table(titles, rows)}\n\n{after}"
