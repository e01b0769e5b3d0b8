"""The estimator behind `--prompt auto`: what is wrong with a picture, told from the picture.

    python train.py --config configs/estimator.py:data=PHOTOS --workdir runs/estimator

About half an hour on two CPU cores. The shipped weights learnt on from there, see their model card.

Argument:
    data: a folder of clean photographs.
"""

from configs import common


def get_config(argument: str = ""):
    """The recipe.

    Args:
        argument: see above.

    Returns:
        a config with the fields of configs/common.py.

    Raises:
        ValueError: the argument is unknown.
    """
    given = common.parse(argument, data="")
    config = common.get_config()
    config.objective = "estimate"
    config.encoder = ""
    config.network.name = "degradation-estimator"
    for field in ("remat", "scan_unroll", "microbatches"):
        del config.network.overrides[field]
    config.data.path = given["data"]
    config.data.tasks = ("noise", "rain", "haze", "blur")
    config.data.weights = (1.0, 1.0, 1.5, 0.7)  # haze is the hardest to tell from a good picture
    config.data.sigma_range = (5.0, 60.0)
    # A quarter stays as it is, another has two degradations.
    config.data.p_absent, config.data.p_joint = 0.25, 0.25
    config.data.color_jitter = 0.5
    config.data.dihedral = (0, 4)  # people hold pictures upright, and sky is above
    config.data.stages = ((1000, 256, 16), (500, 448, 8))
    config.optim.lr, config.optim.warmup, config.optim.end = 3e-3, 50, 0.01
    config.ema = 0.99
    config.log_every, config.save_every, config.panel_every, config.eval_every = 20, 100, 0, 500
    return common.declare(config)
