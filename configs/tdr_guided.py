"""Guided restoration, the third stage of textual degradation removal, around any backbone.

    python train.py --config configs/tdr_guided.py:backbone=restormer,task=deblur,\
degraded=GOPRO/blur,clean=GOPRO/sharp,guidance=GOPRO/guidance,base=restormer.pth,dinov2=DINOV2 \
--workdir runs/guided

Published are twenty setups, all with a million steps of 32 crops of 384 pixels:

    backbone=promptir,task=all: noise of three levels, rain and haze in one network.
    backbone=nafnet or restormer,task=deblur. backbone=restormer,task=defocus, with right= and
        without. backbone=restormer,task=real-denoise.
    backbone=sfnet,task=dehaze,set=indoor or outdoor.
    backbone=drsformer,task=derain,set=200l, 200h, did or ddn.
    backbone=restormer,task=denoise,sigma=15, 25, 50 or blind,grey=0 or 1.

Other pairs of a backbone and a task, and textpromptir, to which words and guidance go together,
follow the same recipe.

On a CPU, from any folder of photographs, with guidance made of them; first a base, then
the guided network around it, and as many steps more of the base alone, to compare. The base is
young, since one that has settled learns to use guidance in many more steps than these:

    python train.py --config configs/tdr_guided.py:size=tiny,guided=0,data=PHOTOS,steps=300 \
--workdir runs/base
    python train.py --config configs/tdr_guided.py:size=tiny,data=PHOTOS,\
base=runs/base/weights.safetensors --workdir runs/guided
    python train.py --config configs/tdr_guided.py:size=tiny,guided=0,data=PHOTOS,\
base=runs/base/weights.safetensors --workdir runs/unguided
    python scripts/measure_guided.py --data OTHER_PHOTOS --base runs/base \
--unguided runs/unguided --guided runs/guided

Arguments:
    backbone, task, sigma, grey, data, degraded, clean, right, rain, haze, steps, batch, crop,
        device: as in configs/backbone.py, where `backbone` is called name; textpromptir needs
        encoder=, a folder of a sentence-transformers model.
    set: which network a task has, where it differs; above.
    guidance: a folder of guidance, 512x512, with the names of the degraded pictures or the clean
        ones; of hazy pictures one a scene is enough, with the name up to the first "_". Where
        damage is made of clean pictures, with a folder for each level in it: noise50/, as
        `tdr guide --degrade` draws them.
    kinds: in its place or beside it ("file" is the folder), what guidance is made of the
        photographs themselves: view+part+other, see tdr_jax/data/guidance.py. weights: how often.
    window: crop, a window of the guidance of the crop's size, chosen by DINOv2, as published; or
        full. dinov2: the folder of DINOv2 ViT-B/14, for window=crop.
    base: weights of the backbone alone, which training starts from. freeze=1: they stay.
    cycle: written, whose first learning-rate cycle rises to 3e-4, or repaired, which keeps it where
        it starts.
    guided=0: the backbone alone, by the same recipe.
    size: full, or tiny: noise of sigma 50 on crops of 64 pixels with guidance of 96.
"""

from configs import backbone as recipes
from configs import common

BACKBONES = (*recipes.RECIPES, "textpromptir")
SETS = {"derain": ("200l", "200h", "did", "ddn"), "dehaze": ("indoor", "outdoor")}
CYCLES = {"written": "published", "repaired": "repaired"}
SYNTHESISED = ("view", "part", "other")
# Passed on to configs/backbone.py.
SHARED = dict(
    task="denoise",
    sigma="50",
    grey=0,
    data="",
    degraded="",
    clean="",
    right="",
    rain="",
    haze="",
    steps=0,
    batch=0,
    crop=0,
    device="",
)


def get_config(argument: str = ""):
    """The recipe for one backbone and task.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: if the argument is unknown, or asks for what the backbone or the task has not.
    """
    given = common.parse(
        argument,
        backbone="nafnet",
        **SHARED,
        set="",
        encoder="",
        guidance="",
        kinds=(),
        weights=(),
        window="",
        dinov2="",
        base="",
        freeze=0,
        cycle="written",
        guided=1,
        size="full",
    )
    known = {"backbone": BACKBONES, "cycle": CYCLES, "size": ("full", "tiny")}
    known |= {"window": ("", "full", "crop"), "set": ("", *SETS.get(given["task"], ()))}
    for key, values in known.items():
        if given[key] not in values:
            listed = ", ".join(filter(None, values)) or f"none for task={given['task']}"
            raise ValueError(f"{key}={given[key]} is unknown; known: {listed}")
    config = _backbone(given)
    _guidance(config, given)
    if given["task"] == "all":
        _all(config)
    config.optim.lr_of = (("masa", 1e-4),)
    if given["size"] == "tiny":
        _tiny(config, given)
    if given["freeze"]:
        config.optim.lr_of = (*config.optim.lr_of, (r"^base\.", 0.0))
    if not given["guided"]:
        _alone(config)
    return common.declare(config)


