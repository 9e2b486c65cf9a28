"""Multi-agent debate OPD (arXiv:2605.01347): several teachers discuss the student's answer, and each then scores its
tokens with the whole debate before its eyes.

What they say is a context of teachers alone. Who was surer in the last round counts more; the shares are softmax over
confidences, sum to one and carry no gradient. It is a sum of divergences, not one from a mixture.

    w_k = softmax_k(c_k / tau), c in [0, 1];  L = sum_k w_k sum_t JSD_0.5(T_k(.| x, h, y_<t), S(.| x, y_<t))

Evidence: notes and the authors' code (chiefovoavicii/MAD-OPD) were read. Two teachers, two rounds, tau 1, JSD(0.5) for
agents (reverse KL for code), temperature 0.7 and learning rate 1e-5 (a cosine with 5% warm-up) are theirs. Each debater
(roles `first`, `second`) both writes and scores. Ours: within a round nobody hears the others; the debate is about a
whole answer, not step by step of an agent's.

Helps where teachers are wrong on different questions and can tell from each other's arguments. Not with teachers that
agree anyway: a debate costs calls and changes nothing.
"""

from preceptor_trainer.parts.contexts_debated import Debate
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Each
from preceptor_trainer.recipe import Recipe, Reduces

ALONE = {"kind": "debate", "debaters": ["first"]}

RECIPE = Recipe(
    paper="arXiv:2605.01347",
    rollout=Student(samples=1, temperature=0.7),
    contexts={"debate": Debate(teacher="first")},
    target=Each(contexts=("debate",)),
    objective=(JSD(beta=0.5),),
    reduces=(
        Reduces(
            to="opd",
            when={"contexts": {"debate": ALONE}},
            given={"contexts": {"teacher": {**ALONE, "teacher": "first"}}, "objective": [{"kind": "jsd"}]},
        ),
    ),
    training={"learning_rate": 1e-5},
)
