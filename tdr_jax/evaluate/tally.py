"""What is measured here and there, brought together: `clu.metrics` collections that merge."""

import json

import flax
import numpy as np
from clu import metrics

from tdr_jax import distributed


@flax.struct.dataclass
class Collected(metrics.CollectingMetric):
    """Every value of every example, in float64 on the host; means are then exact in any order."""

    @classmethod
    def from_model_output(cls, **outputs) -> "Collected":
        """Values by name, lists or arrays with an entry for each example; "number" is its place."""
        return cls({name: (np.asarray(values),) for name, values in outputs.items()})

    def compute(self) -> dict[str, np.ndarray]:
        """The values of all, by name, sorted by number."""
        found = {name: np.concatenate(values) for name, values in self.values.items()}
        order = np.argsort(found["number"], kind="stable") if found else ()
        return {name: values[order] for name, values in found.items()}


# Who merges two of them need not know what is in them: `first.merge(second)`.
Tally = metrics.Collection.create(examples=Collected)


def of(**outputs) -> metrics.Collection:
    """A tally of some examples, see `Collected.from_model_output`."""
    return Tally.single_from_model_output(**outputs)


def over_hosts(tally: metrics.Collection) -> dict[str, np.ndarray]:
    """The values of all processes' tallies; all of them call this and get the same."""
    mine = {name: values.tolist() for name, values in tally.examples.compute().items()}
    parts = [json.loads(part) for part in distributed.gather(json.dumps(mine).encode())]
    whole = Tally.empty()
    for part in parts:
        if part:
            whole = whole.merge(of(**part))
    return whole.compute()["examples"]
