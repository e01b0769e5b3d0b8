"""Sweep files for tests: of the smallest real run, a few seconds and no sentences."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "configs/backbone.py:name=nafnet,task=denoise,size=small,data=examples/photos/train"
SMALLEST = {
    "network.overrides.width": 4,
    "network.overrides.enc_blk_nums": (1,),
    "network.overrides.middle_blk_num": 1,
    "network.overrides.dec_blk_nums": (1,),
    "log_every": 1,
    "panel_every": 0,
}
TWO_BY_TWO = (
    "for lr in (1e-3, 1e-2):\n    for seed in (0, 1):\n        add({'optim.lr': lr, 'seed': seed})"
)


def write(folder, body=TWO_BY_TWO, *, config=CONFIG, head="") -> str:
    """Writes a sweep file.

    Args:
        folder: to write into.
        body: lines of `sweep(add)`.
        config: its CONFIG.
        head: other lines, such as METRIC's.

    Returns:
        the path.
    """
    lines = [f"CONFIG = {config!r}", head, "def sweep(add):"]
    lines += [f"    {line}" for line in body.splitlines()]
    path = Path(folder) / "lr_and_seed.py"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def smallest(steps: int, save_every: int = 5) -> list[str]:
    """Words `--set NAME=VALUE` that make a run of CONFIG take the least time."""
    fields = SMALLEST | {"data.stages": ((steps, 16, 2),), "save_every": save_every}
    return [word for name, value in fields.items() for word in ("--set", f"{name}={value}")]
