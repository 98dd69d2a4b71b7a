/**
 * Keeps the page and the library for use without a network, and adds the headers that threads need,
 * for servers that do not send them. Bundles are stored by the module itself, which checks them.
 */

const VERSION = "{{version}}";
const FILES = ["{{files}}"];
const STORE = `minit2i-page-${VERSION}`;
const LIBRARY = new URL("ort/", self.location.href).href;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(STORE)
      .then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "no-cache" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  event.waitUntil(removeOld().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) {
    event.respondWith(answer(request));
  }
});

async function removeOld() {
  for (const name of await caches.keys()) {
    if (name.startsWith("minit2i-page-") && name !== STORE) await caches.delete(name);
  }
}

/** @param {Request} request */
async function answer(request) {
  const cache = await caches.open(STORE);
  const stored = await cache.match(request, { ignoreSearch: true });
  if (stored) return isolated(stored);
  const response = await fetch(request);
  if (response.ok && request.url.startsWith(LIBRARY)) {
    // A copy that breaks off, or a full store: put refuses, and the next visit downloads it again.
    cache.put(request, response.clone()).catch(() => {});
  }
  return isolated(response);
}

/** @param {Response} response */
function isolated(response) {
  if (response.type === "opaque" || response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
