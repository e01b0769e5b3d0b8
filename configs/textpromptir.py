"""TextPromptIR: one network that removes the noise, rain or haze that a sentence names.

Command, for the published size on the published data (WED and BSD400 in one folder):

    python train.py --config configs/textpromptir.py:size=base,data=WED_BSD400,rain=RAIN100L/train,\
haze=OTS,encoder=SENTENCE_MODEL --workdir runs/textpromptir

and for the sizes that come with a text encoder, from any folder of photographs:

    python train.py --config configs/textpromptir.py:size=compact,data=PHOTOS --workdir runs/compact

Arguments, all optional:
    size: base (dim 48, 768-d sentences), compact (for a few CPU cores), tiny (to try the code).
    tasks: noise+rain+haze, or some of them, and +mixed for pictures with two of them that are both
        asked for; base has noise+rain+haze if nothing is given, compact all four.
    data: a folder of clean photographs.
    rain: a folder with rainy/ and gt/ (Rain100L). haze: a folder with synthetic/ and original/
        (OTS). Without them rain and haze are synthesised on the photographs in `data`.
    blur: a folder of pairs in any layout (GoPro's train/). low: likewise (LOL's our485/). With
        these two an epoch is AdaIR's of five tasks. Each of data, rain, haze, blur, low and eval
        may be tfds:NAME as well (docs/data.md), or several with + between them.
    mixing: repeats, the papers' epoch; weights for as much of each task, noise thrice (TDR's).
    encoder: minilm (384-d) or the folder of a sentence-transformers model; base has no default.
    text_dim: the width of its vectors, where it is not the network's own (base 768, others 384).
    eval: a folder of clean photographs to measure on during the run.
    damage: realistic for rain, haze and noise of wider ranges, a camera's noise and JPEG blocks
        (docs/degradations.md); published, the default, for those of earlier runs and evaluation.
    device: tpu for bfloat16 and a batch in parts that stay in its fast memory.

Expected score. base: the paper's table (CBSD68 34.17 / 31.52 / 28.26 dB at sigma 15 / 25 / 50,
Rain100L 38.41, SOTS 31.65) is the target; this project has not trained it. compact: see the model
card of the shipped weights.
"""

from configs import common

TASKS, MIXED = ("noise", "rain", "haze"), "mixed"
MORE = {"blur": "blur", "low": "low_light"}  # argument -> the task of its pairs


def get_config(argument: str = ""):
    """The recipe for one size.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: if the argument or the size is unknown.
    """
    given = common.parse(
        argument,
        size="base",
        tasks=(),
        data="",
        rain="",
        haze="",
        blur="",
        low="",
        mixing="repeats",
        encoder="",
        text_dim=0,
        eval="",
        damage="published",
        device="",
    )
    if given["size"] not in SIZES:
        raise ValueError(f"size={given['size']} is unknown; known: {', '.join(SIZES)}")
    config = common.get_config()
    more = tuple(task for name, task in MORE.items() if given[name])
    tasks = given["tasks"] or TASKS + more + (MIXED,) * (given["size"] == "compact")
    config.data.path = given["data"]
    config.data.p_joint = 0.2 * (MIXED in tasks)
    config.data.tasks = tasks = tuple(task for task in tasks if task != MIXED)
    each = given["mixing"] == "weights"
    config.data.weights = tuple(3.0 if each and task == "noise" else 1.0 for task in tasks)
    config.network.overrides.trained_for = tasks
    config.eval_data.path = given["eval"]
    settings = config.eval_data.settings
    config.eval_data.settings = tuple(s for s in settings if s.startswith(tasks))
    repeats = common.FIVE_TASKS if more else common.THREE_TASKS | {"rain": 200}
    config.data.pairs = tuple(
        common.pairs_of(given[name], task, repeats[task])
        for name, task in {"rain": "rain", "haze": "haze", **MORE}.items()
        if given[name]
    )
    config.data.mixing = given["mixing"]
    if given["mixing"] == "weights" and config.data.pairs:
        config.data.path_task = "noise"  # with pairs for the rest
    SIZES[given["size"]](config)
    config.data.synthesis = given["damage"]
    if given["damage"] == "realistic":
        config.data.sigma_range = (1.0, 60.0)
    common.fit(config, given["device"])
    if given["encoder"]:
        config.encoder = given["encoder"]
    if given["text_dim"]:
        config.network.overrides.text_dim = given["text_dim"]
    return common.declare(config)


def base(config):
    """The published recipe: 128-pixel crops, 6 at a time, L1, AdamW, no clipping, no average.

    An epoch is 158,431 examples: every clean picture 9 times (3 sigmas, each 3 times), every rain
    pair 200 times, every haze pair once; with 6 a batch that is 26,405 steps.
    """
    config.network.name = "textpromptir"
    # Fewer copies of residuals, for a longer compilation: docs/performance.md.
    config.network.overrides.scan_unroll = 3
    config.encoder = ""  # its 768-d sentence model is not public; bring one
    config.optim.schedule = "paper"  # "executed" for what the reference code runs
    config.optim.lr = 2e-4
    config.optim.clip = 0.0
    config.ema = 0.0
    config.data.workers = 6
    config.log_every = 100
    config.save_every = 5000
    config.panel_every = 5000
    config.eval_every = 26405
    if config.data.pairs:
        # With real pairs for the other tasks the photographs serve the denoiser alone.
        config.data.path_task = "noise"
        config.data.path_repeats = common.THREE_TASKS["noise"]
    if len(config.data.pairs) > 2:
        config.optim.steps_per_epoch = common.EPOCHS["five"] // 6
    config.data.stages = ((150 * config.optim.steps_per_epoch, 128, 6),)


def compact(config):
    """The recipe of the shipped weights: for two CPU cores."""
    config.network.name = "textpromptir-compact"
    # Its stages have at most two blocks, which then need no loop: docs/performance.md.
    config.network.overrides.scan_unroll = 2
    config.optim.lr = 8e-4
    config.optim.warmup = 100
    config.optim.end = 0.01
    config.ema = 0.998
    config.data.stages = ((1900, 64, 16), (800, 128, 6))
    config.data.weights = tuple(1.5 if task == "noise" else 1.0 for task in config.data.tasks)
    config.data.p_absent = 0.1
    config.data.p_keep_one = 0.1
    config.data.p_partial_strength = 0.15
    config.network.overrides.text_strength = True
    config.log_every = 20
    config.save_every = 200
    config.panel_every = 200
    config.eval_every = 2700
    _needs_two_tasks(config)


def tiny(config):
    """A network that learns little, quickly: for tests and a first try."""
    config.network.name = "textpromptir-tiny"
    config.optim.lr = 1e-3
    config.optim.warmup = 10
    config.data.stages = ((200, 32, 4),)
    config.save_every = 50
    config.eval_every = 200
    config.panel_every = 100


def _needs_two_tasks(config):
    if len(config.data.tasks) < 2:
        config.data.p_absent = config.data.p_keep_one = config.data.p_joint = 0.0


SIZES = {"base": base, "compact": compact, "tiny": tiny}
