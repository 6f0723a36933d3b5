"""Layers, embeddings, encoder and predictor against written-out references and the routing table."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import MakeClips
from oracles import networks
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from oskar.config import BlockConfig, Config, MaskingConfig, ModelConfig, Routing, TokensConfig
from oskar.masking.packing import Batch, ModalityTokens, PackedTokens, PackedView, build_batch
from oskar.modalities import MODALITIES, Modality, modality_specs
from oskar.model.embedding import ContentEmbedding, PositionEmbedding, PositionEmbeddings, sincos_positions
from oskar.model.encoder import TokenEncoder
from oskar.model.layers import Block
from oskar.model.predictor import CrossPredictor, JointPredictor
from oskar.tokens.video import normalise_pixels

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}


def perturbed(packed: PackedTokens, name: Modality) -> PackedTokens:
    """The same slots with other values in one modality's tokens."""
    tokens = packed.tokens[name]
    values = tokens.values
    changed = (values + 1) % 50 if name == "text" else (255 - values if name == "video" else 1 - values)
    return replace(packed, tokens={**packed.tokens, name: replace(tokens, values=changed)})


def moved(packed: PackedTokens, name: Modality) -> PackedTokens:
    """The same slots and values at other places in one modality's grid."""
    tokens = packed.tokens[name]
    return replace(packed, tokens={**packed.tokens, name: replace(tokens, token_idx=tokens.token_idx ^ 1)})


def made_batch(make_clips: MakeClips, config: Config, **made: object) -> Batch:
    return build_batch(make_clips(6, config.tokens, **made), config, step=0)


def is_changed(a: Tensor, b: Tensor) -> Tensor:
    """Bool ``[B, V]``: the latents of a slot differ in any bit."""
    return (a != b).any(-1)


# ---- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "millions", "giga"), [("S", 22.4, 56.9), ("B", 87.3, 180.3), ("L", 305.2, 596.8)])
def test_parameters_and_multiply_adds_of_the_video_branch(size: str, millions: float, giga: float) -> None:
    width, n_blocks, n_heads = SIZES[size]
    tokens = TokensConfig(modalities=("video",))
    with torch.device("meta"):
        encoder = TokenEncoder(tokens, ModelConfig(width=width, n_blocks=n_blocks, n_heads=n_heads))
        everything = torch.arange(1568)
        video = ModalityTokens(torch.zeros(1568, 1536, dtype=torch.uint8), everything, everything, None, 1568)
        packed = PackedTokens(torch.zeros(1, 1568, dtype=torch.int64), {"video": video}, True)
        with FlopCounterMode(display=False) as counter:
            encoder(packed, "modality")
    hidden = 8 * width // 3
    per_block = 4 * width**2 + 3 * width * hidden + 4 * width
    by_hand = 1536 * width + 1568 * width + n_blocks * per_block + 2 * width
    counted = sum(p.numel() for p in encoder.parameters())
    assert counted == by_hand + width  # and the modality vector
    assert counted / 1e6 == pytest.approx(millions, abs=0.06)
    macs = 1568 * (1536 * width + n_blocks * (4 * width**2 + 3 * width * hidden + 2 * 1568 * width))
    assert counter.get_total_flops() == 2 * macs
    assert macs / 1e9 == pytest.approx(giga, rel=0.002)


def test_size_s_can_be_built_and_run() -> None:
    tokens = TokensConfig(modalities=("video",))
    encoder = TokenEncoder(tokens, ModelConfig())
    chosen = torch.arange(16) * 90
    video = ModalityTokens(torch.randint(0, 256, (16, 1536), dtype=torch.uint8), torch.arange(16), chosen, None, 16)
    latents = encoder(PackedTokens(torch.zeros(1, 16, dtype=torch.int64), {"video": video}, True), "joint")
    assert latents.shape == (1, 16, 384)
    assert bool(latents.isfinite().all())
    assert float(latents.detach().mean(-1).abs().max()) < 1e-5  # ends in a norm


