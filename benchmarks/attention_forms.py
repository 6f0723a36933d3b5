"""Attention inside each modality in its equal forms: one restricted product, a slice per modality, or ragged rows.

Shapes are those of a target encoder: 128 tokens a clip, split over three modalities anew in every clip
(Dirichlet), so the slices of a batch differ in length. The forms must agree before they are timed.

    python benchmarks/attention_forms.py [--batch 32] [--repeats 5] [--threads 1] [--clock cpu]
"""

import argparse
from collections.abc import Callable
from statistics import median

import torch
from _measure import Clock, describe, precision_for, print_table
from _recipes import oskar
from torch import Tensor
from torch.nn import functional as F

from oskar.model.layers import allowed_pairs
from oskar.planning.made import made_batch
from oskar.train.device import choose_device

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


class Forms:
    """The forms for one batch's segments ``[B, K]``; what does not depend on values is prepared once."""

    def __init__(self, segments: Tensor) -> None:
        self.pairs = allowed_pairs(segments, segments, within_segment=True)
        counts = [(segments == m).sum(1) for m in range(int(segments.max()) + 1)]
        # A modality's tokens of each clip, moved to the left of as many slots as its fullest clip has.
        self.slices = []
        for m, count in enumerate(counts):
            order = torch.argsort((segments != m).int(), dim=1, stable=True)[:, : int(count.max())]
            is_own = segments.gather(1, order) == m
            self.slices.append(
                (order, is_own, allowed_pairs(is_own.long() - 1, is_own.long() - 1, within_segment=False))
            )
        self.rows = [
            (clip, (segments[clip] == m).nonzero().squeeze(1))
            for clip in range(len(segments))
            for m in range(len(counts))
            if bool((segments[clip] == m).any())
        ]

    def restricted(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One product over all slots with pairs left out: what the model does."""
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.pairs)

    def sliced(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """A padded product for each modality."""
        result = torch.zeros_like(query)
        for order, is_own, pairs in self.slices:
            idx = order[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
            own_query, own_key, own_value = (x.gather(2, idx) for x in (query, key, value))
            part = F.scaled_dot_product_attention(own_query, own_key, own_value, attn_mask=pairs)
            result = result.scatter_add(2, idx, part * is_own[:, None, :, None])
        return result

    def ragged(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """One product for each clip and modality, without padding; torch has no CPU kernel that does it at once."""
        result = torch.zeros_like(query)
        for clip, places in self.rows:
            own_query, own_key, own_value = (x[clip, :, places][None] for x in (query, key, value))
            result[clip, :, places] = F.scaled_dot_product_attention(own_query, own_key, own_value)[0]
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = choose_device("auto")
    precision = precision_for("auto", device)
    print(describe(device, precision) + f", {options.clock} clock, batch {options.batch}\n")
    config, clock = oskar("small"), Clock(options.clock, device)
    forms = Forms(made_batch(config, options.batch).views[0].target.segments.to(device))
    n_slots, n_heads = forms.pairs.shape[-1], config.model.n_heads
    shape = (3, options.batch, n_heads, n_slots, config.model.width // n_heads)
    inputs = torch.randn(shape, device=device, dtype=precision.dtype).requires_grad_()
    named: dict[str, Form] = {
        "one product over all pairs (no restriction; another result)": F.scaled_dot_product_attention,
        "one restricted product": forms.restricted,
        "a padded slice per modality": forms.sliced,
        "ragged rows": forms.ragged,
    }
    expected = forms.restricted(*inputs)
    for name in ("a padded slice per modality", "ragged rows"):
        torch.testing.assert_close(named[name](*inputs), expected, rtol=1e-3, atol=1e-3)
    seconds: dict[str, list[float]] = {name: [] for name in named}
    for _ in range(options.repeats + 1):
        for name, form in named.items():
            seconds[name].append(clock.seconds(lambda form=form: form(*inputs).sum().backward()))  # type: ignore[misc]
    base = median(seconds["one restricted product"][1:])
    rows = [(name, f"{1e3 * median(s[1:]):.1f}", f"{median(s[1:]) / base:.2f}") for name, s in seconds.items()]
    print_table(("form, forward and backward", "ms", "against the model's"), rows)


if __name__ == "__main__":
    main()
