"""A restoration network alone, without sentences, by the recipe of its paper.

    python train.py --config configs/backbone.py:name=restormer,task=denoise,sigma=25,data=DFWB \
--workdir runs/restormer
    python train.py --config configs/backbone.py:name=nafnet,task=deblur,degraded=GOPRO/blur,\
clean=GOPRO/sharp --workdir runs/nafnet
    python train.py --config configs/backbone.py:name=promptir,task=all,data=WED_BSD400,\
rain=RAIN100L/train,haze=OTS --workdir runs/promptir

and in minutes on two CPU cores, with any folder of photographs:

    python train.py --config configs/backbone.py:name=nafnet,task=denoise,size=small,data=PHOTOS,\
eval=OTHER_PHOTOS --workdir runs/small

Arguments:
    name: restormer, promptir, nafnet, sfnet or drsformer (for Rain200L and SPA with
        --config.network.name=drsformer-200l).
    task: denoise, derain, dehaze or deblur, from clean photographs or from pairs; real-denoise,
        low-light or defocus, from pairs; all (noise of three levels, rain and haze in one network);
        five (and blur and low light, AdaIR's sets and repeats); cdd11 (its eleven mixtures, data=).
    sigma: 15, 25, 50, or blind for any level up to 50; denoise. grey=1: of grey pictures; denoise.
    data: a folder of clean photographs, degraded as they are read.
    degraded, clean: folders of pairs. right: with it `degraded` holds the left views and `right`
        the right ones of a dual-pixel sensor; defocus with restormer.
    rain: a folder with rainy/ and gt/ (Rain100L); all, five. haze: one with synthetic/ and
        original/ (OTS); all, five. Without them rain and haze are synthesised on `data`.
    blur, low: folders of pairs in any layout (GoPro's train/, LOL's our485/); five. Each of these,
        data, degraded alone and eval may be tfds:NAME (docs/data.md), several with + between them.
    recipe: paper, or tdr: one recipe for every network and task, a million steps of 32 crops of 384
        pixels. Its first learning-rate cycle, as published, rises from 2e-4 to 3e-4 and falls back
        in one step; cycle=repaired keeps it at 2e-4.
    steps: a shorter run; stages, epochs and cycles shrink alike. batch, crop: one of each for the
        whole run. Batches count the pictures of all devices together.
    size: full, or small for two CPU cores: a few per cent of the parameters at a rate of 1e-3.
    device: tpu for bfloat16 and a batch in parts that stay in its fast memory.
    eval: a folder to measure on; of clean photographs, or with degraded/ and clean/.

Expected scores, as published, not ours (PSNR in dB / SSIM): restormer Rain200H 32.00 / 0.9329;
promptir SOTS 30.58 / 0.974, Rain100L 36.37 / 0.972, CBSD68 33.98, 31.31, 28.06 at sigma 15, 25, 50;
nafnet GoPro 33.71 / 0.967 (width 32: 32.87), SIDD 40.30 / 0.961; sfnet SOTS indoor 41.24 / 0.996,
GoPro 33.27 / 0.963, DPDD 26.23 / 0.811; drsformer Rain200H 32.17 / 0.9326, DID 35.35 / 0.9646, DDN
34.35 / 0.9588.
"""

from configs import common

WHAT = {  # task -> what the data pipeline calls it, and the rows of the evaluation
    "denoise": ("noise", ("noise15", "noise25", "noise50")),
    "real-denoise": ("noise", ("noise",)),
    "derain": ("rain", ("rain",)),
    "dehaze": ("haze", ("haze",)),
    "deblur": ("blur", ("blur",)),
    "defocus": ("blur", ("blur",)),
    "low-light": ("low_light", ("low_light",)),
    "all": ("", ("noise15", "noise25", "noise50", "rain", "haze")),
    "five": ("", ("noise25", "rain", "haze")),
    "cdd11": ("", ("rain",)),
}
PAIRS_ONLY = ("real-denoise", "defocus", "low-light")
ALL_IN_ONE = {"all": common.THREE_TASKS, "five": common.FIVE_TASKS}
SIGMAS = ("15", "25", "50", "blind")


