"""CRISP (OPSDC, arXiv:2603.05433): the model, told to be brief, teaches itself to be brief without being told.

    L = mean_y 1/|y| sum_t KL(S(. | x) || T(. | x, c)),  T a copy of the student every 50 steps

c is an instruction: no answer, no verifier, no second model. Each copy is asked to be briefer than the last student
already is, so that length falls in stages.

Evidence: the paper's source and the code (HJSang/OPSD_Reasoning_Compression) were read. Copy every 50 steps, one
rollout, temperature 1, learning rate 1e-6, batch 32, the whole vocabulary are theirs; the wording of the instruction is
ours. Forward KL is their failing ablation (collapse within about 100 steps).

Helps models that ramble; the rollouts may be cut off at the horizon without harm. It is not there to make answers
right: where the instruction costs accuracy, the student learns that, too.
"""

from preceptor_trainer.parts.contexts import Instruction
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.recipe import Recipe, Reduces

BRIEFLY = (
    "{question}\n\nSolve the problem concisely: keep the steps that are needed, leave out repetitions and detours."
)

RECIPE = Recipe(
    paper="arXiv:2603.05433",
    rollout=Student(samples=1),
    contexts={"briefly": Instruction(teacher="self", template=BRIEFLY)},
    target=Single(context="briefly"),
    objective=(ReverseKL(),),
    teacher=CopyEvery(every=50),
    reduction="sequence",
    training={"learning_rate": 1e-6, "batch": 32},
    reduces=(
        Reduces(
            to="opd",
            when={"contexts": {"briefly": {"kind": "plain", "teacher": "teacher"}}, "teacher": {"kind": "frozen"}},
            given={"objective": [{"kind": "reverse_kl"}], "reduction": "sequence"},
        ),
    ),
)
