"""The composer's moving parts: coefficients by step and by token, the student's own view, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from preceptor_trainer.parts.coefficients import PerToken
from preceptor_trainer.parts.divergences import ForwardKL
from preceptor_trainer.parts.schedules import Linear
from preceptor_trainer.parts.targets import LogLinear
from preceptor_trainer.recipe import Target
from preceptor_trainer.recipes import demopsd as demopsd  # its coefficient
from preceptor_trainer.views import Opinion, TokenView
from tests.unit.trainer import reference as ref
from tests.unit.trainer.test_loss_reference import case, composed, recipe
from tests.unit.trainer.toy import V


class ByPlace(PerToken, kind="test_by_place"):
    """More with every position."""

    slope: float = 0.1
    """How much."""

    def __call__(self, opinions: Mapping[str, Opinion], tokens: TokenView) -> Tensor:
        return self.slope * tokens.position_T.to(opinions["a"].logprob_T.dtype)


@pytest.mark.parametrize("support", ["full", "topk", "ids"])
def test_a_coefficient_may_differ_from_token_to_token(support: str) -> None:
    on = case({"a": [support], "b": ["full"]})
    ids_TK = on.ids_TK["a"][0]
    target = LogLinear(coefficients={"a": ByPlace(), "b": 1.0})
    a_TE, b_TE = (ref.events(on.p_TV[name][0], ids_TK) for name in ("a", "b"))
    a_T = 0.1 * on.batch.position_T.double()
    there_TE = torch.ones_like(a_TE, dtype=torch.bool)
    if ids_TK is not None:
        there_TE[:, :-1] = ids_TK >= 0
    log_TE = a_T[:, None] * a_TE.log().clamp(min=-1e4) + b_TE.log().clamp(min=-1e4)
    q_TE = log_TE.masked_fill(~there_TE, -torch.inf).softmax(-1)
    present_T = on.batch.slots["a"][0].present_T * on.batch.slots["b"][0].present_T
    given = recipe(ForwardKL(), contexts=["a", "b"], target=target)
    s_TV = (on.hidden_TD @ on.head.weight_VD.detach().T).softmax(-1)
    expected = (ref.kl(q_TE, ref.events(s_TV, ids_TK)) * present_T).sum() / present_T.sum()
    assert composed(given, on)[0] == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("support", ["full", "topk"])
def test_the_student_s_own_view_may_take_part_and_carries_no_gradient(support: str) -> None:
    """A trust region: q is between the student and the teacher, and held still."""
    on = case({"a": [support]})
    ids_TK, there_T = on.ids_TK["a"][0], on.batch.slots["a"][0].present_T
    given = recipe(ForwardKL(), contexts=["a"], target=LogLinear(coefficients={"a": 0.3, "student": 0.7}))
    assert given.target is not None and given.target.uses == ("a",)
    a_TE = ref.events(on.p_TV["a"][0], ids_TK)
    s_TV = (on.hidden_TD @ on.head.weight_VD.detach().T).softmax(-1)
    s_TE = ref.events(s_TV, ids_TK)
    q_TE = a_TE**0.3 * s_TE**0.7
    q_TE = q_TE / q_TE.sum(-1, keepdim=True)
    loss, grad_TD, _ = composed(given, on)
    assert loss == pytest.approx(float((ref.kl(q_TE, s_TE) * there_T).sum() / there_T.sum()), abs=1e-10)
    if support == "full":
        on_logits = (s_TV - q_TE) * there_T[:, None] / there_T.sum()
        torch.testing.assert_close(grad_TD, on_logits @ on.head.weight_VD.detach())


def test_a_composed_target_survives_the_wire() -> None:
    target = LogLinear.model_validate(
        {
            "coefficients": {
                "a": {"kind": "test_by_place", "slope": 0.5},
                "b": {"kind": "linear", "start": 1.0, "end": 0.0, "steps": 3},
                "student": 0.5,
            }
        }
    )
    assert isinstance(target.coefficients["a"], ByPlace) and isinstance(target.coefficients["b"], Linear)
    assert Target.model_validate_json(target.model_dump_json()) == target


@pytest.mark.parametrize(
    ("coefficients", "says"),
    [
        ({"student": 1.0}, "neither the student alone nor zeros are a target"),
        ({"a": 0.0, "b": 0.0}, "neither the student alone nor zeros are a target"),
        ({}, "at least 1 item"),
        ({"a": {"kind": "test_by_plaice"}}, "unknown PerToken kind 'test_by_plaice'"),
        (
            {"a": {"kind": "disagreement", "between": ["a", "c"]}, "b": 1.0},
            "coefficients.a: 'disagreement' reads 'c', which is not composed; there is a, b",
        ),
    ],
)
def test_what_is_no_target_is_refused(coefficients: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as error:
        LogLinear.model_validate({"coefficients": coefficients})
    assert says in str(error.value)


def test_the_vocabulary_of_the_toys_is_larger_than_their_supports() -> None:
    """Else the sparse cases above would be the whole one."""
    on = case({"a": ["topk"]})
    ids_TK = on.ids_TK["a"][0]
    assert ids_TK is not None and ids_TK.shape[1] < V
