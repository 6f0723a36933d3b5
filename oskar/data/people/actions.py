"""The actions of the synthetic people: joint angles as functions of an action's progress.

An action is a base pose of the limbs it involves plus moves: a channel, a curve over the progress
p in [0, 1] and a size. The later member of an order pair is the earlier one played backwards, the
members of a side pair are each other's mirror image, those of a speed pair differ in one rate, and
those of a who pair only in the person who acts.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

CHANNELS = (
    "shift",  # sideways to the person's left, in body heights
    "lift",  # off the ground, in body heights
    "yaw",  # the angles are in degrees here and in radians in the result
    "roll",
    "pitch",
    "left_arm",  # elevation: 0 hangs down, 90 is level, 180 points up
    "left_arm_plane",  # of the elevation: 0 is sideways, 90 is forward
    "left_elbow",
    "right_arm",
    "right_arm_plane",
    "right_elbow",
    "left_leg",
    "left_leg_plane",
    "left_knee",
    "right_leg",
    "right_leg_plane",
    "right_knee",
)
N_LENGTH_CHANNELS = 2  # the channels before the angles
Curve = Literal["bump", "first", "second", "both", "ramp", "cycle", "turns"]
CURVES: tuple[Curve, ...] = ("bump", "first", "second", "both", "ramp", "cycle", "turns")
Contrast = Literal["order", "side", "speed", "who"]
Side = Literal["left", "right", "none"]
Actor = Literal["leftmost", "rightmost", "any"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One action: the poses and moves of its channels, and what sets it apart.

    ``rate_hz`` is the frequency of the curves "cycle" and "turns"; ``is_reversed`` plays the curves
    from their end to their start; ``side`` is the arm or leg that acts, the person's own left.
    """

    name: str
    base: dict[str, float]
    moves: tuple[tuple[str, Curve, float], ...]
    is_reversed: bool = False
    rate_hz: float = 0.0
    side: Side = "none"
    actor: Actor = "any"


def _arm_swing(side: Side, is_reversed: bool) -> Action:
    order = "lower_then_raise" if is_reversed else "raise_then_lower"
    return Action(
        name=f"{order}_{side}_arm",
        base={f"{side}_arm": 80, f"{side}_arm_plane": 35, f"{side}_elbow": 10},
        moves=((f"{side}_arm", "both", 62),),
        is_reversed=is_reversed,
        side=side,
    )


def _wave(side: Side, speed: str, rate_hz: float) -> Action:
    return Action(
        name=f"wave_{side}_hand_{speed}",
        base={f"{side}_arm": 80, f"{side}_arm_plane": 25, f"{side}_elbow": 70},
        moves=((f"{side}_arm", "cycle", 14), (f"{side}_elbow", "cycle", 48)),
        rate_hz=rate_hz,
        side=side,
    )


def _kick(side: Side) -> Action:
    return Action(
        name=f"kick_{side}_leg",
        base={f"{side}_leg": 5, f"{side}_leg_plane": 50, f"{side}_knee": 12},
        moves=((f"{side}_leg", "bump", 75),),
        side=side,
    )


def _circle(direction: str, is_reversed: bool) -> Action:
    base = {f"{side}_{part}": value for side in ("left", "right") for part, value in (("arm_plane", 25), ("elbow", 10))}
    return Action(
        name=f"circle_arms_{direction}",
        base={**base, "left_arm": 0, "right_arm": 0},
        moves=(("left_arm", "turns", 360), ("right_arm", "turns", 360)),
        is_reversed=is_reversed,
        rate_hz=0.8,
    )


def _crouch_stretch(name: str, is_reversed: bool) -> Action:
    arms: dict[str, float] = {"left_arm": 25, "left_arm_plane": 35, "right_arm": 25, "right_arm_plane": 35}
    legs: dict[str, float] = {"left_leg": 4, "left_leg_plane": 50, "right_leg": 4, "right_leg_plane": 50}
    bend: tuple[tuple[str, Curve, float], ...] = tuple(
        (f"{side}_{part}", "first", size) for side in ("left", "right") for part, size in (("leg", 58), ("knee", 108))
    )
    return Action(
        name=name,
        base={**arms, **legs, "left_knee": 8, "right_knee": 8, "left_elbow": 10, "right_elbow": 10},
        moves=(*bend, ("left_arm", "second", 120), ("right_arm", "second", 120)),
        is_reversed=is_reversed,
    )


