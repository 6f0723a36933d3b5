"""The built-in synthetic world: articulated people who act, as video, skeletons and language."""

from oskar.data.people.actions import ACTIONS, PAIRS
from oskar.data.people.language import Question
from oskar.data.people.settings import PeopleWorld, Split
from oskar.data.people.world import IDLE, PeopleClips, clip_name, describe, generate

# fmt: off
__all__ = [
    "ACTIONS", "IDLE", "PAIRS", "PeopleClips", "PeopleWorld", "Question", "Split", "clip_name", "describe", "generate",
]
# fmt: on
