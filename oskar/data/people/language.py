"""Sentences about a clip: captions from templates with synonyms, and questions with their answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from oskar.data.people.actions import TABLE, Side

QuestionKind = Literal["action", "count", "colour", "side", "who"]
QUESTION_KINDS: tuple[QuestionKind, ...] = ("action", "count", "colour", "side", "who")
_COUNTS = ("no", "one", "two", "three")

# What a person does, by action, in the third person; {side} is filled in from the action.
_ARM_UP = ("raises {p} {side} arm", "lifts {p} {side} arm", "puts {p} {side} arm up")
_ARM_DOWN = ("lowers it", "drops it", "lets it sink")
_ARM_DOWN_FIRST = ("lowers {p} {side} arm", "drops {p} {side} arm", "lets {p} {side} arm sink")
_ARM_UP_SECOND = ("raises it", "lifts it", "puts it up")
_LINKS = (" and then ", ", then ", " and after that ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a clip with its one short answer."""

    question: str
    answer: str
    kind: QuestionKind


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is true of one clip, in words' terms; ``orders`` and ``shirts`` list the people who are there."""

    label: int
    actor: int
    orders: Sequence[int]
    shirts: Sequence[str]


def _then(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{a}{link}{b}" for a, b, link in zip(first, second, _LINKS, strict=True))


_SLOW = ("slowly", "at a slow pace", "without haste")
_FAST = ("quickly", "rapidly", "at a fast pace")
_WAVES = ("waves {p} {side} hand", "swings {p} {side} forearm to and fro", "shakes {p} raised {side} hand")
_CLAPS = ("claps", "claps {p} hands", "applauds")
_CROUCH, _STRETCH = (
    ("crouches", "squats down", "bends {p} knees"),
    ("stretches up", "reaches for the sky", "throws both arms up"),
)
_PUNCH, _KICK = ("punches", "throws a punch", "strikes with a fist"), ("kicks", "gives a kick", "strikes with a foot")


def _paced(verbs: Sequence[str], pace: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{verb} {how}" for verb, how in zip(verbs, pace, strict=True))


def _towards(verb: str, first: str, second: str) -> tuple[str, ...]:
    return tuple(
        f"{verb} {to}{first}{link}{to}{second}"
        for to, link in (("to the ", " and then "), ("to {p} ", ", then "), ("", " before going "))
    )


def verb_phrases(name: str) -> tuple[str, ...]:
    """The ways to say that somebody does action ``name``; "{p}" stands for the possessive."""
    side: Side = next(action.side for action in TABLE if action.name == name)
    phrases = {
        "raise_then_lower": _then(_ARM_UP, _ARM_DOWN),
        "lower_then_raise": _then(_ARM_DOWN_FIRST, _ARM_UP_SECOND),
        "wave_slowly": _paced(_WAVES, _SLOW),
        "wave_quickly": _paced(_WAVES, _FAST),
        "kick": ("kicks with {p} {side} leg", "swings {p} {side} leg out", "gives a kick with the {side} foot"),
        "circle_arms_outwards": (
            "circles both arms outwards",
            "swings {p} arms round, outwards and up",
            "draws outward circles",
        ),
        "circle_arms_inwards": (
            "circles both arms inwards",
            "swings {p} arms round, inwards and up",
            "draws inward circles",
        ),
        "crouch_then_stretch": _then(_CROUCH, _STRETCH),
        "stretch_then_crouch": _then(_STRETCH, _CROUCH),
        "lean_left_then_right": _towards("leans", "left", "right"),
        "lean_right_then_left": _towards("leans", "right", "left"),
        "punch_then_kick": _then(_PUNCH, _KICK),
        "kick_then_punch": _then(_KICK, _PUNCH),
        "step_left_then_right": _towards("steps", "left", "right"),
        "step_right_then_left": _towards("steps", "right", "left"),
        "clap_slowly": _paced(_CLAPS, _SLOW),
        "clap_quickly": _paced(_CLAPS, _FAST),
        "turn_left": ("turns left", "rotates to the left", "swivels to {p} left"),
        "turn_right": ("turns right", "rotates to the right", "swivels to {p} right"),
        "person_bows": ("bows", "bends forward and comes up again", "takes a bow"),
        "person_jumps": ("jumps twice", "hops up and down", "leaps up two times"),
    }
    key = "_".join(word for word in name.split("_") if word not in ("left", "right", "arm", "hand", "leg"))
    found = phrases[name] if name in phrases else phrases[key]
    return tuple(phrase.replace("{side}", side) for phrase in found)


PHRASES: tuple[tuple[str, ...], ...] = tuple(verb_phrases(action.name) for action in TABLE)


def place_name(order: int, n_people: int) -> str:
    """Where somebody stands, counted from the left of the picture."""
    if n_people == 1:
        return "alone"
    return ("left", "right")[order] if n_people == 2 else ("left", "middle", "right")[order]


def _person(facts: Facts, slot: int, draw: int) -> str:
    """A noun phrase for the person in ``slot``; who pairs are told by place only."""
    n, shirt = len(facts.shirts), facts.shirts[slot]
    place = place_name(facts.orders[slot], n)
    if TABLE[facts.label].actor != "any" and slot == facts.actor:
        return (f"the person on the {place}", f"the {place} person", f"the {place} person, in {shirt},")[draw % 3]
    article = "a" if n == 1 else "the"
    names = [f"{article} person in {shirt}", f"{article} person wearing {shirt}", f"somebody in a shirt of {shirt}"]
    return names[draw % 3] if n == 1 or draw % 2 == 0 else f"the {place} person"


def caption(facts: Facts, draws: Sequence[int]) -> str:
    """A sentence about the action; ``draws`` are four non-negative integers that choose template and words."""
    phrases = PHRASES[facts.label]
    verb = phrases[draws[0] % len(phrases)].replace("{p}", ("their", "their own")[draws[1] % 7 == 0])
    n = len(facts.shirts)
    who = _person(facts, facts.actor, draws[2])
    stand = "one person is" if n == 1 else f"{_COUNTS[n]} people are"
    others = [slot for slot in range(n) if slot != facts.actor]
    still = (
        " nobody else is there."
        if n == 1
        else f" {_person(facts, others[draws[1] % len(others)], draws[1])} stays in place."
    )
    return (
        f"{who} {verb}.",
        f"{stand} in view: {who} {verb}.",
        f"in this clip {who} {verb}.",
        f"{who} {verb};{still}",
        f"{stand} there, and {who} {verb}.",
    )[draws[3] % 5]


def action_phrase(label: int) -> str:
    """The answer to what somebody does: the first way to say it."""
    return PHRASES[label][0].replace("{p}", "their")


def questions(facts: Facts) -> tuple[Question, ...]:
    """One question of each kind that has a definite answer in the clip."""
    n, action = len(facts.shirts), TABLE[facts.label]
    place, shirt = place_name(facts.orders[facts.actor], n), facts.shirts[facts.actor]
    asked = [
        Question(question="what does the person who moves most do?", answer=action_phrase(facts.label), kind="action"),
        Question(question="how many people are there?", answer=_COUNTS[n], kind="count"),
    ]
    slot = facts.orders.index(facts.label % n)
    whose = "the person" if n == 1 else f"the {place_name(facts.orders[slot], n)} person"
    asked.append(Question(question=f"what colour is the shirt of {whose}?", answer=facts.shirts[slot], kind="colour"))
    if action.side != "none":
        part = "leg" if "leg" in action.name else "arm"
        asked.append(Question(question=f"which {part} does the person use?", answer=action.side, kind="side"))
    if n > 1:
        verb = action_phrase(facts.label)
        asked.append(Question(question=f"who {verb}?", answer=f"the {place} person", kind="who"))
        asked.append(Question(question="what does the one who acts wear?", answer=shirt, kind="colour"))
    return tuple(asked)
