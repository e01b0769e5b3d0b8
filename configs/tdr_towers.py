"""The towers of the tiny stack, from scratch on a folder of photographs and two CPU cores.

They are no CLIP and no Stable Diffusion: small networks of the same architecture, which have seen a
few photographs and the captions that `tdr_jax.text.captions` writes. They let the whole path, from
a picture to words to guidance, run on real photographs anywhere.

    python train.py --config configs/tdr_towers.py:part=vision,data=PHOTOS --workdir runs/vision
    python train.py --config configs/tdr_towers.py:part=vae,data=PHOTOS --workdir runs/vae
    python train.py --config configs/tdr_towers.py:part=unet,data=PHOTOS,vae=runs/vae/vae \
--workdir runs/unet

Arguments:
    part: vision (a vision tower, by telling crops of degraded and clean pictures apart), vae (an
        autoencoder, by reconstruction), unet (a UNet and its text tower, by denoising latents).
    data: a folder of clean photographs.
    vae: the folder that part=vae wrote; part=unet.
    steps, batch: another length, another batch.

Then come configs/tdr_i2t.py:size=tiny and configs/tdr_tr.py:size=tiny.
"""

from configs import common

PARTS = ("vision", "vae", "unet")
STATES = ("clean", "noise", "rain", "haze", "blur")


def get_config(argument: str = ""):
    """The recipe of one tower.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: the argument is unknown.
    """
    given = common.parse(argument, part="vision", data="", vae="", steps=0, batch=0)
    if given["part"] not in PARTS:
        raise ValueError(f"part={given['part']} is unknown; known: {', '.join(PARTS)}")
    config = common.get_config()
    squares(config, given["data"])
    config.data.tasks, config.data.weights = STATES, (2.0, 1.0, 1.0, 1.0, 1.0)
    config.encoder = ""
    config.ema = 0.999
    config.log_every, config.save_every, config.panel_every = 20, 100, 0
    config.optim.warmup = 50
    config.optim.weight_decay = 0.01
    {"vision": vision, "vae": vae, "unet": unet}[given["part"]](config)
    config.stack.vae = given["vae"]
    steps, crop, batch = config.data.stages[-1]
    if given["steps"] or given["batch"]:
        config.data.stages = ((given["steps"] or steps, crop, given["batch"] or batch),)
    return common.declare(config)


def squares(config, path: str):
    """Half to all of a photograph, degraded at one to four times the resolution it is drawn in.

    Args:
        config: its `data` is set.
        path: folder of clean photographs.
    """
    config.data.path = path
    config.data.cover = (0.5, 1.0)
    config.data.oversample = (1.0, 4.0)
    config.data.dihedral = (0, 4)
    config.data.sigma_range = (5.0, 50.0)


def vision(config):
    """Contrastive: two crops of a picture against others, and against itself in another state."""
    config.objective = "contrast"
    config.network.name = "tdr-tiny/image_encoder"
    del config.network.overrides.microbatches
    config.optim.lr = 1e-3
    config.data.oversample = (1.0, 2.0)
    config.data.stages = ((600, 128, 64),)


def vae(config):
    """Reconstruction: L1, mean colours and a little Kullback-Leibler, on quarters of pictures."""
    config.objective = "reconstruct"
    config.network.name = "tdr-tiny/vae"
    del config.network.overrides.scan_unroll, config.network.overrides.microbatches
    config.loss.l1, config.loss.coarse, config.loss.kl = 1.0, 4.0, 1e-4
    config.optim.lr = 1e-3
    config.data.cover = (0.25, 0.6)
    config.data.oversample = (1.0, 2.0)
    config.ema = 0.995
    config.panel_every = 200
    config.data.stages = ((800, 64, 8),)


def unet(config):
    """Denoising of latents whose caption is known, kept from 2,000 squares."""
    config.objective = "denoise"
    config.network.name = "tdr-tiny/unet"
    del config.network.overrides.scan_unroll, config.network.overrides.microbatches
    config.network.text_encoder = "tdr-tiny/text_encoder"
    config.optim.lr = 1e-3
    config.data.distinct = 2000
    config.data.stages = ((800, 128, 32),)
