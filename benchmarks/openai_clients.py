"""Do ordinary clients of OpenAI's API work with `prealign serve` and a key? One line for each thing that is tried.

python -m venv clients && clients/bin/pip install openai langchain-openai litellm
clients/bin/python benchmarks/openai_clients.py http://127.0.0.1:8000/v1 http://127.0.0.1:8001/v1

The addresses are those of `prealign serve RUN --task both`, the key comes from PREALIGN_API_KEY. It needs nothing of
this project, and a model with a chat template.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched

import litellm
import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings

URL, EMBEDDINGS_URL = sys.argv[1:3]
KEY = os.environ["PREALIGN_API_KEY"]
CLIENT = openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)
MODEL = CLIENT.models.list().data[0].id
USER: list[Any] = [{"role": "user", "content": "Wie ist das Wetter?"}]
PARTS: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Wie ist"}, {"type": "text", "text": "es?"}]}]
PICTURE: list[Any] = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]
SCHEMA = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
MORE = {"store": True, "metadata": {"a": "b"}, "parallel_tool_calls": True, "logit_bias": {"5": 1}, "user": "me"}

# What our clients are made of.
chat = CLIENT.chat.completions
chain = ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, max_tokens=8, max_retries=0)
lite = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": KEY, "max_tokens": 8}
embedder = OpenAIEmbeddings(base_url=EMBEDDINGS_URL, api_key=KEY, model=MODEL, check_embedding_ctx_length=False)


def refused(ask: Callable[[], Any]) -> str:
    """The reason of a refusal."""
    try:
        ask()
    except openai.BadRequestError as error:
        return str(error.body["message"] if isinstance(error.body, dict) else error)
    raise AssertionError("it was not refused")


TRIED: dict[str, Callable[[], Any]] = {
    "openai: chat": lambda: chat.create(model=MODEL, messages=USER, max_tokens=8).choices[0].message.content,
    "openai: content in parts": lambda: chat.create(model=MODEL, messages=PARTS, max_tokens=8).choices[0].finish_reason,
    "openai: content null": lambda: (
        chat.create(
            model=MODEL, messages=[{"role": "assistant", "content": None}, *USER], max_tokens=8
        ).usage.total_tokens
    ),
    "openai: store, metadata, parallel_tool_calls, logit_bias, user": lambda: (
        chat.create(model=MODEL, messages=USER, max_tokens=8, **MORE).choices[0].finish_reason
    ),
    "openai: response_format text": lambda: (
        chat.create(model=MODEL, messages=USER, max_tokens=8, response_format={"type": "text"}).choices[0].finish_reason
    ),
    "openai: response_format json_schema": lambda: (
        chat.create(
            model=MODEL,
            messages=USER,
            max_tokens=20,
            response_format={"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}},
        )
        .choices[0]
        .message.content
    ),
    "openai: chat, streamed": lambda: len(list(chat.create(model=MODEL, messages=USER, max_tokens=8, stream=True))),
    "openai: completions": lambda: CLIENT.completions.create(model=MODEL, prompt=["a", "b"], n=2).usage.total_tokens,
    "openai: a picture is refused": lambda: refused(lambda: chat.create(model=MODEL, messages=PICTURE)),
    "openai: embeddings": lambda: len(
        openai.OpenAI(base_url=EMBEDDINGS_URL, api_key=KEY).embeddings.create(model=MODEL, input="x").data[0].embedding
    ),
    "langchain: invoke": lambda: chain.invoke("Hallo").content,
    "langchain: system, parts, earlier answer": lambda: chain.invoke(
        [SystemMessage("Kurz."), HumanMessage([{"type": "text", "text": "a"}]), AIMessage("b"), HumanMessage("c")]
    ).response_metadata["finish_reason"],
    "langchain: stream": lambda: len(list(chain.stream("Hallo"))),
    "langchain: batch": lambda: len(chain.batch(["a", "b", "c"])),
    "langchain: ainvoke": lambda: asyncio.run(chain.ainvoke("Hallo")).usage_metadata["output_tokens"],
    "langchain: completions": lambda: OpenAI(base_url=URL, api_key=KEY, model=MODEL, max_tokens=8).invoke("Hallo"),
    "langchain: embeddings": lambda: [len(vector) for vector in embedder.embed_documents(["a", "b"])],
    "litellm: chat": lambda: litellm.completion(messages=USER, **lite).choices[0].message.content,
    "litellm: chat, streamed": lambda: len(list(litellm.completion(messages=USER, stream=True, **lite))),
    "litellm: completions": lambda: (
        litellm.text_completion(prompt="Hallo", **(lite | {"model": f"text-completion-openai/{MODEL}"})).choices[0].text
    ),
    "litellm: embeddings": lambda: len(
        litellm.embedding(model=f"openai/{MODEL}", input=["a", "b"], api_base=EMBEDDINGS_URL, api_key=KEY).data
    ),
}


def main() -> int:
    failed = 0
    print(", ".join(f"{name} {version(name)}" for name in ("openai", "langchain-openai", "litellm")))
    for name, ask in TRIED.items():
        try:
            result = repr(ask())
        except Exception as error:  # whatever a client makes of a refusal is a row of the table
            result, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        print(f"| {name} | {result[:100]} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
