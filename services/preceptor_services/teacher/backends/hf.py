"""transformers on this machine: the same scoring code as in the trainer, behind the teacher's seam."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor as TorchTensor
from transformers import DynamicCache

from preceptor.errors import TooLarge
from preceptor.fingerprint import tokenizer_file
from preceptor.frames import hash_of, head_buffers
from preceptor.tensorfiles import open_folder, weights_hash
from preceptor.tensors import Tensor
from preceptor.wire.score import Numbers, ScoreRequest
from preceptor.wire.teachers import HeadCard, Support
from preceptor.wire.tokenizers import body_hash
from preceptor.wire.write import WriteRequest, Written
from preceptor_services.teacher.backends import About, Draw, Layout, NamedFile, NewWeights, Token
from preceptor_services.teacher.backends.compiling import compiled
from preceptor_services.teacher.backends.hf_weights import layout_of, made_ready, named
from preceptor_services.teacher.openai import ChatMessage
from preceptor_trainer import scoring
from preceptor_trainer.model import Model, eos_ids, head_of, load_model, prompt_ids
from preceptor_trainer.sampler import Job, LocalSampler

CPU_TOKENS, GPU_TOKENS = 2_048, 8_192
"""In one forward pass: what a CPU's caches hold the work of (2,048 was about a tenth faster than 8,192, measured with
models of 0.2 M and 58 M parameters), and what keeps a GPU busy."""


class HfBackend:
    """A model folder, served."""

    untempered, writes = False, True

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        forward_tokens: int | None = None,
        prefix_bytes: int = 1 << 28,
        compile: bool = False,
    ) -> None:
        """forward_tokens: in one pass; None: what suits the device. compile: the layers, by torch.

        Raises UnreadableModel, or Invalid (`dtype`, `compile`).
        """
        self._model = load_model(folder, device=device, dtype=dtype)
        self._prefixes = scoring.PrefixCache(prefix_bytes) if prefix_bytes else None
        self.pass_tokens = forward_tokens or (CPU_TOKENS if self._model.device.type == "cpu" else GPU_TOKENS)
        self._scorer = scoring.Scorer(
            self._model,
            batch_tokens=self.pass_tokens,
            prefixes=self._prefixes,
            forward=compiled(self._model) if compile else None,
        )
        self.text = HfText(self._model)
        weight_VD, bias_V = head_of(self._model.module)
        self._head = _frame(weight_VD, bias_V)
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
            weights_hash=weights_hash(open_folder(folder)),
        )

    def head(self) -> Sequence[bytes | memoryview]:
        """The output projection in the weights' own dtype."""
        return self._head

    def layout(self) -> Layout:
        """Raises Invalid for a model that is kept in memory otherwise than in its files."""
        return layout_of(self._model.module, self._model.folder)

    def prepare(self, weights: NewWeights) -> Callable[[], None]:
        """See `Backend`. Takes memory for what changes, beside what is live."""
        module, was = self._model.module, self.about
        fresh = made_ready(module, weights.tensors, weights.changed)
        tensors = named(module)
        heirs = {id(tensors[name]): tensor for name, tensor in fresh.items()}
        weight_VD, bias_V = head_of(module)
        head, card = self._head, was.head
        if card is not None and (id(weight_VD) in heirs or id(bias_V) in heirs):
            bias_V = None if bias_V is None else heirs.get(id(bias_V), bias_V)
            head = _frame(heirs.get(id(weight_VD), weight_VD), bias_V)
            card = card.model_copy(update={"hash": hash_of(head)})
        about = replace(was, head=card, weights_version=weights.version, weights_hash=weights.hash)

        def exchange() -> None:
            for name, tensor in fresh.items():
                tensors[name].data = tensor
            self._head, self.about = head, about
            if self._prefixes is not None:
                self._prefixes.forget(was.weights_version)

        return exchange

    def begin(self, request: ScoreRequest) -> scoring.Scoring:
        """See `preceptor_services.teacher.merging`."""
        return self._scorer.open(request, self.about.weights_version)

    def advance(self, parts: Sequence[scoring.Scoring]) -> Sequence[int]:
        """One forward pass. Raises TooLarge where there is no memory for it."""
        try:
            return self._scorer.advance(parts)
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            raise TooLarge(
                f"This teacher has no memory for one forward pass of up to {self.pass_tokens} tokens.",
                remedy="Send shorter rows; or start the teacher with a lower PRECEPTOR_TEACHER_FORWARD_TOKENS.",
            ) from None

    def numbers(self, part: scoring.Scoring) -> Numbers:
        """Of a finished part."""
        return part.numbers()

    def answer_bytes(self, request: ScoreRequest) -> int:
        """Memory that its numbers take."""
        return scoring.answer_bytes(request, self._model.module.config.get_text_config().hidden_size)

    def score(self, request: ScoreRequest, between: Callable[[], object]) -> Numbers:
        """One request by itself: see `preceptor_trainer.scoring`."""
        part = self.begin(request)
        while part.left:
            between()
            self.advance([part])
        return part.numbers()

    def write(self, wanted: WriteRequest, between: Callable[[], object]) -> Iterator[Sequence[Written]]:
        """By the trainer's own sampler, a token of every row a turn: the same jobs give the same bits in both."""
        jobs = [
            Job(prompt_ids=wanted.prompts[job.prompt], seed=job.seed, max_tokens=job.max_tokens) for job in wanted.jobs
        ]
        version = self.about.weights_version
        for finished in LocalSampler(self._model, ends=wanted.ends).steps(jobs, wanted.temperature):
            between()
            yield [
                Written(
                    job=number,
                    token_ids=written.token_ids,
                    logprobs=written.logprobs,
                    finished=written.finished,
                    weights_version=version,
                )
                for number, written in finished
            ]


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


def _frame(weight_VD: TorchTensor, bias_V: TorchTensor | None) -> list[bytes | memoryview]:
    return head_buffers(_on_the_wire(weight_VD), None if bias_V is None else _on_the_wire(bias_V))


def _is_memory(error: BaseException) -> bool:
    """torch has no class of its own for a CPU that refuses an allocation."""
    return not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error)


def _on_the_wire(weight: TorchTensor) -> Tensor:
    array = weight.detach().cpu().contiguous()
    if array.dtype == torch.bfloat16:
        return Tensor("BF16", array.view(torch.uint16).numpy())
    return Tensor.of(array.float().numpy())


def set_threads(count: int) -> None:
    """How many threads torch computes with, in this process."""
    torch.set_num_threads(count)
