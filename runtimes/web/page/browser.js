/** What this browser can do, and what it has stored. */

// The smallest module with a vector operator. Source: the wasm-feature-detect project's table.
const SIMD = Uint8Array.of(
  ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3],
  ...[2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11],
);
const MAX_THREADS = 8;
const MAX_WAIT_MS = 3000;
const STORES = "minit2i-";

/** One line that says what is missing, or nothing. */
export function lacks() {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) {
    return "This browser has no WebAssembly SIMD, which the network needs; use Chrome 91, Firefox 89, Safari 16.4 or later.";
  }
  if (typeof DecompressionStream !== "function") {
    return "This browser cannot unpack the weights; use Chrome 80, Firefox 113, Safari 16.4 or later.";
  }
  return undefined;
}

/** Threads need a page that is isolated from others; without that there is one. */
export function numThreads() {
  return self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MAX_THREADS) : 1;
}

/**
 * Why this page cannot compute on a GPU, in one line, or nothing.
 *
 * @returns {Promise<string | undefined>}
 */
export async function lacksWebGpu() {
  const { gpu } = /** @type {any} */ (navigator);
  if (!gpu) return "This browser has no WebGPU, so the processor computes.";
  const adapter = await gpu.requestAdapter().catch(() => null);
  return adapter ? undefined : "WebGPU finds no GPU here, so the processor computes.";
}

/**
 * Registers the service worker. The page works without it too: over plain http, in a private
 * window, where the storage is full or the server does not send the script.
 *
 * @returns {Promise<boolean>} whether it answers this page now
 */
export async function startServiceWorker() {
  const container = navigator.serviceWorker;
  if (!container) return false;
  const controlled = new Promise((done) =>
    container.addEventListener("controllerchange", () => done(true), { once: true }),
  );
  try {
    const registration = await container.register("service_worker.js");
    if (container.controller) return true;
    return await Promise.race([controlled, failed(registration), late()]);
  } catch {
    return false;
  }
}

/**
 * Resolves when a worker cannot be installed.
 *
 * @param {ServiceWorkerRegistration} registration
 * @returns {Promise<boolean>}
 */
function failed({ installing }) {
  return new Promise((done) =>
    installing?.addEventListener("statechange", () => {
      if (installing.state === "redundant") done(false);
    }),
  );
}

/**
 * After a forced reload no worker answers the page at all.
 *
 * @returns {Promise<boolean>}
 */
function late() {
  return new Promise((done) => setTimeout(() => done(false), MAX_WAIT_MS));
}

/** Deletes what this page has stored. */
export async function deleteStored() {
  const names = (await globalThis.caches?.keys()) ?? [];
  for (const name of names) if (name.startsWith(STORES)) await caches.delete(name);
  const registration = await navigator.serviceWorker?.getRegistration();
  await registration?.unregister();
}