def _lean(name: str, is_reversed: bool) -> Action:
    return Action(name=name, base={"roll": 0, "pitch": 0}, moves=(("roll", "both", 30),), is_reversed=is_reversed)


def _punch_kick(name: str, is_reversed: bool) -> Action:
    arm: dict[str, float] = {"right_arm": 25, "right_arm_plane": 45, "right_elbow": 115}
    leg: dict[str, float] = {"right_leg": 5, "right_leg_plane": 50, "right_knee": 12}
    return Action(
        name=name,
        base={**arm, **leg},
        moves=(("right_arm", "first", 65), ("right_elbow", "first", -110), ("right_leg", "second", 75)),
        is_reversed=is_reversed,
    )


def _step(name: str, is_reversed: bool) -> Action:
    return Action(
        name=name,
        base={"left_leg": 5, "left_leg_plane": 10, "right_leg": 5, "right_leg_plane": 10, "roll": 0},
        moves=(("shift", "both", 0.22), ("left_leg", "first", 28), ("right_leg", "second", 28)),
        is_reversed=is_reversed,
    )


def _clap(speed: str, rate_hz: float) -> Action:
    base: dict[str, float] = {"left_arm": 60, "left_arm_plane": 55, "left_elbow": 25}
    mirrored = {name.replace("left", "right"): value for name, value in base.items()}
    return Action(
        name=f"clap_{speed}",
        base={**base, **mirrored},
        moves=(("left_arm_plane", "cycle", 45), ("right_arm_plane", "cycle", 45)),
        rate_hz=rate_hz,
    )


def _turn(side: str, is_reversed: bool) -> Action:
    return Action(name=f"turn_{side}", base={"yaw": 0}, moves=(("yaw", "ramp", 55),), is_reversed=is_reversed)


def _bow(side: str, actor: Actor) -> Action:
    return Action(name=f"{side}_person_bows", base={"pitch": 5}, moves=(("pitch", "bump", 65),), actor=actor)


def _jump(side: str, actor: Actor) -> Action:
    bends: tuple[tuple[str, Curve, float], ...] = (("left_knee", "bump", 25), ("right_knee", "bump", 25))
    return Action(
        name=f"{side}_person_jumps",
        base={"lift": 0, "left_knee": 8, "right_knee": 8},
        moves=(("lift", "first", 0.17), ("lift", "second", 0.17), *bends),
        actor=actor,
    )


_SLOW_HZ, _FAST_HZ = 0.75, 2.0

TABLE: tuple[Action, ...] = (
    _arm_swing("left", False),
    _arm_swing("left", True),
    _arm_swing("right", False),
    _arm_swing("right", True),
    _wave("left", "slowly", _SLOW_HZ),
    _wave("left", "quickly", _FAST_HZ),
    _wave("right", "slowly", _SLOW_HZ),
    _wave("right", "quickly", _FAST_HZ),
    _kick("left"),
    _kick("right"),
    _circle("outwards", False),
    _circle("inwards", True),
    _crouch_stretch("crouch_then_stretch", False),
    _crouch_stretch("stretch_then_crouch", True),
    _lean("lean_left_then_right", False),
    _lean("lean_right_then_left", True),
    _punch_kick("punch_then_kick", False),
    _punch_kick("kick_then_punch", True),
    _step("step_left_then_right", False),
    _step("step_right_then_left", True),
    _clap("slowly", _SLOW_HZ),
    _clap("quickly", _FAST_HZ),
    _turn("left", False),
    _turn("right", True),
    _bow("left", "leftmost"),
    _bow("right", "rightmost"),
    _jump("left", "leftmost"),
    _jump("right", "rightmost"),
)
ACTIONS: tuple[str, ...] = tuple(action.name for action in TABLE)

