"""Generalised knowledge distillation (arXiv:2306.13649): a stronger teacher's whole distribution, on the student's own
answers and on given ones.

A share of the rollouts is written by the student, the rest are the data's references; on both, the student moves
towards the teacher by the generalised Jensen-Shannon divergence. No gradient goes through the sampling.

    L = E_y JSD_beta(T, S), averaged over tokens;  y ~ S with chance lambda, else from the data

Evidence: TRL's published code was read. Defaults are TRL's: lambda 0.5, beta 0.5, temperature 0.9. Deviations: who
writes is drawn for every rollout, theirs for every batch; scores stay untempered. Their ends beta 0 and 1 are
`forward_kl` and `reverse_kl` here. Needs references where lambda is below 1.

Helps where there are references as well as a teacher, and the student starts too weak for its own answers to be worth
much. Not where a teacher offers log-probabilities of sampled tokens alone: it wants whole distributions.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Mixed
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces

ON_POLICY = {"kind": "mixed", "share": 1.0}

RECIPE = Recipe(
    paper="arXiv:2306.13649",
    rollout=Mixed(share=0.5, temperature=0.9),
    contexts={"teacher": Plain(teacher="teacher")},
    target=Single(context="teacher"),
    objective=(JSD(beta=0.5),),
    reduces=(
        Reduces(
            to="opsd",
            when={"rollout": ON_POLICY},
            given={"contexts": {"reference": {"kind": "plain", "teacher": "teacher"}}},
        ),
        Reduces(
            to="opd",
            when={"rollout": ON_POLICY, "objective": [{"kind": "reverse_kl"}]},
            up_to="expectation",
        ),
    ),
)
