"""Errors a user can act on, with the exit code the command line gives them."""


class OskarError(Exception):
    """Base of the errors that are not bugs; says what is wrong and how to put it right."""

    exit_code = 1
    is_agreed = False  # whether every process of a run raises it, so that one of them tells it
    is_silent = False

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(f"{message}. Fix: {fix}")
        self.what, self.fix = message, fix

    def __reduce__(self) -> tuple[object, ...]:  # a worker process hands its error over with the fix
        return _remade, (type(self), self.what, self.fix)


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


def _remade(kind: type[OskarError], what: str, fix: str) -> OskarError:
    return kind(what, fix=fix)
