"""What `tdr restore` says about prompts before it restores: what was understood of them."""

import sys

from tdr_jax.degradations.vocabulary import MEANINGS, NO_TASK, spoken
from tdr_jax.text import intent


def tell(prompts: list[str], network) -> None:
    """Prints a line for each prompt, and another where it is unsure or not what the network does.

    Restoring is not affected: the network sees the sentence itself.

    Args:
        prompts: sentences; each is told once.
        network: that takes them; `config.trained_for` says what it removes.
    """
    prompts = list(dict.fromkeys(prompts))
    if not prompts:
        return
    tasks = tuple(map(spoken, network.trained_for))
    for prompt, shares in zip(prompts, intent.shipped()(prompts), strict=True):
        found, sure = intent.told(shares)
        what = ", ".join(f"{meaning} {share:.2f}" for meaning, share in found)
        of = f' of "{prompt}"' if len(prompts) > 1 else ""
        _say(f"understood{of}: {what}")
        foreign = [meaning for meaning, _ in found if tasks and meaning not in tasks]
        if found[0][0] == NO_TASK and found[0][1] >= intent.SURE:
            supported = _list(tasks or MEANINGS[:-1])
            _say(
                f"warning: the prompt{of} seems to ask for none of the supported tasks: {supported}"
            )
        elif not sure:
            _say(f"warning: unsure what the prompt{of} asks for; {_known(network, tasks)}")
        elif foreign:
            _say(f"warning: not trained for {' and '.join(foreign)}; {_known(network, tasks)}")


def _known(network, tasks: tuple[str, ...]) -> str:
    if tasks:
        return f"{network.name} was trained for {_list(tasks)}"
    known = _list(MEANINGS[:-1])
    return f"ask for what the network was trained for, of {known}"


def _list(names) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
