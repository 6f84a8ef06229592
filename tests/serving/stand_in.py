"""Takes vLLM's place as a process: its command line, health, models, slow streams, gateway, and a drain at SIGTERM.

    python -m tests.serving.stand_in serve FOLDER --served-model-name A B --host HOST --port PORT ...

A completion streams `max_tokens` chunks, one every 0.02 s. `Application.events` tells what happened to streams.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class Application(Starlette):
    """The routes; `fault` of "error" or "raises" makes every POST fail."""

    def __init__(self, names: list[str], root: str) -> None:
        self.names, self.root = names, root
        self.fault = ""
        self.events: list[str] = []
        paths = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/invocations")
        routes = [Route("/health", self.health), Route("/v1/models", self.models), Route("/metrics", self.health)]
        super().__init__(routes=routes + [Route(path, self.post, methods=["POST"]) for path in paths])

    async def health(self, request: Request) -> Response:
        return Response()

    async def models(self, request: Request) -> Response:
        data = [{"id": name, "root": self.root, "max_model_len": 128, "object": "model"} for name in self.names]
        return JSONResponse({"object": "list", "data": data})

    async def post(self, request: Request) -> Response:
        body = await request.json()
        if self.fault == "error":
            return JSONResponse({"error": {"message": "secret path /private/x"}}, 500)
        if self.fault == "raises":
            raise OSError("secret path /private/x")
        if not body.get("stream"):
            return JSONResponse({"path": request.url.path, "headers": dict(request.headers), "body": body})
        return StreamingResponse(self.stream(body.get("max_tokens", 16)), media_type="text/event-stream")

    async def stream(self, count: int) -> AsyncIterator[str]:
        self.events.append("began")
        try:
            for number in range(count):
                await asyncio.sleep(0.02)
                yield f"data: {json.dumps({'choices': [{'index': 0, 'text': f'{number} '}]})}\n\n"
                if self.fault == "breaks":
                    raise OSError("secret path /private/x")
            yield "data: [DONE]\n\n"
            self.events.append("ended")
        except BaseException:
            self.events.append("left by client")
            raise


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("folder")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--middleware")
    parser.add_argument("--shutdown-timeout", type=int)
    options, _ = parser.parse_known_args()
    application: Any = Application(options.served_model_name, options.folder)
    if options.middleware:
        from prealign_cpt.serving.gateway import Gateway

        application = Gateway(application)
    address = {"host": options.host, "port": options.port}
    drain = options.shutdown_timeout
    server = uvicorn.Server(
        uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=drain, **address)
    )
    with_signal = server.handle_exit

    def handle_exit(number: int, frame: Any) -> None:
        with_signal(number, frame)
        server._captured_signals.clear()  # as vLLM: SIGTERM ends it with 0

    server.handle_exit = handle_exit  # type: ignore[method-assign]
    server.run()


if __name__ == "__main__":
    main()
