"""Entropy-guided RLSD (arXiv:2605.13255): direction from the reward, size from the informed teacher's ratio, confidence
from its entropy.

    L = -mean A w omega log S,  w = clip((P_T / P_S)^sign(A), 1 - eps, 1 + eps)
    omega = clip(1 - gamma H_T / max(1 nat, largest H_T of the batch), 0.1, 1)

A is the reward, 1.5 times as much for a success of no length as for one of full length, whitened over the batch. T is
the frozen start shown the reference solution; its whole distribution is needed for its entropy.

Evidence: the paper was read. Defaults are theirs: gamma 0.3, eps 0.2, length bonus 0.5, one rollout a task, 1024
tokens, learning rate 5e-6, LoRA 64. No ratio to the sampler, as there. Deviation: sampling at temperature 1.1 without
their top-p and top-k. Lower `longest` together with `rollout.max_tokens`.

Helps where references exist and rewards are to say the direction: tokens on which the informed view is sure get most of
it. Not with few tokens of budget, and it wants whole distributions.
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
    weights=(RATIO, Confidence(gamma=0.3)),
    target=Single(context="reference"),
    objective=(Reinforce(),),
    teacher=Frozen(),
    training={"learning_rate": 5e-6},
    reduces=(
        Reduces(
            to="rlsd",
            when={"weights": [RATIO.model_dump(), {"kind": "confidence", "gamma": 0.0}]},
            given={
                "rollout": {"max_tokens": 1024},
                "weights": [RATIO.model_dump()],
                "objective": [{"kind": "nll"}],
            },
        ),
    ),
)
