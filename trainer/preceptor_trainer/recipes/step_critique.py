"""Step-aligned critique (arXiv:2606.11173): a critic copies the student's own steps up to the first wrong one and goes
on correctly; the self-teacher reads that, and scores what the student wrote.

The context keeps to the student's way as long as it was right, so that the teacher disagrees from the first error on,
and not before. A text teacher is the critic (role `critic`); a step is a line.

    c = critic(x, y);  L = sum_t KL(T(.| x, c, y_<t) || S(.| x, y_<t)),  T the current student, no gradient

Evidence: notes on the paper, not its text; its optimiser's settings were not found. Forward KL and the live teacher
(here a copy after every step) are as noted. Whether their critic sees the reference was not established: ours does not;
an `ask_template` with `{reference}` shows it.

Helps where answers are steps, and a critic can tell the first wrong one. Not for answers of one step, or with a critic
that rewrites everything.
"""

from preceptor_trainer.parts.contexts_written import Critique
from preceptor_trainer.parts.divergences import ForwardKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2606.11173",
    rollout=Student(samples=1),
    contexts={"critique": Critique(teacher="self")},
    target=Single(context="critique"),
    objective=(ForwardKL(),),
    teacher=CopyEvery(every=1),
    reduces=(
        Reduces(
            to="opsd",
            when={"objective": [{"kind": "jsd"}]},
            given={"contexts": {"reference": {"kind": "critique"}}},
        ),
    ),
)
