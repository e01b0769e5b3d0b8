"""The command `tdr`: finds the subcommand, turns errors into one line and an exit status."""

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

from tdr_jax import __version__
from tdr_jax.errors import InputError, TryAgain
from tdr_jax.runtime import STOPPED

INTERRUPTED = 130  # exit status: 128 + SIGINT, as shells have it

# name -> (module with add_arguments and run, one line of help). Only the module of the subcommand
# that was asked for is imported, so that `tdr --help` answers at once.
COMMANDS = {
    "restore": ("tdr_jax.commands.restore", "restore photographs, as a sentence asks or blindly"),
    "train": ("tdr_jax.commands.train", "train a network from a config file"),
    "compile": ("tdr_jax.commands.compile", "tell what training will need of TPUs elsewhere"),
    "sweep": ("tdr_jax.commands.sweep", "train a config in many ways and rank the runs"),
    "eval": ("tdr_jax.commands.eval", "measure a network: PSNR and SSIM on a folder"),
    "data": ("tdr_jax.commands.data", "look through pictures before they are learnt from"),
    "degrade": ("tdr_jax.commands.degrade", "damage clean pictures as evaluation does"),
    "generate": ("tdr_jax.commands.generate", "draw a picture from a sentence"),
    "stack": ("tdr_jax.commands.stack", "tell whether a diffusion stack is complete and fits"),
    "guide": ("tdr_jax.commands.guide", "draw the restored words of degraded pictures"),
    "convert": ("tdr_jax.commands.convert", "carry a checkpoint to another container"),
}

DESCRIPTION = """\
Restore photographs with words: noise, rain or haze goes when you ask for it.
"""
EXAMPLES = """\
examples:
  tdr restore noisy.jpg -o clean.jpg --prompt "please remove the noise"
  tdr restore holiday/ -o restored/ --prompt "take the haze away" --panel
  tdr eval --help

exit status: 0 done, 1 some pictures failed, 2 wrong arguments or input, 130 interrupted
"""


# What the scripts beside the package run, by their names.
SCRIPTS = {
    "train.py": COMMANDS["train"],
    "eval.py": ("tdr_jax.commands.eval_run", "measure the weights of a training run"),
}


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message: str) -> NoReturn:
        name = self.prog.partition(" ")[0]
        self.exit(2, f"{name}: error: {message}; see '{self.prog} --help'\n")


def main(argv: list[str] | None = None, *, script: str = "") -> int:
    """Run the command, or one of the scripts beside the package.

    Args:
        argv: the arguments after the command's name; None takes those of the process.
        script: one of `SCRIPTS`; "" for the command `tdr`.

    Returns:
        the exit status: 0 done, 1 some pictures or runs failed or training diverged, 2 wrong
        arguments or input, 75 stopped or held up, and the same command goes on, 130 interrupted.
    """
    argv = sys.argv[1:] if argv is None else argv
    name = script or "tdr"
    try:
        try:
            args = _parse_script(script, argv) if script else _parse(argv)
        except SystemExit as leave:  # --help, --version or a wrong argument; argparse has said it
            return leave.code if isinstance(leave.code, int) else 2
        return args.run(args)
    except InputError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return 2
    except TryAgain as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return STOPPED
    except FloatingPointError as error:  # training met NaN and kept its last good checkpoint
        print(f"{name}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as the shell says of what SIGPIPE ended
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        print(f"{name}: interrupted; every file that was finished is kept", file=sys.stderr)
        return INTERRUPTED


def run(script: str = "") -> NoReturn:
    """Run `main` as a program; once it was interrupted, Ctrl-C ends it on the spot."""
    status = main(script=script)
    if status == INTERRUPTED:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    sys.exit(status)


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind it: what is half imported then raises errors of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _parse(argv: list[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser("tdr", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"tdr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name, (where, line) in COMMANDS.items():
        command = commands.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + ".", formatter_class=raw
        )
        if name == asked:
            module = import_module(where)
            module.add_arguments(command)
            command.set_defaults(run=module.run, command=name)
    args, rest = parser.parse_known_args(argv)
    if rest and args.command not in ("train", "compile"):  # they hand --config.a.b=... on
        parser.error(f"unknown argument {rest[0]!r}")
    args.rest = rest
    return args


def _parse_script(script: str, argv: list[str]) -> argparse.Namespace:
    where, line = SCRIPTS[script]
    module = import_module(where)
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(script, description=line[0].upper() + line[1:] + ".", formatter_class=raw)
    module.add_arguments(parser)
    args, args.rest = parser.parse_known_args(argv)
    args.run = module.run
    return args


if __name__ == "__main__":
    run()
