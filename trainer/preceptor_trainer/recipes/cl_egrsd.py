"""Causal-lookahead EGRSD (arXiv:2605.13255): entropy-guided RLSD that forgives a fork which the next tokens resolve.

As `egrsd`, with the teacher's entropy of a token replaced by the lowest among it and the W tokens after it, within the
rollout: a pivot (unsure now, sure soon) keeps its weight, a stretch of doubt loses it. The scale, the batch's largest
entropy, stays that of single tokens.

    L = -mean A w omega log S,  omega_t = clip(1 - gamma min_{t<=j<=t+W} H_T,j / max(1 nat, largest H_T), 0.1, 1)

Evidence: the paper was read. W is 3 for their 4B model (5 for 8B); all else as in `egrsd`, with its deviations.

Helps as `egrsd`, where an uncertain token is often settled by the next few. With answers of a few tokens there is
little ahead to look at.
"""

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.objectives import Reinforce
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.weights import AnchoredRatio, BatchAdvantage, Confidence
from preceptor_trainer.recipe import Frozen, Recipe, Reduces

RATIO = AnchoredRatio(over="reference", epsilon=0.2, advantage=BatchAdvantage(bonus=0.5, longest=1024))

RECIPE = Recipe(
    paper="arXiv:2605.13255",
    rollout=Student(samples=1, temperature=1.1, max_tokens=1024),
    contexts={"reference": Reference(teacher="self")},
    weights=(RATIO, Confidence(gamma=0.3, window=3)),
    target=Single(context="reference"),
    objective=(Reinforce(),),
    teacher=Frozen(),
    training={"learning_rate": 5e-6},
    reduces=(
        Reduces(to="egrsd", when={"weights": [RATIO.model_dump(), {"kind": "confidence", "gamma": 0.3, "window": 0}]}),
    ),
)
