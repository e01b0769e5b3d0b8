"""Fine-tune the shipped network for about a minute on the shipped photographs, then measure it.

    python train.py --config configs/quickstart.py --workdir runs/quickstart

30 steps of 4 crops take about a minute on 2 CPU cores, compiling included. They are too few to
make the network better; the scores in runs/quickstart/metrics.jsonl stay near those of the model
card.
"""

from pathlib import Path

from configs import common

PHOTOS = Path(__file__).resolve().parents[1] / "examples" / "photos"


def get_config(argument: str = ""):
    """The quickstart run.

    Args:
        argument: "steps=30" for another length, "data=FOLDER" for photographs of your own.

    Returns:
        a config with the fields of configs/common.py.
    """
    given = common.parse(argument, steps=30, data=str(PHOTOS / "train"))
    config = common.get_config()
    config.init_from = "textpromptir-compact"
    config.network.name = "textpromptir-compact"
    config.data.path = given["data"]
    config.data.stages = ((given["steps"], 64, 4),)
    config.optim.lr = 1e-5
    config.optim.warmup = 5
    config.ema = 0.9
    config.log_every = 5
    config.save_every = 10
    config.panel_every = given["steps"]
    config.eval_every = given["steps"]
    config.eval_data.path = str(PHOTOS / "test")
    config.eval_data.settings = ("noise25", "rain", "haze")
    config.eval_data.size = 256
    return common.declare(config)
