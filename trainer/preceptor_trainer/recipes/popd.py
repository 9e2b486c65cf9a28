"""Progressive on-policy distillation (arXiv:2605.31490): the student's horizon grows as it learns.

OPD that begins with the first part of an answer and goes on to longer ones in stages, so that tokens are taught after
beginnings that are already good.

    H_k = min(T_max, H_0 + dH floor(k / dk));  the gradient is OPD's on the tokens up to H_k

Evidence: notes on the paper, not its text; H_0, dH and dk were not found. Ours: a quarter of the length, a quarter more
every 25 steps, all of it after 75.

Helps where answers are long and their first part decides: short horizons are cheap to begin with. Not where the answer
stands at the end, or answers are short: a quarter of ten tokens is not enough to see anything.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import SampledReverseKL
from preceptor_trainer.parts.rollouts import Horizon
from preceptor_trainer.parts.schedules import Staircase
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.31490",
    rollout=Horizon(samples=4, share=Staircase(start=0.25, rise=0.25, every=25, most=1.0)),
    contexts={"teacher": Plain(teacher="teacher")},
    target=Single(context="teacher"),
    objective=(SampledReverseKL(),),
    reduces=(
        Reduces(to="opd", when={"rollout": {"share": 1.0}}),
        Reduces(
            to="topd",
            when={"rollout": {"share": {"kind": "staircase", "start": 0.25, "rise": 0.0, "every": 1}}},
        ),
    ),
)
