"""OpenAI's embeddings: POST /v1/embeddings.

The official client asks for base64 where its user names no encoding. Source: openai-python 3.57,
resources/embeddings.py.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import numpy as np
from starlette.responses import Response

from minit2i_deploy.serving.dialects.texts import TextRules, mean_vectors, read_texts
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import HttpError
from minit2i_deploy.serving.http.fields import Field
from minit2i_deploy.serving.http.large_json import json_response
from minit2i_deploy.serving.service import Service

_FIELDS: Final = (
    Field(name="input", kind="any", required=True, help="text, list of texts, or token ids"),
    Field(name="model", kind="string", help="name of a served bundle"),
    Field(
        name="encoding_format",
        kind="string",
        default="float",
        choices=("float", "base64"),
        help="numbers, or the bytes of little-endian float32",
    ),
    Field(name="dimensions", kind="integer", help="only the width of the bundle's embeddings"),
)


class OpenAiEmbeddings:
    """The endpoints: one vector for each text, the mean over its tokens, of length 1.

    Args:
        service: runs the requests.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._rules = TextRules(param="input", max_texts=service.options.max_texts)

    def endpoints(self) -> list[Endpoint]:
        """Of this dialect."""
        return [
            Endpoint(
                method="POST",
                path=path,
                answer=self._embed,
                summary="Embed texts as one vector each",
                fields=_FIELDS,
                is_listed=path.startswith("/v1/"),
            )
            # text-embeddings-inference has the same under a shorter path.
            for path in ("/v1/embeddings", "/embeddings")
        ]

    async def _embed(self, call: Call) -> Response:
        model, notices = self._service.find_model(call.values["model"])
        check_dimensions(call.values["dimensions"], model.bundle.config.txt_input_size)
        encoded = await read_texts(self._service, model, call.values["input"], self._rules)
        sequences = await self._service.embed(model, encoded)
        as_base64 = call.values["encoding_format"] == "base64"
        num_tokens = sum(len(item.ids) for item in encoded)
        cut = [item.notice for item in encoded if item.notice is not None]

        def build() -> dict[str, Any]:
            data = [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _as_base64(vector) if as_base64 else vector.tolist(),
                }
                for index, vector in enumerate(mean_vectors(sequences, normalize=True))
            ]
            body: dict[str, Any] = {
                "object": "list",
                "data": data,
                "model": model.name,
                "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            }
            if notices or cut:
                body["notices"] = [*notices, *cut]
            return body

        return await json_response(build, sum(sequence.size for sequence in sequences))


def check_dimensions(dimensions: int | None, width: int) -> None:
    """Refuse a width that the embeddings do not have.

    Raises:
        HttpError: 400.
    """
    if dimensions is not None and dimensions != width:
        raise HttpError(
            400,
            f"dimensions must be {width}, the width of this bundle's embeddings, got {dimensions}",
            param="dimensions",
        )


def _as_base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
