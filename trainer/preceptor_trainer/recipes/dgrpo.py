"""dGRPO (arXiv:2605.12227): GRPO and a stronger teacher's opinion on the same rollouts, for long contexts.

Reward says which rollouts are good, the teacher says which tokens are; the two terms are added. Groups whose rollouts
are all alike right or wrong have no advantage, and still learn from the teacher.

    J = E (1/G) sum_i (1/|o_i|) sum_t [min(rho A, clip(rho) A) - beta KL(S || T)_t]

Evidence: the paper was read. beta 0.5 and the mean per rollout are theirs; clip 0.2 is GRPO's, theirs was not found.
Deviations: no supervised warm-up and no mixture of lengths, which are choices of data.

Helps where a stronger teacher is at hand and rewards are rare or late, as with long contexts: the teacher speaks on
every token where the reward is silent. Not where the teacher is no better than the student; then it holds back what the
reward teaches.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.weights import GroupAdvantage
from preceptor_trainer.recipe import Recipe, Reduces

ADVANTAGE = {"kind": "policy_gradient", "weights": [{"kind": "group_advantage"}]}

RECIPE = Recipe(
    paper="arXiv:2605.12227",
    rollout=Student(samples=8),
    contexts={"teacher": Plain(teacher="teacher")},
    target=Single(context="teacher"),
    objective=(PolicyGradient(weights=(GroupAdvantage(),)), ReverseKL(coefficient=0.5)),
    reduction="sequence",
    reduces=(
        Reduces(
            to="grpo",
            when={"objective": [ADVANTAGE, {"kind": "reverse_kl", "coefficient": 0.0}]},
            given={"reduction": "sequence"},
        ),
        Reduces(
            to="opd",
            when={"objective": [{**ADVANTAGE, "coefficient": 0.0}, {"kind": "reverse_kl"}]},
            given={"reduction": "sequence"},
            up_to="expectation",
        ),
    ),
    training={"learning_rate": 1e-6},
)
