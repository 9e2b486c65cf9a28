"""Multi-rollout OPD (arXiv:2605.12652): what a group's other attempts did right and wrong, shown to the self-teacher.

As SDPO, with more of the group in view: up to two attempts that succeeded, and one that failed, marked as to be
avoided. The attempt itself is never among them. (Not the multi-teacher method of the same name, `mopd`.)

    C_i = T(y*) + Success(y+) + Fail(y-);  L_i = sum_t KL(S(.| x, y_<t) || T(.| x, C_i, y_<t))

Evidence: the paper was read. 8 rollouts, two successes and one failure (their best), reverse KL (theirs for maths;
elsewhere JSD), learning rate 1e-5 with 10 warm-up steps. EMA 0.95 is SDPO's; theirs is "as SDPO". The words around an
attempt are SDPO's where they are about a success, else ours. An attempt is picked at random, not by its reward, and
failures are shown only where there is a success: an example of what not to do, alone, says too little.

Helps where a group has successes and failures to contrast. Not where all fail: only failures are left to show.
"""

from preceptor_trainer.parts.contexts_tried import Reprompt
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import Ema
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.12652",
    rollout=Student(samples=8),
    contexts={"tried": Reprompt(teacher="self", successes=2, failures=1, feedback=False)},
    target=Single(context="tried"),
    objective=(ReverseKL(),),
    teacher=Ema(decay=0.95),
    reduces=(
        Reduces(
            to="sdpo",
            when={"contexts": {"tried": {"successes": 1, "failures": 0}}},
            given={"contexts": {"tried": {"feedback": False}}, "objective": [{"kind": "reverse_kl"}]},
        ),
    ),
    training={"learning_rate": 1e-5, "warmup_steps": 10},
)
