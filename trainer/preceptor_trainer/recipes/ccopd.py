"""Canonical-context OPD (arXiv:2605.30251): a question that came in pieces is answered as if it had come at once.

The student reads a conversation in which what is asked is said bit by bit, with replies in between that may have gone
astray; the model as it was at the start reads the same as one prompt, and scores the last answer. Only that is learned.

    L = sum_{t in last answer} KL(S(.| h, y_<t) || T(.| c, y_<t)),  h the conversation, c the one prompt

Evidence: notes on the paper, not its text. Reverse KL, the frozen start, temperature 1 and learning rate 3e-5 (of LoRA,
rank 16, alpha 32) are as noted. The conversation is the data's `messages`, its replies with it; `canonical` is the one
prompt. Deviation: the replies in between are those of the data, not the student's own of the day (theirs drift with
it); they carry no loss here either.
"""

from preceptor_trainer.parts.contexts import Canonical
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.30251",
    rollout=Student(samples=1),
    contexts={"canonical": Canonical(teacher="self")},
    target=Single(context="canonical"),
    objective=(ReverseKL(),),
    reduces=(
        Reduces(
            to="opsd",
            when={"objective": [{"kind": "jsd"}]},
            given={"contexts": {"reference": {"kind": "canonical"}}},
        ),
    ),
    training={"learning_rate": 3e-5},
)