# ---- embedding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "width"), [((8, 14, 14), 384), ((4, 3, 2), 25), ((16, 17), 30), ((6,), 8)])
def test_sincos_table_equals_the_loop(grid: tuple[int, ...], width: int) -> None:
    table = sincos_positions(grid, width)
    assert table.shape == (math.prod(grid), width)
    places = list(itertools.product(*map(range, grid)))
    for row in range(0, len(places), max(1, len(places) // 40)):
        expected = torch.tensor(networks.sincos_row(places[row], width))
        torch.testing.assert_close(table[row], expected, rtol=0, atol=1e-6)


def test_people_share_positions_and_differ_by_their_box(small_config: Config) -> None:
    spec = modality_specs(small_config.tokens)["skeleton"]
    token_idx = torch.tensor([5, 4 * 17 + 5])  # the same joint and frame of two people
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.9], [0.5, 0.1, 0.9, 0.9]])
    for box_embedding in (True, False):
        embedding = PositionEmbedding(spec, 32, replace(small_config.model, box_embedding=box_embedding))
        rows = embedding(ModalityTokens(torch.zeros(2, 3), torch.arange(2), token_idx, boxes, 2))
        assert torch.equal(rows[0], rows[1]) != box_embedding
        assert any("box" in name for name, _ in embedding.named_parameters()) == box_embedding


def test_embedding_is_content_plus_position_plus_modality_plus_box(make_clips: MakeClips, small_config: Config) -> None:
    encoder = TokenEncoder(small_config.tokens, small_config.model)
    packed = made_batch(make_clips, small_config).views[0].visible
    embedded = encoder.embedding(packed).flatten(0, 1)
    weights = dict(encoder.embedding.named_parameters())
    for name, tokens in packed.tokens.items():
        position = f"position.by_modality.{name}"
        table = weights[f"{position}.table"]
        for n in range(0, len(tokens.slots), 7):
            values = tokens.values[n : n + 1]
            if name == "text":
                content = weights["content.text.projection.weight"][int(values)]
            else:
                spread = torch.tensor([0.25, 0.25, 0.5])
                raw = normalise_pixels(values, 8) if name == "video" else (values - 0.5) / spread
                content = weights[f"content.{name}.projection.weight"] @ raw[0]
            expected = content + table[int(tokens.token_idx[n]) % len(table)] + weights[f"{position}.modality"]
            if tokens.boxes is not None:
                inner = weights[f"{position}.box.0.weight"] @ tokens.boxes[n] + weights[f"{position}.box.0.bias"]
                outer = weights[f"{position}.box.2.weight"] @ nn.functional.gelu(inner)
                expected = expected + outer + weights[f"{position}.box.2.bias"]
            torch.testing.assert_close(embedded[tokens.slots[n]], expected, rtol=1e-4, atol=1e-5)


def test_fixed_positions_are_not_learned(small_config: Config) -> None:
    model = replace(small_config.model, positions="sincos")
    encoder = TokenEncoder(small_config.tokens, model)
    assert not any("table" in name for name in encoder.state_dict())
    embedding = encoder.embedding.position.by_modality["video"]
    assert isinstance(embedding, PositionEmbedding)
    torch.testing.assert_close(embedding.table, sincos_positions((2, 4, 4), 32))


# ---- encoder ----------------------------------------------------------------------------------------------


def test_joint_fusion_lets_every_modality_change_all_of_h(make_clips: MakeClips, small_config: Config) -> None:
    encoder = networks.randomised(TokenEncoder(small_config.tokens, small_config.model))
    packed = made_batch(make_clips, small_config).views[0].visible
    before = encoder(packed, "joint")
    for m, name in enumerate(MODALITIES):
        touched = (packed.segments == m).any(1)
        changed = is_changed(before, encoder(perturbed(packed, name), "joint"))
        assert torch.equal(changed, touched[:, None].expand_as(changed))


def test_separate_attention_keeps_modalities_apart_bit_for_bit(make_clips: MakeClips, small_config: Config) -> None:
    encoder = networks.randomised(TokenEncoder(small_config.tokens, small_config.model))
    packed = made_batch(make_clips, small_config).views[0].visible
    before = encoder(packed, "modality")
    for m, name in enumerate(MODALITIES):
        changed = is_changed(before, encoder(perturbed(packed, name), "modality"))
        assert torch.equal(changed, packed.segments == m)


def one_clip(packed: PackedTokens, i: int) -> PackedTokens:
    """Clip i alone, without its empty slots."""
    n_slots = packed.segments.shape[1]
    n_real = int((packed.segments[i] >= 0).sum())
    tokens: dict[Modality, ModalityTokens] = {}
    for name, t in packed.tokens.items():
        rows = t.slots // n_slots == i
        if bool(rows.any()):
            boxes = None if t.boxes is None else t.boxes[rows]
            slots = t.slots[rows] % n_slots
            tokens[name] = ModalityTokens(t.values[rows], slots, t.token_idx[rows], boxes, int(rows.sum()))
    return PackedTokens(packed.segments[i : i + 1, :n_real], tokens, True)


