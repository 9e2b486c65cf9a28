"""transformers on this machine: the same scoring code as in the trainer, behind the teacher's seam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor as TorchTensor
from transformers import DynamicCache

from preceptor.fingerprint import tokenizer_file
from preceptor.frames import hash_of, head_buffers
from preceptor.tensors import Tensor
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import HeadCard, Support
from preceptor.wire.tokenizers import body_hash
from preceptor_services.teacher.backends import About, Draw, NamedFile, Token
from preceptor_services.teacher.openai import ChatMessage
from preceptor_trainer import scoring
from preceptor_trainer.model import Model, eos_ids, head_of, load_model, prompt_ids


class HfBackend:
    """A model folder, served."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        forward_tokens: int = 8192,
        prefix_bytes: int = 1 << 28,
    ) -> None:
        """Raises UnreadableModel, or Invalid (`dtype`)."""
        self._model = load_model(folder, device=device, dtype=dtype)
        self._forward_tokens = forward_tokens
        self._prefixes = scoring.PrefixCache(prefix_bytes) if prefix_bytes else None
        self.text = HfText(self._model)
        weight_VD, bias_V = head_of(self._model.module)
        self._head = head_buffers(_on_the_wire(weight_VD), None if bias_V is None else _on_the_wire(bias_V))
        # What can be asked for is what both sides know: a padded vocabulary has rows without tokens, and they are rows.
        tokenizer = self._model.card.model_copy(update={"vocab_size": weight_VD.shape[0]})
        self.about = About(
            model=folder.resolve().name,
            engine=f"hf {transformers.__version__} / torch {torch.__version__}",
            device=str(self._model.device),
            dtype=dtype,
            tokenizer=tokenizer,
            max_tokens=self._model.max_tokens,
            supports=tuple(Support),
            head=HeadCard(hash=hash_of(self._head), hidden_size=weight_VD.shape[1], bias=bias_V is not None),
            tokenizer_file=tokenizer_file_of(folder),
        )

    def head(self) -> Sequence[bytes | memoryview]:
        """The output projection in the weights' own dtype."""
        return self._head

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        """See `preceptor_trainer.scoring`."""
        return scoring.score(
            self._model,
            request,
            batch_tokens=self._forward_tokens,
            between=between,
            prefixes=self._prefixes,
            version=self.about.weights_version,
        )


def tokenizer_file_of(folder: Path) -> NamedFile:
    """What `GET /v1/tokenizer` serves of a model's folder."""
    content = tokenizer_file(folder).model_dump_json().encode()
    return NamedFile(hash=body_hash(content), content=content)


class HfText:
    """The text side: encode, decode, write."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._lock = threading.Lock()  # a fast tokenizer breaks when two threads use it at once
        self.ends = eos_ids(model)

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it is, nothing added."""
        with self._lock:
            return self._model.tokenizer.encode(text, add_special_tokens=False)

    def prompt_ids(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Through the model's chat template."""
        with self._lock:
            return prompt_ids(self._model, [{"role": each.role, "content": each.content} for each in messages])

    def decode(self, ids: Sequence[int]) -> str:
        """Special tokens left out."""
        with self._lock:
            return str(self._model.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.inference_mode()
    def write(self, prompt: Sequence[int], draw: Draw) -> Iterator[Token]:
        """One token per forward pass, with cached keys and values. The same seed writes the same text."""
        module: Any = self._model.module
        device = self._model.device
        random = torch.Generator().manual_seed(draw.seed)
        cache = DynamicCache(config=module.config)
        ids_BS = torch.tensor([list(prompt)], device=device)
        for _ in range(draw.max_tokens):
            logits_V = module(input_ids=ids_BS, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            logprob_V = logits_V.float().log_softmax(dim=-1).cpu()
            token = _draw(logprob_V, draw, random)
            values, ids = logprob_V.topk(min(draw.top, len(logprob_V)))
            top = tuple(zip(cast("list[int]", ids.tolist()), cast("list[float]", values.tolist()), strict=True))
            yield Token(id=token, logprob=float(logprob_V[token]), top=top)
            if token in self.ends:
                return
            ids_BS = torch.tensor([[token]], device=device)


def _draw(logprob_V: TorchTensor, draw: Draw, random: torch.Generator) -> int:
    if draw.temperature == 0:
        return int(logprob_V.argmax())
    probability_V = (logprob_V / draw.temperature).softmax(dim=-1)
    if draw.top_p < 1:
        ordered, index = probability_V.sort(descending=True)
        # The token that crosses the threshold stays: the nucleus is never empty.
        beyond = ordered.cumsum(dim=-1) - ordered >= draw.top_p
        probability_V[index[beyond]] = 0
    return int(torch.multinomial(probability_V, 1, generator=random))


def _on_the_wire(weight: TorchTensor) -> Tensor:
    array = weight.detach().cpu().contiguous()
    if array.dtype == torch.bfloat16:
        return Tensor("BF16", array.view(torch.uint16).numpy())
    return Tensor.of(array.float().numpy())


def set_threads(count: int) -> None:
    """How many threads torch computes with, in this process."""
    torch.set_num_threads(count)
