"""What `tdr restore` says about prompts before it restores: what was understood of them."""

import sys

from tdr_jax import understanding
from tdr_jax.infer import restorer as infer

# What the shipped networks that take a sentence were trained to remove.
TRAINED_FOR = {infer.MODEL: ("noise", "rain", "haze")}


def tell(prompts: list[str], model: str) -> None:
    """Prints a line for each prompt, and another where it is unsure or not what the network does.

    Restoring is not affected: the network sees the sentence itself.

    Args:
        prompts: sentences; each is told once.
        model: name or path of the network.
    """
    prompts = list(dict.fromkeys(prompts))
    tasks = TRAINED_FOR.get(str(model))
    for prompt, shares in zip(prompts, understanding.shipped()(prompts), strict=True):
        found, sure = understanding.told(shares)
        what = ", ".join(f"{meaning} {share:.2f}" for meaning, share in found)
        of = f' of "{prompt}"' if len(prompts) > 1 else ""
        _say(f"understood{of}: {what}")
        foreign = [meaning for meaning, _ in found if tasks and meaning not in tasks]
        if not sure:
            _say(f"warning: unsure what the prompt{of} asks for; {_known(model, tasks)}")
        elif foreign:
            _say(f"warning: not trained for {' and '.join(foreign)}; {_known(model, tasks)}")


def _known(model: str, tasks: tuple[str, ...] | None) -> str:
    if tasks:
        return f"{model} was trained for {_list(tasks)}"
    known = _list(understanding.MEANINGS[:-1])
    return f"ask for what the network was trained for, of {known}"


def _list(names) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