PAIRS: tuple[tuple[Contrast, str, str], ...] = (
    ("order", "raise_then_lower_left_arm", "lower_then_raise_left_arm"),
    ("order", "raise_then_lower_right_arm", "lower_then_raise_right_arm"),
    ("order", "circle_arms_outwards", "circle_arms_inwards"),
    ("order", "crouch_then_stretch", "stretch_then_crouch"),
    ("order", "lean_left_then_right", "lean_right_then_left"),
    ("order", "punch_then_kick", "kick_then_punch"),
    ("order", "step_left_then_right", "step_right_then_left"),
    ("order", "turn_left", "turn_right"),
    ("side", "raise_then_lower_left_arm", "raise_then_lower_right_arm"),
    ("side", "lower_then_raise_left_arm", "lower_then_raise_right_arm"),
    ("side", "wave_left_hand_slowly", "wave_right_hand_slowly"),
    ("side", "wave_left_hand_quickly", "wave_right_hand_quickly"),
    ("side", "kick_left_leg", "kick_right_leg"),
    ("speed", "wave_left_hand_slowly", "wave_left_hand_quickly"),
    ("speed", "wave_right_hand_slowly", "wave_right_hand_quickly"),
    ("speed", "clap_slowly", "clap_quickly"),
    ("who", "left_person_bows", "right_person_bows"),
    ("who", "left_person_jumps", "right_person_jumps"),
)


def _curves(progress: Tensor, cycles: Tensor, phase: Tensor) -> Tensor:
    """All curves ``[n, T, curves]`` at ``progress`` ``[n, T]``; ``cycles`` and ``phase`` (radians) are ``[n]``."""
    turn = 2.0 * math.pi * progress
    running = turn * cycles[:, None] + phase[:, None]
    first = 0.5 - 0.5 * torch.cos(2.0 * turn)
    is_first = progress < 0.5
    zero = torch.zeros_like(progress)
    curves = {
        "bump": 0.5 - 0.5 * torch.cos(turn),
        "first": torch.where(is_first, first, zero),
        "second": torch.where(is_first, zero, first),
        "both": torch.sin(turn),
        "ramp": -torch.cos(0.5 * turn),
        "cycle": torch.sin(running),
        "turns": running / (2.0 * math.pi),
    }
    return torch.stack([curves[name] for name in CURVES], dim=-1)


@cache
def _tables() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Base ``[A, C]``, sizes ``[A, curves, C]``, is_involved ``[A, C]``, is_reversed ``[A]``, rate_hz ``[A]``."""
    base = torch.zeros(len(TABLE), len(CHANNELS), dtype=torch.float64)
    sizes = torch.zeros(len(TABLE), len(CURVES), len(CHANNELS), dtype=torch.float64)
    is_involved = torch.zeros(len(TABLE), len(CHANNELS), dtype=torch.bool)
    for a, action in enumerate(TABLE):
        for name, value in action.base.items():
            base[a, CHANNELS.index(name)] = value
            is_involved[a, CHANNELS.index(name)] = True
        for name, curve, size in action.moves:
            sizes[a, CURVES.index(curve), CHANNELS.index(name)] += size
            is_involved[a, CHANNELS.index(name)] = True
    base[:, N_LENGTH_CHANNELS:] *= math.pi / 180.0
    sizes[:, :, N_LENGTH_CHANNELS:] *= math.pi / 180.0
    is_reversed = torch.tensor([action.is_reversed for action in TABLE])
    rate_hz = torch.tensor([action.rate_hz for action in TABLE], dtype=torch.float64)
    return base, sizes, is_involved, is_reversed, rate_hz


def action_pose(
    actions: Tensor, progress: Tensor, seconds: Tensor, phase: Tensor, rate_scale: Tensor, size_scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Channels ``[n, T, C]`` of ``actions`` at ``progress`` ``[n, T]``, and which are involved, bool ``[n, C]``.

    ``seconds`` is how long the whole action lasts, ``phase`` where its cycles start (radians),
    ``rate_scale`` and ``size_scale`` stretch its frequency and its moves; ``[n]`` like ``actions``, float64.
    """
    base, sizes, is_involved, is_reversed, rate_hz = (table.to(actions.device) for table in _tables())
    played = torch.where(is_reversed[actions][:, None], 1.0 - progress, progress)
    curves = _curves(played, rate_hz[actions] * seconds * rate_scale, phase)
    scaled = sizes[actions] * size_scale[:, None, None]
    is_turning = curves.new_tensor([name == "turns" for name in CURVES]).bool()
    scaled = torch.where(is_turning[:, None], sizes[actions], scaled)  # a full turn stays a full turn
    return base[actions][:, None] + curves @ scaled, is_involved[actions]
