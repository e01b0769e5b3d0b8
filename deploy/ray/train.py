"""Train by Ray: one worker for every node of GPUs or TPU host, restarted when a node is lost.

    python deploy/ray/train.py --config configs/textpromptir.py:size=base,data=/shared/photos \
--workdir gs://runs/base --workers 4 --platform cuda --gpus 8

The package is installed on every node, as in the images of deploy/docker; photographs and workdir
are the same for all of them.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with an argument after a colon.", lock_config=True
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run that every node can write; a bucket, or a shared disk."
)
WORKERS = flags.DEFINE_integer("workers", 1, "Nodes of GPUs, or TPU hosts.", lower_bound=1)
PLATFORM = flags.DEFINE_enum("platform", "cuda", ["cuda", "tpu", "cpu"], "What computes.")
GPUS = flags.DEFINE_integer("gpus", 1, "GPUs of a node.", lower_bound=1)
TOPOLOGY = flags.DEFINE_string("topology", None, "Of the TPU slice, such as 4x4.")
ACCELERATOR = flags.DEFINE_string("accelerator", None, "Of the TPU slice, such as TPU-V6E.")
RESTARTS = flags.DEFINE_integer("restarts", 3, "How many failures the run survives.")
flags.mark_flags_as_required(["config", "workdir"])


class Stopped(Exception):
    """The run was asked to stop and is saved; to Ray a failure, after which it starts again."""


def work(settings) -> None:
    """What every worker does, after Ray has joined it with the others.

    Args:
        settings: dict of "config", an `ml_collections.ConfigDict`, and "workdir".

    Raises:
        Stopped: before the last step, when the state is saved.
    """
    import ray.train
    from absl import logging

    from tdr_jax.runtime import enable_compilation_cache
    from tdr_jax.train import loop

    logging.set_verbosity(logging.WARNING)  # Orbax reports every file it touches at INFO
    enable_compilation_cache()
    config = settings["config"]
    step = int(loop.run(config, settings["workdir"]).step)
    total = sum(steps for steps, _, _ in config.data.stages)
    if step < total:
        raise Stopped(f"step {step} of {total} is saved")
    ray.train.report({"step": step})


def make_trainer():
    """Ray's trainer for what the flags say."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxConfig, JaxTrainer

    platform = PLATFORM.value
    devices = {
        "cuda": {"use_gpu": True, "resources_per_worker": {"GPU": GPUS.value}},
        "tpu": {
            "use_tpu": True,
            "topology": TOPOLOGY.value,
            "accelerator_type": ACCELERATOR.value,
        },
        "cpu": {},
    }
    return JaxTrainer(
        work,
        train_loop_config={"config": CONFIG.value, "workdir": WORKDIR.value},
        # With neither Ray does not join the workers; which platform it is, JAX_PLATFORMS says.
        jax_config=JaxConfig(use_tpu=platform == "tpu", use_gpu=platform != "tpu"),
        scaling_config=ScalingConfig(num_workers=WORKERS.value, **devices[platform]),
        run_config=RunConfig(
            name="ray",
            storage_path=WORKDIR.value,
            failure_config=FailureConfig(max_failures=RESTARTS.value),
            worker_runtime_env={"env_vars": {"JAX_PLATFORMS": platform}},
        ),
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}; settings are --config.NAME=VALUE")
    from ray.train import TrainingFailedError

    from tdr_jax.errors import InputError

    try:
        make_trainer().fit()
    except TrainingFailedError as error:
        causes = getattr(error, "worker_failures", None) or {0: error}
        print(f"train.py: error: {causes[min(causes)]}", file=sys.stderr)
        sys.exit(2 if any(isinstance(cause, InputError) for cause in causes.values()) else 1)


if __name__ == "__main__":
    app.run(main)
