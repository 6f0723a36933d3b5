"""Where a store lies: a folder, or a URL that fsspec opens, whose files are kept in a folder of bounded size."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from oskar.data.bounded_folder import BoundedFolder
from oskar.data.store.index import INDEX_FILE, StoredFile
from oskar.errors import InputError

_CHUNK_BYTES = 1 << 20


class StorePlace(Protocol):
    """What a store needs of where it lies."""

    @property
    def is_local(self) -> bool: ...

    def index_text(self) -> str: ...

    def fetch(self, facts: StoredFile) -> Path:
        """The file on this machine; raises InputError that names it."""


class FolderPlace:
    """A store in a folder of this machine."""

    is_local = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def index_text(self) -> str:
        path = self._folder / INDEX_FILE
        try:
            return path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error})", fix="name the folder of a token store") from error

    def fetch(self, facts: StoredFile) -> Path:
        return self._folder / facts.file


class UrlPlace:
    """A store behind a URL; files are fetched whole, compared with their SHA-256, and kept in ``cache``."""

    is_local = False

    def __init__(self, url: str, cache: BoundedFolder) -> None:
        self._url, self._cache = url.rstrip("/"), cache

    def index_text(self) -> str:
        try:
            return self._read(INDEX_FILE).decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{self._url}/{INDEX_FILE}: not UTF-8", fix="name a token store") from error

    def fetch(self, facts: StoredFile) -> Path:
        name = f"{facts.sha256}.safetensors"
        found = self._cache.find(name)
        if found is not None and found.stat().st_size == facts.bytes:
            return found
        url = f"{self._url}/{facts.file}"

        def fill(file: BinaryIO) -> None:
            digest = hashlib.sha256()
            with self._open(url) as remote:
                while chunk := remote.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != facts.sha256:
                raise InputError(
                    f"{url}: damaged (another SHA-256 than the index says)",
                    fix="upload the file again, or make the store anew",
                )

        return self._cache.write(name, fill)

    def _read(self, name: str) -> bytes:
        with self._open(f"{self._url}/{name}") as file:
            return file.read()

    @contextmanager
    def _open(self, url: str) -> Iterator[BinaryIO]:
        try:
            import fsspec
        except ImportError as error:
            raise InputError(
                f"{self._url}: stores behind a URL need fsspec", fix='pip install "oskar[parquet]"'
            ) from error
        try:
            with fsspec.open(url, "rb") as file:
                yield file
        except (OSError, ValueError, ImportError) as error:  # ValueError: no such protocol; ImportError: its library
            raise InputError(f"{url}: cannot be read ({error})", fix="check the URL and the access to it") from error
