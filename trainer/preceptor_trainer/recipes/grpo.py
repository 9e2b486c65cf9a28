"""Group relative policy optimisation (arXiv:2402.03300): the baseline that learns from reward alone.

The student answers every question several times; a rollout's advantage is its reward against its group's mean, in units
of the group's deviation; a clipped policy gradient raises what is above and lowers what is below.

    A_i = (r_i - mean r) / (std r + 1e-6);  L = -E[min(rho A, clip(rho, 1 - 0.2, 1 + 0.2) A)]

Evidence: TRL's and SDPO's published code was read. Defaults are TRL's: 8 rollouts, clip 0.2, division by the deviation,
every token alike (their loss type "dapo"), no KL to a reference model. Others: `scale: false` on the advantage (Dr.
GRPO, and SDPO's baseline), `reduction: sequence` (the paper's own mean).

Helps where some of a question's rollouts are right and some are wrong, and there is budget for many. Not where all fail
or all succeed: such groups teach nothing; and a reward is one number for a whole answer, so that few tokens of budget
buy little.
"""

from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.weights import GroupAdvantage
from preceptor_trainer.recipe import Recipe

RECIPE = Recipe(
    paper="arXiv:2402.03300",
    rollout=Student(samples=8),
    objective=(PolicyGradient(weights=(GroupAdvantage(),)),),
)
