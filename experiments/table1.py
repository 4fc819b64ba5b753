"""Every method at every width (the paper's Table 1), on many images in the paper's quadratic steps."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from drawing import Drawn, Order, draw
from lab import Lab, Quantized, errors, made_now, rounded, scores_of
from ladder import PAPER
from settings import Table1

from qdiff_lib import Recipe, with_sampler
from qdiff_lib.cli.demo import EDGE_BITS
from qdiff_lib.evaluation.features import INSTALL_INCEPTION, inception_script
from qdiff_lib.graph.cost import bops, layer_bits_of, layer_costs, parameter_count
from qdiff_lib.recipes.recipe import METHOD_NAMES, STAGES
from qdiff_lib.recipes.timestep_rules import Uniform
from qdiff_lib.utils.constants import FLOAT_BITS

SAMPLER = "ddim-quadratic"
CALIBRATION = ("steps", "samples", "iterations", "step_size_iterations", *STAGES)
FULL = "full precision"
OURS = METHOD_NAMES["qdiffusion"]
WHOLE = f"{OURS}, whole network"  # inputs from every step, and the network's stage after the last unit
ALL = f"{OURS}, all stages"  # bias correction too: the profile as it is
PLAIN = f"{OURS}, as in the paper"  # without all that this library adds to it


@dataclass(frozen=True)
class Case:
    """One row. label: of the method; weights, activations: its bits; seed: of the noise and the recipe."""

    label: str
    weights: int
    activations: int
    seed: int

    def recipe(self, lab: Lab) -> Recipe | None:
        """How the model is quantized; None: not at all. Q-Diffusion's edges are as in the demonstration."""
        if self.label == FULL:
            return None
        methods = {name: method for method, name in METHOD_NAMES.items()}
        methods |= dict.fromkeys((WHOLE, ALL, PLAIN), "qdiffusion")
        ours = {"edge_bits": EDGE_BITS, "rule": Uniform(), **dict.fromkeys(STAGES, 0)}
        whole = {**ours, "rule": Uniform(1), "network_iterations": lab.settings.network_iterations}
        every = {**whole, "bias_correction_images": lab.settings.bias_correction_images}
        added = {OURS: ours, WHOLE: whole, ALL: every, PLAIN: PAPER}.get(self.label, {})
        changes = {"sampler": SAMPLER, "seed": self.seed, **lab.settings.recipe, **added}
        sizes = dict(weights=self.weights, activations=self.activations, profile=lab.settings.table1.profile)
        return Recipe.named(methods[self.label], **sizes, **changes)


def cases(table: Table1) -> list[Case]:
    """All rows in the order in which they are made: what the course leans on most comes first."""
    first, *more = table.bits
    seed, *others = table.seeds
    rows = [Case(FULL, FLOAT_BITS, FLOAT_BITS, seed)]
    rows += [Case(label, *first, seed) for label in ("linear", OURS, WHOLE, ALL, "SQuant", "PTQ4DM")]
    rows += [Case(label, *bits, seed) for bits in more for label in METHOD_NAMES.values()]
    for other in others:
        rows.append(Case(FULL, FLOAT_BITS, FLOAT_BITS, other))
        rows += [Case(label, *first, other) for label in ("linear", OURS, WHOLE, ALL)]
    return [*rows, Case(PLAIN, *first, seed)]


def run(lab: Lab) -> Iterator[dict]:
    """The table after each row: ``rows`` has those that are there, of ``planned``."""
    table, rows, planned = lab.settings.table1, [], cases(lab.settings.table1)
    extractors = [name for name in table.extractors if available(name)]
    about = {**described(lab, planned), "real": {name: lab.real(table.n, name) for name in extractors}}
    for i, case in enumerate(planned, 1):
        named = f"{case.label} W{case.weights}A{case.activations} seed {case.seed}"
        print(f"  {i}/{len(planned)} {named}", flush=True)
        rows.append(row(lab, case, extractors))
        yield {**about, "rows": rows}


def described(lab: Lab, planned: list[Case]) -> dict:
    """What all rows have in common; ``calibration``: the numbers of the recipes' profile."""
    table = lab.settings.table1
    recipe = next(case for case in planned if case.label == ALL).recipe(lab).flat()
    return {
        "sampler": SAMPLER,
        "steps": table.steps,
        "n": table.n,
        "parameters": parameter_count(lab.pipe.unet),
        "profile": table.profile,
        "calibration": {k: recipe[k] for k in CALIBRATION},
        "edge_bits": EDGE_BITS,
        "seeds": list(table.seeds),
        "planned": [asdict(case) for case in planned],
    }


def available(extractor: str) -> bool:
    """Whether the extractor's weights are installed: a table is not made from what must be downloaded."""
    if extractor != "inception" or inception_script():
        return True
    print(f"  FID and KID of Inception stay empty; they need: {INSTALL_INCEPTION}", flush=True)
    return False


def row(lab: Lab, case: Case, extractors: list[str]) -> dict:
    """The case, its cost, how far its images are from full precision's, and the scores by extractor."""
    order = order_of(lab, case)
    made_by = {**made_by_of(lab, case), **asdict(order)}
    measured = lab.cache.value("table1", made_by, lambda: measure(lab, case))
    scores = {}
    for name in extractors:

        def make(name: str = name) -> dict:
            return scores_of(lab.scored(drawn(lab, case).images, name, folder=lab.features))

        scores[name] = lab.cache.value("scores", {**made_by, "extractor": name}, make)
    return {**asdict(case), **measured, "scores": scores}


def order_of(lab: Lab, case: Case) -> Order:
    """Which images are drawn."""
    table = lab.settings.table1
    return Order(table.n, table.batch, table.steps, case.seed)


def made_by_of(lab: Lab, case: Case) -> dict:
    """What decides a row besides its order."""
    recipe = case.recipe(lab)
    return lab.made_by(__file__, recipe=recipe and recipe.to_dict(), sampler=SAMPLER)


def quantized(lab: Lab, case: Case) -> Quantized:
    """The case's model, at the table's sampler's disposal."""
    recipe = case.recipe(lab)
    return lab.quantized(recipe) if recipe else Quantized(lab.pipe, 0.0, lab.full_bytes(), 0, 0)


def drawn(lab: Lab, case: Case) -> Drawn:
    """The case's images."""

    def pipe():
        return with_sampler(quantized(lab, case).pipe, SAMPLER)

    return draw(lab.cache, made_by_of(lab, case), order_of(lab, case), pipe)


def measure(lab: Lab, case: Case) -> dict:
    """Cost, and the error of x_t after the last step: its mean over the images, and that mean's error."""
    model = quantized(lab, case)
    costs = layer_costs(lab.pipe.unet)
    full = drawn(lab, Case(FULL, FLOAT_BITS, FLOAT_BITS, case.seed)).last
    own = drawn(lab, case).last
    each = (full.double() - own.double()).square().flatten(1).mean(dim=1)  # (N,)
    last = {name: values[0] for name, values in errors(full[None], own[None]).items()}
    return {
        "bytes": model.bytes,
        "bops": bops(costs, *layer_bits_of(model.pipe.unet, costs)),
        "seconds": model.seconds,
        "memory": model.memory,
        "memory_before": model.memory_before,
        "trajectory_mse": last["mse"],
        "trajectory_mse_error": rounded(each.std().item() / len(each) ** 0.5),
        "snr_db": last["snr_db"],
        **made_now(),
    }
