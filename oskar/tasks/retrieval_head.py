"""The head that retrieval learned, kept so that clips and sentences can be taken into its space later."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from oskar.errors import InputError
from oskar.modalities import Modality
from oskar.settings import validate
from oskar.tasks.dual_encoder import DualEncoder
from oskar.tasks.saved_head import CARD, HEADS_FOLDER
from oskar.tasks.task import Backbone, Protocol
from oskar.tasks.transfer import Transfer
from oskar.train.checkpoint import load_module_strict
from oskar.train.sealed import MANIFEST, read_sealed, tensors_sha256, write_sealed

_FIX = "name an evaluation of this run: oskar evaluate RUN --task text-video-retrieval --data DATA"
_BACKBONE = "backbone."


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrievalCard:
    """What goes with a retrieval head: what it learned on, the encoder, and its settings."""

    task: Literal["text-video-retrieval"] = "text-video-retrieval"
    modality: Modality
    protocol: Protocol
    width: int
    max_words: int
    data: tuple[str, ...]
    data_sha256: str
    checkpoint_sha256: str
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class RetrievalHead:
    """A head on its encoders, in evaluation mode; ``sha256`` is that of what the head learned."""

    module: DualEncoder
    card: RetrievalCard
    sha256: str


def save_retrieval_head(evaluation: Path, name: str, module: DualEncoder, card: RetrievalCard) -> None:
    """Write ``EVALUATION/heads/NAME/head``: the projections, and the encoders only where they learned along."""
    tensors = module.state_dict()
    if card.protocol == "frozen":
        tensors = {key: value for key, value in tensors.items() if not key.startswith(_BACKBONE)}
    text = json.dumps(dataclasses.asdict(card), indent=1, ensure_ascii=False) + "\n"
    write_sealed(evaluation / HEADS_FOLDER / name / "head", "head", tensors, {CARD: text})


def find_head(folder: Path) -> Path:
    """The saved head at a folder, or that of the pretrained encoder in an evaluation or in its ``heads``.

    Raises:
        InputError: there is none.
    """
    places = (folder, folder / "head", folder / "pretrained" / "head", folder / HEADS_FOLDER / "pretrained" / "head")
    for place in places:
        if (place / MANIFEST).is_file():
            return place
    raise InputError(f"{folder} holds no saved head", fix=_FIX)


def load_retrieval_head(folder: Path, transfer: Transfer) -> RetrievalHead:
    """The retrieval head in an evaluation, in its ``heads`` folder or in that of one head, on a run's encoders.

    Raises:
        InputError: no such head, a damaged one, one of another task or of another encoder.
    """
    place = find_head(folder)
    tensors, texts = read_sealed(place, "head", fix=_FIX)
    try:
        values = json.loads(texts[CARD])
    except (KeyError, ValueError) as error:
        raise InputError(f"{place / CARD} is not a head's card ({error!r})", fix=_FIX) from error
    if not isinstance(values, dict) or values.get("task") != "text-video-retrieval":
        raise InputError(f"{place} is not a head of text-video-retrieval", fix=_FIX)
    card = validate(RetrievalCard, values, str(place / CARD))
    if card.checkpoint_sha256 != transfer.sha256:
        raise InputError(
            f"{place} learned on the encoder with SHA-256 {card.checkpoint_sha256}, this is {transfer.sha256}", fix=_FIX
        )
    names: tuple[Modality, ...] = (card.modality, "text")
    module = DualEncoder(
        Backbone(transfer, names, is_trained=card.protocol == "finetune"), card.modality, card.width
    )  # fmt: skip
    if card.protocol == "frozen":
        own = {key: value for key, value in module.state_dict().items() if key.startswith(_BACKBONE)}
        tensors = own | tensors
    load_module_strict(module, tensors, str(place))
    return RetrievalHead(module.eval().requires_grad_(False), card, tensors_sha256(place, "head"))
