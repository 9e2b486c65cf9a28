"""What the backends in front of an engine share: the engine's server beside us or elsewhere, asked through the SDK's
adapter, so that a stock server registered by URL and one behind our service give the same numbers.

Ours outside: keys, limits, the queue, frames, stamps, weights versions. The engine's inside: the forward pass.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from preceptor.adapters.stock import UNSTATED, StockClient
from preceptor.closing import Closing
from preceptor.errors import Corrupt, Invalid, NotFound, PreceptorError, ServerFault, Unreachable
from preceptor.fingerprint import tokenizer_card, tokenizer_file
from preceptor.samples import token_samples
from preceptor.tensorfiles import file_pieces, open_folder, weights_hash
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import TokenizerCard
from preceptor.wire.tokenizers import body_hash
from preceptor_services.teacher import guard
from preceptor_services.teacher.backends import About, Layout, NamedFile, NewWeights, Text

HEAD = "lm_head.weight"
_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")
"""What of a model's folder is weights."""
LANES = 8
"""Requests in flight at once: it batches their sequences, and a small one does not wait for a large one."""
READY_SECONDS = 1800.0
"""A large model is loaded from a slow disk in minutes."""


class EngineProcess:
    """An engine's server as our child: it ends with us, whole."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it. Its output is ours."""
        self.name = name
        self._popen = subprocess.Popen(guard.command(*command), env={**os.environ, **environment})

    def wait_until(self, answers: Callable[[], object], seconds: float = READY_SECONDS) -> None:
        """Look until it answers. Raises ServerFault when it ends first, or takes longer."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            try:
                answers()
            except PreceptorError as error:
                if time.monotonic() > deadline:
                    raise ServerFault(
                        f"{self.name} did not answer within {seconds:g} s ({error}).", remedy="Its log says why."
                    ) from error
                time.sleep(0.25)
            else:
                return

    def check(self) -> None:
        """Raises ServerFault where it has ended."""
        code = self._popen.poll()
        if code is not None:
            raise ServerFault(
                f"{self.name} has ended with exit code {code}.",
                remedy="Its last words are in this teacher's log; start the teacher again.",
            )

    def close(self) -> None:
        """Stop it, and everything that it started."""
        if self._popen.poll() is None:
            self._popen.terminate()
        self._popen.wait(guard.GRACE_SECONDS + 20)


class EngineBackend(Closing):
    """An engine's server as a backend. Not a text teacher: whoever wants text asks the engine's own endpoints."""

    text: Text | None = None

    def __init__(
        self, client: StockClient, folder: Path, process: EngineProcess | None = None, *, device: str, dtype: str
    ) -> None:
        """`folder`: of the model that the engine serves. `device`, `dtype`: what its operator says, for an engine
        that does not. Raises Invalid where what answers is not it."""
        self._client, self._folder, self._process = client, folder, process
        self._card = client.card()
        self._lost: PreceptorError | None = None
        content = tokenizer_file(folder).model_dump_json().encode()
        self.about = About(
            model=folder.resolve().name,
            engine=self._card.engine,
            device=device if self._card.device == UNSTATED else self._card.device,
            dtype=dtype if self._card.dtype == UNSTATED else self._card.dtype,
            tokenizer=self._card.tokenizer,
            max_tokens=self._card.limits.max_tokens,
            supports=self._card.supports,
            head=None,
            tokenizer_file=NamedFile(hash=body_hash(content), content=content),
            max_k=self._card.limits.max_k,
            lanes=LANES,
            weights_hash=weights_hash(open_folder(folder)),
        )

    def head(self) -> None:
        """None: an engine's server gives no output projection."""
        return None

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        """Through the adapter. Raises ServerFault where the engine has ended, does not answer, or lost its weights."""
        with self._asking():
            return self._client.numbers(request, between=between)[0]

    @contextmanager
    def _asking(self) -> Generator[None]:
        """Around what is asked of the engine. Raises ServerFault as `score` does."""
        if self._lost is not None:
            raise ServerFault(
                f"The engine behind this teacher broke off while it loaded weights ({self._lost.problem.detail}), and "
                "which ones it has is not known.",
                remedy="Load a version again, or start the teacher again.",
            )
        try:
            yield
        except Corrupt as error:  # as a 502 it would be taken for a proxy's, and asked for again and again
            raise ServerFault(
                f"The {self._client.engine} engine behind this teacher: {error.problem.detail}"
            ) from error
        except Unreachable as error:
            if self._process is not None:
                self._process.check()
            raise ServerFault(
                f"The {self._client.engine} engine behind this teacher does not answer ({error.problem.detail}).",
                remedy="See its log; start it again.",
            ) from error

    def layout(self) -> Layout:
        """By the names in the files: the engine reads such files again."""
        shapes = {name: stored.shape for name, stored in open_folder(self._folder).items()}
        config = json.loads((self._folder / "config.json").read_text(encoding="utf-8"))
        embedding = next((name for name in shapes if name.endswith("embed_tokens.weight")), None)
        tied: dict[str, str] = {}
        if embedding is not None and config.get("tie_word_embeddings"):
            tied[HEAD] = embedding
            shapes.pop(HEAD, None)
        return Layout(folder=self._folder, shapes=shapes, tied=tied, head=frozenset({tied.get(HEAD, HEAD)}))

    def prepare(self, weights: NewWeights) -> Callable[[], None]:
        """Write a model folder that the engine can read. What is returned has it loaded, which takes the engine's time.

        That raises Invalid where the engine refuses, which changes nothing, and ServerFault or Unreachable where it
        broke off: then nobody knows which weights it has, and no score is given until a version was loaded.
        """
        folder = Path(tempfile.mkdtemp(prefix="version-", dir=weights.spool))
        try:
            for path in self._folder.iterdir():
                if path.is_file() and not path.name.endswith(_WEIGHTS):
                    shutil.copy(path, folder)
            _, pieces = file_pieces(weights.tensors)
            with (folder / "model.safetensors").open("wb") as file:
                file.writelines(pieces)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        about = replace(self.about, weights_version=weights.version, weights_hash=weights.hash)

        def reload() -> None:
            try:
                self._load(folder)
            except (Invalid, NotFound):
                raise  # refused: what it had goes on
            except PreceptorError as error:
                self._lost = error
                raise
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            self.about, self._lost = about, None

        return reload

    @abstractmethod
    def _load(self, folder: Path) -> None:
        """Have the engine serve the weights in `folder` from now on."""

    def close(self) -> None:
        """Close the connections; stop the engine where it is ours."""
        self._client.close()
        if self._process is not None:
            self._process.close()


def stated_tokenizer(folder: Path) -> TokenizerCard:
    """The tokenizer of a model folder, with tokens to ask the engine about."""
    return tokenizer_card(folder).model_copy(update={"samples": token_samples(folder)})
