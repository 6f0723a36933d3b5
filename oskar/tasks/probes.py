"""Heads on frozen features: attentive (one cross-attention block), linear, nearest neighbours."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.model.layers import NORM_EPS
from oskar.tasks.features import Features

# Standardised features need far larger weights than tokens do: the gain lets one learning rate serve both heads.
LINEAR_GAIN = 10.0


class AttentiveProbe(nn.Module):
    """A learned query reads all tokens of a clip through one cross-attention block, then a linear layer.

    As V-JEPA's probe: keys and values come from normalised tokens, the query is not normalised,
    MLP ratio 4 with GELU, weights trunc-normal 0.02 and the second MLP matrix divided by sqrt(2).
    Like the reference, attention has no output projection unless ``out_projection``.
    """

    def __init__(self, width: int, n_heads: int, n_classes: int, *, out_projection: bool) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Parameter(torch.empty(width))
        self.norm_tokens = nn.LayerNorm(width, eps=NORM_EPS)
        self.to_query = nn.Linear(width, width)
        self.to_key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width) if out_projection else nn.Identity()
        self.norm_query = nn.LayerNorm(width, eps=NORM_EPS)
        narrowing = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), narrowing)
        self.classifier = nn.Linear(width, n_classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        with torch.no_grad():
            narrowing.weight /= math.sqrt(2.0)

    def forward(self, tokens: Tensor, is_valid: Tensor) -> Tensor:
        """Scores ``[B, classes]`` from tokens ``[B, L, D]``, of which ``is_valid`` ``[B, L]`` exist."""
        n_clips, _, width = tokens.shape
        heads = (self.n_heads, width // self.n_heads)
        query = self.to_query(self.query).view(1, 1, *heads).expand(n_clips, 1, *heads).transpose(1, 2)
        key, value = self.to_key_value(self.norm_tokens(tokens)).view(n_clips, -1, 2, *heads).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=is_valid[:, None, None, :])
        x = self.query + self.output(read.transpose(1, 2).reshape(n_clips, width))
        x = x + self.mlp(self.norm_query(x))
        scores: Tensor = self.classifier(x)
        return scores


@dataclass(frozen=True, slots=True)
class FeatureBatch:
    """Cached features of some clips: tokens, their standardised mean and deviation, labels."""

    tokens: Tensor
    is_valid: Tensor
    pooled: Tensor
    labels: Tensor

    @property
    def weight(self) -> float:
        return float(len(self.labels))

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "FeatureBatch":
        return FeatureBatch(*(t.to(device) for t in (self.tokens, self.is_valid, self.pooled, self.labels)))


class Probes(nn.Module):
    """The attentive and the linear head, trained side by side on one pass over the features."""

    def __init__(self, width: int, n_heads: int, n_classes: int, *, out_projection: bool) -> None:
        super().__init__()
        self.attentive = AttentiveProbe(width, n_heads, n_classes, out_projection=out_projection)
        self.linear = nn.Linear(2 * width, n_classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, batch: FeatureBatch) -> dict[str, Tensor]:
        """The sum of two independent losses, so that each head learns as if alone."""
        scores = self.scores(batch)
        losses = {f"loss_{name}": F.cross_entropy(s, batch.labels) for name, s in scores.items()}
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    def scores(self, batch: FeatureBatch) -> dict[str, Tensor]:
        """Scores ``[B, classes]`` of each head."""
        return {
            "attentive": self.attentive(batch.tokens.float(), batch.is_valid),
            "linear": LINEAR_GAIN * self.linear(batch.pooled),
        }

    def after_step(self, share: float) -> None:
        """Heads have no momentum."""

    def parameter_groups_for_clipping(self) -> dict[str, list[nn.Parameter]]:
        return {"attentive": list(self.attentive.parameters()), "linear": list(self.linear.parameters())}


@dataclass(frozen=True, slots=True)
class FeatureBank:
    """Pooled features ``[n, 2 D]`` of training clips, with mean 0 and variance 1 over them, and their labels.

    ``mean`` and ``std`` ``[2 D]`` bring other clips to the same scale.
    """

    pooled: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, train: Features) -> "FeatureBank":
        pooled = train.pooled()
        mean, std = pooled.mean(0), pooled.std(0, correction=0).clamp_min(1e-6)
        return cls((pooled - mean) / std, train.labels, mean, std)

    def standardise(self, pooled: Tensor) -> Tensor:
        return (pooled - self.mean) / self.std


@dataclass(frozen=True, slots=True)
class StandardFeatures:
    """Cached features of a split with their standardised ``pooled`` values, to take batches from."""

    features: Features
    pooled: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, chosen: Tensor) -> FeatureBatch:
        features = self.features
        return FeatureBatch(
            features.tokens[chosen], features.is_valid[chosen], self.pooled[chosen], features.labels[chosen]
        )


def nearest_neighbours(train: Tensor, labels: Tensor, test: Tensor, n_classes: int, k: int) -> Tensor:
    """Votes ``[n, classes]`` of the k training clips of largest cosine similarity, each of weight 1 + similarity."""
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    values, nearest = similarity.topk(min(k, len(train)), dim=1)
    votes = torch.zeros(len(test), n_classes)
    return votes.scatter_add_(1, labels[nearest], values + 1.0)
