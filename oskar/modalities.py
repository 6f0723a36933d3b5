"""The one table of modalities: their names, their order in a packed batch, their geometry."""

from dataclasses import dataclass
from typing import Literal

from oskar.config import TokensConfig

Modality = Literal["video", "skeleton", "text"]
MODALITIES: tuple[Modality, ...] = ("video", "skeleton", "text")

N_JOINTS = 17  # the internal layout, COCO-17 (assumption A1)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModalitySpec:
    """Facts about one modality that model and masking share.

    ``n_tokens`` counts all tokens of a clip; ``token_width`` is P, the raw values of one token
    (1 where tokens are ids); ``vocabulary_size`` is set where a token is an id and the embedding a
    table; ``position_grid`` is the shape of the positional table, whose row a token uses is its
    index modulo the table's length (people share the rows of a skeleton: assumption A10);
    ``has_box`` says that a token carries its person's box.
    """

    name: Modality
    n_tokens: int
    token_width: int
    vocabulary_size: int | None
    position_grid: tuple[int, ...]
    has_box: bool

    @property
    def n_positions(self) -> int:
        n = 1
        for size in self.position_grid:
            n *= size
        return n


def modality_specs(tokens: TokensConfig) -> dict[Modality, ModalitySpec]:
    """The specs of the modalities a recipe names, in the table's order."""
    side = tokens.resolution // tokens.patch_size
    steps, n_segments = tokens.n_frames // tokens.tubelet_frames, tokens.n_frames // tokens.segment_frames
    table = {
        "video": ModalitySpec(
            name="video",
            n_tokens=steps * side * side,
            token_width=tokens.video_width or tokens.tubelet_frames * tokens.patch_size**2 * 3,
            vocabulary_size=None,
            position_grid=(steps, side, side),
            has_box=False,
        ),
        "skeleton": ModalitySpec(
            name="skeleton",
            n_tokens=tokens.n_people * n_segments * N_JOINTS,
            token_width=3 * tokens.segment_frames,
            vocabulary_size=None,
            position_grid=(n_segments, N_JOINTS),
            has_box=True,
        ),
        "text": ModalitySpec(
            name="text",
            n_tokens=tokens.n_words,
            token_width=1,
            vocabulary_size=tokens.vocabulary_size,
            position_grid=(tokens.n_words,),
            has_box=False,
        ),
    }
    return {name: table[name] for name in MODALITIES if name in tokens.modalities}
