"""Freshness-aware OPD (arXiv:2605.17862): rollouts of older weights count less, those too old not at all.

Where the student learns ahead of whoever writes (`training.max_lag`), a rollout has a lag, and the student has drifted
from what wrote it. Its freshness weighs its loss, and the student is held to where the rollout came from.

    f_i = exp(-(a sqrt(D_roll) + b sqrt(D_sup))) / (lag_i + 1);  J = mean_i ReLU(f_i - xi) (l_i + lam D_roll,i)

D_roll is KL(S now || S then), of the written tokens: rho log rho - rho + 1 with rho = S now / S then, never negative.
D_sup is the same drift of the teacher, as half the mean squared log-ratio of two contexts, now and then; with a frozen
teacher and a prompt that stays it is 0, and `then` names nobody. What is written ahead is thrown away and written anew
where mean f <= kappa_f, or too few rollouts are still aligned with student (kappa_roll) or teacher (kappa_sup).

Evidence: the paper was read. a, b, xi, lam and the kappas are chosen per task there and not printed: 1, 1, 0.05, 0.1,
0.05 and twice 0.5 are ours, as is OPD's sampled reverse KL for l. What counts as aligned was not found; here a drift
whose square root is at most 0.5. Deviation: the buffer is what `max_lag` lets be written ahead, and the batch that was
just learned from, its oldest part, is what speaks for it; `lag` and `stale` are in the run's metrics.

Helps where rollouts are written ahead of the learner (`max_lag` above 0), so that some are old. With rollouts that are
all fresh it is `opd` with a schedule.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import SampledReverseKL, SamplerKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.weights_aged import Freshness
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.17862",
    rollout=Student(samples=4),
    contexts={"teacher": Plain(teacher="teacher")},
    weights=(Freshness(),),
    target=Single(context="teacher"),
    objective=(SampledReverseKL(), SamplerKL(coefficient=0.1)),
    reduces=(Reduces(to="opd", when={}, up_to="scale"),),
)
