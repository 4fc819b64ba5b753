"""What the grader knows of the course: lessons, exercises, points, and the course's own answers."""

import importlib

from ..checks import EXERCISES

LESSONS = {
    "00": "00_start_here",
    "01": "01_error_accumulation",
    "02": "02_activation_drift",
    "03": "03_calibration_sampling",
    "04": "04_shortcut_splitting",
    "05": "05_w4a8_pipeline",
    "06": "06_integer_execution",
    "07": "07_build_adaround",
}
POINTS = {  # the importance that the lesson states
    "00.file_bytes": 3,
    "00.integer_dot": 4,
    "01.propagation_factor": 4,
    "01.accumulated_variance": 5,
    "01.snr_per_step": 4,
    "02.range_utilisation": 3,
    "02.min_max_observer": 5,
    "02.percentile_observer": 4,
    "03.uniform_counts": 5,
    "03.draw_trajectories": 4,
    "03.stream_number": 4,
    "04.split_quantize": 5,
    "04.shortcut_output": 5,
    "05.rounding_penalty": 4,
    "05.decide_codes": 3,
    "05.pack_nibbles": 3,
    "06.folded_bias": 4,
    "06.requantize": 3,
    "06.amdahl_speedup": 5,
    "07.rectified_sigmoid": 3,
    "07.starting_variable": 4,
    "07.soft_weight": 4,
    "07.annealed_penalty": 4,
    "07.one_iteration": 5,
    "07.learn_rounding": 5,
}
OTHER_POINTS = 3
COURSE_ANSWERS = {  # functions that an answer may not call
    "01.propagation_factor": ("qdiff_lib.course.gaussian:propagation_factor",),
    "01.accumulated_variance": ("qdiff_lib.course.gaussian:accumulated_variance",),
    "01.snr_per_step": ("qdiff_lib.evaluation.trajectory_errors:trajectory_snr",),
    "02.range_utilisation": ("qdiff_lib.course.exercises.lesson_02:used_share",),
    "03.uniform_counts": ("qdiff_lib.calibration.record:draw_counts", "qdiff_lib.calibration.record:_spread"),
    "04.split_quantize": ("qdiff_lib.course.exercises.lesson_04:split_values",),
    "04.shortcut_output": ("qdiff_lib.course.exercises.lesson_04:shortcut_product",),
    "05.rounding_penalty": (
        "qdiff_lib.quantizers.adaround:AdaRound.regularizer",
        "qdiff_lib.course.exercises.lesson_05:penalty",
    ),
    "05.decide_codes": ("qdiff_lib.quantizers.adaround:AdaRound.decided",),
    "05.pack_nibbles": ("qdiff_lib.quantizers.packing:pack",),
    "07.rectified_sigmoid": (
        "qdiff_lib.quantizers.adaround:AdaRound.h",
        "qdiff_lib.course.exercises.rounding_07:share",
    ),
    "07.starting_variable": (
        "qdiff_lib.quantizers.adaround:v_of",
        "qdiff_lib.course.exercises.rounding_07:start_of",
    ),
    "07.soft_weight": (
        "qdiff_lib.quantizers.adaround:AdaRound.forward",
        "qdiff_lib.course.exercises.rounding_07:on_grid",
    ),
    "07.annealed_penalty": (
        "qdiff_lib.quantizers.adaround:AdaRound.regularizer",
        "qdiff_lib.course.exercises.rounding_07:penalty_of",
    ),
    "07.one_iteration": ("qdiff_lib.course.exercises.rounding_07:descend",),
    "07.learn_rounding": ("qdiff_lib.course.exercises.rounding_07:learn",),
}


def exercises(lesson: str) -> list[str]:
    """The exercises "NN.function" of a lesson "NN". Raises ValueError for a lesson that does not exist."""
    if lesson not in LESSONS:
        raise ValueError(f"lesson={lesson!r} does not exist; use one of {tuple(LESSONS)}")
    importlib.import_module(f"qdiff_lib.course.exercises.lesson_{lesson}")
    return [name for name in EXERCISES if name.startswith(f"{lesson}.")]


def points(exercise: str) -> int:
    """What a right answer is worth."""
    return POINTS.get(exercise, OTHER_POINTS)
