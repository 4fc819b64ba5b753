"""The ablations: the ladder, where calibration inputs come from, single settings, the split."""

from qdiff_lib.course.figures.lesson_03 import ends

from .source import fixed, flow, pair, short, table

FAR = 5  # times the worst seed's error, where the worst has less than 5 times the best seed's

SCORES = ["MSE x 1000", "SNR (dB)", "KID x 1000", "Fréchet"]
SWEPT = {
    "calibration_interval": "c: inputs from every c-th step",
    "calibration_inputs": "inputs",
    "adaround_iterations": "iterations a unit",
    "softmax_bits": "bits of the softmax",
}


def width(data: dict) -> str:
    return f"W{data['weights']}A{data['activations']}"


def conditions(data: dict) -> str:
    """n, the steps, and what real images score; what the columns are."""
    floor = f"As many real images have a Fréchet distance of {fixed(data['floor'])}."
    if real := data.get("real"):
        floor = f"""
            {real["groups"]} groups of as many real images have KID x 1000 {pair(real["kid"], 1e3)} and
            Fréchet distance {pair(real["frechet"])} (± standard deviation). Smaller differences of scores
            have no meaning.
        """
    return flow(f"""
        Each row: {data["n"]} images, DDIM with {data["steps"]} steps, one seed. {floor} KID and Fréchet
        distance use the features of the shipped classifier. MSE and SNR compare x after the last step with
        full precision.
    """)


def chance(data: dict, of: str) -> str:
    """The effect of other calibration seeds on the errors and scores of the same recipe."""

    def span(score: str, factor: float = 1) -> str:
        low, high = ends(data["seeds"], score)
        return f"from {short(factor * low)} to {short(factor * high)}"

    return flow(f"""
        Chance: {len(data["seeds"])} calibrations {of}, which differ only in their seed, have MSE x 1000
        {span("trajectory_mse", 1e3)}, KID x 1000 {span("kid", 1e3)} and Fréchet distance
        {span("frechet")}. Differences inside these ranges may be chance. Differences just outside may also
        be chance.
    """)


def beyond(data: dict) -> tuple[list[dict], list[dict]]:
    """The rows with a larger MSE than all seeds of one recipe, and those with a smaller one."""
    low, high = ends(data["seeds"], "trajectory_mse")
    larger = [row for row in data["rows"] if row["trajectory_mse"] > high]
    return larger, [row for row in data["rows"] if row["trajectory_mse"] < low]


def scores(row: dict) -> list[str]:
    """The columns ``SCORES``; those against full precision are empty for full precision itself."""
    mse = short(row["trajectory_mse"] * 1e3) if row["snr_db"] is not None else ""
    return [mse, fixed(row["snr_db"], 1), fixed(row["kid"], 2, 1e3), fixed(row["frechet"])]


def ladder(data: dict) -> str:
    titles = ["each stage keeps all stages above it", *SCORES, "calibration (s)", "MB"]
    rows = [
        [row["label"], *scores(row), fixed(row["seconds"], 0), fixed(row["bytes"] / 1e6)]
        for row in (*data["rows"], *data["besides"])
    ]
    first, best = data["rows"][0], data["rows"][-2]
    steps = zip(data["rows"], data["rows"][1:-1], strict=False)
    worse = [row["label"] for before, row in steps if row["trajectory_mse"] > before["trajectory_mse"]]
    text = flow(f"""
        The last {len(data["besides"])} rows are not stages. "+ learned step sizes" is the paper's method,
        with fewer iterations. The stages below it are not in the paper. From "{first["label"]}" to
        "{best["label"]}" the MSE falls {first["trajectory_mse"] / best["trajectory_mse"]:.0f} times. Stages
        with a larger MSE than the stage before: {", ".join(worse) or "none"}.
    """)
    return f"{width(data)}. {conditions(data)}\n\n{table(titles, rows)}\n\n{text}"


def sampling(data: dict) -> str:
    error = {(row["rule"], row["share"]): row["trajectory_mse"] for row in data["rows"]}
    least = [
        f"{min(('first', 'middle', 'last'), key=lambda rule: error[rule, share])} at {share:.0%}"
        for share in sorted({share for _, share in error if share})
    ]
    worse, better = beyond(data)
    far = [row for row in worse if row["trajectory_mse"] > FAR * ends(data["seeds"], "trajectory_mse")[1]]
    text = flow(f"""
        The paper's Figure 4 shows three things: uniform is best, the middle is better than both ends, and
        more steps help. We do not have its numbers. {chance(data, "from uniform inputs")} There are
        {len(error) - 1} other sets. {len(worse)} of them have a larger MSE than all of these seeds
        ({len(far)} more than {FAR} times as large), and {len(better)} have a smaller one. The best of first,
        middle and last: {", ".join(least)} of the steps. "normal" draws diffusion times with a mean of 0.4
        and a standard deviation of 0.2 of the run (PTQ4DM's published command: 0.4 and 0.4).
    """)
    iterations = f"{data['iterations']} + {data['step_size_iterations']} iterations a unit"
    budget = f"{data['samples']} inputs and {iterations}"
    found = table(["inputs come from", *SCORES], [[row["label"], *scores(row)] for row in data["rows"]])
    return f"{width(data)} with {budget}. {conditions(data)}\n\n{found}\n\n{text}"


def sweep(name: str, data: dict) -> str:
    """One setting: a row for each planned value, empty where it is not recorded yet."""
    found = {row["value"]: [*scores(row), fixed(row["seconds"], 0)] for row in data["rows"]}
    rows = [[str(value), *found.get(value, [""] * 5)] for value in data["planned"]]
    budget = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in data["calibration"].items())
    larger, smaller = (", ".join(f"{row['value']:,}" for row in rows) or "none" for rows in beyond(data))
    return (
        f"{width(data)}, in all rows {budget}. {conditions(data)}\n\n"
        f"{table([SWEPT[name], *SCORES, 'calibration (s)'], rows)}\n\n"
        f"{chance(data, 'with the usual value')} Values with a larger MSE: {larger}. "
        f"Values with a smaller MSE: {smaller}."
    )


def shortcut_split(data: dict) -> str:
    kinds = ("activation_ratio", "weight_ratio")
    ratios = [[row["layer"], *(short(row[kind]) for kind in kinds)] for row in data["rows"]]
    most = max(max(row[kind], 1 / row[kind]) for row in data["rows"] for kind in kinds)
    pairs = list(zip(data["ablation"][::2], data["ablation"][1::2], strict=True))
    helped = sum(two["trajectory_mse"] < one["trajectory_mse"] for one, two in pairs)
    before = flow(f"""
        The range (maximum minus minimum) of the deep half divided by that of the skip half, for each
        shortcut layer that reads both, over {data["inputs"]} inputs:
    """)
    between = flow(f"""
        The largest ratio, in both directions, is {most:.1f}, so the split cannot gain much here. (The paper
        does not give this ratio. It reports that inputs of shortcut layers are up to 200 times as wide as
        those of neighbouring layers.) {conditions(data)} Q-Diffusion is here the paper's method, without
        learned step sizes.
    """)
    return "\n\n".join(
        [
            before,
            table(["layer", "activations", "weights"], ratios),
            between,
            table(["split on and off", *SCORES], [[one["label"], *scores(one)] for one in data["ablation"]]),
            f"The split lowers the MSE in {helped} of {len(pairs)} pairs.",
        ]
    )
