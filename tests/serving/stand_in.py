"""Takes vLLM's place as a process: its command line, health, models, slow streams, and a drain at SIGTERM.

    python -m tests.serving.stand_in serve FOLDER --served-model-name A B --uds SOCKET | --host HOST --port PORT ...

A completion streams `max_tokens` pieces, one every 0.02 s. What happens is printed: "began", "ended", "left by client".
With STAND_IN_FAULT=error every POST fails, with "dies" the process ends at the first one.
"""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


def application(names: list[str], root: str) -> Starlette:
    fault = os.environ.get("STAND_IN_FAULT")

    async def health(request: Request) -> Response:
        return Response()

    async def models(request: Request) -> Response:
        data = [{"id": name, "root": root, "max_model_len": 128, "object": "model"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def post(request: Request) -> Response:
        body = await request.json()
        if fault == "dies":
            os._exit(3)
        if fault == "error":
            return JSONResponse({"error": {"message": "secret path /private/x"}}, 500)
        if not body.get("stream"):
            return JSONResponse({"path": request.url.path, "headers": dict(request.headers), "body": body})
        return StreamingResponse(stream(body.get("max_tokens", 16)), media_type="text/event-stream")

    async def stream(count: int) -> AsyncIterator[str]:
        print("began", flush=True)
        try:
            for number in range(count):
                await asyncio.sleep(0.02)
                yield f"data: {json.dumps({'choices': [{'index': 0, 'text': f'{number} '}]})}\n\n"
            yield "data: [DONE]\n\n"
            print("ended", flush=True)
        except BaseException:
            print("left by client", flush=True)
            raise

    routes = [Route("/health", health), Route("/v1/models", models)]
    routes += [Route(path, post, methods=["POST"]) for path in ("/v1/completions", "/v1/embeddings", "/invocations")]
    routes += [Route("/v1/chat/completions", post, methods=["POST"]), Route("/metrics", health)]
    return Starlette(routes=routes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("folder")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--uds")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--shutdown-timeout", type=int)
    options, _ = parser.parse_known_args()
    where: dict[str, Any] = {"uds": options.uds} if options.uds else {"host": options.host, "port": options.port}
    application_ = application(options.served_model_name, options.folder)
    server = uvicorn.Server(
        uvicorn.Config(application_, log_level="warning", timeout_graceful_shutdown=options.shutdown_timeout, **where)
    )
    with_signal = server.handle_exit

    def handle_exit(number: int, frame: Any) -> None:
        with_signal(number, frame)
        server._captured_signals.clear()  # as vLLM: SIGTERM ends it with 0

    server.handle_exit = handle_exit  # type: ignore[method-assign]
    server.run()


if __name__ == "__main__":
    main()
