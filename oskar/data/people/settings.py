"""The settings of the synthetic world: size of a clip and how hard it is."""

from dataclasses import dataclass
from typing import Literal

from oskar.errors import InputError

Split = Literal["train", "test"]
N_SUBJECTS: dict[Split, int] = {"train": 800, "test": 200}
N_CLUTTER = 5
N_OCCLUDERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class PeopleWorld:
    """How large the clips are and how hard; the defaults are the published world.

    ``n_people`` is the most people in a clip. The knobs of hardness scale from 0, which switches a
    nuisance off: ``view_yaw_degrees`` (people face the camera give or take this), ``camera_motion``
    (pan, zoom and shake), ``clutter`` and ``occlusion`` (chance of each object behind and in front),
    ``bystander_motion`` (small motions of who does not act), ``pose_jitter`` (style, sway and
    unrelated postures), ``joint_noise`` (standard deviation in frames), ``missing_share`` (of the
    joints), ``pixel_noise`` (standard deviation, share of 255), ``time_jitter`` (onset, duration,
    rate and size of a motion), ``body_jitter`` (limb proportions), ``texture`` (of the background).

    Raises:
        InputError: naming the setting, its value and the fix.
    """

    n_frames: int = 16
    resolution: int = 64
    n_people: int = 3
    frames_per_second: float = 8.0
    view_yaw_degrees: float = 40.0
    camera_motion: float = 1.0
    clutter: float = 0.4
    occlusion: float = 0.2
    bystander_motion: float = 1.0
    pose_jitter: float = 1.0
    time_jitter: float = 1.0
    body_jitter: float = 1.0
    joint_noise: float = 0.015
    missing_share: float = 0.12
    pixel_noise: float = 0.02
    texture: float = 1.0

    def __post_init__(self) -> None:
        if self.n_people not in (2, 3):
            raise InputError(
                f"people.n_people = {self.n_people} is not valid",
                fix="use 2 or 3: some actions are told apart by who acts",
            )
        for name in ("n_frames", "resolution", "frames_per_second"):
            if getattr(self, name) <= 0:
                raise InputError(f"people.{name} = {getattr(self, name)} is not valid", fix="use a positive number")
        for name in ("clutter", "occlusion", "missing_share", "pixel_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"people.{name} = {getattr(self, name)} is not valid", fix="use a number between 0 and 1"
                )

    @property
    def clip_seconds(self) -> float:
        return self.n_frames / self.frames_per_second
