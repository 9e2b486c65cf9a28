"""A teacher that answers honestly until the file SPOIL exists, then with NaN: `python bad_teacher.py URL PORT SPOIL`.

It stands in front of a real teacher, so that its card, its head and its honest scores are real.
"""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import uvicorn
from safetensors.numpy import load, save
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KEPT = {"content-type", "etag", "accept-ranges"}


def create_app(url: str, spoil: Path) -> Starlette:
    """The application in front of the teacher at `url`."""
    client = httpx.AsyncClient(base_url=url, timeout=60)

    async def forward(request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        answer = await client.request(
            request.method, request.url.path, content=await request.body(), headers=headers, params=request.query_params
        )
        body = answer.content
        if request.url.path == "/v1/score" and answer.status_code == 200 and spoil.exists():
            body = spoiled(body)
        kept = {name: value for name, value in answer.headers.items() if name in KEPT}
        return Response(body, answer.status_code, kept)

    return Starlette(routes=[Route("/{path:path}", forward, methods=["GET", "POST", "HEAD"])])


def spoiled(frame: bytes) -> bytes:
    """The answer with one log-probability that is not a number; its stamp stays."""
    import json

    length = int.from_bytes(frame[:8], "little")
    metadata = json.loads(frame[8 : 8 + length])["__metadata__"]
    tensors = {name: tensor.copy() for name, tensor in load(frame).items()}
    tensors["logprob"][len(tensors["logprob"]) // 2] = float("nan")
    return save(tensors, metadata)


if __name__ == "__main__":
    uvicorn.run(
        create_app(sys.argv[1], Path(sys.argv[3])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning"
    )
