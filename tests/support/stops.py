"""Runs that are cut short before a batch: by an exception, or by SIGTERM as clusters send it."""

import os
import signal


class PowerCut(Exception):
    """What tests throw into work that is to break off at once."""


def stop(how):
    """Stops this process's run: "exception" or "signal"."""
    if how == "exception":
        raise PowerCut
    os.kill(os.getpid(), signal.SIGTERM)


def stopping(batches, at, how):
    """`batches(step)`, a function or a method not bound yet, that stops the run before one."""

    def cut_short(*arguments):
        for number, batch in enumerate(batches(*arguments), start=arguments[-1]):
            if number == at:
                stop(how)
            yield batch

    return cut_short


def stop_once(monkeypatch, objective, at, how):
    """Makes objectives of a class stop their next run before a batch; the one after it goes on."""

    def batches(*arguments):
        for number, batch in enumerate(make(*arguments), start=arguments[-1]):
            if number == at:
                monkeypatch.undo()
                stop(how)
            yield batch

    make = objective.batches
    monkeypatch.setattr(objective, "batches", batches)