def get_config(argument: str = ""):
    """The recipe for one network and task.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: if the argument is unknown, or asks for what the network or the task has not.
    """
    given = common.parse(
        argument,
        name="restormer",
        task="denoise",
        sigma="25",
        grey=0,
        data="",
        degraded="",
        clean="",
        right="",
        rain="",
        haze="",
        blur="",
        low="",
        recipe="paper",
        cycle="published",
        steps=0,
        batch=0,
        crop=0,
        size="full",
        device="",
        eval="",
    )
    known = {"name": RECIPES, "task": WHAT, "sigma": SIGMAS, "size": ("full", "small")}
    known |= {"recipe": ("paper", "tdr"), "cycle": ("published", "repaired")}
    for key, values in known.items():
        if given[key] not in values:
            raise ValueError(f"{key}={given[key]} is unknown; known: {', '.join(values)}")
    config = common.get_config()
    config.encoder = ""
    config.network.name = given["name"]
    _data(config, given)
    _channels(config, given)
    config.optim.weight_decay = 0.0
    config.optim.clip = 0.01
    config.ema = 0.0
    config.log_every, config.save_every = 100, 5000
    config.panel_every = config.eval_every = 20_000
    config.data.workers = 8
    RECIPES[given["name"]](config, given["task"])
    if given["recipe"] == "tdr":
        tdr(config, repaired=given["cycle"] == "repaired")
    if given["size"] == "small":
        small(config)
    _resize(config, given["steps"], given["batch"], given["crop"])
    common.fit(config, given["device"])
    return common.declare(config)


def _data(config, given):
    """Where the pictures come from, and what is done to them."""
    task = given["task"]
    name, settings = WHAT[task]
    config.data.path = given["data"]
    repeats = ALL_IN_ONE.get(task, {})
    config.data.tasks = (name,) if name else tuple(repeats) or ("low_light", "haze", "rain")
    config.data.weights = (1.0,) * len(config.data.tasks)
    config.data.noise_mode = "float"  # the plain papers neither clip nor round noise
    config.eval_data.path = given["eval"]
    config.eval_data.settings = settings
    pairs = []
    alone = given["degraded"].startswith("tfds:") and not given["right"]  # which holds both
    if bool(given["degraded"]) != bool(given["clean"] or alone) or (
        given["right"] and not given["clean"]
    ):
        raise ValueError("pairs need both folders: degraded=FOLDER,clean=FOLDER")
    if task in PAIRS_ONLY and given["data"]:
        raise ValueError(f"task={task} cannot be synthesised; give degraded= and clean= folders")
    if given["degraded"]:
        views = (given["degraded"], given["right"]) if given["right"] else given["degraded"]
        pairs.append((views, given["clean"], name, 1))
    if task == "cdd11" and not given["data"].startswith("tfds:"):
        raise ValueError("task=cdd11 reads the set as tdr data prepare builds it: data=tfds:cdd11")
    if task == "denoise":
        blind = given["sigma"] == "blind"
        config.data.sigmas = (15, 25, 50) if blind else (int(given["sigma"]),)
        config.data.sigma_range = (0.0, 50.0) if blind else ()
        config.eval_data.settings = settings if blind else (f"noise{given['sigma']}",)
    if task in ALL_IN_ONE:
        # Each sigma as often as any other task.
        config.data.weights = (3.0, *(1.0,) * (len(repeats) - 1))
        config.data.noise_mode = "uint8"
        arguments = {"rain": "rain", "haze": "haze", "blur": "blur", "low_light": "low"}
        for what, argument in arguments.items():
            if given[argument]:
                pairs.append(common.pairs_of(given[argument], what, repeats.get(what, 1)))
        if pairs:
            config.data.path_task = "noise"
            config.data.path_repeats = repeats["noise"]
    config.data.pairs = tuple(pairs)


