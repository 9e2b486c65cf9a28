"""The protocol of a debate: who speaks next, when it ends, what each counts then."""

from __future__ import annotations

from math import exp
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from preceptor.debates import protocol
from preceptor.debates.protocol import End, Round, Rules, Subject
from preceptor.debates.templates import BUILT_IN
from preceptor.wire.debates import DebateTemplate, DebateTurn, Missing, StopRule

ONE = BUILT_IN["discussion"]
NAMES = ("ann", "bob", "cid", "dee", "eve", "fay", "gus", "hal")


def rules(debaters: int = 2, rounds: int = 2, **more: object) -> Rules:
    held = {"debaters": NAMES[:debaters], "template": ONE.model_copy(update={"rounds": rounds}), **more}
    return Rules(**held)  # pyright: ignore[reportArgumentType]


def said(round: int, debater: str, answer: str = "a", sure: int = 50, tokens: int = 10) -> DebateTurn:
    return DebateTurn(
        round=round, debater=debater, argument=f"I say {answer}.", answer=answer, confidence=sure, tokens=tokens
    )


def lost(round: int, debater: str, why: Missing = "unreadable") -> DebateTurn:
    return DebateTurn(round=round, debater=debater, missing=why, detail="It babbles.")


def ended(held: Rules, turns: list[DebateTurn], elapsed: float = 0.0) -> End:
    end = protocol.following(held, turns, elapsed)
    assert isinstance(end, End)
    return end


def test_all_speak_side_by_side_round_by_round():
    held = rules()
    assert protocol.following(held, []) == Round(number=1, debaters=("ann", "bob"))
    turns = [said(1, "bob")]
    assert protocol.following(held, turns) == Round(number=1, debaters=("ann",)), "what is recorded is not asked again"
    turns += [said(1, "ann")]
    assert protocol.following(held, turns) == Round(number=2, debaters=("ann", "bob"))
    turns += [said(2, "ann"), said(2, "bob")]
    assert protocol.following(held, turns) == End(why="rounds", rounds=2, heard=("ann", "bob"))


def test_within_a_round_nobody_hears_the_others():
    held, subject = rules(), Subject(question="Why?")
    first = protocol.prompt(held, subject, "bob", 1, [said(1, "ann", "x")])
    assert "I say x" not in first and protocol.NOTHING in first and "Why?" in first
    second = protocol.prompt(held, subject, "bob", 2, [said(1, "bob", "y"), said(1, "ann", "x")])
    assert "ann: I say x. (answer: x)\nbob: I say y. (answer: y)" in second


def test_a_blind_debater_does_not_see_the_attempt_and_everybody_has_a_part():
    held = Rules(debaters=NAMES[:4], template=BUILT_IN["panel"])
    blind = [protocol.prompt(held, Subject(question="Why?"), each, 1, []) for each in NAMES[:4]]
    seen = protocol.prompt(held, Subject(question="Why?", attempt="So."), "ann", 1, [])
    assert not any("So." in each for each in blind) and "So." in seen
    assert len(set(blind)) == 3 and blind[0] == blind[3], "there are three roles for four"
    empty = protocol.prompt(held, Subject(question="{attempt}", attempt=" "), "ann", 1, [])
    assert "{attempt}" in empty and empty.count(protocol.NOTHING) == 2, "braces in a question are text"


@pytest.mark.parametrize(
    ("stop", "answers", "ends"),
    [
        (("agreement",), [("a", "A ")], ("agreement", 1)),
        (("agreement",), [("a", "b"), ("b", "b")], ("agreement", 2)),
        (("agreement",), [("a", "b"), ("a", "b"), ("a", "b")], ("rounds", 3)),
        (("no_change",), [("a", "b"), ("a", "b")], ("no_change", 2)),
        (("no_change",), [("a", "b"), ("b", "a"), ("a", "b")], ("rounds", 3)),
        (("no_change",), [("a", "a"), ("a", "a")], ("no_change", 2)),
        ((), [("a", "a"), ("a", "a"), ("a", "a")], ("rounds", 3)),
    ],
)
def test_stop_rules(stop: tuple[StopRule, ...], answers: list[tuple[str, str]], ends: tuple[str, int]):
    held, turns = rules(rounds=3, stop=stop), list[DebateTurn]()
    for number, pair in enumerate(answers, 1):
        assert protocol.following(held, turns) == Round(number=number, debaters=("ann", "bob"))
        turns += [said(number, name, answer) for name, answer in zip(NAMES, pair, strict=False)]
    end = ended(held, turns)
    assert (end.why, end.rounds) == ends


