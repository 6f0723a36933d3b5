"""The transformer that serves as fusion encoder and, averaged, as target encoder."""

from torch import Tensor, nn

from oskar.config import ModelConfig, Routing, TokensConfig
from oskar.masking.packing import PackedTokens
from oskar.model.embedding import TokenEmbedding
from oskar.model.layers import NORM_EPS, Block, allowed_pairs, init_weights, run_block


class TokenEncoder(nn.Module):
    """Embedding and transformer: packed tokens -> latents ``[B, V, D]``.

    Which tokens attend to each other is the caller's choice at every call: "joint" attention over
    all of a clip's tokens, or attention inside each "modality".
    """

    def __init__(self, tokens: TokensConfig, config: ModelConfig) -> None:
        super().__init__()
        self.is_checkpointed = config.checkpointing
        self.embedding = TokenEmbedding(tokens, config)
        self.blocks = nn.ModuleList(Block(config.width, config.n_heads, config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        init_weights(self, config.init_std)
        if config.embedding_std is not None:
            self.embedding.scale_to(config.embedding_std)

    def forward(self, packed: PackedTokens, routing: Routing) -> Tensor:
        pairs = None
        if routing == "modality" and len(packed.tokens) > 1:
            pairs = allowed_pairs(packed.segments, packed.segments, within_segment=True)
        elif not packed.is_full:
            pairs = allowed_pairs(packed.segments, packed.segments, within_segment=False)
        x = self.embedding(packed)
        for block in self.blocks:
            x = run_block(block, x, pairs=pairs, is_checkpointed=self.is_checkpointed)
        latents: Tensor = self.norm(x)
        return latents
