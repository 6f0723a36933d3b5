"""Pretraining steps of the peers, built on ``transformers`` from configurations, without weights.

Both get what OSKAR's step gets: fused AdamW, clipping, autocast where asked for, attention by torch's fused kernel.
"""

import copy
from typing import Any

import torch
from _recipes import VIDEOMAE_DECODERS, VIDEOMAE_VISIBLE, oskar, vjepa
from torch import Tensor, nn
from torch.nn import functional as F

from oskar.masking.packing import PackedTokens
from oskar.planning.made import made_batch, made_clips
from oskar.tokens.video import PIXEL_MEAN, PIXEL_STD

_MLP_RATIO = 4
_CLIP_NORM = 10.0


class PeerStep:
    """Forward, backward, clipping and AdamW of a peer on one made batch."""

    n_tokens: int

    def __init__(self, trained: nn.Module, device: torch.device, is_autocast: bool) -> None:
        self.trained, self.device, self.is_autocast = trained.to(device).train(), device, is_autocast
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=1e-6, weight_decay=0.05, fused=True)

    def loss(self) -> Tensor:
        raise NotImplementedError

    def after_step(self) -> None:
        """What the method moves besides its weights."""

    def __call__(self) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_autocast):
            loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.trained.parameters(), _CLIP_NORM)
        self.optimizer.step()
        self.after_step()
        self.optimizer.zero_grad(set_to_none=True)


class VJEPAStep(PeerStep):
    """V-JEPA on ``VJEPA2Model``: its encoder over the visible tokens, its predictor, and a momentum copy over all.

    ``VJEPA2Model.forward`` lets the encoder see every token and drops the hidden ones afterwards, as inference
    wants; V-JEPA drops them before the encoder, which is far cheaper, so the parts are put together here in that
    order. The masks are those that our recipe draws for the same clips. Positions are rotary, V-JEPA 2's.
    """

    def __init__(self, size: str, n_clips: int, device: torch.device, is_autocast: bool) -> None:
        from transformers import VJEPA2Config, VJEPA2Model

        model, own = oskar(size).model, vjepa(size)
        config = VJEPA2Config(
            crop_size=own.tokens.resolution,
            frames_per_clip=own.tokens.n_frames,
            hidden_size=model.width,
            num_hidden_layers=model.n_blocks,
            num_attention_heads=model.n_heads,
            mlp_ratio=_MLP_RATIO,
            pred_hidden_size=own.predictor.width,
            pred_num_hidden_layers=own.predictor.n_layers,
            pred_num_attention_heads=own.predictor.n_heads,
        )
        module: Any = VJEPA2Model._from_config(config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
        self.encoder, self.predictor = module.encoder, module.predictor
        self.target = copy.deepcopy(module.encoder).requires_grad_(False).to(device)
        super().__init__(module, device, is_autocast)
        self.pixels = normalised(made_clips(own, n_clips).frames).to(device)
        batch = made_batch(own, n_clips)
        self.views = [(_index(v.visible).to(device), _index(v.target).to(device)) for v in batch.views]
        self.n_tokens = sum(c.numel() + t.numel() for c, t in self.views)

    def loss(self) -> Tensor:
        with torch.no_grad():
            everything = self.target(self.pixels).last_hidden_state.float()
            everything = F.layer_norm(everything, everything.shape[-1:])
        embedded = self.encoder.embeddings(self.pixels)
        losses = []
        for number, (context_idx, target_idx) in enumerate(self.views):
            predicted = self.predict(
                self.encode(_take(embedded, context_idx), context_idx), context_idx, target_idx, number
            )
            losses.append((predicted.float() - _take(everything, target_idx)).abs().mean())
        return torch.stack(losses).mean()

    def encode(self, x: Tensor, places: Tensor) -> Tensor:
        for layer in self.encoder.layer:
            x = layer(x, places)[0]
        encoded: Tensor = self.encoder.layernorm(x)
        return encoded

    def predict(self, context: Tensor, context_idx: Tensor, target_idx: Tensor, number: int) -> Tensor:
        x, places = self.predictor.embeddings(context, [context_idx], [target_idx], number)
        order = torch.argsort(places, dim=1)
        x, places = self.predictor.sort_tokens(x, places, order)
        for layer in self.predictor.layer:
            x = layer(x, places)[0]
        x = self.predictor.unsort_tokens(self.predictor.layernorm(x), order)
        predicted: Tensor = self.predictor.proj(x[:, context.shape[1] :])
        return predicted

    @torch.no_grad()
    def after_step(self) -> None:
        torch._foreach_lerp_(list(self.target.parameters()), list(self.encoder.parameters()), 0.002)


class VideoMAEStep(PeerStep):
    """VideoMAE on ``VideoMAEForPreTraining``: nine tenths of the tubes hidden."""

    def __init__(self, size: str, n_clips: int, device: torch.device, is_autocast: bool) -> None:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining

        own, (width, n_layers, n_heads) = oskar(size), VIDEOMAE_DECODERS[size]
        config = VideoMAEConfig(
            hidden_size=own.model.width,
            num_hidden_layers=own.model.n_blocks,
            num_attention_heads=own.model.n_heads,
            intermediate_size=_MLP_RATIO * own.model.width,
            decoder_hidden_size=width,
            decoder_num_hidden_layers=n_layers,
            decoder_num_attention_heads=n_heads,
            decoder_intermediate_size=_MLP_RATIO * width,
        )
        module: Any = VideoMAEForPreTraining._from_config(config, attn_implementation="sdpa")  # type: ignore[no-untyped-call]
        super().__init__(module, device, is_autocast)
        self.pixels = normalised(made_clips(own, n_clips).frames).to(device)
        steps = own.tokens.n_frames // own.tokens.tubelet_frames
        n_places = own_tokens(own) // steps
        places = torch.rand(n_clips, n_places, generator=torch.Generator().manual_seed(0)).argsort(1)
        is_hidden = torch.ones(n_clips, n_places, dtype=torch.bool)
        is_hidden.scatter_(1, places[:, : VIDEOMAE_VISIBLE // steps], False)
        self.is_hidden = is_hidden.repeat(1, steps).to(device)
        self.n_tokens = self.is_hidden.numel()

    def loss(self) -> Tensor:
        loss: Tensor = self.trained(self.pixels, bool_masked_pos=self.is_hidden).loss
        return loss


def normalised(frames: Tensor | None) -> Tensor:
    """Pixels of uint8 ``[B, T, 3, H, W]`` as the peers want them."""
    assert frames is not None
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return (frames.float() / 255.0 - mean) / std


def own_tokens(config: Any) -> int:
    tokens = config.tokens
    return int(tokens.n_frames // tokens.tubelet_frames * (tokens.resolution // tokens.patch_size) ** 2)


def _index(packed: PackedTokens) -> Tensor:
    assert packed.is_full
    return packed.tokens["video"].token_idx.view(packed.segments.shape)


def _take(x: Tensor, idx: Tensor) -> Tensor:
    return x.gather(1, idx[..., None].expand(-1, -1, x.shape[-1]))