def test_who_babbles_is_excluded_from_then_on_and_its_share_goes_to_the_others():
    held = rules(3, tau=0.5)
    turns = [said(1, "ann", sure=90), said(1, "bob", sure=10), said(1, "cid", sure=99)]
    turns += [said(2, "ann", sure=80), lost(2, "cid", "cut_off"), said(2, "bob", sure=40)]
    end = ended(held, turns)
    assert end == End(why="rounds", rounds=2, heard=("ann", "bob"))
    shares = protocol.weights(held, turns, end)
    assert shares == pytest.approx({"ann": exp(1.6) / (exp(1.6) + exp(0.8)), "bob": exp(0.8) / (exp(1.6) + exp(0.8))})
    (out,) = protocol.excluded(turns, end)
    assert (out.debater, out.round, out.missing) == ("cid", 2, "cut_off")
    assert "cid: I say a." in protocol.transcript(turns, 2, held.debaters), "what it said before was said"
    assert protocol.following(rules(3, rounds=3), turns) == Round(number=3, debaters=("ann", "bob"))


def test_below_the_quorum_there_is_no_debate():
    turns = [said(1, "ann"), lost(1, "bob", "unavailable")]
    assert protocol.following(rules(quorum=2), turns) == End(why="too_few", rounds=1, heard=("ann",))
    end = ended(rules(), [lost(1, "ann"), lost(1, "bob")])
    assert end == End(why="too_few", rounds=1, heard=()) and protocol.weights(rules(), [], end) == {}


def test_a_round_begins_only_where_the_tokens_cover_it():
    turns = [said(1, "ann", tokens=30), said(1, "bob", tokens=10)]
    enough, short = (rules(max_tokens=30, tokens=tokens) for tokens in (100, 99))
    assert isinstance(protocol.following(enough, turns), Round)
    assert protocol.following(short, turns) == End(why="token_budget", rounds=1, heard=("ann", "bob"))


def test_a_round_that_time_cuts_does_not_count_but_the_first_does_for_who_has_spoken():
    held = rules(3, rounds=3, seconds=10.0)
    first = [said(1, "ann"), said(1, "bob"), lost(1, "cid", "late")]
    assert protocol.following(held, first, 11) == End(why="time_budget", rounds=1, heard=("ann", "bob"))
    whole = [said(1, name) for name in NAMES[:3]]
    assert protocol.following(held, whole, 9.9) == Round(number=2, debaters=NAMES[:3])
    assert protocol.following(held, whole, 10) == End(why="time_budget", rounds=1, heard=NAMES[:3])
    cut = [*whole, said(2, "ann", sure=100), lost(2, "bob", "late"), lost(2, "cid")]
    end = ended(held, cut, 11)
    assert end == End(why="time_budget", rounds=1, heard=NAMES[:3]) and not protocol.excluded(cut, end)
    assert protocol.weights(held, cut, end) == pytest.approx(dict.fromkeys(NAMES[:3], 1 / 3))
    assert protocol.transcript(cut, end.rounds, held.debaters).count("\n") == 2


def test_the_answer_is_the_position_of_the_most_weight():
    held = rules(3, rounds=1, tau=1.0)
    turns = [said(1, "ann", "A", 90), said(1, "bob", "b", 60), said(1, "cid", "B", 70)]
    end = ended(held, turns)
    assert not protocol.agreed(turns, end)
    assert protocol.favoured(turns, end, protocol.weights(held, turns, end)) == "B", (
        "two who are less sure outweigh one"
    )


@pytest.mark.parametrize("sure", ["101", "-1", "high", "0.5", "", "٣", "1000"])
def test_a_confidence_is_a_whole_number_from_0_to_100(sure: str):
    with pytest.raises(ValueError, match="confidence"):
        protocol.read(ONE, False, f"<argument>a</argument><answer>b</answer><confidence>{sure}</confidence>")


