"""The csv files of AVA, row by row: images and boxes get numbers, and every error names its line."""

import csv
import math
import re
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from oskar.data.columns import shown
from oskar.errors import InputError

_SECOND = re.compile(r"([0-9]{1,9})(\.0*)?")
_NAME_IMAGE = "name a video and a whole second"
_CORNERS = ("x1", "y1", "x2", "y2")
FARTHEST_SHARE = 2.0  # detectors place boxes a little outside the frame; pixels lie further off


def image_key(video_id: str, timestamp: str | float) -> str:
    """``video_id,timestamp`` with a whole second in four digits, the same for 902, "0902" and "902.0".

    Raises InputError for a second that is not whole, or no video.
    """
    second, video_id = _SECOND.fullmatch(str(timestamp).strip()), video_id.strip()
    if second is None or not video_id:
        raise InputError(f"video {shown(video_id)}, timestamp {shown(str(timestamp))}", fix=_NAME_IMAGE)
    return f"{video_id},{int(second[1]):04d}"


class RowReader:
    """The rows of one file, and the images and boxes that they name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 0
        self._image_of: dict[tuple[str, str], int] = {}  # by the cells as they are written
        self._images: dict[str, int] = {}
        self._box_of: dict[tuple[int, float, float, float, float], int] = {}
        self._last, self._last_box = [""], -1

    def read(self, widths: Collection[int]) -> Iterator[list[str]]:
        """The cells of each row that is not empty; InputError for a row of another width."""
        try:
            with self._path.open(newline="", encoding="utf-8-sig") as stream:
                reader = csv.reader(stream, strict=True)
                for row in reader:
                    self._line = reader.line_num
                    cells = [cell.strip() for cell in row]
                    if not any(cells):
                        continue
                    if len(cells) not in widths:
                        wanted = " or ".join(map(str, sorted(widths)))
                        raise InputError(f"{self._where()}: {len(cells)} cells", fix=f"{wanted} are needed, no header")
                    yield cells
        except OSError as error:
            raise InputError(
                f"{self._path}: cannot be read ({error.strerror})", fix="check the file and its permissions"
            ) from error
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(
                f"{self._path} after line {self._line}: no CSV text ({error})", fix="write it again as UTF-8"
            ) from error

    def image(self, cells: list[str]) -> int:
        """The number of the image that the first two cells name."""
        written = cells[0], cells[1]
        if written not in self._image_of:
            if not written[0] or not _SECOND.fullmatch(written[1]):
                raise self.error("video_id, timestamp", ",".join(written), _NAME_IMAGE)
            key = image_key(*written)
            self._image_of[written] = self._images.setdefault(key, len(self._images))
        return self._image_of[written]

    def box(self, cells: list[str]) -> int:
        """The number of the box in the first six cells: equal boxes of one image are one."""
        if cells[:6] != self._last:  # files list all classes of a box in a row
            x1, y1, x2, y2 = (self._share(*named) for named in zip(_CORNERS, cells[2:6], strict=True))
            self._last_box = self._box_of.setdefault((self.image(cells), x1, y1, x2, y2), len(self._box_of))
            self._last = cells[:6]
        return self._last_box

    def number(self, column: str, cell: str) -> float:
        """A finite number."""
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(column, cell, "write a number")
        return value

    def whole(self, column: str, cell: str, *, least: int) -> int:
        """A whole number of at least ``least``."""
        is_whole = len(cell) < 19 and cell.isascii() and cell.removeprefix("-").isdigit()
        if not is_whole or int(cell) < least:
            raise self.error(column, cell, f"write a whole number of at least {least}")
        return int(cell)

    def error(self, column: str, cell: str, fix: str) -> InputError:
        """An InputError naming the line of the row read last, a column, its value and the fix."""
        return InputError(f"{self._where()}, {column} = {shown(cell)}", fix=fix)

    def table(self) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float64]]:
        """Keys of all images, and image ``[n]`` and corners ``[n, 4]`` of all boxes."""
        image_idx = array("q", (box[0] for box in self._box_of))
        corners = array("d", (corner for box in self._box_of for corner in box[1:]))
        return tuple(self._images), np.array(image_idx), np.array(corners).reshape(-1, 4)

    def _share(self, column: str, cell: str) -> float:
        value = self.number(column, cell)
        if abs(value) > FARTHEST_SHARE:
            raise self.error(column, cell, "write boxes in shares of the frame, 0 to 1, not in pixels")
        return value

    def _where(self) -> str:
        return f"{self._path} line {self._line}"
