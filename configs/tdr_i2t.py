"""Image to text, the first stage of textual degradation removal: a picture said in 20 words.

    python train.py --config configs/tdr_i2t.py:stack=stable-diffusion-2-1-base,\
vision=CLIP-ViT-H-14-laion2B-s32B-b79K,data=PHOTOS,rain=RAIN100L/train --workdir runs/i2t

and in minutes on two CPU cores, with the towers of configs/tdr_towers.py:

    python train.py --config configs/tdr_i2t.py:size=tiny,stack=runs/unet/stack,\
vision=runs/vision/image_encoder,data=PHOTOS --workdir runs/i2t

Only the mapper moves, 249,538,560 parameters at full size, and with it copies of the UNet's keys
and values for attention to the words, 25,559,040. The loss is the denoising error of the picture
itself, degraded or not, told in its words: no pairs are needed.

Arguments:
    size: sd21 (Stable Diffusion 2.1 base with CLIP ViT-H/14, as published), sd15 (1.5 with
        ViT-L/14) or tiny.
    stack: a folder of diffusers, or its id on the Hugging Face hub.
    vision: the folder of CLIP's vision tower, where the stack has no image_encoder/.
    data: a folder of clean photographs, which are degraded as they are read: noise of any level up
        to 50, rain, haze, blur, or left clean.
    rain, haze, blur: folders of pairs, with lq/ and hq/; their degraded and clean pictures are all
        examples of their own.
    steps, batch: another length; another effective batch, cut into parts of 16 or fewer.
"""

from configs import common, tdr_towers

SIZES = {"sd21": "image-to-text", "sd15": "image-to-text-sd15", "tiny": "tdr-tiny/image_to_text"}
PAIRS = ("rain", "haze", "blur")


def get_config(argument: str = ""):
    """The recipe of the first stage.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: the argument is unknown.
    """
    config, given = words_config(argument, SIZES)
    config.objective = "i2t"
    config.data.tasks = tdr_towers.STATES
    config.data.weights = (1.0,) * len(config.data.tasks)
    if given["size"] == "tiny":
        config.data.weights = (2.0, 1.0, 1.0, 1.0, 1.0)
        config.data.distinct = 4000
        config.data.stages = ((given["steps"] or 1000, 128, given["batch"] or 16),)
        config.optim.lr = 1e-3
    return common.declare(config)


def words_config(argument: str, sizes: dict[str, str], **more):
    """What both stages share.

    Args:
        argument: of the config.
        sizes: size -> name of the network.
        **more: arguments that one stage has alone, with their defaults.

    Returns:
        the config, and the arguments by name.

    Raises:
        ValueError: the argument is unknown.
    """
    given = common.parse(
        argument,
        size="sd21",
        stack="",
        vision="",
        data="",
        **dict.fromkeys(PAIRS, ""),
        steps=0,
        batch=0,
        **more,
    )
    if given["size"] not in sizes:
        raise ValueError(f"size={given['size']} is unknown; known: {', '.join(sizes)}")
    config = common.get_config()
    config.encoder = ""
    config.network.name = sizes[given["size"]]
    del config.network.overrides.scan_unroll, config.network.overrides.microbatches
    config.stack.path, config.stack.image_encoder = given["stack"], given["vision"]
    config.data.pairs = tuple(
        (f"{given[task]}/lq", f"{given[task]}/hq", task, 1) for task in PAIRS if given[task]
    )
    config.ema = 0.0
    config.optim.schedule = "constant"
    config.optim.clip = 1.0
    config.optim.weight_decay = 1e-2
    config.panel_every, config.eval_every = 0, 10_000
    if given["size"] == "tiny":
        tdr_towers.squares(config, given["data"])
        config.optim.schedule, config.optim.warmup = "cosine", 50
        config.ema = 0.99
        config.log_every, config.save_every = 20, 100
        return config, given
    config.data.path = given["data"]
    config.data.sigma_range = (0.0, 50.0)
    config.data.dihedral = (0,)
    config.data.workers = 8
    config.optim.lr = 6.4e-5  # 1e-6, times 4 devices, 4 pictures on each and 4 accumulated parts
    batch = given["batch"] or 64
    config.accumulate = max(1, batch // 16)
    config.data.stages = ((given["steps"] or 200_000, 512, batch),)
    config.stack.dtype = "bfloat16"
    config.stack.remat = "full"
    config.log_every, config.save_every = 50, 1000
    return config, given
