"""Calibration inputs of latent and text-guided pipelines: what the network saw, with and without text."""

import pytest
import torch
from latent_models import (
    CONDITIONED,
    PROMPTS,
    latent_consistency,
    latent_diffusion,
    stable_diffusion,
    stable_diffusion_xl,
)
from several_processes import together
from tiny_models import ddpm

from qdiff_lib import record, with_sampler
from qdiff_lib.calibration.calibration_set import CalibrationSet, Shared
from qdiff_lib.calibration.record import draw_counts
from qdiff_lib.diffusion.request import Request
from qdiff_lib.diffusion.sampling import run_batch, sampling_times
from qdiff_lib.graph.hooks import hooked
from qdiff_lib.graph.model_inputs import flat_inputs
from qdiff_lib.recipes.timestep_rules import Uniform


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion()


@pytest.fixture(scope="module")
def guided(pipe):
    """12 inputs at two of four PLMS steps."""
    return record(pipe, Uniform(2), 12, 4, seed=3, prompts=PROMPTS)


def seen_by(pipe, count, steps, seed, request):
    """All calls of the network: sample, time and text."""
    calls = []
    handle = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append((args[0], args[1], kwargs["encoder_hidden_states"])),
        with_kwargs=True,
    )
    run_batch(pipe, 0, count, steps, seed, "calibration", request)
    handle.remove()
    return calls


def test_half_of_the_inputs_are_unconditional(guided):
    text = guided.inputs["encoder_hidden_states"]
    unconditional = (text.values[:, None] == text.values[None]).flatten(2).all(-1).sum(0)
    assert unconditional.tolist() == [1] * len(text.values)  # each text once
    counts = torch.bincount(text.index)
    assert counts.max() == 6 and counts.sum() == 12
    assert torch.bincount(guided.step).tolist() == [6, 0, 6]


def test_each_draw_is_kept_with_and_without_its_text(pipe, guided):
    text = guided.inputs["encoder_hidden_states"]
    empty = torch.bincount(text.index).argmax()
    rows = guided.inputs["sample"].flatten(1)
    for i in range(12):
        twins = (rows == rows[i]).all(1).nonzero().flatten()
        assert len(twins) == 2 and (text.index[twins] == empty).sum() == 1
    nothing, _ = pipe.encode_prompt([""], "cpu", 1, False)
    torch.testing.assert_close(text.values[empty], nothing[0])


