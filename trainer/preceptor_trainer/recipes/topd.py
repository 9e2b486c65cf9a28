"""Truncated on-policy distillation (arXiv:2605.31490): the teacher's opinion on the first part of an answer is enough.

OPD with a horizon for good: rollouts are cut off at a share of the full length, and nothing beyond is written, scored
or learned. What is left costs less and is less noisy.

    g = sum_{t <= H} (log T - log S)(y_t) grad log S(y_t),  H = rho T_max

Evidence: notes on the paper, not its text. rho 0.25 is the best of theirs (0.10 was nearly as good, at half the time).

Helps where a long answer's beginning says how it will go on, at a fraction of the price. Not for short answers, or
where the mistakes are at the end.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.rollouts import Horizon
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.31490",
    rollout=Horizon(samples=4, share=0.25),
    contexts={"teacher": Plain(teacher="teacher")},
    target=Single(context="teacher"),
    objective=(SampledReverseKL(),),
    reduces=(Reduces(to="opd", when={"rollout": {"share": 1.0}}),),
)
