"""Exact counts for every rule, and rows that are what the sampler's network really saw."""

import pytest
import torch
from diffusers import DDPMPipeline, PNDMPipeline, PNDMScheduler
from tiny_models import TRAINED_STEPS, ddim, ddpm, unet2d

from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.calibration.record import draw_counts, record
from qdiff_lib.diffusion.pipelines import each_step
from qdiff_lib.diffusion.sampling import noise_generators, run_batch
from qdiff_lib.recipes.timestep_rules import First, Last, Middle, Normal, Single, Uniform, rule_from_dict

RULES = [Uniform(), Uniform(7), Single(2), First(3), Middle(3), Last(3), Normal()]
IDS = ["uniform", "uniform-7", "single", "first", "middle", "last", "normal"]


def counts(rule, steps, samples, seed=0):
    return draw_counts(rule, steps, samples, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", RULES, ids=IDS)
@pytest.mark.parametrize("steps, samples", [(100, 5120), (10, 7), (23, 100), (3, 1), (20, 512)])
def test_counts_sum_to_the_samples(rule, steps, samples):
    found = counts(rule, steps, samples)
    assert found.shape == (steps,) and found.sum() == samples and found.min() >= 0


def test_the_paper_takes_256_at_every_fifth_of_100_steps():
    found = counts(Uniform(), 100, 5120)
    assert found.nonzero().flatten().tolist() == list(range(0, 100, 5))
    assert set(found[found > 0].tolist()) == {256}


@pytest.mark.parametrize(
    "rule, steps, samples, expected",
    [
        (Uniform(4), 10, 8, {0: 3, 4: 3, 8: 2}),
        (Uniform(3), 7, 9, {0: 3, 3: 3, 6: 3}),
        (Uniform(3), 8, 2, {0: 1, 3: 1}),
        (Uniform(), 5, 5, {0: 1, 1: 1, 2: 1, 3: 1, 4: 1}),
        (Single(3), 10, 5, {3: 5}),
        (First(2), 10, 5, {0: 3, 1: 2}),
        (Middle(2), 10, 4, {4: 2, 5: 2}),
        (Middle(3), 10, 3, {3: 1, 4: 1, 5: 1}),
        (Last(2), 10, 5, {8: 3, 9: 2}),
        (Last(10), 10, 10, dict.fromkeys(range(10), 1)),
    ],
    ids=[
        "uniform-remainder", "uniform-last-step", "fewer-samples-than-steps", "uniform-all", "single",
        "first", "middle-even", "middle-odd", "last", "last-is-all",
    ],
)  # fmt: skip
def test_which_steps_a_rule_chooses(rule, steps, samples, expected):
    found = counts(rule, steps, samples)
    assert {i: n for i, n in enumerate(found.tolist()) if n} == expected


@pytest.mark.parametrize("mean", [0.2, 0.4, 0.7])
def test_normal_counts_time_from_the_clean_end(mean):
    found = counts(Normal(mean, 0.05), 100, 4000).double()
    steps = torch.arange(100) + 0.5
    center = (found * steps).sum() / found.sum()
    spread = ((found * (steps - center) ** 2).sum() / found.sum()).sqrt()
    assert center == pytest.approx(100 * (1 - mean), abs=0.5)
    assert spread == pytest.approx(5, abs=0.3)


def test_normal_prefers_the_clean_half_and_stays_in_the_trajectory():
    found = counts(Normal(), 50, 2000)
    assert found[25:].sum() > found[:25].sum()
    assert counts(Normal(0.0, 1.0), 10, 500).sum() == 500


@pytest.mark.parametrize(
    "rule",
    [Single(10), First(11), Middle(11), Last(11)],
    ids=repr,
)
def test_rules_that_leave_the_trajectory_are_refused(rule):
    with pytest.raises(ValueError, match="outside of 0 to 9"):
        counts(rule, 10, 5)


def pndm():
    pipe = PNDMPipeline(
        unet=unet2d(), scheduler=PNDMScheduler(num_train_timesteps=TRAINED_STEPS, skip_prk_steps=True)
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


PIPES = pytest.mark.parametrize("make", [ddpm, ddim, pndm], ids=["ddpm", "ddim", "pndm"])


def trajectories(pipe, count, steps, seed, role):
    """What the sampler hands to the network at each step: the noise, then the result of each step before."""
    shape = (count, 1, 8, 8)
    noise = torch.stack([torch.randn(shape[1:], generator=g) for g in noise_generators(seed, 0, count, role)])
    seen = [noise]
    with each_step(pipe, lambda x: seen.append(x.clone())):
        run_batch(pipe, 0, count, steps, seed, role)
    return torch.stack(seen[:-1])  # (T, count, 1, 8, 8)


def places(rows, seen):
    """For each row, the trajectory in ``seen`` (count, ...) that it is a copy of."""
    same = (rows[:, None] == seen[None]).flatten(2).all(-1)
    assert (same.sum(1) == 1).all(), "a row is not what the sampler saw"
    return same.int().argmax(1)


@PIPES
@pytest.mark.parametrize("rule", [Uniform(2), Last(2), Normal()], ids=["uniform", "last", "normal"])
def test_rows_are_what_the_sampler_saw(make, rule):
    pipe = make()
    found = record(pipe, rule, samples=12, steps=6, seed=5)
    times = torch.as_tensor(pipe.scheduler.timesteps)
    first = [i for i, time in enumerate(times) if i == 0 or time != times[i - 1]]  # PLMS asks twice at one
    expected = draw_counts(rule, len(first), 12, torch.Generator().manual_seed(5))
    assert len(found) == 12 and found.inputs["sample"].shape == (12, 1, 8, 8)
    assert torch.equal(torch.bincount(found.step, minlength=len(expected)), expected)
    assert torch.equal(found.inputs["timestep"], times[first][found.step])
    pool = 2 * int(expected.max())
    seen = trajectories(pipe, pool, 6, seed=5, role="calibration")[first]
    for step in found.step.unique():
        index = places(found.inputs["sample"][found.step == step], seen[step])
        assert len(index.unique()) == len(index), "a trajectory was drawn twice at one step"


def test_each_step_draws_other_trajectories():
    pipe = ddim()
    found = record(pipe, Uniform(1), samples=24, steps=6)
    seen = trajectories(pipe, 8, 6, seed=0, role="calibration")
    drawn = {
        tuple(places(found.inputs["sample"][found.step == s], seen[s]).sort().values.tolist())
        for s in range(6)
    }
    assert len(drawn) > 1 and drawn != {(0, 1, 2, 3)}


def test_rows_are_in_random_order_of_time():
    step = record(ddim(), Uniform(1), samples=24, steps=6).step
    assert not torch.equal(step, step.sort().values)


@PIPES
def test_the_seed_decides_the_set(make):
    pipe = make()
    first, again, other = (record(pipe, Uniform(2), 8, 4, seed=seed).inputs["sample"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not (first[:, None] == other[None]).flatten(2).all(-1).any()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_does_not_matter(batch_size):
    pipe = ddim()
    whole, parts = (record(pipe, Uniform(2), 10, 4, batch_size=b) for b in (64, batch_size))
    assert torch.equal(whole.step.sort().values, parts.step.sort().values)
    for step in whole.step.unique():  # rows of a step come batch by batch, so only their order may differ
        left = whole.inputs["sample"][whole.step == step].flatten(1)
        right = parts.inputs["sample"][parts.step == step].flatten(1)
        distance = torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist").min(1).values
        assert distance.max() < 1e-3


@pytest.mark.parametrize("seed", [0, 1, 4, 2047])
def test_calibration_noise_is_never_evaluated_on(seed):
    pipe = ddpm()
    seen = record(pipe, Single(0), samples=8, steps=2, seed=seed).inputs["sample"]
    evaluated = trajectories(pipe, 16, 2, seed, role="evaluation")[0]
    assert not (seen[:, None] == evaluated[None]).flatten(2).all(-1).any()


def test_the_sampler_stops_after_the_last_chosen_step():
    pipe = ddim()
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    record(pipe, First(2), samples=4, steps=50)
    handle.remove()
    assert len(calls) == 2


def test_a_recording_leaves_no_hook():
    pipe = ddim()
    record(pipe, Single(1), 2, 3)
    with pytest.raises(ValueError, match="outside of"):
        record(pipe, Single(3), 2, 3)
    assert not pipe.unet._forward_pre_hooks


def test_save_and_load_are_inverse(tmp_path):
    found = record(ddim(), Uniform(2), 6, 4, seed=9)
    path = tmp_path / "below" / "set.safetensors"
    found.save(path)
    back = CalibrationSet.load(path)
    assert back.made_by == found.made_by and back.made_by["seed"] == 9
    assert rule_from_dict(back.made_by["rule"]) == Uniform(2)
    assert back.inputs.keys() == found.inputs.keys() and torch.equal(back.step, found.step)
    assert all(torch.equal(back.inputs[name], found.inputs[name]) for name in found.inputs)
    assert [p.name for p in path.parent.iterdir()] == ["set.safetensors"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        CalibrationSet.load(tmp_path / "absent.safetensors")


def test_rows_selects_by_slice_and_by_index():
    found = record(ddim(), Uniform(2), 6, 4)
    index = torch.tensor([4, 0])
    assert torch.equal(found.rows(index)["sample"], found.inputs["sample"][index])
    assert torch.equal(found.rows(slice(1, 3))["timestep"], found.inputs["timestep"][1:3])


class GuidedPipeline(DDPMPipeline):
    """Asks the network twice in one batch, as classifier-free guidance does."""

    def __call__(self, batch_size, **kwargs):
        return self.unet(torch.zeros(2 * batch_size, 1, 8, 8), torch.tensor(0))


def test_classifier_free_guidance_is_refused():
    plain = ddpm()
    with pytest.raises(ValueError, match="6 rows of 'sample' for 3 images in 1 passes: classifier"):
        record(GuidedPipeline(unet=plain.unet, scheduler=plain.scheduler), Uniform(), 9, 3, batch_size=3)


@pytest.mark.parametrize(
    "samples, steps, message",
    [(0, 4, "n=0"), (4, 0, "steps=0"), (4, 101, "steps=101 exceeds")],
    ids=["no-samples", "no-steps", "too-many-steps"],
)
def test_wrong_counts_are_refused(samples, steps, message):
    with pytest.raises(ValueError, match=message):
        record(ddim(), Uniform(), samples, steps)
