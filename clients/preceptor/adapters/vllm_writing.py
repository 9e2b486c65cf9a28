"""Rollouts from a stock vLLM server, token ids in and out: what is asked of `POST /inference/v1/generate`, and how its
answer is read.

Observed of vLLM 0.32.0: `logprobs: 0` gives the written token's own log-probability and no other; with the server's
default `--logprobs-mode raw_logprobs` it is of the untempered, unfiltered distribution, whatever the temperature is; an
end token from `stop_token_ids` is among the answer's ids, with its log-probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any, cast

from preceptor.adapters.answers import list_of, number_of, object_of, rows_of
from preceptor.adapters.vllm import CLAMP, VllmClient
from preceptor.errors import Corrupt
from preceptor.wire.write import WriteRequest, Written

IN_FLIGHT = 96
"""Completions that the server is asked for at once: it batches them. httpx keeps up to 100 connections."""
POLL_SECONDS = 0.5
"""How often a wait for the next one looks up to see whether it is still wanted."""


def rollouts(
    client: VllmClient, request: WriteRequest, version: int, between: Callable[[], object]
) -> Iterator[Sequence[Written]]:
    """Every completion, those together that were finished at the same time, stamped with `version`. `between` is called
    now and then; what it raises ends the asking. Raises Corrupt where an answer is not whole."""

    def ask(job: int) -> Written:
        prompt = request.prompts[request.jobs[job].prompt]
        return written(client.generate(prompt, sampling(request, job)), job, version)

    with ThreadPoolExecutor(min(IN_FLIGHT, len(request.jobs)), thread_name_prefix="rollout") as threads:
        asked = {threads.submit(ask, job) for job in range(len(request.jobs))}
        try:
            while asked:
                between()
                done, asked = wait(asked, POLL_SECONDS, FIRST_COMPLETED)
                yield [each.result() for each in done]
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def sampling(request: WriteRequest, job: int) -> dict[str, Any]:
    """The sampling parameters of one completion. All that the model's own generation config could set are set: what is
    learned from is drawn from the whole distribution, and ends where the learner's tokenizer says."""
    wanted = request.jobs[job]
    return {
        "max_tokens": wanted.max_tokens,
        "temperature": request.temperature,
        "seed": wanted.seed,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "min_tokens": 0,
        "ignore_eos": True,
        "stop_token_ids": list(request.ends),
        "logprobs": 0,
        "detokenize": False,
    }


def written(body: Any, job: int, version: int) -> Written:
    """One completion out of an answer. Raises Corrupt where a token comes without its log-probability."""
    choices = rows_of(body, "choices")
    if len(choices) != 1:
        raise Corrupt(f"completion {job}: answered with {len(choices)} choices where one was asked for.")
    choice, where = choices[0], f"completion {job}"
    ids = cast("list[int] | None", choice.get("token_ids"))
    if not ids:
        raise Corrupt(f"{where}: no token was written.")
    said = object_of(choice.get("logprobs"), f"{where}: logprobs")
    entries = list_of(said.get("content"), len(ids), f"{where}: logprobs")
    logprobs = list[float]()
    for position, (token, entry) in enumerate(zip(ids, entries, strict=True)):
        place = f"token {position} of {where}"
        found = object_of(entry, place)
        if found.get("token_id") != token:
            raise Corrupt(f"{place}: the log-probability is of {found.get('token_id')}, and {token} was written.")
        logprob = number_of(found.get("logprob"), place)
        if logprob <= CLAMP:
            raise Corrupt(f"{place}: was written, and is stated to be impossible.")
        logprobs.append(logprob)
    return Written(
        job=job,
        token_ids=tuple(ids),
        logprobs=tuple(logprobs),
        finished=choice.get("finish_reason") == "stop",
        weights_version=version,
    )