def _channels(config, given):
    """Grey pictures, and two views instead of one."""
    overrides, name = config.network.overrides, given["name"]
    if given["grey"]:
        if given["task"] != "denoise" or name == "sfnet":
            raise ValueError(f"grey=1 is for task=denoise and not for sfnet; given {name}")
        config.data.channels = 1
        if name == "nafnet":
            overrides.img_channel = 1
        else:
            overrides.inp_channels = overrides.out_channels = 1
    if given["right"]:
        if given["task"] != "defocus" or name != "restormer":
            raise ValueError("right= is for task=defocus with name=restormer")
        overrides.inp_channels, overrides.dual_pixel_task = 6, True


def restormer(config, task):
    """300k steps of 8 devices whose crops grow while their batches shrink (Restormer's options)."""
    config.optim.weight_decay = 1e-4
    _restarts(config, 3e-4, (92_000, 208_000), (3e-4, 1e-6))
    sizes = (128, 64), (160, 40), (192, 32), (256, 16), (320, 8), (384, 8)
    steps = 92_000, 64_000, 48_000, 36_000, 36_000, 24_000
    config.data.stages = tuple((n, *size) for n, size in zip(steps, sizes, strict=True))
    if task in ("denoise", "real-denoise"):
        config.network.overrides.LayerNorm_type = "BiasFree"
    if task == "denoise":
        config.loss.mixup = 1.2


def drsformer(config, task):
    """Restormer's optimiser with crops of 128 pixels, 4 on each of 4 devices."""
    config.optim.weight_decay = 1e-4
    _restarts(config, 3e-4, (92_000, 208_000), (3e-4, 1e-6))
    config.data.stages = ((300_000, 128, 16),)


def nafnet(config, task):
    """PSNR loss and 400k steps of 64 crops of 256 pixels; without turns or decay for SIDD."""
    real = task == "real-denoise"
    config.loss.l1, config.loss.psnr = 0.0, 1.0
    config.optim.lr, config.optim.b2 = 1e-3, 0.9
    config.optim.weight_decay = 0.0 if real else 1e-3
    config.optim.schedule, config.optim.warmup, config.optim.end = "cosine", 0, 1e-4
    config.data.stages = ((400_000, 256, 64),)
    if task not in ("deblur", "defocus"):  # the network of SIDD, else that of GoPro
        blocks = {"enc_blk_nums": (2, 2, 4, 8), "middle_blk_num": 12, "dec_blk_nums": (2, 2, 2, 2)}
        config.network.overrides.update(blocks)
    if real:
        config.data.dihedral = (0,)


