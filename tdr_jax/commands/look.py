"""Pictures as `tdr guide` looks at them: a small central square, perhaps degraded before."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tdr_jax import images
from tdr_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Look:
    """What looks at pictures, and how they are before.

    Attributes:
        guide: `infer.guide.Guide`.
        failed: what was wrong with each picture that could not be read or drawn.
        damage: a `protocols.Setting`, or None for pictures as they are.
        seed: of the damage.
        places: of the pictures among all, by which the damage is drawn.
    """

    guide: Any
    failed: dict[Path, str]
    damage: Any = None
    seed: int = 0
    places: dict[Path, int] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, object]:
        """What of it decides how pictures are drawn."""
        if self.damage is None:
            return {}
        return {"degrade": self.damage.degradation, "degrade_seed": self.seed}

    def about(self, path: Path) -> dict[str, int]:
        """What of it differs from picture to picture."""
        return {} if self.damage is None else {"place": self.places[path]}

    def __call__(self, path: Path) -> np.ndarray | None:
        """A picture as it is looked at, small; None where it cannot be read, which is said once."""
        from tdr_jax.infer.guide import central_square

        try:
            return central_square(self._read(path), self.guide.side)
        except InputError as error:
            report(self.failed, path, error)
        except MemoryError:
            report(self.failed, path, f"{path}: not enough memory for it")
        return None

    def _read(self, path: Path) -> np.ndarray:
        if self.damage is None:
            return images.read_rgb(path)
        from tdr_jax.commands import degrade

        made = degrade.make(path, self.places[path], self.damage, self.seed)
        return degrade.as_saved(made.degraded)


def report(failed: dict[Path, str], path: Path, error) -> None:
    """Say what is wrong with a picture, once."""
    if path not in failed:
        print(f"tdr: error: {error}", file=sys.stderr)
    failed[path] = str(error)
