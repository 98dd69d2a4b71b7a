/** A static file server for the tests: folders under paths, and wrong answers. */

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { join, normalize } from "node:path";

/**
 * @param {Record<string, string>} folders path on the server, with slashes around it, to folder
 * @param {{ answer?: (path: string) => any }} [options] `answer` may give
 *     { status, type, body, cut } in place of a file
 * @returns {Promise<{ url: string, close: () => void, requests: string[] }>}
 */
export async function serve(folders, { answer } = {}) {
  /** @type {string[]} */
  const requests = [];
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url ?? "/", "http://localhost").pathname);
    requests.push(path);
    const other = answer?.(path);
    if (other) {
      send(response, other);
      return;
    }
    const prefix = Object.keys(folders).find((name) => path.startsWith(name));
    const name = prefix === undefined ? undefined : normalize(path.slice(prefix.length) || "index.html");
    try {
      if (prefix === undefined || name === undefined || name.startsWith("..")) throw new Error();
      const body = await readFile(join(folders[prefix], name));
      response.writeHead(200, {
        "Content-Type": "application/octet-stream",
        "Content-Length": body.length,
      });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", () => done(undefined)));
  const address = /** @type {import("node:net").AddressInfo} */ (server.address());
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://localhost:${address.port}`, close, requests };
}

/**
 * @param {import("node:http").ServerResponse} response
 * @param {{ status?: number, type?: string, body?: Buffer, cut?: number }} other
 */
function send(response, { status = 200, type = "application/octet-stream", body, cut }) {
  const bytes = body ?? Buffer.from("");
  response.writeHead(status, { "Content-Type": type, "Content-Length": bytes.length });
  if (cut === undefined) response.end(bytes);
  else response.write(bytes.subarray(0, cut), () => response.destroy());
}
