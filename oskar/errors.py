"""Errors a user can act on, with the exit code the command line gives them."""


class OskarError(Exception):
    """Base of the errors that are not bugs; says what is wrong and how to put it right."""

    exit_code = 1

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message}. Fix: {fix}")


class InputError(OskarError):
    """Wrong input: names the file or key, the value and the fix."""

    exit_code = 2


class AbsentError(InputError):
    """What a task needs is not there: a modality of the run or the data, or their annotations."""


class StoppedRunError(OskarError):
    """A run that cannot go on: unhealthy, not finite, or over its data error budget."""

    exit_code = 3


class InterruptedRunError(OskarError):
    """A run asked to stop by a signal, after its state was saved; ``--resume`` goes on."""

    exit_code = 4
