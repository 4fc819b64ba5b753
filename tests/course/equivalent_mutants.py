"""Mutants of the solutions that compute the same, by what changed; the reason is the value's first part.

``mutation.mutants`` leaves out what commutes: operands of + and *, arguments of ``min`` and ``max``.
"""

TYPE = "the type of the result is another, its values are not"
PROMOTED = "the difference of an int32 and a uint8 tensor is computed in int32"
LAST_AXIS = "with two axes, -1 is 1; with one, a new last axis is axis 1"
SQUARED = "the difference is squared, so its sign does not matter"
SIZE = "the size of a number does not depend on its sign"
FLOORED = "// is the floor of the quotient"
GRADIENT = "values do not depend on whether they carry a gradient"
CONSTANT = "a constant in the objective changes no gradient"
FLOAT32 = "in float32 instead of float64: within the tolerance that the check derives from float32"
ALL = "penalties = sum((({}.abs().pow(beta)).sum() for h in share()))"

EQUIVALENT = {
    "00.integer_dot": {
        "return differences.sum().item()  ->  return differences.sum()": TYPE,
    },
    "01.accumulated_variance": {
        "return torch.stack(variances)  ->  return variances": TYPE,
    },
    "01.snr_per_step": {
        "signal = reference.double().pow(2).flatten(start_dim=1).mean(dim=1)  ->  "
        "signal = reference.double().pow(2).flatten(start_dim=1).mean(dim=-1)": LAST_AXIS,
        "error = (other - reference).double().pow(2).flatten(start_dim=1).mean(dim=1)  ->  "
        "error = (other - reference).double().pow(2).flatten(start_dim=1).mean(dim=-1)": LAST_AXIS,
        "signal = reference.double().pow(2).flatten(start_dim=1).mean(dim=1)  ->  "
        "signal = reference.pow(2).flatten(start_dim=1).mean(dim=1)": FLOAT32,
        "error = (other - reference).double().pow(2).flatten(start_dim=1).mean(dim=1)  ->  "
        "error = (other - reference).pow(2).flatten(start_dim=1).mean(dim=1)": FLOAT32,
        "error = (other - reference).double().pow(2).flatten(start_dim=1).mean(dim=1)  ->  "
        "error = (reference - other).double().pow(2).flatten(start_dim=1).mean(dim=1)": SQUARED,
    },
    "02.range_utilisation": {
        "return ((used.max() - used.min() + 1) / 2 ** bits).item()  ->  "
        "return (used.max() - used.min() + 1) / 2 ** bits": TYPE,
    },
    "02.min_max_observer": {
        "return (gap, float(round(-lowest / gap)))  ->  return (gap, round(-lowest / gap))": TYPE,
    },
    "02.percentile_observer": {
        "return (gap, float(round(-bottom / gap)))  ->  return (gap, round(-bottom / gap))": TYPE,
        "everything = torch.cat([batch.flatten() for batch in batches])  ->  "
        "everything = torch.stack([batch.flatten() for batch in batches])": "quantile flattens its input",
        "everything = torch.cat([batch.flatten() for batch in batches])  ->  "
        "everything = torch.cat([batch for batch in batches])": "quantile flattens its input",
    },
    "03.uniform_counts": {
        "counts = torch.zeros(steps, dtype=torch.long)  ->  counts = torch.zeros(steps)": TYPE,
        "counts[used] = samples // len(used)  ->  counts[used] = samples / len(used)": (
            "writing to a tensor of whole numbers rounds a positive quotient down"
        ),
    },
    "03.draw_trajectories": {
        "return [shuffled[:count] for shuffled, count in zip(order, counts.tolist(), strict=True)]  ->  "
        "return [shuffled[:count] for shuffled, count in zip(order, counts, strict=True)]": (
            "a tensor of one whole number is an index"
        ),
    },
    "04.shortcut_output": {
        "q_x = half.x_codes.int() - half.x_zero.int()  ->  q_x = half.x_codes.int() - half.x_zero": PROMOTED,
        "q_x = half.x_codes.int() - half.x_zero.int()  ->  "
        "q_x = half.x_codes.int() - half.x_zero.byte()": PROMOTED,
        "q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(1)  ->  "
        "q_w = half.w_codes - half.w_zero.int().unsqueeze(1)": PROMOTED,
        "q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(1)  ->  "
        "q_w = half.w_codes.byte() - half.w_zero.int().unsqueeze(1)": PROMOTED,
        "q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(1)  ->  "
        "q_w = half.w_codes.int() - half.w_zero.unsqueeze(1)": PROMOTED,
        "q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(1)  ->  "
        "q_w = half.w_codes.int() - half.w_zero.byte().unsqueeze(1)": PROMOTED,
        "q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(1)  ->  "
        "q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(-1)": LAST_AXIS,
    },
    "05.rounding_penalty": {
        "return (1 - (2 * h - 1).abs().pow(beta)).sum()  ->  "
        "return (1 - (1 - 2 * h).abs().pow(beta)).sum()": SIZE,
    },
    "05.decide_codes": {
        "up = (h >= 0.5).to(w.dtype)  ->  up = h >= 0.5": "True and False count as 1 and 0 in a sum",
        "up = (h >= 0.5).to(w.dtype)  ->  up = (h >= 0.5).to()": "True and False count as 1 and 0 in a sum",
        "up = (h >= 0.5).to(w.dtype)  ->  up = (h >= 0.5).to(h.dtype)": "w and h have the same type",
        "return (torch.floor(w / s) + up + z).clamp(0, 2 ** bits - 1)  ->  "
        "return (torch.floor(w // s) + up + z).clamp(0, 2 ** bits - 1)": FLOORED,
    },
    "05.pack_nibbles": {
        "if len(codes) % 2:  ->  if len(codes) % -2:": "both are 0 for even lengths alone",
    },
    "06.folded_bias": {
        "w_levels = q_w.long() - z_w.long().unsqueeze(1)  ->  "
        "w_levels = q_w.long() - z_w.long().unsqueeze(-1)": LAST_AXIS,
        "w_levels = q_w.long() - z_w.long().unsqueeze(1)  ->  "
        "w_levels = q_w.long() - z_w.unsqueeze(1)": PROMOTED,
        "w_levels = q_w.long() - z_w.long().unsqueeze(1)  ->  "
        "w_levels = q_w - z_w.long().unsqueeze(1)": PROMOTED,
        "return bias.long() - z_x * w_levels.sum(dim=1)  ->  "
        "return bias - z_x * w_levels.sum(dim=1)": PROMOTED,
        "return bias.long() - z_x * w_levels.sum(dim=1)  ->  "
        "return bias.long() - z_x * w_levels.sum(dim=-1)": LAST_AXIS,
    },
    "06.amdahl_speedup": {
        "return (milliseconds.sum() / (rest + faster + added)).item()  ->  "
        "return milliseconds.sum() / (rest + faster + added)": TYPE,
    },
    "07.soft_weight": {
        "codes = (torch.floor(w / s) + h + z).clamp(0, 2 ** bits - 1)  ->  "
        "codes = (torch.floor(w // s) + h + z).clamp(0, 2 ** bits - 1)": FLOORED,
    },
    "07.annealed_penalty": {
        "return (1 - (2 * h - 1).abs().pow(beta)).sum()  ->  "
        "return (1 - (1 - 2 * h).abs().pow(beta)).sum()": SIZE,
    },
    "07.one_iteration": {
        "return (objective.item(), [leaf.detach() - lr * leaf.grad for leaf in leaves])  ->  "
        "return (objective, [leaf.detach() - lr * leaf.grad for leaf in leaves])": TYPE,
        "return (objective.item(), [leaf.detach() - lr * leaf.grad for leaf in leaves])  ->  "
        "return (objective.item(), [leaf - lr * leaf.grad for leaf in leaves])": GRADIENT,
        "leaves = [each.detach().clone().requires_grad_() for each in v]  ->  "
        "leaves = [each.detach().requires_grad_() for each in v]": GRADIENT,
        "leaves = [each.detach().clone().requires_grad_() for each in v]  ->  "
        "leaves = [each.clone().requires_grad_() for each in v]": GRADIENT,
        "objective = (unit(weights, *inputs) - target).square().sum(1).mean()  ->  "
        "objective = (target - unit(weights, *inputs)).square().sum(1).mean()": SQUARED,
        "weights = [s * ((torch.floor(w / s) + up + z).clamp(0, 15) - z) for (w, s, z), up in pairs]  ->  "
        "weights = [s * ((torch.floor(w // s) + up + z).clamp(0, 15) - z) for (w, s, z), up in pairs]": (
            FLOORED
        ),
        "objective = objective + strength * sum(((1 - (2 * up - 1).abs().pow(beta)).sum() for up in h))  ->  "
        "objective = objective + strength * sum(((1 - (1 - 2 * up).abs().pow(beta)).sum() for up in h))": (
            SIZE
        ),
    },
    "07.learn_rounding": {
        "total = (output - target[rows]).square().sum(1).mean() + (i >= first) * strength * penalties  ->  "
        "total = (target[rows] - output).square().sum(1).mean() + (i >= first) * strength * penalties": (
            SQUARED
        ),
        **{
            ALL.format("1 - (2 * h - 1)") + "  ->  " + ALL.format(f"{other} - (2 * h - 1)"): CONSTANT
            for other in (2, 0, -1)
        },
        ALL.format("1 - (2 * h - 1)") + "  ->  " + ALL.format("1 - (1 - 2 * h)"): SIZE,
    },
}