def test_what_a_template_asks_for_must_be_there_once():
    whole = "<think><answer>no</answer></think><argument>a</argument><answer>b</answer><confidence>7</confidence>"
    assert protocol.read(ONE, False, whole) == ("a", 7, "b")
    for broken in (whole.replace("<answer>b</answer>", ""), whole + "<argument>c</argument>", ""):
        with pytest.raises(ValueError, match=r"<(answer|argument|confidence)>"):
            protocol.read(ONE, False, broken)
    plain = DebateTemplate(ask=ONE.ask.replace("answer>", "x>"), ask_sighted=ONE.ask_sighted.replace("answer>", "x>"))
    assert protocol.read(plain, True, whole) == ("a", 7, None)


def test_templates_that_could_not_work_are_refused():
    words = ONE.model_dump()
    for field, text, says in (
        ("ask", words["ask"].replace("{question}", "?"), "ask: it must hold {question}"),
        ("ask", words["ask"].replace("{debate}", "?"), "ask: it must hold {debate}"),
        ("ask", words["ask_sighted"], "does not see"),
        ("ask_sighted", words["ask"], "ask_sighted: it must hold {attempt}"),
        ("ask", words["ask"].replace("<confidence>", ""), "<confidence>"),
    ):
        with pytest.raises(ValidationError, match=says.replace("{", r"\{")):
            DebateTemplate(**{**words, field: text})
    alone = DebateTemplate(**{**words, "rounds": 1, "ask": words["ask"].replace("{debate}", "")})
    assert protocol.hash_of(alone) != protocol.hash_of(ONE) == protocol.hash_of(DebateTemplate(**words))


KINDS: tuple[Missing, ...] = ("unavailable", "unreadable", "cut_off", "late")


@given(
    seed=st.integers(0, 10**6),
    debaters=st.integers(1, 8),
    rounds=st.integers(1, 4),
    failing=st.floats(0, 0.5),
    tau=st.floats(1e-3, 100),
    stop=st.sampled_from([(), ("agreement",), ("no_change",), ("agreement", "no_change")]),
    tokens=st.one_of(st.none(), st.integers(8, 400)),
)
@settings(max_examples=150, deadline=None)
def test_every_debate_ends_and_its_weights_are_shares_of_those_who_are_heard(
    seed: int,
    debaters: int,
    rounds: int,
    failing: float,
    tau: float,
    stop: tuple[StopRule, ...],
    tokens: int | None,
):
    rng = Random(seed)
    held = rules(debaters, rounds, tau=tau, stop=stop, tokens=tokens, max_tokens=12)
    turns, dead = list[DebateTurn](), set[str]()
    while isinstance(step := protocol.following(held, turns), Round):
        assert not dead & set(step.debaters), "who is excluded is not asked again"
        for name in rng.sample(step.debaters, rng.randint(1, len(step.debaters))):  # a worker may be lost in between
            if rng.random() < failing:
                turns.append(lost(step.number, name, rng.choice(KINDS)))
                dead |= {name}
            else:
                turns.append(said(step.number, name, rng.choice("ab"), rng.randint(0, 100), rng.randint(0, 12)))
    shares = protocol.weights(held, turns, step)
    assert tuple(shares) == step.heard
    assert len({(turn.round, turn.debater) for turn in turns}) == len(turns) <= debaters * rounds
    if tokens is not None:
        assert sum(turn.tokens for turn in turns) <= max(tokens, 12 * debaters), "the first round is checked at submit"
    if not step.heard:
        assert step.why == "too_few"
        return
    assert sum(shares.values()) == pytest.approx(1.0) and all(share >= 0 for share in shares.values())
    out = {each.debater for each in protocol.excluded(turns, step)}
    assert not out & set(step.heard) and out | set(step.heard) == set(held.debaters)
    other = [
        turn.model_copy(update={"confidence": 100 - (turn.confidence or 0)})
        if turn.debater in out and turn.missing is None
        else turn
        for turn in turns
    ]
    assert protocol.weights(held, other, step) == shares, "who is excluded counts for nothing"
    assert protocol.favoured(turns, step, shares) in ("a", "b")
