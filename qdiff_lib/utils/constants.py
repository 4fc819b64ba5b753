"""Numbers that the library and its command line share. This module imports nothing."""

ALLOWED_BITS = (2, 3, 4, 5, 6, 7, 8, 16)  # bit widths of an integer grid
FLOAT_BITS = 32  # the bit width that means floating point
GUIDANCE = 7.5  # the paper's scale of classifier-free guidance for Stable Diffusion
EXTRACTORS = ("fashion-classifier", "inception")  # networks that compute the features for the scores
LAST_SEED = 2**11 - 1  # a seed has 11 bits: see ``noise_generators`` in ``diffusion.sampling``
MOST_DRAWN = 2**20  # images of a seed: 20 bits of a random generator's seed, see ``diffusion.sampling``
MOST_GUIDANCE = 1000  # scale of guidance, far above the scales in use, which are below 20
MOST_INPUTS = MOST_DRAWN // 2  # calibration inputs; as many images are left for bias correction
MOST_ITERATIONS = 10**6  # of learning: their random numbers are drawn before the first one
LAST_STEP = 1000  # diffusion times of the training process, so the most denoising steps of a sampler
ENGINES = ("simulated", "reference", "openvino", "triton")  # what can compute a quantized network
EXPORT_FORMATS = ("onnx", "openvino")  # files of other inference engines
