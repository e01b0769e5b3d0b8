"""Pictures that go through the network together, though each is read and written by itself."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Together:
    """A restorer for several callers, each in a thread: it works when all of them wait for it.

    Args:
        restorer: what restores many pictures at once.
        callers: how many there are.
    """

    def __init__(self, restorer, callers: int):
        self.restorer, self.network = restorer, restorer.network
        self.batch = self.callers = callers
        self.changed = threading.Condition()
        self.waiting: list[dict] = []

    def __call__(
        self, picture: Any, prompts: Sequence[str] | None, *, strength: float, progress, **options
    ) -> Any:
        """Restore a picture, along with those of the others.

        Args:
            picture, prompts, strength: as for a restorer; the strength is that of all.
            progress: not called.
            **options: as for a restorer: those of all.
        """
        job = {"picture": picture, "prompts": prompts}
        with self.changed:
            self.waiting.append(job)
            self._work_if_all_wait(strength, options)
            self.changed.wait_for(lambda: "result" in job or "error" in job)
        if "error" in job:
            raise job["error"]
        return job["result"]

    def run(self, work: Callable[["Together"], Any]) -> Any:
        """Run what one caller does, and count it out when it has done."""
        try:
            return work(self)
        finally:
            with self.changed:
                self.callers -= 1
                self._work_if_all_wait()

    def _work_if_all_wait(self, *options) -> None:
        self.options = options or getattr(self, "options", ())
        if not self.waiting or len(self.waiting) < self.callers:
            return
        jobs, self.waiting = self.waiting, []
        strength, more = self.options
        pictures, prompts = ([job[key] for job in jobs] for key in ("picture", "prompts"))
        more = {key: value for key, value in more.items() if value is not None}
        try:
            restored = self.restorer.many(
                pictures, prompts, batch=self.batch, strength=strength, **more
            )
        except Exception as error:  # which every caller is told
            for job in jobs:
                job["error"] = error
        else:
            for job, result in zip(jobs, restored, strict=True):
                job["result"] = result
        self.changed.notify_all()


def outcomes(restorer, works: Sequence[Callable[[Any], Any]]) -> Iterator[Callable[[], Any]]:
    """Do several things that call the restorer once each, so that it is called once for all.

    Args:
        restorer: what each is given.
        works: what is to be done.

    Yields:
        for each, in their order, what returns its result or raises its error.
    """
    together = Together(restorer, len(works))
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(together.run, work) for work in works]:
            yield future.result
