"""Textual restoration, the second stage: words of a degraded picture made those of the clean one.

    python train.py --config configs/tdr_tr.py:stack=stable-diffusion-2-1-base,\
vision=CLIP-ViT-H-14-laion2B-s32B-b79K,words=runs/i2t/image_to_text,data=PHOTOS --workdir runs/tr

and in minutes on two CPU cores, after configs/tdr_i2t.py:size=tiny:

    python train.py --config configs/tdr_tr.py:size=tiny,stack=runs/unet/stack,\
vision=runs/vision/image_encoder,words=runs/i2t/image_to_text,data=PHOTOS --workdir runs/tr

and the paper's own second stage on the same towers:

    python train.py --config configs/tdr_tr.py:size=tiny,recipe=paper,stack=runs/unet/stack,\
vision=runs/vision/image_encoder,words=runs/i2t/image_to_text,data=PHOTOS --workdir runs/tr-paper

Only the restoration's perceptrons move, `mapping.*`, 118,215,680 parameters at full size. The loss
is the denoising error of the clean picture, told in the restored words of the degraded one; one
network serves all degradations, and is not told which it is given.

Arguments:
    size, stack, vision, steps, batch: as in configs/tdr_i2t.py.
    words: the folder, or the PyTorch file, of the first stage.
    data: a folder of clean photographs, degraded as they are read: noise of any level up to 50,
        rain, haze, blur.
    rain, haze, blur: folders of pairs, with lq/ and hq/.
    recipe: paper, what the paper has: words replaced, each by its own perceptron, the denoising
        error alone, four degradations alike. ours, what few photographs and two cores need:
        residual words that see each other, the distance to the clean picture's words alone,
        pictures in other colours, and clean ones, to leave their words alone. Unless given paper,
        but ours for size=tiny; the shipped tdr-tiny is of ours.
    direct: weight of the distance between restored and clean words beside the denoising error; 0
        with recipe=paper, and with ours the distance alone, unless this is given.
"""

from configs import common, tdr_towers
from configs.tdr_i2t import words_config

SIZES = {
    "sd21": "textual-restoration",
    "sd15": "textual-restoration-sd15",
    "tiny": "tdr-tiny/textual_restoration",
}


def get_config(argument: str = ""):
    """The recipe of the second stage.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: the argument is unknown.
    """
    config, given = words_config(argument, SIZES, words="", direct=-1.0, recipe="")
    tiny = given["size"] == "tiny"
    usual = "ours" if tiny else "paper"  # of which the size's network is
    recipe = given["recipe"] or usual
    if recipe not in ("paper", "ours"):
        raise ValueError(f"recipe={recipe} is unknown; known: paper, ours")
    config.objective = "tr"
    config.stack.image_to_text = given["words"]
    config.data.tasks = tdr_towers.STATES[1:]
    config.data.weights = (1.0,) * 4
    config.loss.denoise, config.loss.words = 1.0, max(given["direct"], 0.0)
    if recipe != usual:
        overrides = config.network.overrides
        overrides.residual = overrides.attention = recipe == "ours"
    if recipe == "ours":
        ours(config, given["direct"])
    if tiny:
        steps, batch = (6000, 64) if recipe == "ours" else (1000, 16)
        config.data.distinct = 24000 if recipe == "ours" else 4000
        config.data.stages = ((given["steps"] or steps, 128, given["batch"] or batch),)
        config.optim.lr = 1e-3
    return common.declare(config)


def ours(config, direct: float):
    """What the shipped restoration learnt from, beside residual words that see each other.

    Args:
        config: its `loss` and `data` are set.
        direct: of the arguments; negative where it is not given.
    """
    if direct < 0:
        config.loss.denoise, config.loss.words = 0.0, 1.0
    config.data.tasks, config.data.weights = tdr_towers.STATES, (1.0, 3.0, 2.0, 2.0, 1.0)
    # Shrinking takes noise away: little of it, and of strong noise, so that some is left.
    config.data.oversample, config.data.sigma_range = (1.0, 1.3), (10.0, 75.0)
    config.data.cover, config.data.color_jitter = (0.4, 1.0), 0.6