def sfnet(config, task):
    """Three grids of L1 and 0.1 of the spectra's, Adam at 1e-4, 3 epochs up and a cosine down.

    Epochs are those of GoPro (2,103 pairs) for blur, of Rain13K (13,712) for rain and of RESIDE's
    indoor set (13,990) for the rest, 4 pictures a step.
    """
    config.loss.fft = 0.1
    pairs, epochs = {
        "deblur": (2103, 3000),
        "defocus": (2103, 3000),
        "derain": (13_712, 300),
    }.get(task, (13_990, 300))
    config.data.dihedral = (0, 4)
    _epochs(config, "cosine_epochs", 1e-4, 3, epochs, -(-pairs // 4))
    config.optim.end = 0.01
    config.data.stages = ((epochs * config.optim.steps_per_epoch, 256, 4),)


def promptir(config, task):
    """150 epochs of WED, BSD400, Rain100L and OTS, 142,431 examples, 32 of 128 pixels a step."""
    config.optim.weight_decay = 0.01  # torch's default
    config.optim.clip = 0.0
    _epochs(config, "paper", 2e-4, 15, 150, common.EPOCHS.get(task, 142_431) // 32)
    config.data.stages = ((150 * config.optim.steps_per_epoch, 128, 32),)


def tdr(config, *, repaired):
    """The shared recipe of "Improving Image Restoration through Removing Degradations in Textual
    Representations": a million steps, one crop size, L1, two cycles."""
    lr = 2e-4
    config.loss.update({"l1": 1.0, "psnr": 0.0, "fft": 0.0, "mixup": 0.0})
    config.optim.update({"b2": 0.999, "weight_decay": 1e-4, "clip": 0.01})
    _restarts(config, lr, (306_000, 694_000), (lr if repaired else 3e-4, 1e-6))
    config.data.dihedral = tuple(range(8))
    config.data.stages = ((1_000_000, 384, 32),)
    if len(config.data.tasks) > 1 and not config.data.path.startswith("tfds:cdd11"):
        # Tasks drawn evenly, each level of noise counted for one; noise as it is, not clipped.
        config.data.mixing, config.data.noise_mode = "weights", "float"


def small(config):
    """A network that learns something in a few minutes of two CPU cores; a schedule 10^-3 high."""
    config.network.overrides.update(SMALL[config.network.name])
    raised = 1e-3 / config.optim.lr
    config.optim.lr = 1e-3
    config.optim.eta_mins = tuple(raised * eta for eta in config.optim.eta_mins)
    config.ema = 0.99
    config.data.workers = 0
    config.log_every, config.save_every, config.panel_every = 20, 100, 100
    config.eval_every = 100
    config.eval_data.size = 256
    _resize(config, 300, 4, 48)


def _restarts(config, lr, periods, eta_mins):
    config.optim.lr = lr
    config.optim.schedule = "cosine_restarts"
    config.optim.periods, config.optim.eta_mins = periods, eta_mins
    config.optim.restart_weights = (1.0,) * len(periods)


def _epochs(config, schedule, lr, warmup, epochs, steps_per_epoch):
    config.optim.lr = lr
    config.optim.schedule = schedule
    config.optim.warmup_epochs, config.optim.max_epochs = warmup, epochs
    config.optim.steps_per_epoch = steps_per_epoch


def _resize(config, steps, batch, crop):
    """Give the run another length and every stage another batch or crop; 0 leaves them."""
    stages = config.data.stages
    counts = _shrunk([n for n, _, _ in stages], steps)
    config.data.stages = tuple(
        (n, crop or its_crop, batch or its_batch)
        for n, (_, its_crop, its_batch) in zip(counts, stages, strict=True)
        if n
    )
    if not steps:
        return
    optim = config.optim
    if optim.schedule == "cosine_restarts":
        cycles = zip(
            _shrunk(optim.periods, steps), optim.restart_weights, optim.eta_mins, strict=True
        )
        kept = [cycle for cycle in cycles if cycle[0]]
        optim.periods, optim.restart_weights, optim.eta_mins = zip(*kept, strict=True)
    if optim.schedule in ("cosine_epochs", "paper"):
        # Fewer, shorter epochs: the rate still changes often enough to look like its curve.
        optim.warmup_epochs = max(1, round(optim.warmup_epochs * steps / optim.max_epochs))
        optim.max_epochs, optim.steps_per_epoch = steps, 1


def _shrunk(lengths, total):
    """Lengths in the same proportion, rounded to whole numbers, with the sum `total`."""
    if not total:
        return list(lengths)
    ends = [sum(lengths[: i + 1]) * total // sum(lengths) for i in range(len(lengths))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


RECIPES = {
    "restormer": restormer,
    "promptir": promptir,
    "nafnet": nafnet,
    "sfnet": sfnet,
    "drsformer": drsformer,
}
TRANSFORMER = {"dim": 16, "num_blocks": (1, 1, 1, 2), "heads": (1, 2, 4, 8)}
SMALL = {
    "restormer": TRANSFORMER | {"num_refinement_blocks": 1},
    "promptir": TRANSFORMER
    | {"num_refinement_blocks": 1, "prompt_dim": (16, 32, 64), "prompt_size": (32, 16, 8)},
    "nafnet": {
        "width": 16,
        "enc_blk_nums": (1, 1, 2),
        "middle_blk_num": 2,
        "dec_blk_nums": (1, 1, 1),
    },
    "sfnet": {"num_res": 2, "base_channel": 16},
    "drsformer": TRANSFORMER,
}
