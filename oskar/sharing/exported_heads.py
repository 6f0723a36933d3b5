"""The graphs of a run and of a saved head, each beside the packed model that says what it must give."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from oskar.clip import ClipBatch
from oskar.config import Config, Routing
from oskar.errors import InputError
from oskar.masking.packing import PackedTokens, pack_everything
from oskar.modalities import Modality, modality_specs
from oskar.model.encoder import TokenEncoder
from oskar.settings import validate
from oskar.sharing.graphs import (
    TOKEN_OUTPUTS,
    EncoderGraph,
    Graph,
    ProbesGraph,
    ProjectedGraph,
    RecogniserGraph,
)
from oskar.sharing.pretrained import Pretrained
from oskar.tasks.features import Features
from oskar.tasks.finetuning import FinetuneConfig, Recogniser
from oskar.tasks.pairs import mean_latents
from oskar.tasks.probes import FeatureBank, FeatureBatch, Probes
from oskar.tasks.recognition import FrozenHeads
from oskar.tasks.retrieval_head import find_head, load_retrieval_head
from oskar.tasks.saved_head import CARD, HeadCard
from oskar.tasks.task import Backbone
from oskar.tokens import TokenSource, token_sources
from oskar.train.checkpoint import load_module_strict, under
from oskar.train.sealed import read_sealed

Reference = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]
Compared = tuple[Graph, Reference]


def encoder_graphs(pretrained: Pretrained) -> tuple[Compared, ...]:
    """A graph for each modality, and one for all together where there are several."""
    config = pretrained.config
    routing = config.model.target_attention
    found = [
        _encoder(config, f"encoder-{name}", pretrained.transfer.encoder(name), (name,), routing)
        for name in pretrained.modalities
    ]
    if len(pretrained.modalities) > 1:
        fusion, _ = pretrained.fusion()
        found.append(_encoder(config, "encoder-fused", fusion, pretrained.modalities, config.model.fusion_attention))
    return tuple(found)


def head_graphs(folder: Path, pretrained: Pretrained) -> tuple[Compared, ...]:
    """The graphs of a head that ``oskar evaluate`` saved: of recognition, frozen or fine-tuned, or of retrieval.

    Raises:
        InputError: no such head, a damaged one, or one of another encoder.
    """
    place = find_head(folder)
    fix = "name an evaluation of this run"
    tensors, texts = read_sealed(place, "head", fix=fix)
    try:
        values = json.loads(texts[CARD])
    except (KeyError, ValueError) as error:
        raise InputError(f"{place / CARD} is not a head's card ({error!r})", fix=fix) from error
    if values.get("task") == "text-video-retrieval":
        return _retrieval(place, pretrained)
    card = validate(HeadCard, values, str(place / CARD))
    if card.checkpoint_sha256 != pretrained.transfer.sha256:
        raise InputError(
            f"{place} learned on the encoder with SHA-256 {card.checkpoint_sha256}, "
            f"this is {pretrained.transfer.sha256}",
            fix=fix,
        )
    modality = next(name for name in modality_specs(pretrained.config.tokens) if name == card.modality)
    if card.protocol == "finetune":
        return (_recogniser(tensors, card, modality, pretrained, str(place)),)
    return (_probes(tensors, card, modality, pretrained, str(place)),)


def _encoder(
    config: Config, name: str, encoder: TokenEncoder, modalities: tuple[Modality, ...], routing: Routing
) -> Compared:
    graph = Graph(name, EncoderGraph(config, encoder, modalities, routing), modalities, ("vector", *TOKEN_OUTPUTS))

    @torch.no_grad()
    def reference(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Only the tokens that exist can be compared, so the others are put to what the graph gives them."""
        packed = packed_inputs(config, graph, inputs)
        is_valid = torch.cat([source.is_valid for source in sources_of(config, graph, inputs).values()], 1)
        latents = encoder(packed, routing)
        _, tokens, _ = graph.module(*inputs)
        tokens[is_valid] = latents[packed.is_valid]
        return mean_latents(latents, packed.is_valid), tokens, is_valid

    return graph, reference


def sources_of(config: Config, graph: Graph, inputs: tuple[Tensor, ...]) -> dict[Modality, TokenSource]:
    none = torch.zeros(inputs[0].shape[0], dtype=torch.int64)
    named: dict[str, Any] = dict(zip(graph.inputs, inputs, strict=True))
    return token_sources(ClipBatch(clip_ids=none, labels=none, **named), config.tokens)


def packed_inputs(config: Config, graph: Graph, inputs: tuple[Tensor, ...]) -> PackedTokens:
    """The inputs of a graph as the model is given them: packed, without what is missing."""
    return pack_everything(sources_of(config, graph, inputs), modality_specs(config.tokens))[0]


def _retrieval(place: Path, pretrained: Pretrained) -> tuple[Compared, ...]:
    head = load_retrieval_head(place, pretrained.transfer)
    config = pretrained.config
    names: tuple[Modality, ...] = (head.card.modality, "text")
    found: list[Compared] = []
    for name in names:
        encoder = head.module.backbone.encoder(name)
        whole = EncoderGraph(config, encoder, (name,), config.model.target_attention)
        graph = Graph(f"retrieval-{name}", ProjectedGraph(whole, head.module.projections[name]), (name,), ("vector",))

        @torch.no_grad()
        def reference(inputs: tuple[Tensor, ...], name: Modality = name, graph: Graph = graph) -> tuple[Tensor, ...]:
            return (head.module.embed(name, packed_inputs(config, graph, inputs)),)

        found.append((graph, reference))
    return tuple(found)


def _recogniser(
    tensors: dict[str, Tensor], card: HeadCard, modality: Modality, pretrained: Pretrained, source: str
) -> Compared:
    config = pretrained.config
    settings = validate(FinetuneConfig, card.settings, source)
    backbone = Backbone(pretrained.transfer, (modality,), is_trained=True)
    model = Recogniser(backbone, modality, len(card.classes), settings)
    load_module_strict(model, tensors, source)
    model.eval()
    whole = EncoderGraph(config, backbone.encoder(modality), (modality,), config.model.target_attention)
    graph = Graph(f"recognition-{modality}", RecogniserGraph(whole, model), (modality,), ("scores",))

    @torch.no_grad()
    def reference(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (model.scores(packed_inputs(config, graph, inputs)),)

    return graph, reference


def _probes(
    tensors: dict[str, Tensor], card: HeadCard, modality: Modality, pretrained: Pretrained, source: str
) -> Compared:
    config = pretrained.config
    probes = Probes(
        config.model.width,
        config.model.n_heads,
        len(card.classes),
        out_projection=bool(card.settings.get("out_projection", False)),
    )
    load_module_strict(probes, under("probes/", tensors), source)
    heads = FrozenHeads(probes.eval(), FeatureBank(**under("bank/", tensors)))
    encoder = pretrained.transfer.encoder(modality)
    whole = EncoderGraph(config, encoder, (modality,), config.model.target_attention)
    graph = Graph(f"probes-{modality}", ProbesGraph(whole, heads), (modality,), ("scores_attentive", "scores_linear"))

    @torch.no_grad()
    def reference(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        packed = packed_inputs(config, graph, inputs)
        latents = encoder(packed, config.model.target_attention)
        labels = torch.zeros(len(latents), dtype=torch.int64)
        features = Features(latents, packed.is_valid, labels, (), ())
        pooled = heads.bank.standardise(features.pooled())
        scores = probes.scores(FeatureBatch(latents, packed.is_valid, pooled, labels))
        return scores["attentive"], scores["linear"]

    return graph, reference
