"""text-embeddings-inference: /embed, /embed_all, /tokenize, /info, /health and /metrics.

Source: huggingface/text-embeddings-inference 1.9, router/src/http/{server,types}.rs.
"""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import JSONResponse, Response

from minit2i_deploy._version import __version__
from minit2i_deploy.serving.dialects.openai_embeddings import check_dimensions
from minit2i_deploy.serving.dialects.texts import TextRules, mean_vectors, read_texts
from minit2i_deploy.serving.engine.engine import TEXT_BATCH
from minit2i_deploy.serving.engine.orders import Stopping
from minit2i_deploy.serving.http.endpoint import Call, Endpoint
from minit2i_deploy.serving.http.errors import tei_form
from minit2i_deploy.serving.http.fields import Field
from minit2i_deploy.serving.http.large_json import json_response
from minit2i_deploy.serving.http.metrics import CONTENT_TYPE, Metrics
from minit2i_deploy.serving.service import Service
from minit2i_deploy.tokenizer import Encoded

_INPUTS: Final = Field(
    name="inputs", kind="any", required=True, help="text, list of texts, or token ids"
)
_TRUNCATE: Final = Field(
    name="truncate", kind="boolean", default=False, help="cut texts that are too long"
)
_NORMALIZE: Final = Field(
    name="normalize", kind="boolean", default=True, help="scale vectors to length 1"
)
_DIMENSIONS: Final = Field(
    name="dimensions", kind="integer", help="only the width of the bundle's embeddings"
)


class Tei:
    """The endpoints, for the default bundle: these requests name none.

    Args:
        service: runs the requests.
        metrics: of the server.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service, self._metrics = service, metrics

    def endpoints(self) -> list[Endpoint]:
        """Of this dialect."""
        texts = (_INPUTS, _TRUNCATE)
        posts = (
            # Hugging Face's clients post to the address itself, SageMaker's to /invocations.
            *(
                (path, self._embed, "Embed texts as one vector each", (_NORMALIZE, _DIMENSIONS))
                for path in ("/embed", "/", "/invocations")
            ),
            ("/embed_all", self._embed_all, "Embed every token of texts", ()),
            ("/tokenize", self._tokenize, "Token ids of texts", ()),
        )
        gets = (
            ("/info", self._info, "What is served", False),
            ("/health", self._health, "Whether requests are taken", True),
            ("/ping", self._health, "Whether requests are taken", True),
            ("/metrics", self._read_metrics, "Prometheus metrics", False),
        )
        return [
            *(
                Endpoint(
                    method="POST",
                    path=path,
                    answer=answer,
                    summary=summary,
                    fields=(*texts, *more),
                    error_form=tei_form,
                )
                for path, answer, summary, more in posts
            ),
            *(
                Endpoint(
                    method="GET",
                    path=path,
                    answer=answer,
                    summary=summary,
                    error_form=tei_form,
                    is_open=is_open,
                )
                for path, answer, summary, is_open in gets
            ),
        ]

    async def _embed(self, call: Call) -> Response:
        check_dimensions(
            call.values["dimensions"], self._service.default.bundle.config.txt_input_size
        )
        sequences = await self._service.embed(self._service.default, await self._texts(call))
        normalize = call.values["normalize"]
        return await json_response(
            lambda: [each.tolist() for each in mean_vectors(sequences, normalize=normalize)],
            sum(sequence.size for sequence in sequences),
        )

    async def _embed_all(self, call: Call) -> Response:
        sequences = await self._service.embed(self._service.default, await self._texts(call))
        return await json_response(
            lambda: [sequence.tolist() for sequence in sequences],
            sum(sequence.size for sequence in sequences),
        )

    async def _tokenize(self, call: Call) -> Response:
        rust = self._service.default.bundle.tokenizer().rust
        tokens = [
            [{"id": int(item), "text": rust.id_to_token(int(item))} for item in encoded.ids]
            for encoded in await self._texts(call)
        ]
        return JSONResponse(tokens)

    async def _texts(self, call: Call) -> list[Encoded]:
        rules = TextRules(
            param="inputs",
            max_texts=min(TEXT_BATCH, self._service.options.max_texts),
            too_many=413,
            truncates=call.values["truncate"],
        )
        return await read_texts(self._service, self._service.default, call.values["inputs"], rules)

    async def _info(self, call: Call) -> Response:
        model = self._service.default
        length = model.bundle.config.prompt_length
        body: dict[str, Any] = {
            "model_id": model.name,
            "model_sha": model.bundle.digest,
            "model_dtype": "float32",
            "model_type": {"embedding": {"pooling": "mean"}},
            "max_concurrent_requests": self._service.options.max_texts,
            "max_input_length": length,
            "max_batch_tokens": TEXT_BATCH * length,
            "max_client_batch_size": TEXT_BATCH,
            "auto_truncate": False,
            "tokenization_workers": 1,
            "version": __version__,
        }
        return JSONResponse(body)

    async def _health(self, call: Call) -> Response:
        if not self._service.engine.is_alive:
            raise Stopping("the engine does not run; start the server again")
        return Response(status_code=200)

    async def _read_metrics(self, call: Call) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)
