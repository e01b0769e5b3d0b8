"""The names of the degradations, in orders that weights and runs depend on, stand in one place."""

import ast
from pathlib import Path

import tdr_jax
from tdr_jax.degradations import vocabulary
from tdr_jax.degradations.vocabulary import TASKS

PACKAGE = Path(tdr_jax.__file__).parent


def test_the_orders_are_those_of_weights_and_runs_made_before():
    assert TASKS == ("noise", "rain", "haze", "blur", "low_light")
    assert vocabulary.SYNTHESISED == vocabulary.ESTIMATED == ("noise", "rain", "haze", "blur")
    assert vocabulary.MEANINGS == ("noise", "rain", "haze", "blur", "low light", "none")
    assert set(vocabulary.LAYERS) == set(vocabulary.SYNTHESISED)
    assert tuple(vocabulary.KINDS)[: len(TASKS)] == TASKS
    assert set(vocabulary.KINDS.values()) == set(TASKS)


def test_no_other_module_lists_them():
    for path in PACKAGE.rglob("*.py"):
        if path == Path(vocabulary.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            items = getattr(node, "elts", None) or getattr(node, "keys", None) or []
            if isinstance(items, list):
                names = {item.value for item in items if isinstance(item, ast.Constant)}
                assert len(names & set(TASKS)) < 3, f"{path}:{node.lineno}"
