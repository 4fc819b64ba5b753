"""The ablations: the ladder, where calibration inputs come from, single settings, the split."""

from .source import fixed, pair, short, table

SCORES = ["MSE x 1000", "SNR (dB)", "KID x 1000", "Fréchet"]
SWEPT = {
    "calibration_interval": "c: inputs from every c-th step",
    "calibration_inputs": "inputs",
    "adaround_iterations": "iterations a unit",
    "softmax_bits": "bits of the softmax",
}


def conditions(data: dict) -> str:
    """n, the steps, and what real images score; what the columns are."""
    real = data.get("real")
    floor = (
        f"groups of as many real images have KID {pair(real['kid'], 1e3)} and Fréchet distance "
        f"{pair(real['frechet'])} (mean ± standard deviation of {real['groups']} groups)"
        if real
        else f"as many real images have a Fréchet distance of {fixed(data['floor'])}"
    )
    return (
        f"{data['n']} images a row, DDIM with {data['steps']} steps, one seed; {floor}: rows that differ "
        "by less than "
        "their spread says nothing. KID and Fréchet distance are of the shipped classifier's features; MSE "
        "and SNR "
        "compare x after the last step with full precision."
    )


def scores(row: dict) -> list[str]:
    """The columns ``SCORES``; those against full precision are empty for full precision itself."""
    mse = short(row["trajectory_mse"] * 1e3) if row["snr_db"] is not None else ""
    return [mse, fixed(row["snr_db"], 1), fixed(row["kid"], 2, 1e3), fixed(row["frechet"])]


def ladder(data: dict) -> str:
    titles = ["each rung keeps what the ones above it added", *SCORES, "calibration (s)", "MB"]
    rows = [
        [row["label"], *scores(row), fixed(row["seconds"], 0), fixed(row["bytes"] / 1e6)]
        for row in (*data["rows"], *data["besides"])
    ]
    first, best = data["rows"][0], data["rows"][-2]
    worse = [
        row["label"]
        for row, before in zip(data["rows"][1:-1], data["rows"], strict=False)
        if row["trajectory_mse"] > before["trajectory_mse"]
    ]
    return (
        f"W{data['weights']}A{data['activations']}. {conditions(data)}\n\n{table(titles, rows)}\n\n"
        f'The last {len(data["besides"])} rows stand beside the ladder. "+ learned step sizes" is the '
        "paper's method, "
        "at fewer iterations; the two rungs after it are not in the paper, and full precision closes the "
        "ladder. From "
        f"'{first['label']}' to '{best['label']}' the MSE falls "
        f"{first['trajectory_mse'] / best['trajectory_mse']:.0f} times. Rungs that made it larger: "
        f"{listed(worse)}."
    )


def listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"


def sampling(data: dict) -> str:
    titles = ["inputs come from", *SCORES]
    rows = {(row["rule"], row["share"]): row for row in data["rows"]}
    error = {name: row["trajectory_mse"] for name, row in rows.items()}
    shares = sorted({share for _, share in rows if share})
    least = [
        f"{min(('first', 'middle', 'last'), key=lambda rule: error[rule, share])} at {share:.0%}"
        for share in shares
    ]
    better = sum(value < error["uniform", None] for value in error.values())
    return (
        f"W{data['weights']}A{data['activations']} with {data['samples']} inputs and {data['iterations']} + "
        f"{data['step_iterations']} iterations a unit. {conditions(data)}\n\n"
        f"{table(titles, [[row['label'], *scores(row)] for row in data['rows']])}\n\n"
        "The paper's Figure 4 says that uniform is best, that the ends are bad and the middle is least "
        "bad, and that "
        "more steps help; its bars were not recovered, so no number of theirs stands here. By the MSE, "
        f"{better} of "
        f"{len(rows) - 1} sets are better than uniform; least bad are {', '.join(least)} of the steps."
    )


def sweep(name: str, data: dict) -> str:
    """One setting: a row for each planned value, empty where it is not recorded yet."""
    rows = {row["value"]: row for row in data["rows"]}
    cells = [
        [
            str(value),
            *(scores(rows[value]) + [fixed(rows[value]["seconds"], 0)] if value in rows else [""] * 5),
        ]
        for value in data["planned"]
    ]
    budget = ", ".join(f"{value} {key.replace('_', ' ')}" for key, value in data["calibration"].items())
    best = min(data["rows"], key=lambda row: row["trajectory_mse"])
    return (
        f"W{data['weights']}A{data['activations']}; in all rows: {budget}. {conditions(data)}\n\n"
        f"{table([SWEPT[name], *SCORES, 'calibration (s)'], cells)}\n\n"
        f"The least MSE so far is at {best['value']}."
    )


def seams(data: dict) -> str:
    ratios = [
        [row["layer"], *(short(row[f"{kind}_ratio"]) for kind in ("activation", "weight"))]
        for row in data["rows"]
    ]
    most = max(
        max(row[kind], 1 / row[kind]) for row in data["rows"] for kind in ("activation_ratio", "weight_ratio")
    )
    pairs = list(zip(data["ablation"][::2], data["ablation"][1::2], strict=True))
    rows = [[one["label"], *scores(one)] for pair in pairs for one in pair]
    helped = sum(two["trajectory_mse"] < one["trajectory_mse"] for one, two in pairs)
    return (
        "Range (greatest less least value) of the deep half over that of the skip half, at each shortcut "
        "that reads "
        f"both, over {data['inputs']} inputs:\n\n{table(['layer', 'activations', 'weights'], ratios)}\n\n"
        f"The largest ratio, either way, is {most:.1f}; the paper reports up to 200 in its networks. So "
        "the split cannot "
        f"buy much here.\n\n{conditions(data)} Q-Diffusion is the paper's, without learned step sizes.\n\n"
        f"{table(['split on and off', *SCORES], rows)}\n\n"
        f"The split lowers the MSE in {helped} of {len(pairs)} pairs."
    )
