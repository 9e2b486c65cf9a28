"""Our service in front of vLLM: its server as our child or at a URL, asked token-in and without detokenisation.

Weights are reloaded in place, through the engine's own `reload_weights`: the server must run with
VLLM_SERVER_DEV_MODE=1, as the one that we start does. A LoRA adapter is merged by us first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from preceptor.adapters import Stock
from preceptor.adapters.vllm import VllmClient
from preceptor.adapters.vllm_writing import rollouts
from preceptor.errors import Invalid, NotFound, ServerFault
from preceptor.fingerprint import tokenizer_card
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.teacher.backends import Layout
from preceptor_services.teacher.backends.engine import EngineBackend, EngineProcess, stated_tokenizer

NAME = "teacher"
"""What the engine calls the model."""


class VllmBackend(EngineBackend):
    """A model folder, served by vLLM."""

    _client: VllmClient

    def layout(self) -> Layout:
        """See `EngineBackend`. Raises Invalid for a tied head on a CPU: vLLM 0.32.0 packs it when it loads it, and goes
        on with that copy after a reload (measured)."""
        layout = super().layout()
        if self.about.device == "cpu" and layout.tied:
            raise Invalid(
                "model: vLLM on a CPU keeps the old head of a model whose head is tied to its embedding: no other "
                "weights can be loaded.",
                field="model",
                remedy="Give the model a head of its own (tie_word_embeddings false), or use the hf backend.",
            )
        return layout

    untempered = True

    @property
    def writes(self) -> bool:
        """Whether the server takes token ids and says what each that it writes was worth."""
        return self._client.token_in

    def write(self, wanted: WriteRequest, between: Callable[[], object]) -> Iterator[Sequence[Written]]:
        """By vLLM's own sampler, a request a completion. Raises ServerFault as `score` does."""
        with self._asking():
            yield from rollouts(self._client, wanted, self.about.weights_version, between)

    def _load(self, folder: Path) -> None:
        try:
            self._client.reload_weights(str(folder))
        except NotFound as error:
            raise Invalid(
                "weights: the vLLM server behind this teacher takes none.",
                field="weights",
                remedy="Start it with VLLM_SERVER_DEV_MODE=1, on an address that only this service reaches.",
            ) from error
        except ServerFault as error:
            raise ServerFault(f"vLLM could not load {folder.name}: {error.problem.detail}") from error


def connect(
    folder: Path, url: str, key: str | None = None, process: EngineProcess | None = None, *, device: str, dtype: str
) -> VllmBackend:
    """A backend over a vLLM server that answers already. It does not say its device and dtype: they are stated."""
    stock = Stock(name=NAME, tokenizer=stated_tokenizer(folder))
    return VllmBackend(VllmClient(url, key, stock), folder, process, device=device, dtype=dtype)


def launch(
    folder: Path, python: str, port: int, *, key: str, device: str, dtype: str, max_k: int, options: Sequence[str] = ()
) -> EngineProcess:
    """Start a vLLM server with the flags that scoring needs. `options` go to it as they are."""
    max_k = min(max_k, tokenizer_card(folder).vocab_size)  # asked for more than there are, the engine ends
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server",  # `vllm serve` does not start in the CPU build
        "--model", str(folder), "--served-model-name", NAME, "--host", "127.0.0.1", "--port", str(port),
        "--dtype", dtype, "--max-logprobs", str(max_k), "--enable-scale-out",
    ]  # fmt: skip
    environment = {"VLLM_API_KEY": key, "VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        # Compiling takes longer than it saves: without these the first scores wait for half a minute each.
        command.append("--enforce-eager")
        environment |= {"TORCHDYNAMO_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    return EngineProcess("vLLM", [*command, *options], environment)
