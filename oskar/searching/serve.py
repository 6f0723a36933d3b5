"""``oskar serve``: open an index, its videos and its run, and answer a browser on this machine."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from oskar.errors import InputError
from oskar.searching.answers import Answers
from oskar.searching.confined import Confined
from oskar.searching.database import open_database
from oskar.searching.run_encoder import encoder_of, require_fits
from oskar.searching.search import Searcher
from oskar.searching.server import ADDRESS, PageServer

PORT = 8520


def serve(
    database: Path,
    videos: Path,
    run: Path | None = None,
    *,
    head: Path | None = None,
    port: int = PORT,
    announce: Callable[[str], None] = print,
) -> None:
    """Serve an index until interrupted by Ctrl-C; ``announce`` is told the address.

    Raises:
        InputError: no index, a folder that holds none of its files, a run of another model, a port that is taken.
    """
    with page_server(database, videos, run, head=head, port=port) as server:
        announce(f"http://{ADDRESS}:{server.port}/ shows {database}. Ctrl-C stops it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            announce("stopped")


@contextmanager
def page_server(
    database: Path, videos: Path, run: Path | None = None, *, head: Path | None = None, port: int = PORT
) -> Iterator[PageServer]:
    """A server that listens but does not answer yet: call ``serve_forever``."""
    confined = Confined.at(videos)
    with open_database(database) as opened:
        confined.require_some(opened.clips.fetch(range(min(opened.card.n_rows, 200))))
        encoder = None if run is None else encoder_of(run, head)
        if encoder is not None:
            require_fits(encoder, opened)
        with _listening(Answers(Searcher(opened, encoder), confined), port) as server:
            yield server


def _listening(answers: Answers, port: int) -> PageServer:
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} is no port", fix="use 0 for a free one, or 1024 to 65535")
    try:
        return PageServer(answers, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port {port} of {ADDRESS} is taken by another program",
                fix="stop that, or use another port: --port 0 takes a free one",
            ) from error
        if error.errno == errno.EACCES:
            raise InputError(f"--port {port} may not be used by you", fix="use one above 1023, or --port 0") from error
        raise
