"""Self-distillation policy optimisation (arXiv:2601.20802): the same model, asked again with what is known by then,
says which tokens of its first attempt it would not write any more.

What is known: another rollout of the group that succeeded, never the attempt itself, and the verifier's feedback on
this attempt. Where there is neither, the rollout teaches nothing. A token-level signal where GRPO has one number.

    L = sum_t w_t JSD_0.5(S_t, T_t) / sum_t 1,  w_t = min(rho_t, 2)

Evidence: the authors' code (lasgroup/SDPO) and TRL's were read. Prompt, 8 rollouts, JSD(0.5), 100 ids and a tail, EMA
0.95 and learning rate 1e-5 are theirs for data without rich feedback; with it they take reverse KL, 20 ids, decay 0.99
and 1e-6. The ids are the teacher's likeliest (theirs the student's: `sparse.by`). Sources differ on what counts as a
success (0.5 or 1.0): here the verifier says what is correct. TRL's mix with GRPO is a second term, `policy_gradient`
with `group_advantage`; their trust region is `{"teacher": {"kind": "trust_region"}}`, of weights instead of logits.

Helps where an attempt can be judged and some rollout succeeds, or the environment says what was wrong: no references
are needed. Not where neither happens: there is nothing to show.
"""

from preceptor_trainer.parts.contexts_tried import Reprompt
from preceptor_trainer.parts.divergences import JSD
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.teacher_updates import Ema
from preceptor_trainer.parts.weights import ImportanceTruncate
from preceptor_trainer.recipe import Recipe, Reduces
from preceptor_trainer.support import Sparse

GRPO = {"kind": "policy_gradient", "weights": [{"kind": "group_advantage"}]}
PEER = {"reference": {"kind": "reprompt"}}

RECIPE = Recipe(
    paper="arXiv:2601.20802",
    rollout=Student(samples=8),
    contexts={"tried": Reprompt(teacher="self")},
    target=Single(context="tried"),
    objective=(JSD(beta=0.5, weights=(ImportanceTruncate(most=2.0),)),),
    teacher=Ema(decay=0.95),
    sparse=Sparse(k=100),
    reduces=(
        Reduces(to="grpo", when={"objective": [GRPO, {"kind": "jsd", "coefficient": 0.0}]}),
        Reduces(
            to="opsd",
            when={"rollout": {"samples": 1}, "objective": [{"kind": "jsd"}]},
            given={"contexts": PEER},
        ),
    ),
    training={"learning_rate": 1e-5},
)
