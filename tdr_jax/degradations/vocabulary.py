"""The degradations that this project knows, by name, in the order of every index that is stored.

Random streams, class indices in batches and the outputs of trained networks count in these orders:
append names, never sort or drop them.
"""

CLEAN = "clean"  # what a picture is called to which nothing was done
TASKS = ("noise", "rain", "haze", "blur", "low_light")  # what networks are asked to undo
SYNTHESISED = TASKS[:4]  # those that `degradations.synthesis` makes from a clean picture
ESTIMATED = TASKS[:4]  # the answers of the degradation estimator
LAYERS = ("haze", "rain", "blur", "noise")  # in which order they come about in the world

# What a recipe can name -> the task that undoes it. The place of a kind numbers its draws in
# training: append.
KINDS = {task: task for task in TASKS} | {
    "jpeg": "noise",
    "camera": "noise",
    "realistic_noise": "noise",
    "realistic_rain": "rain",
    "realistic_haze": "haze",
    "shake": "blur",
    "motion": "blur",
    "defocus": "blur",
    "defocus_depth": "blur",
}

# Where what training makes of a clean picture stands among the layers: darkness is exposed with all
# of them, and noise comes last.
MADE_IN_ORDER = (*LAYERS[:-1], TASKS[4], LAYERS[-1])

STRENGTHS = ("mild", "strong")  # that a sentence can name
SIGMAS = (15, 25, 50)  # of 255: the levels of noise on which all-in-one restoration reports


def spoken(task: str) -> str:
    """Returns a task's name as people write it: "low light" for "low_light"."""
    return task.replace("_", " ")


NO_TASK = "none"  # what a sentence asks for that asks for anything else, or nothing
MEANINGS = (*map(spoken, TASKS), NO_TASK)  # what a sentence can ask for
