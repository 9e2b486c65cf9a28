"""The rebellious student (arXiv:2605.10781): on correct rollouts, tokens that the informed model would not have written
earn more.

    w = (P_S / P_T)^sign(A),  A' = A [(1 - lam) + lam clip(w, 1 - eps, 1 + eps)] where R = 1, else A

RLSD's ratio upside down, and only where the verifier agreed: what worked although the teacher would have done otherwise
is what the student can still find out for itself. T is the student's own current weights, shown another correct rollout
of the task.

Evidence: notes of two third parties that agree; the paper was not read. lam 0.5; eps 0.5 is their value for instruct
models (1.0 base, 0.2 thinking). Opening the gate to failures (`least_reward: null`) is their failing ablation. Where no
other rollout succeeded a token keeps A. The copy after every step stands for "live"; eight rollouts are GRPO's habit.

Helps models that already solve part of the tasks; it says nothing where no rollout succeeds. Not to get quickly to what
the reference says: it is paid for going elsewhere.
"""

from preceptor_trainer.parts.contexts import PeerSuccess
from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.parts.weights import AnchoredRatio
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.10781",
    rollout=Student(samples=8),
    contexts={"peer": PeerSuccess(teacher="self")},
    weights=(AnchoredRatio(over="student", under="peer", epsilon=0.5, mix=0.5, least_reward=1.0),),
    objective=(PolicyGradient(),),
    teacher=CopyEvery(every=1),
    reduces=(
        Reduces(
            to="grpo",
            when={"weights": [{"kind": "anchored_ratio", "over": "student", "under": "peer", "mix": 0.0}]},
        ),
    ),
)
