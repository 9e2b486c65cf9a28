"""On-policy distillation between two students: each learns from the other where that is reliably better.

    L = mean_t D(S(.| x, y_<t), q),   q = P(.| x, y_<t)   where P(p > s | verified rollouts of the domain) >= 0.95,
                                      q = S_0(.| x, y_<t) where the student began reliably better than its peer,
                                      nothing elsewhere;  p, s: success rates of the peer P and the student S

The peer is the role `peer`: the other side of a pair (`preceptor codistill`), asked after the student's own prompt. The
student as it began is the role `start` (`base`). Who teaches nothing new is not asked.

Evidence: ours, from the gate of OPCoD (arXiv:2606.14368, abstract only), whose feedback is text; here the peer's
distributions teach. The anchor is ours: without it the side that teaches lost 4 points where it had been strong. Not in
the papers: a Beta(1, 1) prior, confidence 0.95, half the weight after 200 rollouts (the pair's `memory`).

Helps where two models are strong on different things and both train. Not where one is stronger everywhere: `opd` from
that one is the same and simpler.
"""

from preceptor_trainer.parts.contexts_peers import BetterPeer, BetterStart
from preceptor_trainer.parts.divergences import ForwardKL
from preceptor_trainer.parts.rollouts import Student
from preceptor_trainer.parts.targets import Route
from preceptor_trainer.recipe import Recipe

RECIPE = Recipe(
    paper="Preceptor, after arXiv:2606.14368",
    rollout=Student(samples=1),
    contexts={"peer": BetterPeer(), "start": BetterStart()},
    target=Route(contexts=("peer", "start")),
    objective=(ForwardKL(),),
)
