"""The verdict on a run: healthy, suspect or collapsed, as a pure function of its logged measures.

Every number of the rule is a constant below. Margins are those of ``tests/test_health_calibration.py``
(width 64, 200 steps, synthetic people): ten healthy seeds against lambda = 0, a constant encoder, one
dead modality and a learning rate 100 times too high.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

Health = Literal["healthy", "suspect", "collapsed"]

MIN_RECORDS = 8
WINDOW = 3  # records whose median counts as the value at a time: one odd batch decides nothing
END_RECORDS = 5  # records at the end whose median counts as the end
COLLAPSED_SHARE = 0.05  # of the run's best response; healthy >= 0.40, dead 0.00
SUSPECT_SHARE = 0.10
SHRUNKEN_SHARE = 0.25  # with errors above MAX_ERROR_RATIO; healthy >= 0.40, lambda = 0: 0.12 to 0.22
SHRUNKEN_SIZE = 0.10  # of the targets' size, for runs whose first record came late; lambda = 0: 0.01 to 0.07
MAX_ERROR_RATIO = 15.0  # squared error over the content's variance; healthy <= 5, lambda = 0 and lr x 100: 39 to 900
RECOVERED_SHARE = 0.5  # of the best, and twice SHRUNKEN_SIZE; less is no recovery
DEAD_RESPONSE = 0.005  # of the targets' size: about the resolution of bfloat16
DEAD_PREDICTION = 1e-5  # of the targets' size; constant encoder 0
FAINT_PREDICTION = 1e-3  # together with nothing explained; healthy >= 3.3e-3, lr x 100: 1e-4 to 6e-4
DIVERGED_RATIO = 2.0  # loss at the end over loss at the start
MAX_SKIPPED_SHARE = 0.05
FALLEN_SHARE = 0.98  # of its first loss, for a modality that has a loss but no vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The worst of the modalities, and of the run as a whole, with the reasons in words.

    ``by_modality`` holds ``absent`` for a modality of the recipe that no record has a loss for.
    """

    verdict: Health
    by_modality: dict[str, str]
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": list(self.reasons)}


@dataclass(frozen=True, slots=True)
class _Finding:
    health: Health
    reason: str


def judge(records: Sequence[Mapping[str, object]]) -> Verdict:
    """Judge a run by the records of its metrics file; other splits than ``train`` are passed over.

    A modality has *collapsed* when exchanging its contents between clips no longer moves its
    targets: by less than 5 % of what it did at its best, or by less than 25 % of it while the
    predictions' squared error is 15 times the variance that is left. It stays so until half of the best is
    back: networks that collapse early drift apart again without having learned anything. Too few
    records are ``suspect``: such a run can be called neither.
    """
    train = [r for r in records if r.get("split", "train") == "train"]
    names = sorted({key.removeprefix("loss_") for r in train for key in r if key.startswith("loss_")})
    if len(train) < MIN_RECORDS:
        reason = f"too few records to judge: {len(train)} of at least {MIN_RECORDS}"
        return Verdict(verdict="suspect", by_modality=dict.fromkeys(names, "suspect"), reasons=(reason,))
    findings = _judge_run(train)
    by_modality: dict[str, str] = {}
    for name in names:
        if not any(_is_number(r.get(f"loss_{name}")) for r in train):
            by_modality[name] = "absent"
            continue
        found = _judge_modality(train, name)
        by_modality[name] = _worst(found)
        findings += [_Finding(f.health, f"{name}: {f.reason}") for f in found]
    return Verdict(verdict=_worst(findings), by_modality=by_modality, reasons=tuple(f.reason for f in findings))


def _worst(findings: Sequence[_Finding]) -> Health:
    found = {f.health for f in findings}
    return "collapsed" if "collapsed" in found else "suspect" if "suspect" in found else "healthy"


def _judge_run(records: Sequence[Mapping[str, object]]) -> list[_Finding]:
    """What concerns no single modality: the loss, steps that were left out, the gradient."""
    findings = []
    losses = [r.get("loss") for r in records]
    if not _is_number(losses[-1]):
        findings.append(_Finding("collapsed", "the loss at the end is not finite"))
    start, end = _median(losses[:WINDOW]), _median(losses[-END_RECORDS:])
    if start is not None and end is not None and end > DIVERGED_RATIO * start:
        findings.append(_Finding("collapsed", f"diverged: the loss rose from {start:.3g} to {end:.3g}"))
    skipped, step = records[-1].get("n_skipped_steps"), records[-1].get("step")
    if isinstance(skipped, int) and isinstance(step, int) and skipped > MAX_SKIPPED_SHARE * step:
        findings.append(_Finding("suspect", f"{skipped} of {step} steps were left out because they were not finite"))
    for side in ("fusion", "predictor"):
        norm = _median([r.get(f"grad_norm_{side}") for r in records[-END_RECORDS:]])
        if norm == 0.0:
            findings.append(_Finding("suspect", f"no gradient reaches the {side} side"))
    return findings


