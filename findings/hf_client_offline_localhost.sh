#!/bin/sh
# HF_HUB_OFFLINE=1, which keeps huggingface_hub from its Hub, also keeps its InferenceClient from a
# server of embeddings on the same machine, whose address it was given: text-embeddings-inference, or
# anything with the same interface. In 2.4.0 and in 0.36.2 every request to 127.0.0.1 is refused with
# OfflineModeIsEnabled, before it is sent. The same client works on the same address without the
# variable, which one sets so that local files are taken and nothing is downloaded.
#
# Seen on Linux x86-64 with Python 3.11.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/check.py" <<'PY'
import http.server
import json
import os
import sys
import threading

import huggingface_hub
from huggingface_hub import InferenceClient
from huggingface_hub.errors import OfflineModeIsEnabled

asked = []


class Embeddings(http.server.BaseHTTPRequestHandler):
    """POST / as text-embeddings-inference answers it."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked.append(body["inputs"])
        answer = json.dumps([[0.6, 0.8]]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *rest):
        pass


server = http.server.HTTPServer(("127.0.0.1", 0), Embeddings)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"http://127.0.0.1:{server.server_port}"
try:
    value = InferenceClient(address).feature_extraction("a red circle")
    outcome = f"vector of shape {value.shape}"
except OfflineModeIsEnabled as error:
    outcome = f"OfflineModeIsEnabled ({str(error).replace(address, 'ADDRESS')})"
mode = os.environ["HF_HUB_OFFLINE"]
print(f"huggingface_hub {huggingface_hub.__version__}, HF_HUB_OFFLINE={mode}: {outcome}; ", end="")
print(f"the server was asked {len(asked)} times")
refused = outcome.startswith("OfflineModeIsEnabled") and not asked
answered = outcome == "vector of shape (1, 2)" and asked == ["a red circle"]
sys.exit(not (refused if mode == "1" else answered))
PY
for version in 2.4.0 0.36.2; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "huggingface_hub==$version" numpy==2.3.5
    for mode in 1 0; do
        HF_HUB_OFFLINE=$mode "$folder/$version/bin/python" "$folder/check.py"
    done
done