@pytest.mark.parametrize("routing", ["joint", "modality"])
def test_a_padded_batch_equals_its_clips_alone(make_clips: MakeClips, small_config: Config, routing: Routing) -> None:
    encoder = networks.randomised(TokenEncoder(small_config.tokens, small_config.model))
    absent = {"video": {1, 2, 4}, "skeleton": {2, 4, 5}, "text": {1, 3}}
    packed = made_batch(make_clips, small_config, absent=absent, min_words=1).views[0].visible
    assert not packed.is_full
    together = encoder(packed, routing)
    for i in range(6):
        alone = encoder(one_clip(packed, i), routing)
        torch.testing.assert_close(together[i : i + 1, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)


def test_hidden_content_does_not_reach_the_encoder(make_clips: MakeClips, small_config: Config) -> None:
    """Neither the pixels of tokens that were not chosen nor those of the targets change H."""
    encoder = TokenEncoder(small_config.tokens, small_config.model)
    clips = make_clips(4, small_config.tokens)
    assert clips.frames is not None
    first = build_batch(clips, small_config, 0)
    before = encoder(first.views[0].visible, "joint")
    visible = first.views[0].visible
    seen = torch.zeros(4, 32, dtype=torch.bool)
    video = visible.tokens["video"]
    seen[video.slots // 16, video.token_idx] = True
    hidden = (~seen).view(4, 2, 1, 1, 4, 1, 4, 1).expand(4, 2, 2, 3, 4, 8, 4, 8).reshape(clips.frames.shape)
    clips.frames[hidden] = 255 - clips.frames[hidden]
    assert torch.equal(encoder(build_batch(clips, small_config, 0).views[0].visible, "joint"), before)


# ---- predictor --------------------------------------------------------------------------------------------


def predictor_of(config: Config) -> CrossPredictor:
    return networks.randomised(CrossPredictor(config))


def test_predictor_mixes_queries_inside_a_modality_only(make_clips: MakeClips, small_config: Config) -> None:
    view = made_batch(make_clips, small_config).views[0]
    fused = torch.randn(6, 16, 32)
    separate = predictor_of(small_config)
    joint_config = replace(small_config, predictor=replace(small_config.predictor, attention="joint"))
    joint = predictor_of(joint_config)
    for m, name in enumerate(MODALITIES):
        other = PackedView(view.visible, moved(view.target, name))
        changed = is_changed(separate(fused, view, 0), separate(fused, other, 0))
        assert torch.equal(changed, view.target.segments == m)
        changed = is_changed(joint(fused, view, 0), joint(fused, other, 0))
        touched = (view.target.segments == m).any(1)
        assert torch.equal(changed, touched[:, None].expand_as(changed))


def test_predictions_depend_on_all_of_h_and_not_on_target_content(make_clips: MakeClips, small_config: Config) -> None:
    predictor = predictor_of(small_config)
    view = made_batch(make_clips, small_config).views[0]
    fused = torch.randn(6, 16, 32)
    before = predictor(fused, view, 0)
    for slot in range(16):
        other = fused.clone()
        other[:, slot] += 1
        assert bool(is_changed(before, predictor(other, view, 0)).all())
    hidden = perturbed(perturbed(perturbed(view.target, "video"), "skeleton"), "text")
    assert torch.equal(before, predictor(fused, PackedView(view.visible, hidden), 0))


def test_queries_are_position_modality_and_box_alone(make_clips: MakeClips, small_config: Config) -> None:
    predictor = CrossPredictor(small_config)
    target = made_batch(make_clips, small_config).views[0].target
    assert float(predictor.query.detach().abs().max()) == 0
    torch.testing.assert_close(predictor.queries(target, 0), predictor.positions(target))
    with torch.no_grad():
        predictor.query.add_(1)
    torch.testing.assert_close(predictor.queries(target, 0), predictor.positions(target) + 1)


def test_cross_predictor_written_out(make_clips: MakeClips, small_config: Config) -> None:
    config = replace(small_config, predictor=replace(small_config.predictor, context_positions=True))
    predictor = predictor_of(config)
    view = made_batch(make_clips, config).views[0]
    fused = torch.randn(6, 16, 32)
    context = fused @ predictor.input.weight.T + predictor.positions(view.visible)
    same = view.target.segments[:, :, None] == view.target.segments[:, None, :]
    x = predictor.query[0] + predictor.positions(view.target)
    for layer, block in enumerate(predictor.blocks):
        assert isinstance(block, Block)
        normed = block.norm_attention(x)
        keys, pairs = (normed, same) if layer % 2 == 0 else (context, None)
        attended = networks.attention(normed, keys, block.attention.query_key_value.weight, None, 4, pairs)
        x = torch.add(x, block.attention.output(attended))
        x = torch.add(x, block.mlp(block.norm_mlp(x)))
    torch.testing.assert_close(predictor(fused, view, 0), predictor.norm(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["cross", "joint"])
def test_predicting_a_padded_batch_equals_its_clips_alone(
    make_clips: MakeClips, small_config: Config, kind: str
) -> None:
    predictor = networks.randomised(CrossPredictor(small_config) if kind == "cross" else JointPredictor(small_config))
    absent = {"video": {1, 2, 4}, "skeleton": {2, 4, 5}, "text": {1, 3}}
    view = made_batch(make_clips, small_config, absent=absent, min_words=2).views[0]
    assert not view.visible.is_full
    assert not view.target.is_full
    fused = torch.randn(6, 16, 32)
    together = predictor(fused, view, 0)
    for i in range(6):
        alone = PackedView(one_clip(view.visible, i), one_clip(view.target, i))
        n_visible, n_target = alone.visible.segments.shape[1], alone.target.segments.shape[1]
        expected = predictor(fused[i : i + 1, :n_visible], alone, 0)
        torch.testing.assert_close(together[i : i + 1, :n_target], expected, rtol=1e-4, atol=1e-4)


def test_joint_predictor_is_self_attention_over_visible_and_queries(
    make_clips: MakeClips, small_config: Config
) -> None:
    predictor = networks.randomised(JointPredictor(small_config))
    view = made_batch(make_clips, small_config).views[0]
    fused = torch.randn(6, 16, 32)
    before = predictor(fused, view, 0)
    assert before.shape == (6, 16, 24)
    other = PackedView(view.visible, moved(view.target, "video"))
    touched = (view.target.segments == 0).any(1)
    changed = is_changed(before, predictor(fused, other, 0))
    assert torch.equal(changed, touched[:, None].expand_as(changed))
    assert bool(is_changed(before, predictor(fused + torch.eye(16, 32), view, 0)).all())


def test_every_mask_generator_has_its_own_query() -> None:
    config = Config(
        recipe="test",
        tokens=TokensConfig(modalities=("video",)),
        masking=MaskingConfig(style="blocks", blocks=(BlockConfig(n_blocks=1, spatial_scale=0.2),) * 2),
    )
    assert CrossPredictor(config).query.shape == (2, 384)


def test_empty_slots_embed_to_zero(make_clips: MakeClips, small_config: Config) -> None:
    absent = {"video": {0}, "skeleton": {0}}
    packed = made_batch(make_clips, small_config, absent=absent, min_words=2).views[0].visible
    embedded = PositionEmbeddings(small_config.tokens, 8, small_config.model)(packed).detach()
    assert float(embedded[~packed.is_valid].abs().max()) == 0
    assert bool((embedded[packed.is_valid] != 0).any(-1).all())


@torch.no_grad()
def test_every_part_of_the_embedding_starts_equally_loud() -> None:
    """Spreads by sampling; a normal cut at twice its deviation has 0.88 of it."""
    torch.manual_seed(0)
    tokens = TokensConfig(resolution=32, patch_size=8, segment_frames=4, n_people=2, n_words=32, vocabulary_size=256)
    config = ModelConfig(width=128, n_blocks=1, n_heads=2, embedding_std=0.5)
    embedding = TokenEncoder(tokens, config).embedding
    predictor = CrossPredictor(Config(recipe="loud", tokens=tokens, model=config))
    queries = predictor.positions.by_modality["video"]
    assert isinstance(queries, PositionEmbedding)
    assert float(queries.table.std()) == pytest.approx(0.44, rel=0.15)
    for name, spec in modality_specs(tokens).items():
        content, position = embedding.content[name], embedding.position.by_modality[name]
        assert isinstance(content, ContentEmbedding)
        assert isinstance(position, PositionEmbedding)
        is_ids = spec.vocabulary_size is not None
        shown = content.projection.weight if is_ids else content.projection(torch.randn(2000, spec.token_width))
        assert float(shown.std()) == pytest.approx(0.44, rel=0.1)
        assert float(position.table.std()) == pytest.approx(0.44, rel=0.15)
        assert float(position.modality.std()) == pytest.approx(0.44, rel=0.3)
        if position.box is not None:
            low = torch.rand(500, 2) * 0.5
            boxes = torch.cat([low, low + 0.2 + 0.3 * torch.rand(500, 2)], dim=1)
            assert 0.2 < float(position.box(boxes).std()) < 1.0
