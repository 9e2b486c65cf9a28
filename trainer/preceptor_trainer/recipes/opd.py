"""On-policy distillation (Thinking Machines, 2025): the student writes, a stronger teacher says how likely each
token was.

The sampled token's log-ratio to the teacher is the advantage of a policy gradient, a one-sample estimate of the
per-token reverse KL. It needs one number per token from the teacher, so any engine that scores a prompt will do.

    L = -E_{y ~ S} sum_t rho_t [log T(y_t) - log S(y_t)],  the bracket detached, rho the ratio to the sampler

Evidence: the authors' published code was read. Group of four and an importance ratio to the sampler as there; no
discounted future sum (their default too).

Helps where a stronger model with the same tokenizer exists: dense, cheap, and stock servers can score for it. Not
beyond the teacher: it ends where the teacher is; and not where teacher and student think in different ways, which makes
its per-token opinion misleading.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe

RECIPE = Recipe(
    paper="Thinking Machines Lab, On-Policy Distillation, 2025",
    rollout=Student(samples=4),
    contexts={"teacher": Plain(teacher="teacher")},
    target=Single(context="teacher"),
    objective=(SampledReverseKL(),),
)
