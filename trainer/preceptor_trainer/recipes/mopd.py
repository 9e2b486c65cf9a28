"""Multi-teacher on-policy distillation (MiMo-V2-Flash, section 4.4): a specialist for each domain teaches one student.

    L = -mean w A log S,  w = rho where 0.5 <= rho <= 2, else 0,  A = log T_domain - log S + alpha A_group

The data's `domain` column says whose turn it is; rho, the ratio of learner to sampler, masks tokens that two engines
see too differently; the verifier's advantage is added. Nothing but the written token's number is asked of a teacher.

Evidence: the paper's section and NeMo-RL's implementation were read. The bounds of rho and alpha are not given there:
0.5, 2 and 1 are ours, as are four rollouts a task. The domains, `maths` and `code` here, are the roles of their
teachers: set `contexts.teacher.router.domains` for others. A task of no domain teaches nothing.

Helps where there is a specialist for each kind of task and the data says which is whose. Not where domains overlap and
nobody can tell: then `mad_opd`, or a router that asks.
"""

from preceptor_trainer.parts.contexts import Plain
from preceptor_trainer.parts.objectives import Reinforce, SampledReverseKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.routers import ByColumn
from preceptor_trainer.parts.targets import Single
from preceptor_trainer.parts.weights import GroupAdvantage, ImportanceBand
from preceptor_trainer.recipe import Recipe, Reduces

RECIPE = Recipe(
    paper="MiMo-V2-Flash, section 4.4",
    rollout=Student(samples=4),
    contexts={"teacher": Plain(router=ByColumn(column="domain", domains=("maths", "code")))},
    weights=(ImportanceBand(low=0.5, high=2.0),),
    target=Single(context="teacher"),
    objective=(SampledReverseKL(importance=False), Reinforce(coefficient=1.0, weights=(GroupAdvantage(),))),
    reduction="sequence",
    reduces=(
        Reduces(
            to="opd",
            when={
                "contexts": {"teacher": {"router": None, "teacher": "teacher"}},
                "objective": [{"kind": "sampled_reverse_kl", "importance": False}],
                "reduction": "token",
            },
        ),
        Reduces(
            to="grpo",
            when={"objective": [{"kind": "reinforce", "weights": [{"kind": "group_advantage"}]}], "reduction": "token"},
            up_to="gradient",
        ),
    ),
)
