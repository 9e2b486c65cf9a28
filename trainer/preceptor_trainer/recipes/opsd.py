"""On-policy self-distillation (arXiv:2601.18734): the model, shown the reference solution, teaches itself to do
without it.

The student answers the plain question; the same weights, frozen at the start, score its every token after a prompt that
also holds the reference; the student moves towards that view over the whole vocabulary.

    L = mean_t JSD_0.5(T(.| x, reference, y_<t), S(.| x, y_<t)),  y ~ S

Evidence: the authors' code was read. Chosen: JSD(0.5), the code of March 2026. Later releases use forward KL with a
per-entry clip of 0.05; override `objective` for the former. Deviation: sampling at temperature 1.0 (theirs 1.1,
top-p 0.95).

Helps where there are references that the model can follow when it is shown them. Not where it cannot (nothing to learn
from), where references are wrong (it learns them), or where being shown the solution makes the model terse and thought
is what should be kept.
"""

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Frozen, Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2601.18734",
    rollout=Student(samples=1),
    contexts={"reference": Reference(teacher="self")},
    target=Single(context="reference"),
    objective=(JSD(beta=0.5),),
    teacher=Frozen(),
    reduces=(
        Reduces(
            to="opd",
            when={
                "contexts": {"reference": {"kind": "plain", "teacher": "teacher"}},
                "objective": [{"kind": "reverse_kl"}],
            },
            up_to="expectation",
        ),
    ),
)