def _judge_modality(records: Sequence[Mapping[str, object]], name: str) -> list[_Finding]:
    key = next((k for k in ("response_target", "spread_target") if _has(records, f"{k}_{name}")), None)
    if key is None:
        return _judge_loss_only(records, name)
    return _judge_response(records, name, key) + _judge_predictions(records[-END_RECORDS:], name)


def _judge_predictions(records: Sequence[Mapping[str, object]], name: str) -> list[_Finding]:
    """Targets in the input space cannot collapse; the encoder shows in what is made of it."""
    response = _median([r.get(f"response_prediction_{name}") for r in records])
    explained = _median([r.get(f"explained_{name}") for r in records])
    if response is None:
        return []
    if response < DEAD_PREDICTION:
        return [_Finding("collapsed", "its predictions do not depend on what is visible")]
    if response < FAINT_PREDICTION and explained is not None and explained < 0.0:
        return [
            _Finding("suspect", "its predictions hardly depend on what is visible and do worse than the batch mean")
        ]
    return []


def _judge_loss_only(records: Sequence[Mapping[str, object]], name: str) -> list[_Finding]:
    """Word ids as targets have no spread to lose; what can be seen is whether anything is learned."""
    losses = _values(records, f"loss_{name}")
    start, end = median(losses[:WINDOW]), median(losses[-END_RECORDS:])
    if end <= FALLEN_SHARE * start:
        return []
    return [_Finding("suspect", f"no features to measure, and its loss did not fall: {start:.3g} to {end:.3g}")]


@dataclass(frozen=True, slots=True)
class _Collapse:
    """The deepest point: ``error_ratio`` is squared error over the variance of content, 0 where unknown."""

    step: object
    response: float
    error_ratio: float


def _judge_response(records: Sequence[Mapping[str, object]], name: str, key: str) -> list[_Finding]:
    """Follow the response through the run and remember a collapse that was not recovered from."""
    measured = [r for r in records if _is_number(r.get(f"{key}_{name}"))]
    responses = _values(measured, f"{key}_{name}")
    best, now = responses[0], responses[0]  # the first is close to the untrained network's
    collapse: _Collapse | None = None
    for i in range(min(WINDOW, len(measured)), len(measured) + 1):
        window = measured[max(i - WINDOW, 0) : i]
        now = median(responses[max(i - WINDOW, 0) : i])
        best = max(best, now)
        explained = _median([r.get(f"explained_content_{name}") for r in window])
        error_ratio = 0.0 if explained is None or i <= WINDOW else 1.0 - explained
        is_shrunken = now < max(SHRUNKEN_SHARE * best, SHRUNKEN_SIZE) and error_ratio > MAX_ERROR_RATIO
        if is_shrunken or now < max(COLLAPSED_SHARE * best, DEAD_RESPONSE):
            if collapse is None or now < collapse.response:
                collapse = _Collapse(window[-1].get("step"), now, error_ratio)
        elif now > max(RECOVERED_SHARE * best, 2 * SHRUNKEN_SIZE):
            collapse = None
    if collapse is not None:
        return [_Finding("collapsed", _describe(collapse, best, now))]
    size = f"contents move its targets by {now:.2g} of their size, {now / best:.0%} of its best"
    if now < SUSPECT_SHARE * best:
        return [_Finding("suspect", size)]
    explained = _median([r.get(f"explained_{name}") for r in measured[-END_RECORDS:]])
    if now < SHRUNKEN_SHARE * best and explained is not None and explained < 0.0:
        return [_Finding("suspect", f"{size}, and the predictions do worse than the batch mean")]
    return []


def _describe(collapse: _Collapse, best: float, now: float) -> str:
    if best < DEAD_RESPONSE:
        return "its targets never depended on the contents of its tokens: dead embedding, or all clips alike"
    text = f"at step {collapse.step} contents moved its targets by {collapse.response:.2g} of their size, "
    text += f"{collapse.response / best:.0%} of its best"
    if collapse.error_ratio > MAX_ERROR_RATIO:
        text += f", and the predictions' squared error was {collapse.error_ratio:.0f} times the variance left"
    return text + f"; at the end it is {now / best:.0%}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _has(records: Sequence[Mapping[str, object]], key: str) -> bool:
    return any(_is_number(r.get(key)) for r in records)


def _values(records: Sequence[Mapping[str, object]], key: str) -> list[float]:
    return [float(value) for r in records if isinstance(value := r.get(key), int | float) and math.isfinite(value)]


def _median(values: Sequence[object]) -> float | None:
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return median(numbers) if numbers else None
