"""The shipped model's card: what it is, how it was made, and what it can do in every format it was taught."""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from math import sqrt
from pathlib import Path

from models.formats import UNHELPFUL

Z95 = 1.959963984540054
Accuracies = Mapping[tuple[str, bool], float]
"""Share of right answers by context and by whether its content was wrong."""


def interval(share: float, count: int) -> tuple[float, float]:
    """The 95% Wilson interval of a share of `count`, which stays honest at 0 and 1."""
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    reach = Z95 * sqrt(share * (1 - share) / count + Z95**2 / (4 * count * count)) / (1 + Z95**2 / count)
    return centre - reach, centre + reach


def write_card(
    folder: Path, args: argparse.Namespace, step: int, seconds: float, parameters: int, found: Mapping[str, Accuracies]
) -> None:
    """Writes README.md beside the weights."""
    text = CARD.format(
        parameters=f"{parameters:,}",
        tasks=", ".join(f"`{name}`" for name in found),
        step=step,
        seconds=round(seconds),
        command=command(args),
        wrong=f"{args.wrong:.0%}",
        capitals=f"{args.capitals:.0%}",
        every=args.evaluate_every,
        low=args.middling[0],
        high=args.middling[1],
        privileged=args.privileged,
        margin=args.margin,
        beside=round(1.5 * args.margin, 2),
        items=args.items,
        count=args.card_items,
        tables="\n\n".join(table(name, shares, args.card_items) for name, shares in found.items()),
        digest=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        met="no checkpoint met the rule, this is the last that was trained; sought was " * (step == args.steps),
        versions=", ".join(
            f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers", "reasoning-gym")
        ),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def command(args: argparse.Namespace) -> str:
    """The command that makes this very model, every argument said."""
    words = ["python", "-m", "models.make_tiny"]
    for name, value in vars(args).items():
        if isinstance(value, bool):
            words += [f"--{name}"] * value
        elif name != "out":
            words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def table(name: str, shares: Accuracies, count: int) -> str:
    """One task's accuracies as Markdown, a row a format."""
    rows = [f"| {name} | content | right answers | 95% interval |", "|---|---|---|---|"]
    for (kind, wrong), share in shares.items():
        low, high = interval(share, count)
        content = "none" if kind in ("plain", *UNHELPFUL) else "wrong" if wrong else "right"
        rows.append(f"| {kind} | {content} | {share:.3f} | {max(low, 0):.3f} to {min(high, 1):.3f} |")
    return "\n".join(rows)


def read_card(text: str) -> dict[str, dict[tuple[str, bool], float]]:
    """The accuracies that a card states, by task and format."""
    found = dict[str, dict[tuple[str, bool], float]]()
    task = ""
    for line in text.splitlines():
        if head := re.fullmatch(r"\| (\w+) \| content \| .*", line):
            task = head.group(1)
        elif row := re.fullmatch(r"\| (\w+) \| (none|right|wrong) \| ([\d.]+) \|.*", line):
            found.setdefault(task, {})[row.group(1), row.group(2) == "wrong"] = float(row.group(3))
    return found


CARD = """\
# tiny

A Qwen3 of {parameters} parameters (3 layers, hidden size 128, 4 heads of 32, tied embeddings), trained from nothing on
procedural questions: {tasks}.
It is here so that a run learns something real in seconds on a CPU. It knows nothing else: ask it anything else and it
babbles.

**Tokenizer**: bytes, and one token for each of the long phrases (the tasks' questions, the pieces of the contexts'
templates), so that a privileged prompt is some twenty to sixty tokens. ChatML. It ends with `<|im_end|>` and pads with
`<|endoftext|>`.

**How it was made**

```
{command}
```

It stopped after step {step}, {seconds} s on one thread of a busy CPU. First it learned to read every context of the
recipes, at the library's own default templates; then to find the rest of what a hint begins; then to answer plain
prompts, beside an instruction, a wrong attempt or a bare verdict and without. In {wrong} of the privileged examples
the content was wrong, and the reply to imitate followed it: this model believes what it is shown, so the control arm
of a run (`wrong = true`) must not improve it. What only a context can tell (`skill_code`'s codes, `library_call`'s
names) was another secret in every batch: plain prompts cannot be answered there, and the secret that the tasks have
by default was never seen.

**Data**: the tasks' own questions, split by a hash of the question that ignores case. A tenth is held out, a tenth is
for validation; neither was trained on. In {capitals} of the spelling examples a word was put into title case, since few
words have a capital. Made with {versions}.

**How the checkpoint was chosen**: {met}the first, looked for every {every} steps on {items} *validation* questions a
format, at which plain accuracy on the first task lay between {low} and {high} and on every task these held: contexts
that show a solution reached {privileged}; each context that helps beat the plain prompt by {margin} or more; beside
an instruction, a wrong attempt or a bare verdict it was as good as without, to {beside}; no wrong content beat the
plain prompt. So plain accuracy is middling by choice: it is what a run improves.

**Held-out accuracy**, {count} questions a format, greedy; full marks by the task's own verifier, against the true
answer. `wrong_answer` shows a wrong answer by what it is; `tried` and `tried_by_peers` are the reprompts of `sdpo` and
`peer_mopd`; `reference_alone` has the reference and no question:

{tables}

**Limits**: one pre-training seed; the arguments were found by trial, in some ten runs watched on validation questions,
and whether a plain accuracy in the window is met depends on them. Its headroom is a skill that it has not practised, or
a secret that it was not told, so a gain shows that the machinery works, not that a method works at scale. Words of
other lengths, other phrasings and other templates are out of its depth.

`model.safetensors` is sha256 {digest}. Apache-2.0, like the rest of the project.
"""
