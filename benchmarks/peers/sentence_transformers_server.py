"""sentence-transformers behind the least HTTP: `python sentence_transformers_server.py MODEL_FOLDER PORT`."""

from __future__ import annotations

import sys

import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Texts(BaseModel):
    """What is to be encoded."""

    input: list[str]


def app(folder: str) -> FastAPI:
    """The server; requests are encoded one after the other in FastAPI's threads, as a first version would."""
    model = SentenceTransformer(folder, device="cpu")
    server = FastAPI()

    @server.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @server.post("/embeddings")
    def embeddings(texts: Texts) -> Response:
        vectors = model.encode(texts.input, normalize_embeddings=True, show_progress_bar=False)
        return Response(
            orjson.dumps({"data": vectors}, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )

    return server


if __name__ == "__main__":
    uvicorn.run(app(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
