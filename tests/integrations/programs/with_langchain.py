"""Vectors of texts by LangChain's client of OpenAI: ADDRESS TEXTS.json OUT.npy."""

import importlib.metadata
import json
import sys

import numpy as np
from langchain_openai import OpenAIEmbeddings

address, texts, out = sys.argv[1:]
# Otherwise it sends the ids of OpenAI's tokenizer, which no other server knows.
client = OpenAIEmbeddings(
    base_url=f"{address}/v1", api_key="none", model="demo", check_embedding_ctx_length=False
)
documents = client.embed_documents(json.loads(texts))
assert client.embed_query(json.loads(texts)[0]) == documents[0]
np.save(out, np.array(documents, np.float32))
print(importlib.metadata.version("langchain-openai"))
