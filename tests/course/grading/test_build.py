"""Lesson 7 as handed in: answers get functions of the course and call the learner's earlier functions."""

import pytest
from handed_in import codes, make_notebook, solutions

from qdiff_lib.course.grading.lessons import exercises
from qdiff_lib.course.grading.verdicts import Rules, judge

LESSON = "07_build_adaround"
FROM_EARLIER_STAGES = """
def learn_rounding(unit, layers, inputs, target, batches, strength, lr):
    v = [starting_variable(w, s).requires_grad_() for w, s, z in layers]
    adam = torch.optim.Adam(v, lr=lr)
    for i, rows in enumerate(batches):
        h = [rectified_sigmoid(each) for each in v]
        weights = [soft_weight(*layer, up, 4) for layer, up in zip(layers, h)]
        loss = (unit(weights, *[x[rows] for x in inputs]) - target[rows]).square().sum(1).mean()
        loss = loss + strength * sum(annealed_penalty(up, i, len(batches)) for up in h)
        adam.zero_grad()
        loss.backward()
        adam.step()
    up = [(rectified_sigmoid(each) >= 0.5).double() for each in v]
    return v, [soft_weight(*layer, each, 4) for layer, each in zip(layers, up)]
"""
FORBIDDEN = """
from qdiff_lib.course.exercises import rounding_07
def learn_rounding(unit, layers, inputs, target, batches, strength, lr):
    problem = rounding_07.Problem(unit, layers, inputs, target)
    return rounding_07.learn(problem, batches, strength, lr, rounding_07.LoopWays())
"""


@pytest.mark.slow
@pytest.mark.sandbox
def test_a_loop_of_the_learners_own_parts_is_right_and_the_courses_own_loop_is_refused(sandbox):
    for last, verdict in ((FROM_EARLIER_STAGES, "right"), (FORBIDDEN, "wrong")):
        notebook = make_notebook(LESSON, solutions(LESSON) | {"07.learn_rounding": last})
        judged = judge(codes(notebook), exercises("07"), Rules(seed=7), sandbox)
        found = {each.exercise: each.verdict for each in judged}
        assert found == dict.fromkeys(exercises("07"), "right") | {"07.learn_rounding": verdict}, judged
