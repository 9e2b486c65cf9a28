"""Losses as their equations say them: whole probability tables in float64, autograd, nothing of the code under test.

Shape letters: T tokens, V vocabulary, K ids of a sparse support, E events (V, or K and a tail).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def events(p_TV: Tensor, ids_TK: Tensor | None) -> Tensor:
    """Probabilities of the named ids (0 where -1 pads) and of all others together; all of them where none is named."""
    if ids_TK is None:
        return p_TV
    rows = []
    for p_V, ids_K in zip(p_TV, ids_TK.tolist(), strict=True):
        named = [p_V[i] if i >= 0 else p_V.new_zeros(()) for i in ids_K]
        rest = [p_V[i] for i in range(len(p_V)) if i not in ids_K]
        rows.append(torch.stack([*named, torch.stack(rest).sum() if rest else p_V.new_zeros(())]))
    return torch.stack(rows) if rows else p_TV.new_zeros(0, ids_TK.shape[1] + 1)


def kl(p_TE: Tensor, q_TE: Tensor) -> Tensor:
    """KL(p || q); an event that p gives nothing adds nothing."""
    return plogpq(p_TE, q_TE).sum(-1)


def plogpq(p_TE: Tensor, q_TE: Tensor) -> Tensor:
    there_TE = p_TE > 0
    p, q = torch.where(there_TE, p_TE, 1.0), torch.where(there_TE, q_TE, 1.0)
    return torch.where(there_TE, p * (p.log() - q.log()), 0.0)


def jsd(s: Tensor, t: Tensor, beta: float) -> Tensor:
    m = beta * t + (1 - beta) * s
    return beta * kl(t, m) + (1 - beta) * kl(s, m)


def skew_forward(s: Tensor, t: Tensor, alpha: float) -> Tensor:
    return kl(t, alpha * t + (1 - alpha) * s)


def skew_reverse(s: Tensor, t: Tensor, alpha: float) -> Tensor:
    return kl(s, (1 - alpha) * t + alpha * s)


Divergence = Callable[[Tensor, Tensor], Tensor]
"""(student's events, target's events) -> [T]."""

DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": lambda s, t: kl(t, s),
    "reverse_kl": lambda s, t: kl(s, t),
    "jsd": lambda s, t: jsd(s, t, 0.5),
    "jsd_skewed": lambda s, t: jsd(s, t, 0.1),
    "skew_forward_kl": lambda s, t: skew_forward(s, t, 0.1),
    "skew_forward_kl_0": lambda s, t: kl(t, s),
    "skew_reverse_kl": lambda s, t: skew_reverse(s, t, 0.3),
    "skew_reverse_kl_0": lambda s, t: kl(s, t),
    "forward_kl_clipped": lambda s, t: plogpq(t, s).clamp(max=0.05).sum(-1),
    "jsd_clipped": lambda s, t: (0.5 * (plogpq(t, (s + t) / 2) + plogpq(s, (s + t) / 2))).clamp(max=0.02).sum(-1),
}

Sampled = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(student's, target's, writer's log-probability of the written token, final weight) -> [T]."""


def clipped_policy_gradient(s: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    ratio = (s - b).exp()
    clipped = ratio.clamp(0.8, 1.2)
    return -torch.where(weight >= 0, torch.minimum(ratio, clipped), torch.maximum(ratio, clipped))


SAMPLED: dict[str, Sampled] = {
    "sampled_reverse_kl": lambda s, t, b, w: -(s - b).exp() * (t - s.detach()),
    "sampled_reverse_kl_alone": lambda s, t, b, w: -(s - s.detach()).exp() * (t - s.detach()),
    "k2": lambda s, t, b, w: (t - s) ** 2 / 2,
    "k3": lambda s, t, b, w: (t - s).exp() - 1 - (t - s),
    "policy_gradient": lambda s, t, b, w: clipped_policy_gradient(s, b, w),
    "nll": lambda s, t, b, w: -s,
    "unlikelihood": lambda s, t, b, w: -(1 - s.exp()).log(),
}


def log_linear(opinions: Sequence[Tensor], coefficients: Sequence[float], pads_TE: Tensor) -> Tensor:
    """Normalised product of powers, events that stand for nothing left out."""
    q = torch.ones_like(opinions[0])
    for p, a in zip(opinions, coefficients, strict=True):
        q = q * torch.where(pads_TE, torch.ones_like(p), p) ** a
    q = torch.where(pads_TE, torch.zeros_like(q), q)
    return q / q.sum(-1, keepdim=True)


def generalised_jsd_of_logits(student_TV: Tensor, teacher_TV: Tensor, beta: float) -> Tensor:
    """Mean over tokens, at GKD's ends the KLs: beta 0 is KL(teacher || student), 1 is KL(student || teacher)."""
    s, t = student_TV.softmax(-1), teacher_TV.softmax(-1)
    per_T = kl(t, s) if beta == 0 else kl(s, t) if beta == 1 else jsd(s, t, beta)
    return per_T.mean()
