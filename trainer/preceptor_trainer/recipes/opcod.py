"""On-policy co-distillation (arXiv:2606.14368, "Be My Tutor"): two students train side by side, and each is shown what
the other says of its attempts.

The self-teacher of a run reads another attempt of its group that succeeded and, where the peer knows the question well
enough, the peer's feedback on this attempt. The peer is the role `peer`: another run's student, or any registered
teacher that writes. Feedback is kept only if it is about the question, and without the answer.

    c = (y+ of this student, g f of the peer),  g = 1{p >= kappa}, p the peer's success rate;  L = sum_t D(S, T(.| c))

Evidence: the abstract alone; the equations are reconstructed, kappa, the filter and D were not found. Ours: kappa 0.5
over the peer's own attempts at the question (`attempts`), a word in common with the question, SDPO's loss and teacher.
With the gate closed it is SDPO without feedback. No gradient passes from one student to the other: each is a run.

Helps where a peer can do what the student cannot yet, and can say why in words. Not where it can only give the answer
away: that is redacted.
"""

from preceptor_trainer.parts.contexts_tutored import Tutored
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import Ema
from preceptor_trainer.parts.weights import ImportanceTruncate
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2606.14368",
    rollout=Student(samples=8),
    contexts={"tutored": Tutored(teacher="self")},
    target=Single(context="tutored"),
    objective=(JSD(beta=0.5, weights=(ImportanceTruncate(most=2.0),)),),
    teacher=Ema(decay=0.95),
    reduces=(
        Reduces(
            to="sdpo",
            when={"contexts": {"tutored": {"peer": None}}},
            given={"contexts": {"tried": {"kind": "tutored", "peer": None}}, "sparse": {"k": None}},
        ),
    ),
    training={"learning_rate": 1e-5},
)
