"""Canonical-context OPD (arXiv:2605.30251): a question that came in pieces is answered as if it had come at once.

The student reads a conversation in which what is asked is said bit by bit, with replies in between that may have gone
astray; the model as it was at the start reads the same as one prompt, and scores the last answer. Only that is learned.

    L = sum_{t in last answer} KL(S(.| h, y_<t) || T(.| c, y_<t)),  h the conversation, c the one prompt

Evidence: notes on the paper, not its text. Reverse KL, the frozen start, temperature 1 and learning rate 3e-5 (of LoRA,
rank 16, alpha 32) are as noted. The pieces are the data's `shards`, and the student replies to each as it is that day;
without them the conversation is the data's `messages`, replies and all. `canonical` is the one prompt. Replies in
between carry no loss.

Helps where a model that can do a task in one prompt is worse when it hears of it piece by piece. Not where it cannot do
it in one prompt either.
"""

from preceptor_trainer.parts.contexts import Canonical
from preceptor_trainer.parts.divergences import ReverseKL
from preceptor_trainer.parts.rollouts import InTurns
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="arXiv:2605.30251",
    rollout=InTurns(samples=1),
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
