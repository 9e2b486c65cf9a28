"""PACED (arXiv:2603.11178): a task counts by how close the student is to half right on it, and coverage comes before
precision.

    L = sum_x p^a (1 - p)^b / mean * D(x),  D = KL(T || S) in the first half of the run, KL(S || T) in the second

Where all rollouts of a task fail, or all succeed, the gradient is noise: such tasks count 0. p is the share of the
task's rollouts that the verifier accepted; weights are divided by their mean over the batch.

Evidence: third parties' notes and the README of HJSang/OPSD_OnPolicyDistillation. a = b = 1, eight rollouts and halves
are theirs. Deviation: p comes from the very rollouts that are learned from, theirs from probes before. A schedule does
not know how long a run is: the switch is after 100 steps, half of the 200 in `training`; move both together.

Helps where tasks are of mixed difficulty. Override `contexts` for self-distillation (a reference asked of `self`).
Where all are alike it is plain distillation at eight rollouts a question.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.divergences import ForwardKL, ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.schedules import Switch
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.weights import Frontier
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2603.11178",
    rollout=Student(samples=8),
    contexts={"teacher": Plain(teacher="teacher")},
    weights=(Frontier(a=1.0, b=1.0),),
    target=Single(context="teacher"),
    objective=(
        ForwardKL(coefficient=Switch(before=1.0, after=0.0, steps=100)),
        ReverseKL(coefficient=Switch(before=0.0, after=1.0, steps=100)),
    ),
    training={"steps": 200},
    reduces=(
        Reduces(
            to="opd",
            when={"weights": [{"kind": "frontier", "a": 0.0, "b": 0.0}], "objective": [{"kind": "reverse_kl"}]},
            up_to="expectation",
        ),
    ),
)
