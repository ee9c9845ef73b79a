"""The chat of the talk on Ray Serve's architecture, with only the import changed: half a GPU per replica, autoscaled.

    serve run serve_rt.examples.chat:app                  # on a machine with GPUs
    serve run --num-gpus 2 serve_rt.examples.chat:app     # elsewhere: two declared GPUs, the model on the CPU

The client sends the JSON text JSON-encoded once more, as in the talk:

    curl -s http://127.0.0.1:8000/ -d '"{\\"user_input\\": \\"hello there\\", \\"history\\": []}"'

`SERVE_CHAT_MODEL=facebook/blenderbot-400M-distill` takes the real model where the hub is reachable. Without it a tiny
Blenderbot with random weights is built once (`tiny_blenderbot.py`): it talks nonsense, but through the same classes.
`__call__` runs the model synchronously inside `async`: a busy replica is not a dead one.
"""

from __future__ import annotations

import json
import os
from typing import Any

from starlette.requests import Request

import serve_rt as serve
from serve_rt.examples.tiny_blenderbot import TINY_BLENDERBOT, locate

MAX_HISTORY = 4


@serve.deployment(
    ray_actor_options={"num_gpus": 0.5},
    autoscaling_config={"min_replicas": 1, "max_replicas": 4, "target_num_ongoing_requests_per_replica": 5},
    retry_safe=True,
)
class Chat:
    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        path = locate(model)
        wants_gpu = bool(os.environ.get("CUDA_VISIBLE_DEVICES")) and torch.cuda.is_available()
        self.device = "cuda" if wants_gpu else "cpu"
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(path).to(self.device).eval()

    async def __call__(self, request: Request) -> dict[str, str]:
        data = json.loads(await request.json())
        return {"response": self.get_response(data["user_input"], data["history"])}

    def get_response(self, user_input: str, history: list[str]) -> str:
        turns = [*history[-MAX_HISTORY:], user_input]
        inputs = self._encode("\n".join(turns))
        output = self.model.generate(**inputs, max_new_tokens=24, num_beams=1, do_sample=False)
        text: str = self.tokenizer.batch_decode(output, skip_special_tokens=True)[0]
        return text.strip()

    def _encode(self, text: str) -> Any:
        # The end of a long conversation is what the answer is about.
        self.tokenizer.truncation_side = "left"
        return self.tokenizer(text, truncation=True, max_length=128, return_tensors="pt").to(self.device)


chat = app = Chat.bind(model=os.environ.get("SERVE_CHAT_MODEL", TINY_BLENDERBOT))