def _backbone(given):
    """The network, its data and the recipe that all of TDR's setups share."""
    name = given["backbone"]
    prompted = name == "textpromptir"
    if prompted and given["grey"]:
        raise ValueError("grey=1 is not for textpromptir")
    passed = {"name": "promptir" if prompted else name, "recipe": "tdr"}
    passed |= {key: given[key] for key in SHARED} | {"cycle": CYCLES[given["cycle"]]}
    config = recipes.get_config(",".join(f"{key}={value}" for key, value in passed.items()))
    if given["set"] == "200l":
        if name != "drsformer":
            raise ValueError("set=200l is for backbone=drsformer; leave it out")
        name = "drsformer-200l"
    if given["cycle"] == "repaired":  # each rate stays where it starts, not at that of the base
        lr, floors = config.optim.lr, config.optim.eta_mins
        config.optim.eta_mins = tuple(None if floor == lr else floor for floor in floors)
    config.objective = "guided"
    config.seed = 100
    config.network.name = "guided"
    config.network.overrides.backbone = name
    config.encoder = given["encoder"]
    config.init_base = given["base"]
    return config


def _guidance(config, given):
    """What there is beside each picture: files, as published, or what is made of photographs."""
    settings = config.guidance
    settings.path = given["guidance"]
    settings.kinds = given["kinds"] or ("file",)
    settings.weights = tuple(map(float, given["weights"])) or (1.0,) * len(settings.kinds)
    settings.window = given["window"] or "crop"
    settings.dinov2, settings.dinov2_offset = given["dinov2"], 0.1


def _all(config):
    """Each level of noise as often as rain or haze; noise is not cut off."""
    config.data.noise_mode = "float"
    if len(config.data.pairs) == 2:
        # Of 5,144 photographs, 200 rain pairs and 72,135 haze pairs 3 : 1 : 1 examples an epoch.
        rain, haze = config.data.pairs
        config.data.path_repeats = 42
        config.data.pairs = ((*rain[:3], 361), haze)


def _tiny(config, given):
    """A network, guidance and a run for two CPU cores."""
    name = given["backbone"]
    if name == "textpromptir":
        config.network.overrides.backbone = "textpromptir-tiny"
        config.encoder = given["encoder"] or "minilm"
    config.network.overrides.update(TINY.get(name, {}))
    if name == "nafnet" and given["guided"]:
        # The published four and two blocks a level would take most of the time of a step.
        config.network.overrides.update(n_blks=(1, 2), reffusion_n_blocks=(1, 1))
    settings = config.guidance
    if not given["guidance"] and not given["kinds"]:
        settings.kinds, settings.weights = SYNTHESISED, (2.0, 1.0, 1.0)
    settings.size = 96
    settings.window = given["window"] or "full"
    # L1 alone teaches matching to see through noise in many more steps than these.
    config.loss.align = 0.01
    config.optim.lr, config.optim.lr_of = (2e-3 if name == "nafnet" else 1e-3), ()
    config.optim.schedule, config.optim.warmup, config.optim.end = "cosine", 20, 0.01
    config.data.stages = ((given["steps"] or 2000, given["crop"] or 64, given["batch"] or 8),)
    config.data.workers = 0
    config.ema = 0.99
    config.log_every, config.save_every, config.panel_every = 20, 100, 200


def _alone(config):
    """The backbone without guidance, in what is otherwise the same run."""
    config.objective = "restore"
    config.network.name = config.network.overrides.backbone
    del config.network.overrides.backbone
    config.init_from, config.init_base = config.init_base, ""
    config.guidance = common.get_config().guidance
    config.loss.align = 0.0
    config.optim.lr_of = ()


# The matching works on the deepest level: with two halvings it places blocks to four pixels, and
# there are enough of them in a crop to look for.
TINY = {name: sizes for name, sizes in recipes.SMALL.items() if name != "nafnet"} | {
    "nafnet": {
        "width": 16,
        # One halving: the fewer pixels a position stands for, the finer what is found fits.
        "enc_blk_nums": (1,),
        "middle_blk_num": 2,
        "dec_blk_nums": (1,),
    }
}
