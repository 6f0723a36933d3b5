"""Heads on features against what they should be, written out or by scikit-learn."""

import numpy as np
import pytest
import torch
from oracles import networks
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn import functional as F

from oskar.tasks.features import Features
from oskar.tasks.probes import LINEAR_GAIN, AttentiveProbe, FeatureBank, Probes, StandardFeatures, nearest_neighbours


def test_pooling_looks_at_valid_tokens_alone() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [1e30]], [[5.0], [1e30], [1e30]]])
    is_valid = torch.tensor([[True, True, False], [True, False, False]])
    features = Features(torch.where(is_valid[..., None], tokens, 7.0), is_valid, torch.zeros(2), ("a", "b"), ())
    assert features.pooled().tolist() == [[2.0, 1.0], [5.0, 0.0]]  # mean and standard deviation


def test_standardised_features_have_mean_0_and_variance_1() -> None:
    def features(seed: int, n: int) -> Features:
        tokens = torch.randn(n, 3, 4, generator=torch.Generator().manual_seed(seed)) * 5 + 2
        return Features(tokens, torch.ones(n, 3, dtype=torch.bool), torch.zeros(n), ("x",) * n, ())

    train, test = features(0, 50), features(1, 20)
    bank = FeatureBank.of(train)
    pooled = train.pooled().numpy()
    np.testing.assert_allclose(bank.pooled.numpy(), (pooled - pooled.mean(0)) / pooled.std(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        bank.standardise(test.pooled()).numpy(),
        (test.pooled().numpy() - pooled.mean(0)) / pooled.std(0),
        rtol=1e-4,
        atol=1e-5,
    )
    single = FeatureBank.of(features(0, 1)).standardise(test.pooled())
    assert bool(single.isfinite().all())


@pytest.mark.parametrize("out_projection", [False, True])
def test_the_attentive_probe_written_out(out_projection: bool) -> None:
    torch.manual_seed(0)
    probe = networks.randomised(AttentiveProbe(16, 4, 5, out_projection=out_projection))
    tokens = torch.randn(3, 7, 16)
    is_valid = torch.arange(7) < torch.tensor([[7], [3], [1]])
    state = probe.state_dict()

    def linear(name: str, x: Tensor) -> Tensor:
        y: Tensor = torch.einsum("...d,ed->...e", x, state[f"{name}.weight"]) + state[f"{name}.bias"]
        return y

    def norm(name: str, x: Tensor) -> Tensor:
        y: Tensor = networks.layer_norm(x, 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]
        return y

    expected = []
    for clip, valid in zip(tokens, is_valid, strict=True):
        kept = norm("norm_tokens", clip[valid])
        query = linear("to_query", state["query"])
        key, value = linear("to_key_value", kept).chunk(2, dim=-1)
        read = []
        for head in range(4):
            own = slice(4 * head, 4 * head + 4)
            weights = torch.softmax(torch.einsum("c,lc->l", query[own], key[:, own]) / 2.0, 0)
            read.append(torch.einsum("l,lc->c", weights, value[:, own]))
        x = torch.cat(read)
        x = state["query"] + (linear("output", x) if out_projection else x)
        hidden = linear("mlp.0", norm("norm_query", x))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        expected.append(linear("classifier", x + linear("mlp.2", hidden)))
    torch.testing.assert_close(probe(tokens, is_valid), torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_heads_learn_as_if_alone() -> None:
    torch.manual_seed(0)
    probes = Probes(8, 2, 3, out_projection=False)
    features = Features(
        torch.randn(6, 4, 8), torch.ones(6, 4, dtype=torch.bool), torch.arange(6) % 3, tuple("abcdef"), ()
    )
    batch = StandardFeatures(features, torch.randn(6, 16)).batch(torch.arange(6))
    probes(batch)["loss"].backward()
    together = [p.grad.clone() for p in probes.linear.parameters() if p.grad is not None]
    probes.zero_grad()
    loss: Tensor = F.cross_entropy(LINEAR_GAIN * probes.linear(batch.pooled), batch.labels)
    torch.autograd.backward(loss)
    alone = [p.grad for p in probes.linear.parameters() if p.grad is not None]
    assert len(together) == len(alone) == 2
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("k", [1, 5, 10, 400])
def test_nearest_neighbours_are_scikit_learns(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = torch.randn(90, 6, generator=generator).double(), torch.randn(40, 6, generator=generator).double()
    labels = torch.randint(0, 4, (90,), generator=generator)
    votes = nearest_neighbours(train.float(), labels, test.float(), 4, k)
    reference = KNeighborsClassifier(
        min(k, 90), metric="cosine", algorithm="brute", weights=lambda distance: 2.0 - distance
    ).fit(train.numpy(), labels.numpy())
    share = reference.predict_proba(test.numpy())
    np.testing.assert_allclose((votes / votes.sum(1, keepdim=True)).numpy(), share, atol=1e-5)
    assert votes.argmax(1).tolist() == reference.predict(test.numpy()).tolist()
