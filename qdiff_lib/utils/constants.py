"""Numbers that the library and its command line share; there is nothing to import here."""

ALLOWED_BITS = (2, 3, 4, 5, 6, 7, 8, 16)  # widths of an integer grid
FLOAT_BITS = 32  # floating point, where a width is asked for
GUIDANCE = 7.5  # the paper's scale of classifier-free guidance for Stable Diffusion
EXTRACTORS = ("fashion-classifier", "inception")  # what turns images into the features that scores compare
LAST_SEED = 2**11 - 1  # 11 bits of a random generator's seed: see ``diffusion.sampling``
LAST_STEP = 1000  # time steps of the training process: a sampler cannot take more
