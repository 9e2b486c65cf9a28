"""beta-OPSD (arXiv:2607.28582): self-distillation towards a point between the plain and the informed view.

The frozen base scores every token twice, with and without the reference; the target is the geometric mixture of both,
so that no token is asked to go all the way to what only the reference explains.

    q = softmax((1 - w) log P_plain + w log P_reference);  L = JSD(q, S)

Evidence: the authors' code was read as to the target; which divergence it is paired with is OPSD's here. w 0.5 as
theirs, with a frozen base. Theirs, too: a live plain view (name it `student`, which costs no second pass) and w that
falls linearly: `{"kind": "linear", "start": 0.5, "end": 0.0, "steps": 100}`, and its complement on the other.

Helps where `opsd` goes too far too fast: half of the way to the informed view keeps the student's own manner. Not where
the plain view is simply wrong; then half of the way is half of the gain for the same budget.
"""

from preceptor_trainer.parts.contexts import Plain, Reference
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import LogLinear
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2607.28582",
    rollout=Student(samples=1),
    contexts={"reference": Reference(teacher="self"), "plain": Plain(teacher="self")},
    target=LogLinear(coefficients={"reference": 0.5, "plain": 0.5}),
    objective=(JSD(beta=0.5),),
    reduces=(
        Reduces(to="opsd", when={"target": {"coefficients": {"reference": 1.0, "plain": 0.0}}}),
        Reduces(
            to="opsd",
            when={"target": {"coefficients": {"reference": 0.0, "plain": 1.0}}},
            given={"contexts": {"reference": {"kind": "plain"}}},
        ),
    ),
)
