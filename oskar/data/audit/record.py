"""``audit.json``, and the record by which an interrupted audit goes on."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oskar.data.audit.clip import ClipAudit
from oskar.data.audit.findings import Finding
from oskar.data.audit.listing import Listing
from oskar.data.audit.sets import counted
from oskar.data.rows import Row
from oskar.files import write_text_atomic

AUDIT_FILE = "audit.json"
CHECKED_FILE = "audit.checked.jsonl"
VERSION = 1


def write_audit(
    path: Path, listing: Listing, audits: Mapping[str, ClipAudit], findings: Sequence[Finding], n_quarantined: int
) -> dict[str, Any]:
    """Write ``audit.json`` and return what it holds."""
    by_kind = Counter(finding.kind for finding in findings)
    audit: dict[str, Any] = {
        "format": "oskar-audit",
        "version": VERSION,
        "data": listing.source.name,
        "n_listed": listing.n_listed,
        "n_checked": len(audits),
        "n_quarantined": n_quarantined,
        "n_errors": sum(finding.severity == "error" for finding in findings),
        "n_warnings": sum(finding.severity == "warning" for finding in findings),
        "by_kind": dict(sorted(by_kind.items())),
        "counts": counted(listing.rows),
        "findings": [finding.to_json() for finding in findings],
        "clips": {clip_id: dict(audit.facts) for clip_id, audit in audits.items()},
    }
    write_text_atomic(path, json.dumps(audit, indent=1) + "\n")
    return audit


def identity(folder: Path, row: Row) -> str:
    """What decides a clip's audit: the row, and size and time of its files."""
    files = [path for path in (row.video_path, row.joints_path) if path is not None]
    if row.packed_rows is not None:
        files.append(folder / "skeletons.npz")
    stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    facts = [row.clip_id, row.packed_rows, row.n_frames, row.fps, row.width, row.height, row.has_joints]
    return json.dumps([facts, [str(file) for file in files], stats])


class Checked:
    """The clips that were checked so far, one line each; a line that a kill cut short is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, ClipAudit] = {}
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._known[entry["identity"]] = ClipAudit.from_json(entry["audit"])
            except (ValueError, KeyError, TypeError):
                continue
        self._is_cut = bool(lines) and not path.read_bytes().endswith(b"\n")

    def get(self, key: str) -> ClipAudit | None:
        """The audit of a clip that has not changed since."""
        return self._known.get(key)

    def add(self, entries: Sequence[tuple[str, ClipAudit]]) -> None:
        """Append audits and flush them to the disk."""
        with self.path.open("a", encoding="utf-8") as stream:
            if self._is_cut:
                stream.write("\n")
                self._is_cut = False
            stream.writelines(json.dumps({"identity": key, "audit": audit.to_json()}) + "\n" for key, audit in entries)
            stream.flush()
            os.fsync(stream.fileno())

    def remove(self) -> None:
        """The audit is written: the record has done its work."""
        self.path.unlink(missing_ok=True)
