"""Self-distilled RLVR (arXiv:2604.03128): the reward says which way a rollout is pushed, the model that has seen the
solution how much of it each token gets.

    w = (P_T / P_S)^sign(A),  A' = A [(1 - lam) + lam clip(w, 1 - eps, 1 + eps)],  lam falls to 0

GRPO's surrogate on A'. T is the student's own weights with the reference solution in the prompt, copied now and then;
of it one number per token is needed. A' never has another sign than A, so nothing is learned against the verifier.

Evidence: the equations are from three papers that restate them and from third-party code (coldsakrua/RLSD); the paper
itself was not read. eps 0.2, lam from 1 to 0 within 50 steps, 8 rollouts, a copy every 10 steps and the learning rate
are that code's defaults, unconfirmed. The clip of the ratio to the sampler is GRPO's usual 0.2. A task without a
reference falls back to GRPO. With only final answers at hand: `{"contexts": {"reference": {"kind": "answer"}}}`.

Helps where rewards are rare among long answers; independent papers found it below GRPO on some text models. Not at
small budgets: like GRPO it waits for groups with both outcomes.
"""

from preceptor_trainer.parts.contexts import Reference
from preceptor_trainer.parts.objectives import PolicyGradient
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.parts.teacher_updates import CopyEvery
from preceptor_trainer.parts.weights import AnchoredRatio
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2604.03128",
    rollout=Student(samples=8),
    contexts={"reference": Reference(teacher="self")},
    weights=(AnchoredRatio(over="reference", epsilon=0.2, mix=Linear(start=1.0, end=0.0, steps=50)),),
    objective=(PolicyGradient(),),
    teacher=CopyEvery(every=10),
    training={"learning_rate": 1e-6},
    reduces=(Reduces(to="grpo", when={"weights": [{"kind": "anchored_ratio", "over": "reference", "mix": 0.0}]}),),
)
