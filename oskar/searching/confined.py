"""Files of indexed clips, never outside one folder: an index is a file like any other, and may name anything."""

import os
from dataclasses import dataclass
from pathlib import Path

from oskar.data.folder import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from oskar.data.rows import JOINTS_SUFFIXES
from oskar.errors import InputError
from oskar.searching.clips import Values

_SHOWN = 20  # rows that are looked for when a server starts


class OutsideError(InputError):
    """A path of the index that leads out of the folder, or to a file of no kind that is shown."""


@dataclass(frozen=True, slots=True)
class Confined:
    """The one folder whose files may be opened; ``folder`` is real, without links."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "Confined":
        """InputError where there is no such folder."""
        if not folder.is_dir():
            raise InputError(f"--videos {folder} is not a folder", fix="name the folder that was embedded")
        return cls(Path(os.path.realpath(folder)))

    def video(self, values: Values) -> Path | None:
        """The video or image of a row; None where it has none."""
        path = values.get("path")
        is_shown = isinstance(path, str) and Path(path).suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES
        return self._find(values, str(path)) if is_shown else None

    def joints(self, values: Values) -> Path | None:
        """The joints of a row; None where it has none."""
        path = values.get("joints_path")
        return None if path is None else self._find(values, str(path), JOINTS_SUFFIXES)

    def _find(self, values: Values, text: str, suffixes: tuple[str, ...] | None = None) -> Path:
        """A file by its path from the folder, or from the one it was embedded in where that lies inside.

        Raises:
            OutsideError: the path, or what it links to, lies outside or is of another kind.
            InputError: there is no such file.
        """
        if "\0" in text:
            raise OutsideError(f"path {text!r}", fix="embed and index again")
        kept_at = values.get("folder")
        for start in (self.folder, *([Path(str(kept_at))] if kept_at else [])):
            real = Path(os.path.realpath(start / text))
            if real.is_relative_to(self.folder) and os.path.isfile(real):
                wanted = suffixes or (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
                if real.suffix.lower() not in wanted:
                    raise OutsideError(
                        f"{text} links to a {real.suffix or 'nameless'} file", fix="embed the file itself"
                    )
                return real
        if not Path(os.path.realpath(self.folder / text)).is_relative_to(self.folder):
            raise OutsideError(
                f"{text} is not below {self.folder}", fix="serve the folder that holds all indexed files"
            )
        raise InputError(f"{text} is not in {self.folder}", fix="put it back, or serve the folder it is in")

    def require_some(self, rows: list[Values]) -> None:
        """InputError where none of the rows' files is there: it is the wrong folder."""
        listed = [values for values in rows if values.get("path") or values.get("joints_path")][:_SHOWN]
        reasons: list[str] = []
        for values in listed:
            try:
                if self.video(values) is not None or self.joints(values) is not None:
                    return
            except InputError as error:
                reasons.append(str(error))
        if reasons:
            embedded_at = listed[0].get("folder")
            raise InputError(
                f"--videos {self.folder} holds none of the indexed files ({reasons[0]})",
                fix=f"name the folder they were embedded from{f', {embedded_at}' if embedded_at else ''}",
            )
