"""Our service in front of SGLang: its server as our child or at a URL, asked through its own `/generate`.

Weights are reloaded in place, through the engine's own `update_weights_from_disk`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from preceptor.adapters import Stock
from preceptor.adapters.sglang import SglangClient
from preceptor_services.teacher.backends.engine import EngineBackend, EngineProcess, stated_tokenizer

NAME = "teacher"
"""What the engine calls the model."""


class SglangBackend(EngineBackend):
    """A model folder, served by SGLang."""

    _client: SglangClient

    def _load(self, folder: Path) -> None:
        self._client.reload_weights(str(folder))


def connect(
    folder: Path, url: str, key: str | None = None, process: EngineProcess | None = None, *, device: str, dtype: str
) -> SglangBackend:
    """A backend over an SGLang server that answers already. Device and dtype are stated where it does not say."""
    stock = Stock(name=NAME, tokenizer=stated_tokenizer(folder))
    return SglangBackend(SglangClient(url, key, stock), folder, process, device=device, dtype=dtype)


def launch(
    folder: Path, python: str, port: int, *, key: str, device: str, dtype: str, options: Sequence[str] = ()
) -> EngineProcess:
    """Start an SGLang server. `options` go to it as they are."""
    command = [
        python, "-m", "sglang.launch_server", "--model-path", str(folder), "--served-model-name", NAME,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", dtype, "--api-key", key,
    ]  # fmt: skip
    environment = {"HF_HUB_OFFLINE": "1"}
    if device == "cpu":
        command += ["--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"]
        command += ["--mem-fraction-static", "0.2", "--max-total-tokens", "20000"]
        environment["SGLANG_USE_CPU_ENGINE"] = "1"
    return EngineProcess("SGLang", [*command, *options], environment)
