"""Fitted classical heads as plain tensors: features in, log probabilities out.

A scorer holds what scikit-learn learnt, and nothing of scikit-learn: it is stored without pickle, answers alike under
every version of that package, and can be exported like a network. Each is tested equal to the model it came from.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - the name torch gives it everywhere
from torch import nn


class Scorer(nn.Module):
    """Standardise features, then decide; a subclass says how.

    Args:
        tensors: by name, all that the head has learnt; ``mean`` and ``scale`` ``(D,)`` standardise its features.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return ``(B, K)`` float64 log probabilities of features ``(B, D)``."""
        return self.decide((features.double() - self.mean) / self.scale)

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """Return ``(B, K)`` log probabilities of standardised features ``(B, D)`` float64."""
        raise NotImplementedError


class Logistic(Scorer):
    """One logistic regression per class against the rest, their probabilities normalised; with two classes one alone.

    ``coefficients`` ``(K, D)`` and ``intercepts`` ``(K,)``, one row where K is 2.
    """

    coefficients: torch.Tensor
    intercepts: torch.Tensor

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """See `Scorer`."""
        decision = F.linear(features, self.coefficients, self.intercepts)
        if len(self.intercepts) == 1:
            return F.logsigmoid(torch.cat([-decision, decision], dim=1))
        return F.log_softmax(F.logsigmoid(decision), dim=1)


class Softmax(Scorer):
    """Multinomial logistic regression: ``coefficients`` ``(K, D)``, ``intercepts`` ``(K,)``."""

    coefficients: torch.Tensor
    intercepts: torch.Tensor

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """See `Scorer`."""
        return F.log_softmax(F.linear(features, self.coefficients, self.intercepts), dim=1)


class RbfSvc(Scorer):
    """Support vector machine of Gaussian kernel, libsvm's P pairs of classes as votes (scikit-learn's ``ovr``).

    ``support`` ``(S, D)``, ``weights`` ``(P, S)``, ``intercepts`` ``(P,)``, ``gamma`` ``()``; ``sides`` ``(P, K)`` is 1
    for the class that a positive decision means, -1 for the other, else 0; ``temperature`` ``()`` divides the votes, so
    that their softmax is a probability (Guo et al. 2017). It leaves the chosen class as it is.
    """

    support: torch.Tensor
    weights: torch.Tensor
    intercepts: torch.Tensor
    gamma: torch.Tensor
    sides: torch.Tensor
    temperature: torch.Tensor

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """See `Scorer`."""
        distance = (
            features.square().sum(dim=1, keepdim=True)
            - 2 * F.linear(features, self.support)
            + self.support.square().sum(dim=1)
        )
        kernel = torch.exp(-self.gamma * distance.clamp_min(0.0))
        pairs = F.linear(kernel, self.weights, self.intercepts)
        confidence = pairs @ self.sides
        if len(self.intercepts) > 1:
            won = (pairs >= 0).double() @ (self.sides > 0).double() + (pairs < 0).double() @ (self.sides < 0).double()
            confidence = won + confidence / (3 * (confidence.abs() + 1))
        return F.log_softmax(confidence / self.temperature, dim=1)


class Perceptron(Scorer):
    """Feed-forward net, ReLU: ``weight_<layer>`` ``(out, in)`` and ``bias_<layer>``; the last layer gives K logits."""

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """See `Scorer`."""
        tensors = dict(self.named_buffers())
        layers = sum(name.startswith("weight_") for name in tensors)
        for layer in range(layers):
            features = F.linear(features, tensors[f"weight_{layer}"], tensors[f"bias_{layer}"])
            features = F.relu(features) if layer < layers - 1 else features
        return F.log_softmax(features, dim=1)


class Trees(Scorer):
    """Boosted trees, each written as a full binary tree of one depth: the children of node n are 2n + 1 and 2n + 2.

    ``feature`` and ``threshold`` ``(R, C, 2^depth - 1)``: a value above the threshold goes to the right; ``value``
    ``(R, C, 2^depth)`` of the leaves, for R rounds and C logits; ``start`` ``(C,)`` is what all rounds are added to.
    With two classes C is 1, the logit of the second.
    """

    feature: torch.Tensor
    threshold: torch.Tensor
    value: torch.Tensor
    start: torch.Tensor

    def decide(self, features: torch.Tensor) -> torch.Tensor:
        """See `Scorer`."""
        rounds, logits, leaves = map(int, self.value.shape)  # while traced, sides are tensors
        single = features.float().double()  # the trees of scikit-learn see float32
        trees = torch.arange(rounds * logits, device=features.device)
        node = torch.zeros(features.shape[0], 1, dtype=torch.long, device=features.device)
        for _ in range(leaves.bit_length() - 1):  # (B, 1), then (B, R * C)
            place = node + trees * (leaves - 1)
            right = single.gather(1, self.feature.flatten()[place]) > self.threshold.flatten()[place]
            node = 2 * node + 1 + right.long()
        found = self.value.flatten()[node - (leaves - 1) + trees * leaves]
        total = self.start + found.view(-1, rounds, logits).sum(dim=1)
        if logits == 1:
            return F.logsigmoid(torch.cat([-total, total], dim=1))
        return F.log_softmax(total, dim=1)


SCORERS: Mapping[str, type[Scorer]] = {
    "ridge": Softmax,
    "logistic": Logistic,
    "svc": RbfSvc,
    "mlp": Perceptron,
    "boosting": Trees,
}
"""Fitted heads by name."""


def restore_scorer(name: str, tensors: Mapping[str, torch.Tensor], classes: int) -> Scorer:
    """Return a fitted head from its stored tensors.

    Raises:
        ValueError: the tensors do not make a head of this many classes.
    """
    scorer = SCORERS[name](**tensors)
    with torch.inference_mode():
        shape = tuple(scorer(torch.zeros(1, *scorer.mean.shape)).shape)
    if shape != (1, classes):
        raise ValueError(f"head {name!r} answers with shape {shape}, expected (1, {classes})")
    if isinstance(scorer, Trees) and not 0 <= int(scorer.feature.min()) <= int(scorer.feature.max()) < len(scorer.mean):
        raise ValueError(f"head {name!r} looks at a feature beyond its {len(scorer.mean)}")
    return scorer
