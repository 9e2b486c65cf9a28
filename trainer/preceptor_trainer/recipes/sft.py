"""Supervised fine-tuning on references: the baseline that every distillation claim has to be held against.

No teacher: the data's reference solution is the completion, and its tokens' negative log-likelihood is the loss.

    L = -mean_t log S(y_t | x, y_<t),  y the reference

Evidence: no source is needed; every token of the batch counts alike.

Helps where references can be imitated as they are: nothing is cheaper, and on the procedural tasks here little is
better. Not where there are answers without worked solutions, where references are in words that the student would not
use, or where what it can do already must stay.
"""

from preceptor_trainer.parts.objectives import NLL
from preceptor_trainer.parts.rollouts import Dataset
from preceptor_trainer.recipe import Recipe

RECIPE = Recipe(
    paper="baseline",
    rollout=Dataset(),
    objective=(NLL(),),
)