@pytest.mark.parametrize("guidance", [7.5, 1.0], ids=["guided", "plain"])
def test_rows_are_what_the_network_saw(pipe, guidance):
    request = Request(PROMPTS, guidance)
    found = record(pipe, Uniform(2), 12, 4, seed=3, prompts=PROMPTS, guidance=guidance)
    calls = seen_by(pipe, 12 // request.passes, 4, 3, request)  # twice what a step draws
    times = [int(time) for _, time, _ in calls]
    assert times[1] == times[2] and len(times) == 5  # PLMS asks twice at its second time
    for i in range(12):
        row = {name: value[i] for name, value in found.rows(slice(None)).items()}
        sample, time, text = calls[[0, 1, 3, 4][int(found.step[i])]]
        assert row["timestep"] == time
        same = [torch.equal(row["sample"], s) for s in sample]
        texts = [torch.allclose(row["encoder_hidden_states"], t, atol=1e-5) for t in text]
        assert any(a and b for a, b in zip(same, texts, strict=True))


def test_texts_are_stored_once_whatever_the_number_of_inputs(pipe):
    few, many = (record(pipe, Uniform(1), n, 2, prompts=PROMPTS[:3]) for n in (8, 40))
    held = [found.inputs["encoder_hidden_states"].values.nbytes for found in (few, many)]
    assert held[1] == 4 * 16 * 12 * 4 >= held[0]  # three texts and the empty one


def test_save_and_load_keep_texts_apart(guided, tmp_path):
    guided.save(tmp_path / "set.safetensors")
    back = CalibrationSet.load(tmp_path / "set.safetensors")
    assert isinstance(back.inputs["encoder_hidden_states"], Shared)
    assert back.made_by == guided.made_by and back.made_by["prompts"] == list(PROMPTS)
    assert back.made_by["guidance"] == 7.5 and torch.equal(back.step, guided.step)
    for index in (slice(2, 5), torch.tensor([7, 0])):
        for name, value in guided.rows(index).items():
            assert torch.equal(back.rows(index)[name], value)


def calls_of(pipe, asked, count, steps):
    """What the network saw in one batch of trajectories: all its inputs by column, one dict for each call."""
    calls = []

    def keep(module, args, kwargs):
        given = flat_inputs({"sample": args[0], "timestep": args[1], **kwargs})
        calls.append({name: value for name, value in given.items() if isinstance(value, torch.Tensor)})

    request = Request.checked(pipe, asked.get("prompts"), 7.5, 0.0, asked.get("class_labels"))
    with hooked(before=[(pipe.unet, keep)]):
        run_batch(pipe, 0, count, steps, 3, "calibration", request)
    return calls


@pytest.mark.parametrize("make, asked", CONDITIONED.values(), ids=CONDITIONED.keys())
def test_rows_have_all_conditions_that_the_network_saw(make, asked):
    """Each recorded row is a row of one call, in every column at once."""
    pipe = make()
    found = record(pipe, Uniform(1), 18, 3, seed=3, batch_size=4, **asked)
    assert ("class_labels" in found.inputs) == ("class_labels" in asked)
    calls = calls_of(pipe, asked, 12, 3)
    for i in range(len(found)):
        call, row = calls[int(found.step[i])], found.columns(slice(i, i + 1))
        assert row.keys() == call.keys() and row.pop("timestep").item() == call["timestep"].item()
        same = [torch.isclose(call[name], row[name], atol=1e-3, rtol=1e-3) for name in row]
        assert torch.stack([each.reshape(len(each), -1).all(1) for each in same]).all(0).any()
    assert found.made_by.get("class_labels") == asked.get("class_labels")


@pytest.mark.parametrize("make, asked", CONDITIONED.values(), ids=CONDITIONED.keys())
def test_the_columns_come_back_as_keyword_arguments(make, asked, tmp_path):
    pipe = make()
    found = record(pipe, Uniform(1), 6, 3, **asked)
    found.save(tmp_path / "set.safetensors")
    back = CalibrationSet.load(tmp_path / "set.safetensors")
    assert back.inputs.keys() == found.inputs.keys()
    one, two = (made.columns(torch.tensor([4, 1])) for made in (found, back))
    assert all(torch.equal(one[name], two[name]) for name in one)
    with torch.no_grad():
        assert pipe.unet(**back.rows(slice(1, 4))).sample.isfinite().all()


def test_the_added_conditions_of_sdxl_are_stored_once_for_each_prompt():
    found = record(stable_diffusion_xl(), Uniform(1), 40, 2, prompts=PROMPTS[:3])
    names = ["encoder_hidden_states", "added_cond_kwargs.text_embeds", "added_cond_kwargs.time_ids"]
    assert found.inputs.keys() == {"sample", "timestep", *names}
    assert all(isinstance(found.inputs[name], Shared) for name in names)
    assert [len(found.inputs[name].values) for name in names] == [4, 4, 4]
    assert found.inputs[names[2]].values.unique(dim=0).tolist() == [[16, 16, 0, 0, 16, 16]]
    assert found.rows(slice(0, 2))["added_cond_kwargs"].keys() == {"text_embeds", "time_ids"}


def test_a_consistency_model_gives_one_row_with_its_text_for_each_draw():
    found = record(latent_consistency(), Uniform(1), 7, 2, prompts=PROMPTS[:3])
    rows = found.inputs["sample"].flatten(1)
    assert all((rows == row).all(1).sum() == 1 for row in rows)
    assert len(found.inputs["encoder_hidden_states"].values) <= 3  # no empty text


def test_an_odd_number_is_refused_under_guidance_only(pipe):
    with pytest.raises(ValueError, match="samples=7 must be even: half of them with the text"):
        record(pipe, Uniform(), 7, 2, prompts=PROMPTS)
    assert len(record(pipe, Uniform(), 7, 2, prompts=PROMPTS, guidance=1.0)) == 7


def test_paper_takes_128_of_each_kind_at_25_of_50_plms_steps(pipe):
    counts = draw_counts(Uniform(2), 50, 3200, torch.Generator())
    assert (counts > 0).sum() == 25 and set(counts[counts > 0].tolist()) == {128}
    times = sampling_times(pipe, 50)
    assert len(times) == 51 and len(times.unique()) == 50
    assert torch.bincount(record(pipe, Uniform(25), 4, 50, prompts=PROMPTS).step).tolist() == [
        2,
        *[0] * 24,
        2,
    ]


def test_latents_of_an_unconditional_pipeline():
    pipe = with_sampler(latent_diffusion(), "ddim")
    found = record(pipe, Uniform(1), 6, 3, eta=1.0)
    assert found.inputs.keys() == {"sample", "timestep"} and found.inputs["sample"].shape == (6, 4, 8, 8)
    assert found.made_by["eta"] == 1.0 and "prompts" not in found.made_by


def test_other_inputs_of_the_network_are_refused(pipe):
    class Adapted(type(pipe)):
        def __call__(self, prompt, **kwargs):
            text = torch.zeros(2, 16, 12)
            self.unet(torch.zeros(2, 4, 8, 8), 0, text, down_block_additional_residuals=(torch.zeros(1),))

    adapted = Adapted(**pipe.components, requires_safety_checker=False)
    with pytest.raises(ValueError, match="gives its UNet 'down_block_additional_residuals'"):
        record(adapted, Uniform(), 2, 2, prompts=["flag"])


def recorded_together(processes, make, texts):
    return record(make(), Uniform(2), 12, 4, seed=3, prompts=texts, batch_size=2, processes=processes)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("make", "texts"), [(ddpm, None), (stable_diffusion, PROMPTS)])
def test_the_number_of_processes_changes_no_bit_of_the_set(make, texts, count):
    expected = record(make(), Uniform(2), 12, 4, seed=3, prompts=texts, batch_size=2)
    found, *others = together(count, recorded_together, make, texts)
    assert others == [None] * (count - 1) and found.made_by == expected.made_by
    assert found.tensors().keys() == expected.tensors().keys()
    assert all(torch.equal(found.tensors()[name], value) for name, value in expected.tensors().items())
